"""Saved models of several kinds, analyzed on the digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTError,
    DeiTLTForImageClassification,
)
from deitlt_hf.data.arguments import DataArguments, images_for_model, load_images
from deitlt_hf.data.views import evaluation_view, image_processor
from deitlt_hf.evaluation.evaluate import evaluate_images
from deitlt_hf.hub.pushing import push_model
from deitlt_hf.inference.loading import load_run_settings
from deitlt_hf.runs.analyzing import analyze_saved_model
from deitlt_hf.teachers.frozen import FrozenTeacher
from hub_server import HubServer

IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
NAMES = {index: str(index) for index in range(10)}
CLASSES = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
SIZES = {"patch_size": 4, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
DATA = DataArguments(data="digits-lt", imbalance_factor=20, group_boundaries=[3, 7])


@pytest.fixture(scope="module")
def images():
    images = load_images(DATA)
    images.test = images.test.select(range(0, 400, 8))
    return images


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("models") / "teacher"
    torch.manual_seed(1)
    CifarResNetForImageClassification(CifarResNetConfig(depth=20, image_size=16, **CLASSES)).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def student(tmp_path) -> str:
    torch.manual_seed(0)
    groups = {"head": [0], "mid": [1], "tail": list(range(2, 10))}
    config = DeiTLTConfig(
        image_size=16, class_counts=[20 - i for i in range(10)], class_groups=groups, **SIZES, **CLASSES
    )
    DeiTLTForImageClassification(config).save_pretrained(tmp_path / "student")
    return str(tmp_path / "student")


@pytest.fixture
def vit(tmp_path) -> str:
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(image_size=16, **SIZES, **CLASSES)).save_pretrained(tmp_path / "vit")
    size, bicubic = {"height": 16, "width": 16}, 3
    processor = ViTImageProcessor(size=size, resample=bicubic, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    processor.save_pretrained(tmp_path / "vit")
    return str(tmp_path / "vit")


def views(images, mean, std) -> torch.Tensor:
    """The test images with another normalisation than ImageNet's, which the evaluation's view has."""
    pixels = torch.stack([evaluation_view(16)(image) for image in images.test["image"]])
    old_mean, old_std, mean, std = (torch.tensor(values)[:, None, None] for values in (*IMAGENET, mean, std))
    return (pixels * old_std + old_mean - mean) / std


def record_teacher(run: str, teacher: str, hub_ids: dict | None = None) -> None:
    (Path(run) / "recipe.yaml").write_text(yaml.safe_dump({"teacher": teacher}))
    if hub_ids is not None:
        (Path(run) / "run.json").write_text(json.dumps({"hub_ids": hub_ids}))


@torch.inference_mode()
def test_a_vit_sees_what_its_own_processor_makes(vit, teacher, images):
    analysis = analyze_saved_model(vit, images, DATA, teacher=teacher, batch_size=16)
    model = ViTForImageClassification.from_pretrained(vit).eval()
    expected = model(views(images, [0.5] * 3, [0.25] * 3)).logits.argmax(-1)
    # The two resize with different libraries.
    assert np.mean(analysis.predictions[:, 0] == expected.numpy()) > 0.9
    picture = np.asarray(images.test[0]["image"].convert("RGB").resize((16, 16), 3), dtype=float)
    shown = next(example.image for example in analysis.examples if example.label == images.test[0]["label"])
    assert np.abs(shown - picture).mean() < 3
    # The teacher sees ImageNet's normalisation, as from a student.
    taught = FrozenTeacher(teacher, model, "cpu")(views(images, *IMAGENET)).argmax(-1)
    accuracy = 100 * np.mean(taught.numpy() == analysis.labels)
    assert analysis.record["agreement"]["teacher"]["overall"] == pytest.approx(accuracy, abs=4)


def test_a_student_is_measured_as_by_its_evaluation(student, images):
    analysis = analyze_saved_model(student, images, DATA, batch_size=16)
    model = DeiTLTForImageClassification.from_pretrained(student)
    own = images_for_model(images, DATA, model.config, student)
    metrics = evaluate_images(model, own, evaluation_view(16), Accelerator(cpu=True), batch_size=7).metrics
    assert {name: analysis.record[name] for name in metrics} == metrics
    assert analysis.record["model"]["source"] == Path(student).name  # a page to send around names no place


def test_the_teachers_row_is_that_of_the_evaluation(student, teacher, images):
    record_teacher(student, teacher)
    record = analyze_saved_model(student, images, DATA, batch_size=16).record
    model = DeiTLTForImageClassification.from_pretrained(student)
    own = images_for_model(images, DATA, model.config, student)
    frozen = FrozenTeacher(teacher, model, "cpu")
    view = evaluation_view(16)
    metrics = evaluate_images(model, own, view, Accelerator(cpu=True), batch_size=7, teacher=frozen).metrics
    assert {name: record[name] for name in metrics} == metrics
    right = metrics["teacher"]["overall"] * 50 / 100  # of 50 images
    assert right == pytest.approx(round(right))
    difference = record["experts"]["average"]["overall"] - metrics["teacher"]["overall"]
    assert record["against_teacher"]["average"]["overall"]["value"] == pytest.approx(difference)


@pytest.mark.parametrize("recorded", ["there", "gone", "on the hub"])
def test_the_runs_teacher_is_taken_if_it_is_there(student, teacher, images, recorded, monkeypatch):
    name = {"there": teacher, "gone": "runs/no-such-teacher", "on the hub": "me/teacher"}[recorded]
    record_teacher(student, name, {"teacher": "me/teacher"} if recorded == "on the hub" else None)
    loaded = []
    monkeypatch.setattr(
        "deitlt_hf.runs.analyzing.FrozenTeacher",
        lambda source, *rest: loaded.append(source) or FrozenTeacher(teacher, *rest),
    )
    agreement = analyze_saved_model(student, images, DATA).record["agreement"]
    assert loaded == ([] if recorded == "gone" else [name])
    assert ("teacher-distillation" in agreement) is (recorded != "gone")


def test_a_student_on_the_hub_is_analyzed_as_its_run_made_it(student, images, tmp_path, monkeypatch):
    settings = {
        "data": "cifar10-lt",
        "data_dir": "/images/cifar10",
        "imbalance_factor": 100,
        "teacher": "teacher",
    }
    recipe = Path(student) / "recipe.yaml"
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        recipe.write_text(yaml.safe_dump(settings))
        push_model(student, "me/vit")
        recipe.write_text(yaml.safe_dump(settings | {"expert": "cls", "distillation_alpha": 0.0}))
        push_model(student, "me/vit", branch="alone")
        assert analyze_saved_model("me/vit", images, DATA).experts == ("average", "cls", "distillation")
        assert analyze_saved_model("me/vit", images, DATA, revision="alone").experts == ("cls",)
        # Its data, but not where they and the teacher were on the machine of its run.
        assert load_run_settings("me/vit") == {"data": "cifar10-lt", "imbalance_factor": 100}
        assert load_run_settings("me/nothing") == {}


def test_groups_are_those_that_the_model_was_trained_with(student, images):
    config = DeiTLTConfig.from_pretrained(student)
    own = images_for_model(images, DataArguments(data="digits-lt"), config, student)
    assert (own.class_groups, own.class_counts) == (config.class_groups, config.class_counts)
    asked = images_for_model(images, DATA, config, student)
    assert asked.class_groups == {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    assert images.class_counts[0] > 100  # what was given stays as it is


def test_other_classes_are_refused(student, images):
    config = DeiTLTConfig.from_pretrained(student, id2label={0: "cat", 1: "lynx"})
    with pytest.raises(
        DeiTLTError, match="than digits-lt has: 'cat', 'lynx' are missing, '0', '1', '2' and 7 more are"
    ):
        images_for_model(images, DATA, config, "pets")


def test_a_processor_of_another_size_is_refused(vit, images):
    ViTImageProcessor(size={"height": 24, "width": 32}).save_pretrained(vit)
    with pytest.raises(DeiTLTError, match=r"24 x 32 pixels, and the model takes 16 x 16"):
        analyze_saved_model(vit, images, DATA)


@torch.inference_mode()
def test_of_a_cnn_what_is_about_predictions_is_measured(teacher, images):
    image_processor(16).save_pretrained(teacher)
    analysis = analyze_saved_model(teacher, images, DATA, batch_size=16)
    assert (analysis.experts, analysis.examples, analysis.teacher) == (("model",), [], None)
    logits = CifarResNetForImageClassification.from_pretrained(teacher).eval()(views(images, *IMAGENET)).logits
    expected, labels = logits.argmax(-1).numpy(), np.array(images.test["label"])
    assert np.mean(analysis.predictions[:, 0] == expected) > 0.9  # its processor rounds otherwise
    record = analysis.record
    assert record["model"].keys() == {"source", "model_type", "prediction", "parameters"}
    assert not {"attention_distance", "feature_rank", "spectrum", "token_similarity", "teacher"} & record.keys()
    wrong = analysis.predictions[:, 0] != labels
    assert len(record["confident_errors"]) == len(analysis.errors) == min(24, wrong.sum())
    assert all(wrong[error.row] and labels[error.row] == error.label for error in analysis.errors)
    assert {error.image.shape for error in analysis.errors} == {(16, 16, 3)}


def test_what_is_no_model_is_refused(images, tmp_path):
    with pytest.raises(DeiTLTError, match="no such directory"):
        analyze_saved_model(str(tmp_path / "none"), images, DATA)
