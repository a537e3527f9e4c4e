"""`--only` and `--prior` of `deitlt predict`, `evaluate` and `app`, against the model's own probabilities."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification, ExpertClassifier, load_long_tailed_dataset
from deitlt_hf.cli.main import main
from deitlt_hf.data.views import evaluation_view, image_processor
from deitlt_hf.inference.app import introduction
from deitlt_hf.inference.app_examples import examples_of_run
from deitlt_hf.teachers.build import make_classifier

DATA = ["--data", "digits-lt", "--imbalance_factor", "20", "--group_boundaries", "3", "7"]
NAMES = {index: str(index) for index in range(10)}
LABEL_MAPS = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
SHARES = np.array([0, 0, 5, 0, 1, 0, 0, 0, 0, 4]) / 10
ROWS = ("average", "cls", "distillation")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A student and its teacher, and files that say which digits occur at a place, and how often."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.3,
        class_counts=list(range(100, 0, -10)), **LABEL_MAPS,
    )  # fmt: skip
    student = DeiTLTForImageClassification(config)
    student.save_pretrained(folder / "student")
    student.config.fusion = {"cls": 0.3, "distillation": 1.2, "bias": [0.1 * label for label in range(10)]}
    student.config.expert = "fused"
    student.save_pretrained(folder / "calibrated")
    for name in ("student", "calibrated"):
        image_processor(16).save_pretrained(folder / name)
    teacher = make_classifier("cifar_resnet", 16, LABEL_MAPS, classifier="cosine", depth=20)
    teacher.save_pretrained(folder / "teacher")
    (folder / "student" / "recipe.yaml").write_text(
        f"data: digits-lt\nimbalance_factor: 20\nteacher: {folder}/teacher\nteacher_pixels: student\n"
    )
    (folder / "list.txt").write_text("2\n4\n9\n")
    (folder / "site.csv").write_text("digit,seen\n2,50\n4,10\n9,40\n0,900\n")
    return folder


@pytest.fixture(scope="module")
def test_split():
    return load_long_tailed_dataset("digits-lt", imbalance_factor=20)["test"]


@torch.inference_mode()
def by_hand(models: Path, test_split, place: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Probabilities of each row at the place, and the classes that the teacher predicts there."""
    pixels = torch.stack([evaluation_view(16)(image.convert("RGB")) for image in test_split["image"]])
    outputs = AutoModelForImageClassification.from_pretrained(models / "student").eval()(pixels)
    logits = dict(zip(ROWS[1:], (outputs.cls_logits, outputs.distillation_logits), strict=True))
    logits["average"] = (outputs.cls_logits + outputs.distillation_logits) / 2
    weighted = {row: logits[row].double().softmax(-1).numpy() * place for row in ROWS}
    cosines = AutoModelForImageClassification.from_pretrained(models / "teacher").eval()(pixels).logits
    teacher = (30 * cosines).double().softmax(-1).numpy() * place  # 30 is LDAM's scale
    return {row: of / of.sum(-1, keepdims=True) for row, of in weighted.items()}, teacher.argmax(-1)


@pytest.mark.parametrize(("flags", "place"), [(["--only"], SHARES > 0), (["--only", "--prior"], SHARES)])
def test_an_evaluation_is_of_the_place(flags, place, models, test_split, tmp_path, capsys, caplog):
    words = [word for flag in flags for word in (flag, str(models / {"--only": "list.txt"}.get(flag, "site.csv")))]
    out, errors = tmp_path / "metrics.json", tmp_path / "errors.csv"
    argv = ["evaluate", str(models / "student"), *words, "--output", str(out), "--errors", str(errors)]
    assert main(argv) == 0
    printed = capsys.readouterr()
    kept = np.flatnonzero(np.isin(test_split["label"], [2, 4, 9]))
    labels = np.array(test_split["label"])[kept]
    lines = printed.out.splitlines()
    assert lines[0] == "Accuracy in percent on 120 test images: the test split of digits-lt, of classes that can occur"
    assert lines[1].startswith("only 3 of 10 classes can occur (list.txt)")
    assert lines[1].endswith(" and class frequencies (site.csv)") == ("--prior" in flags)
    assert "280 of 400 test images are left out: they are of 7 classes that cannot occur" in printed.err + caplog.text
    assert ("is not calibrated" in printed.err + caplog.text) == ("--prior" in flags)

    probabilities, teacher = by_hand(models, test_split.select(kept), place)
    metrics = json.loads(out.read_text())
    for row in ROWS:
        right = probabilities[row].argmax(-1) == labels
        assert metrics["experts"][row]["overall"] == pytest.approx(100 * right.mean())
    assert metrics["teacher"]["overall"] == pytest.approx(100 * (teacher == labels).mean())
    assert metrics["test_counts"] == [0, 0, 40, 0, 40, 0, 0, 0, 0, 40]
    assert metrics["class_prior"] == pytest.approx((place / place.sum()).tolist())
    with errors.open(newline="") as text:
        wrong = list(csv.DictReader(text))
    average = probabilities["average"]
    assert sorted(int(row["row"]) for row in wrong) == kept[average.argmax(-1) != labels].tolist()
    place_of = {row: index for index, row in enumerate(kept.tolist())}
    for row in wrong:
        assert float(row["probability"]) == pytest.approx(average[place_of[int(row["row"])]].max(), abs=2e-6)


@pytest.mark.parametrize(("name", "own"), [("student", "average"), ("calibrated", "fused"), ("teacher", "model")])
def test_predictions_are_of_the_place(name, own, models, test_split, tmp_path, capsys, caplog):
    image_processor(16).save_pretrained(models / "teacher")
    test_split[0]["image"].save(tmp_path / "digit.png")
    files = ["--only", str(models / "list.txt"), "--prior", str(models / "site.csv")]
    for flags, out in (([], "all.json"), (files, "place.json")):
        argv = ["predict", str(models / name), str(tmp_path / "digit.png"), *flags, "--top", "10", "--output"]
        assert main([*argv, str(tmp_path / out)]) in (0, None)
    ((everywhere,), (here,)) = (json.loads((tmp_path / out).read_text()) for out in ("all.json", "place.json"))
    rows = {row.pop("name"): row for row in everywhere["classes"]}
    assert len(rows) == 10
    found = {row.pop("name"): row for row in here["classes"]}
    assert set(found) == {"2", "4", "9"}
    shares = {"2": 5, "4": 1, "9": 4}
    for row in found["2"]:
        total = sum(shares[name] * rows[name][row] for name in found)
        expected = [shares[name] * rows[name][row] / total for name in found]
        assert [found[name][row] for name in found] == pytest.approx(expected, rel=1e-5)
    decided = [of[own] for of in found.values()]
    assert decided == sorted(decided, reverse=True)
    assert ("is not calibrated" in capsys.readouterr().err + caplog.text) == (name != "calibrated")


def test_the_app_says_what_it_takes_into_account(models):
    classifier = ExpertClassifier.from_pretrained(models / "student", only=["2", "9"])
    text = introduction(classifier.config, prior=classifier.prior)
    assert "Its answers take into account: only 2 of 10 classes can occur. Choose a picture" in text
    assert "into account" not in introduction(classifier.config)
    examples = examples_of_run(str(models / "student"), classifier.config, prior=classifier.prior)
    assert [example.caption for example in examples] == ["2 (80 training images)", "9 (10 training images)"]


@pytest.mark.parametrize("command", ["predict", "evaluate", "app"])
@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [("--only", "ten\n", "the model has no class 'ten'"), ("--prior", "1,5\n", "lacks 9 classes of 10: '0', '2',")],
)
def test_a_wrong_file_is_one_line(command, flag, text, message, models, tmp_path, capsys):
    (tmp_path / "file").write_text(text)
    (tmp_path / "digit.png").write_bytes(b"never read")
    pictures = [str(tmp_path / "digit.png")] if command == "predict" else []
    assert main([command, str(models / "student"), *pictures, flag, str(tmp_path / "file")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"deitlt {command}: {tmp_path}/file")
    assert message in line


def test_a_place_without_any_test_image_is_refused(models, tmp_path, capsys):
    pictures = tmp_path / "pictures" / "3"
    pictures.mkdir(parents=True)
    load_long_tailed_dataset("digits-lt")["test"][0]["image"].save(pictures / "a.png")
    (tmp_path / "pictures" / "5").mkdir()
    load_long_tailed_dataset("digits-lt")["test"][0]["image"].save(tmp_path / "pictures" / "5" / "b.png")
    argv = ["evaluate", str(models / "student"), "--data", str(tmp_path / "pictures"), "--only"]
    assert main([*argv, str(models / "list.txt")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "deitlt evaluate: none of 2 test images is of a class that can occur; list other classes"
    )
