"""Commands on data that changed after the training, that lie elsewhere, or that are other images."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitlt_hf.cli.main import main

MODEL = ["--image_size", "8", "--patch_size", "4", "--hidden_size", "16", "--num_hidden_layers", "1"]
RUN = [*MODEL, "--num_attention_heads", "2", "--distillation_type", "none", "--num_train_epochs", "1"]
RUN += ["--per_device_train_batch_size", "8", "--dataloader_num_workers", "0", "--use_cpu", "true"]
RUN += ["--save_strategy", "epoch", "--report_to", "none", "--disable_tqdm", "true"]
COUNTS = {"a": 30, "b": 20, "c": 10}


def write_images(folder: Path, counts: dict[str, int], first: int = 0) -> None:
    """Images of 8 pixels in class folders, each with noise of its own."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            pixels = np.random.RandomState(index * 7 + ord(name[0])).randint(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:04}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a folder of images without a test split, and a run that was trained on it by a relative path."""
    place = tmp_path_factory.mktemp("work")
    write_images(place / "pics", COUNTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--data", "pics", *RUN]) == 0
    return place


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with the paths of the copy, to be changed."""
    place = tmp_path / "work"
    shutil.copytree(trained, place)
    record = place / "runs" / "pics" / "data.json"
    record.write_text(record.read_text().replace(str(trained), str(place)))
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """Runs a command; returns what it printed, notices and errors included, without progress bars."""

    def run(*argv: str, status: int = 0) -> str:
        capsys.readouterr()
        caplog.clear()
        assert main(list(argv)) == status
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if line.startswith("deitlt")]
        return "\n".join([printed.out, *errors, *caplog.messages])

    return run


def test_a_run_notes_its_data_when_it_begins(trained: Path) -> None:
    record = json.loads((trained / "runs" / "pics" / "data.json").read_text())
    assert record["class_names"] == list(COUNTS)
    assert [sum(pair) for pair in zip(record["train_counts"], record["test_counts"], strict=True)] == [30, 20, 10]
    assert record["places"] == {"pics": str(trained / "pics")}
    assert (record["test_fraction"], record["split_seed"], len(record["kept"])) == (0.2, 0, 3)
    run = json.loads((trained / "runs" / "pics" / "run.json").read_text())
    assert run["data"]["test_images_in_train"] == 0
    assert str(trained) not in json.dumps(run)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda pics: (pics / "a").rename(pics / "z"), "'a' is missing, 'z' is new"),
        (lambda pics: write_images(pics, {"d": 5}), "'d' is new"),
        (lambda pics: shutil.rmtree(pics / "b"), "'b' is missing"),
        (lambda pics: write_images(pics, {"b": 5}, first=100), r"images in place of \d+ \('b' \d+ in place of \d+\)"),
    ],
)
def test_a_run_is_not_resumed_on_other_data(work: Path, said, change, difference: str) -> None:
    change(work / "pics")
    before = {path: path.read_bytes() for path in (work / "runs").rglob("*") if path.is_file()}
    line = said("train", "--resume", "--output_dir", "runs/pics", "--num_train_epochs", "2", status=2)
    assert len(line.strip().splitlines()) == 1
    assert re.search(f"pics is not what it was when .* began: .*{difference}.*; restore it, or start a new run", line)
    assert {path: path.read_bytes() for path in (work / "runs").rglob("*") if path.is_file()} == before


def test_so_is_a_run_without_a_record(work: Path, said) -> None:
    (work / "runs" / "pics" / "data.json").unlink()
    (work / "pics" / "a").rename(work / "pics" / "z")
    line = said("train", "--resume", "--output_dir", "runs/pics", "--num_train_epochs", "2", status=2)
    assert "'a' is missing, 'z' is new" in line


def test_a_run_is_resumed_on_its_data_from_anywhere(work: Path, monkeypatch) -> None:
    write_images(work / "elsewhere" / "pics", COUNTS, first=500)  # as many, of the same classes
    monkeypatch.chdir(work / "elsewhere")
    run = str(work / "runs" / "pics")
    assert main(["train", "--resume", "--output_dir", run, "--num_train_epochs", "2", "--use_cpu", "true"]) == 0
    assert str(work / "pics") in json.loads((Path(run) / "data.json").read_text())["places"].values()


@pytest.mark.parametrize("command", [["evaluate"], ["analyze", "--out", "page"], ["compare", "same=runs/pics"]])
def test_what_was_trained_on_is_not_tested_after_the_data_grew(work: Path, said, command: list[str]) -> None:
    record = json.loads((work / "runs" / "pics" / "data.json").read_text())
    name, *more = command
    argv = [name, "runs/pics", *more]
    tested = sum(record["test_counts"])
    first = said(*argv)
    assert f"Accuracy in percent on {tested} test images: held out of {work / 'pics'}" in first
    assert "has changed" not in first
    shutil.rmtree("page", ignore_errors=True)
    write_images(work / "pics", {"c": 20}, first=100)
    grown = said(*argv)
    assert f"{work / 'pics'} has changed since runs/pics was trained: " in grown
    assert " in place of " in grown


def test_a_held_out_split_of_another_draw_is_refused(work: Path, said) -> None:
    for flags in (["--test_fraction", "0.5"], ["--split_seed", "1"]):
        line = said("evaluate", "runs/pics", *flags, status=2)
        assert "was trained on what test_fraction 0.2 and split_seed 0 left" in line


def test_a_relative_path_means_the_runs_place(work: Path, said, monkeypatch) -> None:
    own = said("evaluate", "runs/pics")
    write_images(work / "elsewhere" / "pics", COUNTS, first=500)
    monkeypatch.chdir(work / "elsewhere")
    assert said("evaluate", "../runs/pics") == own
    os.rename(work / "pics", work / "moved")
    assert f"which is gone; {work / 'elsewhere' / 'pics'} is taken" in said("evaluate", "../runs/pics")
