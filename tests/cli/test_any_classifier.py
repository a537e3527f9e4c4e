"""`deitlt evaluate` and `analyze` of classifiers that are no students: teachers, and those of transformers and timm."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTImageProcessor,
)

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.cli.main import main
from deitlt_hf.data.arguments import DataArguments, load_images
from deitlt_hf.data.views import evaluation_view, image_processor
from deitlt_hf.evaluation import page as analysis_page
from deitlt_hf.teachers.build import make_classifier

DATA = ["--data", "digits-lt", "--imbalance_factor", "20", "--group_boundaries", "3", "7"]
NAMES = {index: str(index) for index in range(10)}
LABEL_MAPS = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", **LABEL_MAPS)


@pytest.fixture(scope="module")
def images():
    return load_images(DataArguments("digits-lt", imbalance_factor=20, group_boundaries=[3, 7]))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """transformers' ResNet and DeiT with two heads, a model of timm, and a teacher's run, none of them trained."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    ResNetForImageClassification(RESNET).save_pretrained(folder / "resnet")
    size = {"height": 20, "width": 20}
    deit = DeiTConfig(
        image_size=20, patch_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, **LABEL_MAPS
    )
    DeiTForImageClassificationWithTeacher(deit).save_pretrained(folder / "deit")
    for name in ("resnet", "deit"):
        ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(folder / name)
    make_classifier("test_resnet", 24, LABEL_MAPS).save_pretrained(folder / "timm")
    teacher = make_classifier("cifar_resnet", 16, LABEL_MAPS, classifier="cosine", depth=20)
    teacher.config.class_counts, teacher.config.class_groups = list(range(100, 0, -10)), {"head": [0]}
    teacher.config.class_groups |= {"mid": [1, 2], "tail": list(range(3, 10))}
    teacher.save_pretrained(folder / "teacher")
    image_processor(16).save_pretrained(folder / "teacher")
    (folder / "teacher" / "recipe.yaml").write_text("data: digits-lt\nimage_size: 16\n")
    return folder


@torch.inference_mode()
def logits_by_hand(directory: Path, images) -> torch.Tensor:
    """Of a saved model on the digits' test split, through what is saved alone."""
    model = AutoModelForImageClassification.from_pretrained(directory).eval()
    pictures = [image.convert("RGB") for image in images.test["image"]]
    if directory.name == "teacher":
        pixels = torch.stack([evaluation_view(16)(picture) for picture in pictures])
    else:
        processor = AutoImageProcessor.from_pretrained(directory)
        pixels = torch.cat([processor(picture, return_tensors="pt")["pixel_values"] for picture in pictures])
    return model(pixels).logits


@pytest.mark.parametrize("name", ["resnet", "deit", "timm", "teacher"])
def test_evaluation_and_errors_of_a_classifier(name, models, images, tmp_path, capsys):
    out, errors = tmp_path / "metrics.json", tmp_path / "errors.csv"
    data = DATA if name != "teacher" else []
    argv = ["evaluate", str(models / name), *data, "--output", str(out), "--errors", str(errors)]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    logits = logits_by_hand(models / name, images) * (30 if name == "teacher" else 1)  # LDAM's scale of cosines
    labels = torch.tensor(images.test["label"])
    metrics = json.loads(out.read_text())
    own, *others = metrics["experts"]
    assert (own, others) == (("average", ["cls", "distillation"]) if name == "deit" else ("model", []))
    right = logits.argmax(-1) == labels
    assert metrics["experts"][own]["overall"] == pytest.approx(100 * right.double().mean().item())
    assert metrics["groups"]["mid"] == ([1, 2] if name == "teacher" else [3, 4, 5, 6])
    with errors.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert {int(row["row"]) for row in rows} == set(np.flatnonzero(~right.numpy()))
    probabilities = logits.softmax(-1).amax(-1)
    written = [float(row["probability"]) for row in rows]
    assert written == sorted(written, reverse=True)
    assert written == pytest.approx([probabilities[int(row["row"])].item() for row in rows], abs=1e-5)
    assert rows[0]["true_class"] == str(labels[int(rows[0]["row"])].item())
    assert printed.startswith("Accuracy in percent on 400 test images: the test split of digits-lt\n\n")
    assert f"errors: {errors} has {len(rows)} of 400 test images, the most confident first\n" in printed
    columns = "average  CLS expert  DIST expert" if others else "model"
    assert f"class  group  training images  test images  {columns}  most often taken for (images)\n0 " in printed
    assert "app" not in printed  # it is for students

    images.test[0]["image"].save(tmp_path / "digit.png")
    assert main(["predict", str(models / name), str(tmp_path / "digit.png"), "--output", str(tmp_path / "p.csv")]) == 0
    with (tmp_path / "p.csv").open(newline="") as text:
        (row,) = csv.DictReader(text)
    assert (row["class"], float(row["probability"])) == (
        str(logits[0].argmax().item()), pytest.approx(probabilities[0].item(), abs=1e-3)
    )  # fmt: skip


def test_analysis_of_a_classifier_leaves_out_what_needs_tokens(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(analysis_page, "save_figure", lambda figure, path: _stand_in(path))  # takes seconds
    out = tmp_path / "analysis"
    assert main(["analyze", str(models / "timm"), *DATA, "--out", str(out)]) == 0
    assert "no teacher was found" not in capsys.readouterr().out
    drawn = {path.stem for path in (out / "figures").iterdir()}
    assert drawn == {"class_frequency", "reliability", "confusion", "class_confusion"}
    page = (out / "index.html").read_text()
    assert "blocks / heads" not in page
    assert page.count("<figcaption>") == 24


def test_images_of_only_some_of_a_classifiers_classes(models, images, tmp_path, capsys, caplog):
    for digit, copies in ((7, 3), (2, 2)):
        (tmp_path / "pictures" / str(digit)).mkdir(parents=True)
        rows = np.flatnonzero(np.array(images.test["label"]) == digit)[:copies].tolist()
        for row in rows:
            images.test[row]["image"].save(tmp_path / "pictures" / str(digit) / f"{row}.png")
    out, errors = tmp_path / "metrics.json", tmp_path / "errors.csv"
    argv = [str(models / "resnet"), "--data", str(tmp_path / "pictures"), "--output", str(out), "--errors", str(errors)]
    assert main(["evaluate", *argv]) == 0
    printed = capsys.readouterr()
    assert "these test images define head and tail" in printed.err + caplog.text
    metrics = json.loads(out.read_text())
    assert metrics["test_counts"] == [0, 0, 2, 0, 0, 0, 0, 3, 0, 0]
    assert sorted(label for group in metrics["groups"].values() for label in group) == list(range(10))
    with errors.open(newline="") as text:
        files = [row["file"] for row in csv.DictReader(text)]
    assert all(Path(file).is_file() for file in files)


def test_an_existing_file_of_errors_is_kept(models, tmp_path, capsys):
    (tmp_path / "errors.csv").write_text("mine")
    assert main(["evaluate", str(models / "resnet"), *DATA, "--errors", str(tmp_path / "errors.csv")]) == 2
    assert capsys.readouterr().err == f"deitlt evaluate: {tmp_path}/errors.csv exists; pass another --errors\n"
    assert (tmp_path / "errors.csv").read_text() == "mine"


def test_a_body_without_a_classifier_is_refused(tmp_path, capsys):
    ResNetModel(RESNET).save_pretrained(tmp_path / "body")
    assert main(["evaluate", str(tmp_path / "body"), *DATA]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path}/body has no classifier.1.bias that fits its configuration; pass a model that is whole" in error


def test_of_many_classes_each_has_a_line_where_it_is_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("deitlt_hf.evaluation.measures.MOST_LISTED_CLASSES", 9)
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, **LABEL_MAPS
    )
    DeiTLTForImageClassification(config).save_pretrained(tmp_path / "student")
    assert main(["evaluate", str(tmp_path / "student"), *DATA]) == 0
    assert "\n10 classes: `deitlt evaluate MODEL --per_class true` lists them\n" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "student"), *DATA, "--per_class", "true"]) == 0
    assert "most often taken for (images)\n0 " in capsys.readouterr().out


def _stand_in(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
