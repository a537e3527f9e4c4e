"""Whole runs on the embedded digits, and what they leave in their directories."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from deitlt_hf import (
    CifarResNetForImageClassification,
    DeiTLTError,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    TeacherTrainingArguments,
    class_groups,
)
from deitlt_hf.data.arguments import TrainingDataArguments
from deitlt_hf.runs.training import StudentArguments, TeacherArguments, train_student, train_teacher

# Largest class 134 images, imbalance factor 20, exponential profile: 134 * (1/20) ** (i/9), rounded down.
COUNTS = [134, 96, 68, 49, 35, 25, 18, 13, 9, 6]
GROUPS = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
DATA = {"data": "digits-lt", "image_size": 8, "horizontal_flip": False, "group_boundaries": [3, 7]}
STUDENT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4, "drop_path_rate": 0.0}
COMMON = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 64,
    "save_strategy": "no",
    "logging_steps": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The directory of a teacher's run, and the accuracies that it returned."""
    directory = tmp_path_factory.mktemp("runs") / "teacher"
    args = TeacherTrainingArguments(output_dir=str(directory), sam_rho=0.05, gradient_accumulation_steps=2, **COMMON)
    return directory, train_teacher(TrainingDataArguments(**DATA), TeacherArguments(depth=20), args)


@pytest.fixture(scope="module")
def student(teacher):
    """The directory of a student's run, and its result."""
    directory = teacher[0].parent / "student"
    args = DeiTLTTrainingArguments(output_dir=str(directory), ema_decay=0.9, **COMMON)
    settings = StudentArguments(teacher=str(teacher[0]), **STUDENT)
    return directory, train_student(TrainingDataArguments(**DATA), settings, args)


def accuracy_by_hand(directory):
    """Accuracy of a saved model on the digits' test split, through what is saved alone."""
    from deitlt_hf import load_long_tailed_dataset

    model = AutoModelForImageClassification.from_pretrained(directory).eval()
    processor = AutoImageProcessor.from_pretrained(directory)
    test = load_long_tailed_dataset("digits-lt")["test"]
    pixels = processor([image.convert("RGB") for image in test["image"]], return_tensors="pt")
    with torch.no_grad():
        predictions = model(**pixels).logits.argmax(-1)
    return 100 * (predictions == torch.tensor(test["label"])).double().mean().item()


def test_a_teachers_run_leaves_a_model_and_its_accuracy(teacher):
    directory, accuracies = teacher
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "configuration_cifar_resnet.py",
        "modeling_cifar_resnet.py",
        "model.safetensors",
        "preprocessor_config.json",
        "metrics.json",
        "data.json",
        "recipe.yaml",
        "run.json",
        "README.md",
    }
    assert isinstance(AutoModelForImageClassification.from_pretrained(directory), CifarResNetForImageClassification)
    written = json.loads((directory / "metrics.json").read_text())
    assert (written["split"], written["accuracy"], written["class_counts"]) == ("test", accuracies, COUNTS)
    row = written["experts"]["model"]
    assert {name: row[name] for name in accuracies} == accuracies
    assert len(row["per_class"]) == len(written["test_counts"]) == 10
    assert sum(written["test_counts"]) == written["num_images"] == 400
    assert accuracies["overall"] == pytest.approx(accuracy_by_hand(directory), abs=1)  # processors round otherwise
    assert yaml.safe_load((directory / "recipe.yaml").read_text())["depth"] == 20
    config = AutoModelForImageClassification.from_pretrained(directory).config
    assert (config.class_counts, config.class_groups) == (COUNTS, GROUPS)
    took = json.loads((directory / "run.json").read_text())["training"]
    assert (took["steps"], took["images_seen"]) == (4, 7 * 64)  # 453 images: the last step has one batch and not two


def run_teacher(directory, data=None, settings=None, **args):
    arguments = TeacherTrainingArguments(output_dir=str(directory), warmup_epochs=0, **COMMON | args)
    data = TrainingDataArguments(**DATA | {"image_size": 40} | (data or {}))
    return train_teacher(data, TeacherArguments(**settings or {}), arguments)


@pytest.mark.parametrize(
    ("settings", "model_type"),
    [
        ({"architecture": "test_resnet"}, "timm_wrapper"),
        ({"architecture": "test_resnet", "classifier": "cosine"}, "timm_cosine"),
    ],
)
def test_teachers_of_larger_images_label_for_a_student(tmp_path, settings, model_type):
    loss = "ldam" if "classifier" in settings else "ce"
    accuracies = run_teacher(tmp_path / "teacher", settings=settings, loss=loss, sam_rho=0.05)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher").eval()
    config = model.config
    assert config.model_type == model_type
    assert config.id2label == {digit: str(digit) for digit in range(10)}
    assert (config.class_counts, config.class_groups) == (COUNTS, GROUPS)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "teacher")
    pixels = processor([Image.new("RGB", (8, 8))], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 40, 40)
    assert accuracies["overall"] == pytest.approx(accuracy_by_hand(tmp_path / "teacher"), abs=1)

    student = StudentArguments(teacher=str(tmp_path / "teacher"), **STUDENT)
    args = DeiTLTTrainingArguments(output_dir=str(tmp_path / "student"), teacher_pixels="own", **COMMON)
    train_student(TrainingDataArguments(**DATA), student, args)
    assert yaml.safe_load((tmp_path / "student" / "recipe.yaml").read_text())["teacher_pixels"] == "own"


def test_a_teacher_starts_from_other_weights(teacher, tmp_path):
    run_teacher(tmp_path / "run", {"image_size": 8}, {"init_from": str(teacher[0])}, learning_rate=1e-12, momentum=0.0)
    weights, before = (
        AutoModelForImageClassification.from_pretrained(directory).classifier.weight
        for directory in (tmp_path / "run", teacher[0])
    )
    torch.testing.assert_close(weights, before)


def test_a_paco_teacher_is_saved_as_a_plain_classifier(tmp_path):
    run_teacher(
        tmp_path / "run", {"image_size": 16}, {"depth": 20}, loss="paco", paco_dim=8, paco_queue=32, learning_rate=0.01
    )
    loaded, report = AutoModelForImageClassification.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert type(loaded) is CifarResNetForImageClassification
    assert not any(report.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "resnt50"}, "unknown architecture 'resnt50'; did you mean .*resnet50"),
        ({"depth": 50}, "unknown depth 50; pass one of"),
        ({"init_from": "./no-such-teacher"}, "./no-such-teacher: there is no such directory"),
    ],
)
def test_teachers_that_cannot_be_built_are_refused_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(DeiTLTError, match=f"^{message}") as error:
        run_teacher(tmp_path / "run", settings=settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_linear_start_has_no_cosine_classifier(teacher, tmp_path):
    with pytest.raises(
        DeiTLTError, match=r"has a linear classifier; pass --classifier linear, or leave init_from out$"
    ):
        run_teacher(tmp_path / "run", settings={"init_from": str(teacher[0]), "classifier": "cosine"})


def test_a_students_run_leaves_a_model_its_metrics_and_its_report(student):
    directory, result = student
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "configuration_deit_lt.py",
        "modeling_deit_lt.py",
        "model.safetensors",
        "preprocessor_config.json",
        "ema",
        "metrics.json",
        "data.json",
        "recipe.yaml",
        "report.png",
        "run.json",
        "README.md",
    }
    model = AutoModelForImageClassification.from_pretrained(directory)
    assert isinstance(model, DeiTLTForImageClassification)
    assert isinstance(AutoModelForImageClassification.from_pretrained(directory / "ema"), DeiTLTForImageClassification)
    assert model.config.class_counts == result.metrics["class_counts"] == COUNTS
    assert model.config.class_groups == class_groups(COUNTS, boundaries=(3, 7)) == GROUPS
    assert model.config.id2label == {digit: str(digit) for digit in range(10)}
    assert json.loads((directory / "metrics.json").read_text()) == result.metrics
    assert result.metrics["num_images"] == 400
    overall = result.metrics["experts"]["average"]["overall"]
    assert overall == pytest.approx(accuracy_by_hand(directory), abs=1)
    assert np.asarray(Image.open(directory / "report.png")).std() > 0


def run_student(directory, data=None, student=None, **settings):
    args = DeiTLTTrainingArguments(output_dir=str(directory), distillation_type="none", **COMMON | settings)
    return train_student(
        TrainingDataArguments(**DATA | (data or {})), StudentArguments(**STUDENT | (student or {})), args
    )


def test_a_run_that_fails_leaves_no_model(tmp_path):
    with pytest.raises(DeiTLTError, match="not finite at step"):
        run_student(tmp_path / "run", learning_rate=1e30, scale_learning_rate=False, warmup_epochs=0)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"data.json", "recipe.yaml"}


def test_a_run_that_fails_while_it_saves_leaves_no_model_under_its_name(tmp_path, monkeypatch):
    save = DeiTLTTrainer.save_model

    def save_and_fail(self, *args, **kwargs):
        save(self, *args, **kwargs)
        raise OSError("no space left")

    monkeypatch.setattr(DeiTLTTrainer, "save_model", save_and_fail)
    with pytest.raises(OSError, match="no space left"):
        run_student(tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("data", "student", "message"),
    [
        ({}, {"patch_size": 3}, "image_size 8 is not divisible by patch_size 3"),
        ({}, {"student_size": "huge"}, "unknown student size 'huge'"),
        ({}, {"expert": "rare"}, "unknown expert 'rare'"),
        ({"group_boundaries": [3]}, {}, r"group_boundaries are \[3\]; pass two numbers"),
        ({"imbalance_factor": 0.5}, {}, "imbalance"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(tmp_path, data, student, message):
    with pytest.raises(DeiTLTError, match=message) as error:
        run_student(tmp_path / "run", data, student)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_from_its_last_checkpoint(tmp_path):
    directory = tmp_path / "run"
    # Repeated augmentation shows 256 images in an epoch, in four steps.
    settings = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None, "num_train_epochs": 2}
    whole = run_student(directory, **settings)
    assert whole.log_history[-1]["step"] == 8
    for step in (6, 8):  # as if the run had been cut before them
        (directory / f"checkpoint-{step}").rename(tmp_path / f"checkpoint-{step}")
    with pytest.raises(DeiTLTError, match="is not empty; pass --resume, --overwrite, or another"):
        run_student(directory, **settings)
    resumed = run_student(directory, resume=True, **settings)
    assert [entry["step"] for entry in resumed.log_history] == [entry["step"] for entry in whole.log_history]
    assert resumed.log_history[0] == whole.log_history[0]  # of before the cut, from the checkpoint
    assert sorted(path.name for path in directory.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (3, 6, 8)]
