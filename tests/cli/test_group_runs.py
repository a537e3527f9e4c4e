"""Commands on data with groups and duplicates: what they do is recorded, and every later command keeps to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitlt_hf.cli.main import main
from deitlt_hf.data.arguments import DataArguments, load_images
from deitlt_hf.data.record import read_data_record
from deitlt_hf.files import read_settings
from deitlt_hf.inference.app_examples import examples_of_run
from deitlt_hf.inference.loading import load_student

RUN = ["--image_size", "8", "--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--use_cpu", "true"]
RUN += ["--dataloader_num_workers", "0", "--report_to", "none", "--disable_tqdm", "true", "--save_strategy", "epoch"]
STUDENT = ["--patch_size", "4", "--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
STUDENT += ["--distillation_type", "none"]
GROUPS = ["--group_column", "class/group", "--drop_duplicates", "true"]
SITES = [f"site {index}" for index in range(10)]


def number(group: str) -> float:
    return int.from_bytes(hashlib.sha256(f"0 {group}".encode()).digest()[:6], "big") / 2**48


TESTED = [site for site in SITES if number(site) < 0.2]


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes at ten sites, three images each; two copies, and one image in both classes."""
    place = tmp_path_factory.mktemp("groups")
    for index, site in enumerate(SITES):
        for label, name in enumerate(("deer", "fox")):
            for copy in range(3):
                write_image(place / "pics" / name / site / f"{copy}.png", index * 10 + label * 5 + copy)
    shutil.copy(place / "pics" / "deer" / SITES[0] / "0.png", place / "pics" / "deer" / SITES[0] / "again.png")
    shutil.copy(place / "pics" / "deer" / SITES[0] / "1.png", place / "pics" / "deer" / SITES[9] / "again.png")
    shutil.copy(place / "pics" / "fox" / SITES[2] / "1.png", place / "pics" / "deer" / SITES[3] / "fox.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--data", "pics", *GROUPS, *RUN, *STUDENT, "--output_dir", "student"]) == 0
        assert main(["teacher", "--data", "pics", *GROUPS, *RUN, "--depth", "20", "--output_dir", "teacher"]) == 0
    return place


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with the paths of the copy, to be changed."""
    place = tmp_path / "work"
    shutil.copytree(trained, place)
    for run in ("student", "teacher"):
        record = place / run / "data.json"
        record.write_text(record.read_text().replace(str(trained), str(place)))
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("run", ["student", "teacher"])
def test_what_was_done_is_recorded(trained: Path, run: str) -> None:
    assert 0 < len(TESTED) < 5
    record = read_data_record(trained / run)
    assert record.test_groups == TESTED
    assert record.train_groups == [site for site in SITES if site not in TESTED]
    assert (record.group_column, record.drop_duplicates) == ("class/group", True)
    # Of 63 images, two copies and the two of different labels are gone.
    assert sum(record.train_counts) + sum(record.test_counts) == 59
    data = json.loads((trained / run / "run.json").read_text())["data"]
    assert data["groups"] == {"train": 10 - len(TESTED), "test": len(TESTED)}
    assert data["dropped"] == {"copies": 2, "in_other_split": 0, "conflicting": 2}
    assert (data["group_column"], data["test_split"]) == ("class/group", "held out of train")
    assert not any(site in json.dumps(data) for site in SITES)  # a patient's name is nobody's business
    card = (trained / run / "README.md").read_text()
    assert f"| groups of images, by `class/group` | {10 - len(TESTED)} in train, {len(TESTED)} in test; each is" in card
    assert "| duplicates left out | 2 copies in train, 0 of another split, 2 with different labels |" in card
    assert "group_column: class/group\n" in card
    settings = read_settings(trained / run / "recipe.yaml")
    assert (settings["group_column"], settings["drop_duplicates"]) == ("class/group", True)


@pytest.mark.parametrize("command", [["evaluate"], ["compare", "same=student"]])
def test_the_same_split_is_measured_and_stays_when_the_data_grow(work: Path, said, command: list[str]) -> None:
    name, *more = command
    tested = sum(read_data_record("student").test_counts)
    argv = [name, "student", *more]
    assert f"Accuracy in percent on {tested} test images: held out of {work / 'pics'}" in said(*argv)
    # More images of a training site, of a test site, and of new sites.
    train_site = next(site for site in SITES if site not in TESTED)
    new = [f"new {index}" for index in range(12)]
    for index, site in enumerate([train_site, TESTED[0], *new]):
        write_image(work / "pics" / "fox" / site / "new.png", 1000 + index)
    tested += 1 + sum(number(site) < 0.2 for site in new)
    assert f"Accuracy in percent on {tested} test images: held out of {work / 'pics'}" in said(*argv)


def test_a_group_that_a_run_was_trained_on_is_not_tested(work: Path) -> None:
    """As where all sites of a class were below the fraction, and one of them had to stay in train."""
    record = read_data_record("student")
    kept = {TESTED[0], *record.train_groups}
    images = load_images(DataArguments(data="pics", group_column="class/group"), {"test": kept})
    assert TESTED[0] not in images.test["group"][:]
    assert TESTED[0] in load_images(DataArguments(data="pics", group_column="class/group")).test["group"][:]


@pytest.mark.parametrize(
    ("flags", "then", "now"),
    [
        (["--group_column", "group/class"], "group_column class/group", "group/class"),
        (["--drop_duplicates", "false"], "drop_duplicates True", "False"),
        (["--test_fraction", "0.5"], "split_seed 0", "0.5 and 0"),
    ],
)
def test_another_split_is_refused(work: Path, said, flags, then: str, now: str) -> None:
    line = said("evaluate", "student", *flags, status=2)
    assert (
        f"student was trained with test_fraction 0.2 and split_seed 0{' and ' + then if 'seed' not in then else ''}; "
        in line
    )
    assert f"{now}, test images would be training images: leave these flags out" in line


def test_runs_of_different_splits_are_not_compared(work: Path, said) -> None:
    shutil.copytree("student", "other")
    record = read_data_record("student")
    replace(record, group_column=None, train_groups=[], test_groups=[]).write("other")
    line = said("compare", "student", "other=other", status=2)
    assert "other was trained with test_fraction 0.2 and split_seed 0 and group_column None; with 0.2 and 0 and" in line
    assert "class/group, test images would be training images: leave this model out" in line


@pytest.mark.parametrize("same", [True, False])
def test_a_teacher_of_another_split_is_said(work: Path, said, same: bool) -> None:
    if not same:
        replace(read_data_record("teacher"), group_column=None).write("teacher")
    shape = ["--patch_size", "4", "--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
    argv = ["train", "--data", "pics", "--teacher", "teacher", *GROUPS, *RUN, *shape, "--output_dir", "taught"]
    assert (
        "the teacher teacher was trained with test_fraction 0.2 and split_seed 0 and group_col" in said(*argv)
    ) != same


def drop_nothing(work: Path) -> list[str]:
    return ["--drop_duplicates", "false"]


def rename_a_test_site(work: Path) -> list[str]:
    """As many images of every class as before, on each side."""
    new = next(name for name in (f"new {index}" for index in range(99)) if number(name) < number(TESTED[0]))
    for name in ("deer", "fox"):
        (work / "pics" / name / TESTED[0]).rename(work / "pics" / name / new)
    return []


@pytest.mark.parametrize(
    ("change", "said_of_it"),
    [(drop_nothing, "training images in place of"), (rename_a_test_site, "other groups are held out ('new ")],
)
def test_a_run_is_not_resumed_on_another_split(work: Path, said, change, said_of_it: str) -> None:
    flags = change(work)
    line = said("train", "--resume", "--output_dir", "student", "--num_train_epochs", "2", *flags, status=2)
    assert "is not what it was when the run of " in line
    assert said_of_it in line


def test_a_resumed_run_has_the_same_split(work: Path, said) -> None:
    before = read_data_record("student")
    said("train", "--resume", "--output_dir", "student", "--num_train_epochs", "2", "--use_cpu", "true")
    assert replace(read_data_record("student"), places=before.places) == before


def test_inspect_shows_the_split(work: Path, said) -> None:
    printed = said("data", "inspect", "pics", *GROUPS)
    assert (
        "drop_duplicates: 4 of 63 images left out: 2 copies in train, 0 that are in another split too, 2 w" in printed
    )
    assert f"the test split is held out by 'class/group': {len(TESTED)} groups with " in printed
    assert "duplicates        none" in printed


def test_the_apps_examples_are_test_images_of_the_split(work: Path, monkeypatch) -> None:
    tested = []
    monkeypatch.setattr("deitlt_hf.inference.app_examples.decode_image", lambda image: tested.append(image["path"]))
    examples_of_run("student", load_student("student").config)
    assert tested
    assert {Path(path).parent.name for path in tested} <= set(TESTED)
