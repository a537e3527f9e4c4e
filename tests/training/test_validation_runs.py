"""A run with a validation split evaluates that during the training, and reports the test split."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitlt_hf.cards.model_card import model_card
from deitlt_hf.cli.main import main
from deitlt_hf.data.record import read_data_record

STUDENT = ["train", "--patch_size", "4", "--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads"]
STUDENT += ["2", "--distillation_type", "none"]
TEACHER = ["teacher", "--depth", "20", "--sam_rho", "0"]
RUN = ["--image_size", "8", "--num_train_epochs", "2", "--per_device_train_batch_size", "8", "--use_cpu", "true"]
RUN += ["--dataloader_num_workers", "0", "--report_to", "none", "--disable_tqdm", "true", "--horizontal_flip", "false"]
RUN += ["--group_boundaries", "1", "1"]
RUN += ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end", "true"]


def write_images(folder: Path) -> None:
    """Images of two classes in train, of `light` alone in validation, and of `dark` alone in test."""
    for split, counts in {"train": (12, 8), "validation": (0, 6), "test": (5, 0)}.items():
        for name, count, level in zip(("dark", "light"), counts, (40, 200), strict=True):
            for index in range(count):
                pixels = np.random.RandomState(index + level + len(split)).randint(0, 40, (8, 8, 3), dtype=np.uint8)
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels + np.uint8(level)).save(folder / split / name / f"{index}.png")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("validation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_images(place / "pics")
        assert main([*TEACHER, "--data", "pics", "--output_dir", "teacher", *RUN]) == 0
        best = ["--metric_for_best_model", "average_overall"]
        assert main([*STUDENT, "--data", "pics", "--output_dir", "student", *RUN, *best]) == 0
    return place


@pytest.mark.parametrize(("run", "prefix"), [("student", "eval_average_"), ("teacher", "eval_")])
def test_validation_in_the_training_and_test_at_the_end(runs: Path, run: str, prefix: str) -> None:
    (checkpoint, *_) = (runs / run).glob("checkpoint-*")
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    measured = next(entry for entry in log if f"{prefix}overall" in entry)
    # `dark` is head and `light` is tail; one of them is in each split, so that the other has no accuracy.
    assert measured[f"{prefix}overall"] == pytest.approx(measured[f"{prefix}tail"])
    assert math.isnan(measured[f"{prefix}head"])
    metrics = json.loads((runs / run / "metrics.json").read_text())
    assert metrics["split"] == "test"
    accuracy = metrics["accuracy"] if run == "teacher" else metrics["experts"]["average"]
    assert accuracy["overall"] == pytest.approx(accuracy["head"])
    assert accuracy["tail"] is None
    record = json.loads((runs / run / "run.json").read_text())["data"]
    assert record | {"test_counts": [5, 0], "validation_images": 6, "test_split": "given"} == record
    assert read_data_record(runs / run).validation_counts == [0, 6]


@pytest.mark.parametrize("run", ["student", "teacher"])
def test_the_card_says_which_split_is_which(runs: Path, run: str) -> None:
    card = str(model_card(runs / run))
    assert "| validation images, for evaluations during the training | 6 |" in card
    assert "Accuracy in percent on 5 test images" in card
    assert "**The validation split chose these weights.**" in card
    assert "the test images took no part in it" in card
    (checkpoint, *_) = (runs / run).glob("checkpoint-*")
    card = model_card(checkpoint)
    assert "Accuracy in percent on the validation split, measured by the Trainer at step" in str(card)
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}
    # Before the run has ended, only data.json tells.
    (runs / run / "run.json").rename(runs / run / "away")
    assert "on the validation split, measured" in str(model_card(checkpoint))
    (runs / run / "away").rename(runs / run / "run.json")


def test_evaluate_measures_the_test_split(runs: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(runs)
    assert main(["evaluate", "student"]) == 0
    assert capsys.readouterr().out.startswith("Accuracy in percent on 5 test images: the test split of ")


def test_a_run_of_an_earlier_version_that_tested_on_validation_is_not_tested_on_its_training_images(
    runs: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(runs)
    (runs / "pics" / "test").rename(tmp_path / "away")
    assert main(["evaluate", "student"]) == 2
    assert "was trained on all training images of " in capsys.readouterr().err
    (tmp_path / "away").rename(runs / "pics" / "test")


def test_another_source_without_a_test_split_is_measured_on_validation_and_said(
    runs: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "test")
    assert main(["evaluate", str(runs / "student"), "--data", "other"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Accuracy in percent on 6 test images: the validation split of other\n")
