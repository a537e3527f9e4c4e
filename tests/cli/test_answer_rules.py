"""`--precision` and `--coverage`: answers and sets of a calibrated student, in files, in Python and in the app."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deitlt_hf import DeiTLTConfig, DeiTLTError, DeiTLTForImageClassification, ExpertClassifier
from deitlt_hf.cli.main import main
from deitlt_hf.data.tables import holds_predictions
from deitlt_hf.data.views import image_processor
from deitlt_hf.evaluation.answer_rules import AnswerRules, format_rules, measure_rules
from deitlt_hf.evaluation.evaluate import Predictions
from deitlt_hf.evaluation.selective import Thresholds
from deitlt_hf.inference.app import build_app, expert_panels
from deitlt_hf.inference.classifier import load_classifier

NAMES = ["lynx", "cat", "badger, European", "<рысь>"]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """A student with a fusion, which is not calibrated yet."""
    directory = tmp_path_factory.mktemp("rules") / "student"
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        initializer_range=0.3, id2label=dict(enumerate(NAMES)), label2id={name: i for i, name in enumerate(NAMES)},
        expert="fused", fusion={"cls": 0.7, "distillation": 0.6, "bias": [0.0, 0.1, 0.0, 0.0]},
    )  # fmt: skip
    DeiTLTForImageClassification(config).save_pretrained(directory)
    image_processor(16).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def probabilities(student, photos) -> np.ndarray:
    """Fused probabilities `(images, classes)`."""
    found = []
    for result in ExpertClassifier.from_pretrained(student)(sorted(photos.iterdir()), top=4, expert="fused"):
        of_name = {row.name: row.probability["fused"] for row in result.rows}
        found.append([of_name[name] for name in NAMES])
    return np.array(found)


def calibrated(student: Path, directory: Path, sure: float, possible: float) -> Path:
    """The student with validation images that are all right, and have these probabilities, which so are thresholds."""
    shutil.copytree(student, directory)
    labels = np.repeat(np.arange(4), 60)
    lists = {"labels": labels, "predicted": labels}
    lists |= {"confidence": np.full(240, sure), "true_probability": np.full(240, possible)}
    content = {"split": "the validation split of pets", "validation": {key: of.tolist() for key, of in lists.items()}}
    (directory / "calibration.json").write_text(json.dumps(content))
    return directory


POSSIBLE = 0.2


@pytest.fixture(scope="module")
def threshold(probabilities) -> float:
    """A confidence that half of the images reach."""
    return float(np.sort(probabilities.max(-1))[[5, 6]].mean())


@pytest.fixture(scope="module")
def ready(student, tmp_path_factory, threshold) -> Path:
    return calibrated(student, tmp_path_factory.mktemp("calibrated") / "student", threshold, POSSIBLE)


def expected_sets(probabilities: np.ndarray) -> list[list[str]]:
    order = np.argsort(-probabilities, axis=-1)
    return [
        [NAMES[index] for place, index in enumerate(row) if place == 0 or of[index] >= POSSIBLE]
        for of, row in zip(probabilities, order, strict=True)
    ]


def test_results_say_what_is_sure_and_which_classes_are_possible(ready, photos, probabilities, threshold):
    classifier = ExpertClassifier.from_pretrained(ready, precision=0.9, coverage=0.9)
    results = classifier(sorted(photos.iterdir()), top=1)
    assert [result.answered for result in results] == (probabilities.max(-1) >= threshold).tolist()
    assert sum(result.answered for result in results) == 6
    assert {len(result.prediction_set) for result in results} >= {1, 2}
    assert [result.prediction_set for result in results] == expected_sets(probabilities)
    assert [result.rows[0].name for result in results] == [NAMES[index] for index in probabilities.argmax(-1)]
    (plain,) = ExpertClassifier.from_pretrained(ready)(sorted(photos.iterdir())[0])
    assert (plain.answered, plain.prediction_set) == (None, None)


def test_sets_are_those_of_classes_that_can_occur(student, photos, probabilities, tmp_path):
    low = float(np.sort(probabilities.ravel())[len(probabilities.ravel()) // 3])
    directory = calibrated(student, tmp_path / "student", low, low)
    only = [NAMES[0], NAMES[3]]
    classifier = ExpertClassifier.from_pretrained(directory, only=only, precision=0.9, coverage=0.9)
    for result, of in zip(classifier(sorted(photos.iterdir())), probabilities, strict=True):
        best = max((0, 3), key=lambda index: of[index])
        of_only = [index for index in (best, 3 - best) if index == best or of[index] >= low]
        assert result.prediction_set == [NAMES[index] for index in of_only]
        assert result.answered == (of[best] >= low)  # the probability that thresholds are about, not its new share


def test_a_table_has_the_set_and_uncertain_images(ready, photos, probabilities, threshold, tmp_path, capsys):
    flags = ["--precision", "0.9", "--coverage", "0.9", "--output", str(tmp_path / "found.csv")]
    assert main(["predict", str(ready), str(photos), *flags]) == 0
    rows = list(csv.DictReader((tmp_path / "found.csv").open(encoding="utf-8")))
    assert list(rows[0])[:4] == ["file", "class", "best_class", "probability"]
    assert list(rows[0])[-1] == "set"
    sets = expected_sets(probabilities)
    assert [row["set"] for row in rows] == ["; ".join(names) for names in sets]
    best = [NAMES[index] for index in probabilities.argmax(-1)]
    assert [row["best_class"] for row in rows] == best
    sure = probabilities.max(-1) >= threshold
    assert [row["class"] for row in rows] == [
        name if is_sure else "uncertain" for name, is_sure in zip(best, sure, strict=True)
    ]
    assert [float(row["probability"]) for row in rows] == pytest.approx(probabilities.max(-1), abs=1e-6)
    printed = capsys.readouterr().out
    assert "uncertain, for a precision of 0.9: 6 of 12 images" in printed
    mean, of_one = np.mean([len(names) for names in sets]), sum(len(names) == 1 for names in sets)
    assert f"sets for a coverage of 0.9: {mean:.2f} classes on average, {of_one} of 12 images with one" in printed
    assert holds_predictions(tmp_path / "found.csv")  # and so is never read as a list of labelled images


def test_json_and_the_terminal_have_the_set(ready, photos, probabilities, tmp_path, capsys):
    flags = ["--coverage", "0.9", "--output", str(tmp_path / "found.json")]
    assert main(["predict", str(ready), str(photos), *flags]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    sets = expected_sets(probabilities)
    assert [of["set"] for of in found] == sets
    assert "class" not in found[0]
    capsys.readouterr()
    unsure = int(probabilities.max(-1).argmin())
    file = sorted(photos.iterdir())[unsure]
    assert main(["predict", str(ready), str(file), "--precision", "0.9", "--coverage", "0.9"]) == 0
    printed = capsys.readouterr().out
    assert f"{file}  (uncertain)" in printed
    assert f"\n  set: {', '.join(sets[unsure])}\n" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--precision 0.9 --expert cls", "expert is 'cls', and precision and coverage are those of the fused"),
        ("--coverage 0.9 --prior training", "a prior says that they come otherwise; leave one of them out"),
        ("--precision 0.9 --threshold 0.5", "--threshold is one probability for all classes"),
        ("--coverage 0.9 --top 2 --output x.csv", "--top writes a row per class, and --coverage marks images"),
        ("--precision 95", "precision is 95; pass a number in (0, 1), such as 0.95"),
        (
            "--coverage 0.999",
            "coverage is 0.999, which needs 999 validation images, and there are 240; pass at most 0.995",
        ),
        (
            "--precision 0.999",
            "precision is 0.999, which no threshold reaches on 240 validation images; the best there is",
        ),
    ],
)
def test_wrong_use_ends_in_one_line(ready, photos, flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(ready), str(photos), *flags.split()]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_not_calibrated_is_refused(student, photos, ready, tmp_path, capsys):
    assert main(["predict", str(student), str(photos), "--precision", "0.9", "--coverage", "0.9"]) == 2
    error = capsys.readouterr().err
    assert "has no calibration.json that fits it; run `deitlt calibrate` on the student" in error
    without = tmp_path / "student"
    shutil.copytree(ready, without)
    config = json.loads((without / "config.json").read_text())
    (without / "config.json").write_text(json.dumps(config | {"fusion": None, "expert": "average"}))
    with pytest.raises(DeiTLTError, match=r"has no calibration\.json that fits it"):
        load_classifier(str(without), coverage=0.9)
    (without / "calibration.json").unlink()
    (without / "config.json").write_text(json.dumps(config | {"exported_precision": "int8"}))
    with pytest.raises(DeiTLTError, match="is in 8 bits, which changes the probabilities that they were found on"):
        load_classifier(str(without), coverage=0.9)
    (ready_copy := tmp_path / "other").mkdir()
    shutil.copytree(ready, ready_copy, dirs_exist_ok=True)
    (ready_copy / "calibration.json").write_text('{"split": "x"}')
    with pytest.raises(DeiTLTError, match="does not hold class ids below 4"):
        load_classifier(str(ready_copy), coverage=0.9)


def test_the_app_shows_answer_and_set(ready, photos, probabilities, threshold):
    pytest.importorskip("gradio", reason="gradio is not installed")
    classifier = ExpertClassifier.from_pretrained(ready, precision=0.9, coverage=0.9)
    sets = expected_sets(probabilities)
    for file, of, names in zip(sorted(photos.iterdir()), probabilities, sets, strict=True):
        *_, verdict = expert_panels(classifier, Image.open(file))
        shown = [name.replace("<", "&lt;").replace(">", "&gt;") for name in names]
        is_sure = of.max() >= threshold
        reason = "right for at least 90 % of" if is_sure else "no class is sure enough to be right for 90 % of"
        expected = f"Answer: <b>{shown[0] if is_sure else 'uncertain'}</b> ({reason} such answers)"
        assert verdict.split("<br>")[0] == expected
        assert verdict.split("<br>")[1].startswith("Possible: " + ", ".join(f"<b>{name}</b>" for name in shown) + " (")
    ids = {block.elem_id for block in build_app(classifier, "tiny").blocks.values() if hasattr(block, "elem_id")}
    assert "verdict" in ids
    plain = ExpertClassifier.from_pretrained(ready)
    assert len(expert_panels(plain, Image.open(file))) == 5
    ids = {block.elem_id for block in build_app(plain, "tiny").blocks.values() if hasattr(block, "elem_id")}
    assert "verdict" not in ids


def test_rules_are_measured_on_the_fused_row():
    labels = torch.tensor([0, 1, 2, 0])
    fused = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.45, 0.35], [0.8, 0.1, 0.1]])
    found = Predictions(np.array([0.7, 0.4, 0.5]))
    found.add({"average": -fused, "fused": fused.log()}, labels)
    # Above thresholds: none, 1, 1, 0; with the most probable class: {0}, {0, 1}, {1}, {0}.
    assert found.set_sizes.tolist() == [1, 2, 1, 1]
    assert found.labels.tolist() == labels.tolist()
    answers = Thresholds(np.array([0.55, 0.4, 0.4]), [])
    rules = AnswerRules(0.9, 0.8, answers, Thresholds(np.array([0.7, 0.4, 0.5]), []))
    measured = measure_rules(rules, found, {"head": [0], "mid": [1], "tail": [2]})
    of = measured["precision"]
    assert (of["asked"], of["overall"]["share"], of["overall"]["answers"]) == (0.9, 75.0, 3)
    assert of["overall"]["precision"] == pytest.approx(200 / 3)
    assert (of["mid"]["share"], of["mid"]["answers"], of["mid"]["precision"]) == (0.0, 1, 0.0)
    assert measured["coverage"]["overall"] == {"images": 4, "coverage": 75.0, "size": 1.25, "single": 75.0}
    assert measured["coverage"]["tail"] == {"images": 1, "coverage": 0.0, "size": 1.0, "single": 100.0}
    lines = format_rules(measured).splitlines()
    assert lines[0].startswith("Answers for a precision of 0.9;")
    assert lines[2].split() == ["overall", "4", "75.0", "3", "66.7", "[9.4,", "99.2]"]
    assert lines[7] == "Sets of classes for a coverage of 0.8:"
    assert lines[-1].split() == ["tail", "1", "0.0", "1.00", "100.0"]
