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
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature

from deitlt_hf.cli.main import main
from deitlt_hf.data.images import decode_image
from deitlt_hf.data.views import evaluation_view
from deitlt_hf.inference.loading import load_student
from noisy_images import write_images

MODEL = ["--image_size", "8", "--patch_size", "4", "--hidden_size", "16", "--num_hidden_layers", "1"]
RUN = [*MODEL, "--num_attention_heads", "2", "--distillation_type", "none", "--num_train_epochs", "1"]
RUN += ["--per_device_train_batch_size", "8", "--dataloader_num_workers", "0", "--use_cpu", "true"]
RUN += ["--save_strategy", "epoch", "--report_to", "none", "--disable_tqdm", "true"]
COUNTS = {"a": 30, "b": 20, "c": 10}


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
    assert len([part for part in line.splitlines() if part.startswith("deitlt train: ")]) == 1
    assert re.search(f"pics is not what it was when .* began: .*{difference}.*; restore it, or start a new run", line)
    assert {path: path.read_bytes() for path in (work / "runs").rglob("*") if path.is_file()} == before


def test_so_is_a_run_without_a_record(work: Path, said) -> None:
    (work / "runs" / "pics" / "data.json").unlink()
    (work / "pics" / "a").rename(work / "pics" / "z")
    line = said("train", "--resume", "--output_dir", "runs/pics", "--num_train_epochs", "2", status=2)
    assert "'a' is missing, 'z' is new" in line


def test_a_run_is_resumed_on_its_data_from_anywhere(work: Path, said, monkeypatch) -> None:
    write_images(work / "elsewhere" / "pics", COUNTS, first=500)  # as many, of the same classes
    monkeypatch.chdir(work / "elsewhere")
    run = str(work / "runs" / "pics")
    assert main(["train", "--resume", "--output_dir", run, "--num_train_epochs", "2", "--use_cpu", "true"]) == 0
    assert f": held out of {work / 'pics'}\n" in said("evaluate", run)


def test_nor_where_two_classes_of_one_size_have_swapped_their_names(tmp_path: Path, said, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [Path("pics", split) for split in ("train", "test")]
    for number, folder in enumerate(folders):
        write_images(folder, dict.fromkeys("abc", 9), first=100 * number)
    assert main(["train", "--data", "pics", *RUN]) == 0
    for folder in folders:
        (folder / "a").rename(folder / "x")
        (folder / "b").rename(folder / "a")
        (folder / "x").rename(folder / "b")
    line = said("train", "--resume", "--output_dir", "runs/pics", "--num_train_epochs", "2", status=2)
    assert "began: images of 'a' are in 'b', images of 'b' are in 'a'; restore it" in line


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
        assert "was trained with test_fraction 0.2 and split_seed 0" in line


def test_a_run_without_a_record_says_what_is_not_known(work: Path, said) -> None:
    (work / "runs" / "pics" / "data.json").unlink()
    printed = said("evaluate", "runs/pics")
    assert f"data pics: the run runs/pics recorded no path of it; {work / 'pics'} is taken" in printed
    assert "runs/pics has no data.json, which lists held-out images: some test images may be" in printed
    write_images(work / "pics", {"c": 20}, first=100)
    assert "pics has changed since runs/pics was trained: " in said("evaluate", "runs/pics")


def test_a_relative_path_means_the_runs_place(work: Path, said, monkeypatch) -> None:
    own = said("evaluate", "runs/pics")
    write_images(work / "elsewhere" / "pics", COUNTS, first=500)
    monkeypatch.chdir(work / "elsewhere")
    assert said("evaluate", "../runs/pics").replace("../", "") == own  # its last lines name the run
    os.rename(work / "pics", work / "moved")
    assert f"which is gone; {work / 'elsewhere' / 'pics'} is taken" in said("evaluate", "../runs/pics")


def list_of(paths: list[Path], label: Callable[[Path], str]) -> str:
    return "\n".join(["file_name,label", *(f"{path},{label(path)}" for path in paths)]) + "\n"


def write_new_images(kind: str, work: Path) -> tuple[str, int, str]:
    """New images in a layout; returns the source, how many of them are test images, and which they are."""
    write_images(work / "new", {"a": 5, "b": 4, "c": 3}, first=700)
    new = sorted((work / "new").rglob("*.png"))
    if kind == "class folders":
        return "new", 12, "all images of new"
    if kind == "a subset of the classes":
        shutil.rmtree(work / "new" / "b")
        return "new", 8, "all images of new"
    if kind == "a single class":
        write_images(work / "one", {"c": 3}, first=700)
        return "one", 3, "all images of one"
    if kind == "a test folder alone":
        shutil.move(work / "new", work / "moved" / "test")
        return "moved", 12, "all images of moved"
    if kind == "train and test folders":
        shutil.move(work / "new", work / "both" / "test")
        write_images(work / "both" / "train", COUNTS, first=800)
        return "both", 12, "the test split of both"
    if kind == "a list called test":
        (work / "lists").mkdir()
        (work / "lists" / "test.csv").write_text(list_of(new, lambda path: path.parent.name))
        return "lists", 12, "all images of lists"
    if kind == "a list":
        (work / "new.csv").write_text(list_of(new, lambda path: path.parent.name))
        return "new.csv", 12, "all images of new.csv"
    features = Features(image=ImageFeature(), label=ClassLabel(names=["c", "a", "b"]))  # in another order
    rows = {"image": list(map(str, new)), "label": ["cab".index(path.parent.name) for path in new]}
    DatasetDict(validation=Dataset.from_dict(rows, features=features)).save_to_disk(str(work / "saved"))
    return "saved", 12, "all images of saved"


@pytest.mark.parametrize(
    "kind",
    [
        "class folders",
        "a subset of the classes",
        "a single class",
        "a test folder alone",
        "train and test folders",
        "a list called test",
        "a list",
        "a saved validation split",
    ],
)
def test_new_images_are_measured_all_with_the_models_classes(work: Path, said, kind: str) -> None:
    source, number, taken = write_new_images(kind, work)
    printed = said("evaluate", "runs/pics", "--data", source, "--output", "numbers.json")
    assert printed.startswith(f"Accuracy in percent on {number} test images: {taken}\n")
    # What the student says of each image, by the labels that the files' folders are.
    student = load_student("runs/pics")
    where = {"moved": "moved/test", "both": "both/test", "new": "new", "one": "one"}.get(source, "new")
    files = sorted((work / where).rglob("*.png"))
    pixels = torch.stack([evaluation_view(8)(decode_image({"path": str(file), "bytes": None})) for file in files])
    with torch.no_grad():
        said_classes = student(pixels).logits.argmax(-1).tolist()
    right = [
        student.config.id2label[label] == file.parent.name for label, file in zip(said_classes, files, strict=True)
    ]
    measured = json.loads((work / "numbers.json").read_text())
    assert measured["num_images"] == len(files) == number
    assert measured["experts"]["average"]["overall"] == pytest.approx(100 * np.mean(right))


@pytest.mark.parametrize("command", [["analyze", "--out", "page"], ["compare", "same=runs/pics"]])
def test_so_they_are_by_the_other_commands(work: Path, said, command: list[str]) -> None:
    write_images(work / "new", {"a": 5, "c": 3}, first=700)
    name, *more = command
    printed = said(name, "runs/pics", *more, "--data", "new", "--test_fraction", "0.5")
    assert printed.startswith("Accuracy in percent on 8 test images: all images of new\n")
    assert "--test_fraction is not used: the test images are all images of new" in printed


@pytest.mark.parametrize(
    ("label", "unknown", "hint"),
    [
        (lambda path: "dog", "'dog'", ""),
        (lambda path: "abc".index(path.parent.name), "'0', '1', '2'", ""),
        (lambda path: "A", "'A'", "; except for case, spaces, zeros or encoding 'A' is 'a' there"),
    ],
)
def test_classes_that_the_model_does_not_know_are_refused_by_name(
    work: Path, said, label, unknown: str, hint: str
) -> None:
    (work / "new.csv").write_text(list_of(sorted((work / "pics").rglob("*.png")), label))
    line = said("evaluate", "runs/pics", "--data", "new.csv", status=2)
    assert f"new.csv has images of {unknown}, which runs/pics does not know, only 'a', 'b', 'c'" in line
    assert line.rstrip().endswith(f"or leave these images out{hint}")


@pytest.mark.parametrize("data", ["pics", "./pics/", "{work}/pics", "link"])
def test_the_runs_own_data_are_not_taken_whole_when_they_are_named(work: Path, said, data: str) -> None:
    (work / "link").symlink_to(work / "pics")
    tested = sum(json.loads((work / "runs" / "pics" / "data.json").read_text())["test_counts"])
    printed = said("evaluate", "runs/pics", "--data", data.format(work=work))
    assert printed.startswith(f"Accuracy in percent on {tested} test images: held out of ")


def test_training_says_that_test_images_are_in_train_and_so_does_the_card(tmp_path: Path, said, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "pics" / "train", COUNTS)
    write_images(tmp_path / "pics" / "test", dict.fromkeys("abc", 5), first=700)
    for index in range(3):
        shutil.copy(tmp_path / "pics" / "train" / "a" / f"000{index}.png", tmp_path / "pics" / "test" / "a")
    teacher = ["--image_size", "8", "--depth", "20", "--num_train_epochs", "1", "--report_to", "none"]
    for command in (["train", *RUN], ["teacher", *teacher, "--use_cpu", "true", "--dataloader_num_workers", "0"]):
        printed = said(*command, "--data", "pics")
        assert "3 of 18 test images (16.7 %) are identical to training images" in printed
        assert "the measured accuracy will be too high" in printed
    for run in ("pics", "pics-teacher"):
        card = (tmp_path / "runs" / run / "README.md").read_text()
        assert "3 of 18 test images are identical to training images (16.7 %)" in card
