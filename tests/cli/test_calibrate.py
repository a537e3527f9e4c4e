"""`deitlt calibrate`: what it changes, what it refuses, and that every runtime gives the same answer afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.metrics import average_precision_score
from transformers import pipeline

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTForImageClassification,
    ExpertClassifier,
    export_model,
    write_model_card,
)
from deitlt_hf.cards.model_card import model_card
from deitlt_hf.cli.main import main
from deitlt_hf.data.views import evaluation_view, image_processor
from deitlt_hf.evaluation.fusion import Fit, Fold
from deitlt_hf.hub.pushing import model_files
from deitlt_hf.runs import calibrating

NAMES = ["crane", "tench", "lynx"]
COUNTS = [60, 20, 6]
COLOURS = np.array([[200, 80, 80], [80, 200, 80], [120, 140, 80]])  # the rare class is between the others


def coloured(per_class: list[int], seed: int) -> Dataset:
    """Noisy pictures, each class around a colour of its own; no two are the same."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(per_class)), per_class)
    pixels = COLOURS[labels][:, None, None] + draw.normal(0, 60, (len(labels), 2, 2, 3))
    images = [Image.fromarray(of.clip(0, 255).astype(np.uint8)).resize((16, 16), 0) for of in pixels]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"image": images, "label": labels.tolist()}, features=features)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run: its data with three splits, and a student that was trained for a second."""
    root = tmp_path_factory.mktemp("run")
    splits = {"train": coloured(COUNTS, 0), "validation": coloured([30, 20, 12], 1), "test": coloured([20] * 3, 2)}
    DatasetDict(splits).save_to_disk(root / "data")
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        id2label=dict(enumerate(NAMES)), label2id={name: index for index, name in enumerate(NAMES)},
        class_counts=COUNTS, class_groups={"head": [0], "mid": [1], "tail": [2]},
    )  # fmt: skip
    model, view = DeiTLTForImageClassification(config), evaluation_view(16)
    pixels = torch.stack([view(image) for image in splits["train"]["image"]])
    labels = torch.tensor(splits["train"]["label"])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(root / "student")
    image_processor(16).save_pretrained(root / "student")
    (root / "student" / "recipe.yaml").write_text(yaml.safe_dump({"data": str(root / "data"), "image_size": 16}))
    accuracies = {"overall": 50.0, "head": 60.0, "mid": 50.0, "tail": 40.0}
    metrics = {"num_images": 60, "experts": dict.fromkeys(("average", "cls", "distillation"), accuracies)}
    (root / "student" / "metrics.json").write_text(json.dumps(metrics))
    write_model_card(root / "student")
    return root


@pytest.fixture
def student(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "student", tmp_path / "student"))


@pytest.fixture(scope="module")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = Path(shutil.copytree(trained / "student", tmp_path_factory.mktemp("calibrated") / "student"))
    assert main(["calibrate", str(directory)]) == 0
    return directory


def calibrate(*argv: str | Path) -> int:
    return main(["calibrate", *map(str, argv)])


def test_the_student_answers_with_the_fused_prediction_and_undo_takes_it_back(student, capsys):
    before = {path.name: path.read_bytes() for path in student.iterdir()}
    assert calibrate(student) == 0
    printed = capsys.readouterr().out
    assert "Fitted on 62 images, 12 to 30 of a class: the validation split of" in printed
    assert "\nfused  " in printed
    changed = {path.name for path in student.iterdir() if path.read_bytes() != before.get(path.name)}
    assert changed == {"config.json", "calibration.json", "metrics.json", "README.md"}

    config, record = (json.loads((student / name).read_text()) for name in ("config.json", "calibration.json"))
    assert config["expert"] == "fused"
    assert len(config["fusion"]["bias"]) == 3
    assert record["images"] == 62
    assert record["class_images"] == [30, 20, 12]
    assert record["expert_before"] == "average"
    of_validation = record["validation"]
    assert of_validation["labels"] == [0] * 30 + [1] * 20 + [2] * 12
    right = np.equal(of_validation["labels"], of_validation["predicted"])
    assert np.equal(of_validation["confidence"], of_validation["true_probability"]).tolist() == right.tolist()
    card = (student / "README.md").read_text()
    assert "Its `logits` are both experts', weighed on the validation split" in card
    assert "| fused |" in card

    measured = record["test"]
    assert (measured["precision"]["asked"], measured["coverage"]["asked"]) == (0.95, 0.9)
    sets, answers = measured["coverage"], measured["precision"].get("overall")
    assert [sets[part]["images"] for part in ("overall", "head", "mid", "tail")] == [60, 20, 20, 20]
    assert 60 < sets["overall"]["coverage"] <= 100
    asks = "--coverage 0.9" if answers is None else "--precision 0.95 --coverage 0.9"  # never what is not reached
    assert f"deitlt predict student photo.jpg {asks}\n" in card
    share = "-" if answers is None else f"{answers['share']:.1f}"
    assert f"| overall | {share} |" in card
    assert f" {sets['tail']['coverage']:.1f} | {sets['tail']['size']:.2f} |" in card
    assert (answers is None) == ("No threshold reaches a precision of 0.95" in card)
    assert "Probabilities were calibrated on the validation split" in card
    assert "Probabilities are not calibrated" not in card

    assert calibrate(student, "--undo", "true") == 0
    assert "answers as before" in capsys.readouterr().out
    after = {path.name: path.read_bytes() for path in student.iterdir()}
    assert json.loads(after.pop("config.json")) == json.loads(before.pop("config.json")) | {"fusion": None}
    assert json.loads(after.pop("metrics.json")) == json.loads(before.pop("metrics.json"))
    assert after == before


@pytest.mark.parametrize(
    ("weights", "answers", "command"),
    [
        ("model.safetensors", True, "deitlt predict me/x --revision v1 photo.jpg --precision 0.95 --coverage 0.9\n"),
        ("model.pt2", False, "hf download me/x --revision v1 --local-dir model\ndeitlt predict model photo.jpg --cov"),
    ],
)
def test_a_card_on_the_hub_has_a_command_that_works(calibrated, tmp_path, weights, answers, command):
    for file in (calibrated / "config.json", calibrated / "calibration.json"):
        shutil.copy(file, tmp_path)
    shutil.copy(calibrated / "model.safetensors", tmp_path / weights)
    record = json.loads((tmp_path / "calibration.json").read_text())
    measured = {"overall": {"share": 50.0, "precision": 96.0, "interval": [90.0, 99.0]}} if answers else {}
    record["test"]["precision"] = {"asked": 0.95} | measured
    (tmp_path / "calibration.json").write_text(json.dumps(record))
    card = str(model_card(tmp_path, "me/x", "v1"))
    assert f"```sh\n{command}" in card
    assert "print(f\"fused {row.probability['fused']:.3f}  CLS {cls:.3f}  DIST {dist:.3f}  {row.name}\")" in card


def test_calibrating_again_keeps_the_expert_of_before(student, capsys):
    assert main(["set-expert", str(student), "dist"]) == 0
    assert calibrate(student) == 0
    first = json.loads((student / "config.json").read_text())["fusion"]
    assert calibrate(student) == 0
    assert json.loads((student / "config.json").read_text())["fusion"] == first
    assert json.loads((student / "calibration.json").read_text())["expert_before"] == "distillation"
    assert main(["set-expert", str(student), "average"]) == 0
    capsys.readouterr()
    assert main(["set-expert", str(student), "fused"]) == 0
    assert " now answers with the fused prediction; changed: " in capsys.readouterr().out


def test_without_its_file_a_calibration_is_taken_back_to_the_average(student):
    assert calibrate(student) == 0
    (student / "calibration.json").unlink()
    assert calibrate(student) == 0
    assert json.loads((student / "calibration.json").read_text())["expert_before"] == "average"
    (student / "calibration.json").unlink()
    assert calibrate(student, "--undo", "true") == 0
    assert DeiTLTConfig.from_pretrained(student).expert == "average"


def test_the_same_answer_everywhere(calibrated, tmp_path):
    image = Image.fromarray(np.random.default_rng(5).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    image.save(tmp_path / "photo.png")
    (own,) = ExpertClassifier.from_pretrained(calibrated)(image, top=3)
    expected = {row.name: row.probability["fused"] for row in own.rows}
    assert [row.name for row in own.rows] == sorted(expected, key=lambda name: -expected[name])
    for format in ("onnx", "torch"):
        assert export_model(calibrated, tmp_path / format, format=format).largest_difference < 1e-5
        exported = ExpertClassifier.from_pretrained(tmp_path / format)
        (found,) = exported(image, top=3)
        assert {row.name: row.probability["fused"] for row in found.rows} == pytest.approx(expected, abs=1e-5)
    here = pipeline("image-classification", model=str(calibrated))(image)
    assert {of["label"]: of["score"] for of in here} == pytest.approx(expected, abs=1e-5)
    code = (
        "import sys; sys.modules['deitlt_hf'] = None\n"  # any import of it fails
        "import json; from transformers import pipeline\n"
        f"found = pipeline('image-classification', model={str(calibrated)!r}, trust_remote_code=True)"
        f"({str(tmp_path / 'photo.png')!r})\n"
        "print(json.dumps({of['label']: of['score'] for of in found}))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(elsewhere.splitlines()[-1]) == pytest.approx(expected, abs=1e-5)


def test_precision_and_recall_of_its_ranking(calibrated, trained, tmp_path, capsys):
    file = tmp_path / "result.json"
    assert main(["evaluate", str(calibrated), "--at", "0.8", "--output", str(file)]) == 0
    found = json.loads(file.read_text())["ranking"]
    assert "recall at 80 % precision" in capsys.readouterr().out
    images = DatasetDict.load_from_disk(trained / "data")["test"]
    results = ExpertClassifier.from_pretrained(calibrated)(images["image"][:], top=3, expert="fused")
    labels = np.array(images["label"])
    for label, name in enumerate(NAMES):
        scores = [{row.name: row.probability["fused"] for row in result.rows}[name] for result in results]
        expected = 100 * average_precision_score(labels == label, scores)
        assert found["classes"]["average_precision"][label] == pytest.approx(expected, abs=1e-3)
    assert main(["evaluate", str(calibrated), "--at", "1.2"]) == 2
    assert "at is 1.2; pass" in capsys.readouterr().err


def test_older_code_beside_the_weights_is_replaced_and_all_of_it_is_pushed(student):
    (student / "modeling_deit_lt.py").write_text("# of an older version\n")
    assert calibrate(student) == 0
    assert "def fused_logits" in (student / "modeling_deit_lt.py").read_text()
    assert {"calibration.json", "modeling_deit_lt.py"} <= {file.name for file in model_files(student)}


def test_images_that_were_trained_or_tested_on_are_left_out(student, trained, tmp_path, capsys, caplog):
    splits = DatasetDict.load_from_disk(trained / "data")
    mixed = Dataset.from_list(
        [*splits["test"].select(range(5)), *splits["train"].select(range(3)), *coloured([10, 10, 10], 7)],
        features=splits["test"].features,
    )
    mixed.save_to_disk(tmp_path / "mixed")
    assert calibrate(student, "--data", tmp_path / "mixed") == 0
    assert "3 of 38 validation images are train images too: left out" in caplog.text
    assert "5 of 38 validation images are test images too: left out" in caplog.text
    assert "Fitted on 30 images, 10 to 10 of a class: all images of" in capsys.readouterr().out


def _refusal(capsys: pytest.CaptureFixture) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deitlt calibrate: ")]
    return line


def test_wrong_data_end_in_one_line(student, trained, tmp_path, capsys):
    splits = DatasetDict.load_from_disk(trained / "data")
    splits["test"].save_to_disk(tmp_path / "tested")
    DatasetDict(train=splits["train"], test=splits["test"]).save_to_disk(tmp_path / "two")
    others = splits["validation"].cast_column("label", ClassLabel(names=["crane", "tench", "owl"]))
    others.save_to_disk(tmp_path / "others")
    for data, said in (
        ("tested", "all 60 images of all images of"),
        ("two", "has a test split and no validation split, and a student is never fitted to test images"),
        ("others", "has images of 'owl', which"),
    ):
        before = (student / "config.json").read_bytes()
        assert calibrate(student, "--data", tmp_path / data) == 2
        assert said in _refusal(capsys)
        assert (student / "config.json").read_bytes() == before
    (student / "recipe.yaml").write_text(yaml.safe_dump({"data": str(tmp_path / "two")}))
    assert calibrate(student) == 2
    assert "there is no validation split to calibrate" in _refusal(capsys)


def test_what_cannot_be_calibrated_is_refused(student, tmp_path, capsys):
    CifarResNetForImageClassification(CifarResNetConfig(**{"id2label": {0: "a", 1: "b"}})).save_pretrained(
        tmp_path / "cnn"
    )
    assert calibrate(tmp_path / "cnn") == 2
    assert "not a DeiT-LT student" in _refusal(capsys)
    assert calibrate(student, "--undo", "true") == 2
    assert "was not calibrated; there is nothing to take back" in _refusal(capsys)
    assert main(["set-expert", str(student), "fused"]) == 2
    assert "has no fusion; run `deitlt calibrate`" in capsys.readouterr().err
    recipe = yaml.safe_load((student / "recipe.yaml").read_text())
    (student / "recipe.yaml").write_text(
        yaml.safe_dump(recipe | {"distillation_type": "none", "distillation_alpha": 0.0})
    )
    assert calibrate(student) == 2
    assert "which is part of the fused prediction, was not trained" in _refusal(capsys)


def test_a_fusion_that_is_no_better_than_the_average_is_refused(student, capsys, monkeypatch):
    losses = {"average": Fold(0.5, 0.1), "shared": Fold(0.52, 0.1)}
    fit = Fit("shared", {"cls": 0.5, "distillation": 0.5, "bias": [0.0] * 3}, losses, 5)
    monkeypatch.setattr(calibrating, "fit_fusion", lambda *_: fit)
    before = (student / "config.json").read_bytes()
    assert calibrate(student) == 2
    assert "(loss 0.520, average 0.500)" in _refusal(capsys)
    assert (student / "config.json").read_bytes() == before
