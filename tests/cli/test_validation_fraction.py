"""Runs whose validation split was held out of train: what is recorded and chosen, and what later commands do."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deitlt_hf.cli.main import main
from deitlt_hf.data.arguments import DataArguments
from deitlt_hf.data.readable import undecoded
from deitlt_hf.data.record import read_data_record
from deitlt_hf.inference.loading import load_student
from deitlt_hf.runs.images import DataChoice, load_images_to_measure
from noisy_images import write_images

RUN = ["--image_size", "8", "--per_device_train_batch_size", "8", "--use_cpu", "true", "--dataloader_num_workers", "0"]
RUN += ["--report_to", "none", "--disable_tqdm", "true", "--horizontal_flip", "false", "--save_strategy", "epoch"]
STUDENT = ["train", "--data", "pics", "--patch_size", "4", "--hidden_size", "16", "--num_hidden_layers", "1"]
STUDENT += ["--num_attention_heads", "2", *RUN]
ALONE = ["--distillation_type", "none"]
TEACHER = ["teacher", "--data", "pics", "--depth", "20", *RUN]
BEST = ["--eval_strategy", "epoch", "--load_best_model_at_end", "true", "--num_train_epochs", "2"]
FRACTION = ["--validation_fraction", "0.25"]
COUNTS = {"a": 30, "b": 20, "c": 10}


def number(file: Path, split: str = "") -> float:
    of_file = hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
    return int.from_bytes(hashlib.sha256(f"{split}0 ".encode() + of_file).digest()[:6], "big") / 2**48


def split_of(file: Path) -> str:
    if number(file) < 0.2:
        return "test"
    return "validation" if number(file, "validation ") < 0.25 else "train"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images without splits, a student with a validation split and one without it."""
    place = tmp_path_factory.mktemp("validated")
    write_images(place / "pics", COUNTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([*STUDENT, *ALONE, *FRACTION, *BEST, "--metric_for_best_model", "average_balanced_accuracy"]) == 0
        plain = ["--num_train_epochs", "1", "--output_dir", "runs/plain", "--eval_strategy", "epoch"]
        assert main([*STUDENT, *ALONE, *plain]) == 0
    return place


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with the paths of the copy, to be changed."""
    place = tmp_path / "work"
    shutil.copytree(trained, place)
    for record in place.glob("runs/*/data.json"):
        record.write_text(record.read_text().replace(str(trained), str(place)))
    monkeypatch.chdir(place)
    return place


def counts(place: Path) -> dict[str, list[int]]:
    splits = {split: [0, 0, 0] for split in ("train", "validation", "test")}
    for file in place.glob("pics/*/*.png"):
        splits[split_of(file)]["abc".index(file.parent.name)] += 1
    return splits


def test_what_was_held_out_is_recorded(trained: Path) -> None:
    record, by_hand = read_data_record(trained / "runs/pics"), counts(trained)
    assert all(min(of) > 0 for of in by_hand.values())
    assert record.train_counts == load_student(str(trained / "runs/pics")).config.class_counts == by_hand["train"]
    assert (record.validation_counts, record.test_counts) == (by_hand["validation"], by_hand["test"])
    assert (record.validation_fraction, record.test_fraction, record.split_seed) == (0.25, 0.2, 0)
    files = {hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest(): file for file in trained.glob("pics/*/*")}
    kept = [files[name] for name in record.kept_in_train]
    assert [file.parent.name for file in kept] == ["a", "b", "c"]
    assert {split_of(file) for file in kept} == {"train"}
    run = json.loads((trained / "runs/pics/run.json").read_text())["data"]
    assert (run["train_images"], run["validation_images"]) == (sum(by_hand["train"]), sum(by_hand["validation"]))
    assert (run["validation_split"], run["test_split"]) == ("held out of train", "held out of train")
    plain = read_data_record(trained / "runs/plain")
    assert plain.test_counts == by_hand["test"]
    assert (plain.validation_fraction, plain.kept_in_train) == (None, [])


def test_the_card_says_what_chose_what(trained: Path) -> None:
    card, number = (trained / "runs/pics/README.md").read_text(), sum(counts(trained)["validation"])
    assert f"| validation images, held out of train, for evaluations during the training | {number} |" in card
    assert (
        f"\n### What chose what\n\nThe validation split ({number} images held out of train) chose the step of the "
        "weights, by average_balanced_accuracy; the test split was read once, at the end.\n"
    ) in card
    plain = (trained / "runs/plain/README.md").read_text()
    assert (
        "\n### What chose what\n\nThe last weights were kept; no split chose them. Evaluations during the training "
        "measured the test split, for the log alone.\n"
    ) in plain


def test_splits_stay_when_the_folder_grows(work: Path, said) -> None:
    record = read_data_record("runs/pics")
    before = {file: split_of(file) for file in work.glob("pics/*/*")}
    write_images(work / "pics", {"a": 3, "c": 40}, first=100)
    data = DataArguments(data=str(work / "pics"), validation_fraction=0.25)
    config = load_student("runs/pics").config
    images = load_images_to_measure(data, DataChoice(True, ()), config, ["runs/pics"]).images
    for split in ("train", "validation", "test"):
        files = {Path(image["path"]) for image in undecoded(getattr(images, split))["image"]}
        assert files & before.keys() == {file for file, of in before.items() if of == split}
        assert files == {file for file in work.glob("pics/*/*") if split_of(file) == split}
    printed = said("evaluate", "runs/pics")
    assert f"Accuracy in percent on {sum(counts(work)['test'])} test images: held out of " in printed
    now, then = counts(work), (sum(record.train_counts), sum(record.validation_counts), sum(record.test_counts))
    for split, number in zip(("training", "validation", "test"), then, strict=True):
        assert f"{sum(now[split.removesuffix('ing')])} {split} images in place of {number} (" in printed


def test_validation_images_of_another_draw_are_refused(work: Path, said) -> None:
    line = said("evaluate", "runs/pics", "--validation_fraction", "0.5", status=2)
    assert (
        "runs/pics was trained with validation_fraction 0.25 and split_seed 0; with 0.5 and 0, validation images would "
        "be training images: leave these flags out"
    ) in line
    line = said("evaluate", "runs/plain", *FRACTION, status=2)
    assert "was trained with validation_fraction None and split_seed 0; with 0.25 and 0, validation images" in line
    resume = ["train", "--resume", "--output_dir", "runs/pics", "--num_train_epochs", "3", "--use_cpu", "true"]
    line = said(*resume, "--validation_fraction", "0.3", status=2)
    assert "was trained with validation_fraction 0.25 and split_seed 0; with 0.3 and 0, validation images would" in line
    assert "validation_fraction is 1.5; pass a number in (0, 1)" in said(
        *STUDENT, "--validation_fraction", "1.5", status=2
    )


def test_a_run_is_resumed_with_its_splits(work: Path, said) -> None:
    before = read_data_record("runs/pics")
    said("train", "--resume", "--output_dir", "runs/pics", "--num_train_epochs", "3", "--use_cpu", "true")
    assert replace(read_data_record("runs/pics"), places=before.places) == before
    write_images(work / "pics", {"a": 9}, first=100)
    resume = ["train", "--resume", "--output_dir", "runs/pics", "--num_train_epochs", "4", "--use_cpu", "true"]
    assert "validation images in place of " in said(*resume, status=2)


def test_a_run_without_a_validation_split_is_compared_on_the_same_test_images(work: Path, said) -> None:
    printed = said("compare", "runs/pics", "plain=runs/plain")
    assert f"Accuracy in percent on {sum(counts(work)['test'])} test images: held out of " in printed
    assert "has changed" not in printed
    write_images(work / "pics", {"a": 9}, first=100)
    assert "pics has changed since runs/plain was trained: " in said("compare", "runs/pics", "plain=runs/plain")


def test_the_flag_does_nothing_on_other_data(work: Path, said) -> None:
    write_images(work / "new", {"a": 5, "b": 4}, first=700)
    printed = said("evaluate", "runs/pics", "--data", "new", *FRACTION)
    assert "Accuracy in percent on 9 test images: all images of new" in printed
    assert "--validation_fraction is not used: the test images are all images of new" in printed


def test_a_teacher_that_was_trained_on_the_validation_images_is_said(work: Path, said) -> None:
    said(*TEACHER, "--num_train_epochs", "1", "--output_dir", "teacher")
    taught = [*STUDENT, "--teacher", "teacher", "--num_train_epochs", "1", "--output_dir", "taught", *FRACTION]
    assert (
        "the teacher teacher was trained with validation_fraction None and split_seed 0; with 0.25 and 0, validation "
        "images would be training images of the teacher: train it with the same flags"
    ) in said(*taught)


# --- What would choose by the test images


@pytest.mark.parametrize("command", [[*STUDENT, *ALONE], TEACHER])
@pytest.mark.parametrize(
    ("flags", "chooser"),
    [
        (BEST, "load_best_model_at_end"),
        (
            ["--eval_strategy", "epoch", "--save_strategy", "best", "--metric_for_best_model", "loss"],
            "save_strategy best",
        ),
        (
            ["--eval_strategy", "epoch", "--lr_scheduler_type", "reduce_lr_on_plateau"],
            "lr_scheduler_type reduce_lr_on_plateau",
        ),
    ],
)
def test_the_test_images_choose_nothing(work: Path, said, command, flags, chooser) -> None:
    line = said(*command, *flags, "--output_dir", "new", status=2)
    assert f"{chooser} would choose by the test images, because the data have no validation split; pass " in line
    assert "--validation_fraction 0.1, which holds one out of train, or data with a folder `val`, or leave it" in line
    assert not (work / "new").exists()


def test_evaluations_of_the_test_images_are_said_to_choose_nothing(work: Path, said) -> None:
    flags = [*ALONE, "--num_train_epochs", "1", "--eval_strategy", "epoch", "--overwrite", "--output_dir", "runs/plain"]
    line = "the evaluations during the training measure the test images, for the log alone: nothing is chosen by them"
    assert line in said(*STUDENT, *flags)
    assert line not in said(*STUDENT, *flags, *FRACTION)


def test_a_group_without_validation_images_cannot_choose(work: Path, said) -> None:
    write_images(work / "pics", {"d": 1})
    flags = [*FRACTION, *BEST, "--group_boundaries", "1", "3", "--output_dir", "new"]
    line = said(*STUDENT, *ALONE, *flags, "--metric_for_best_model", "average_tail", status=2)
    assert "metric_for_best_model is 'average_tail', but no tail class has a validation image; pass another" in line
    assert not (work / "new").exists()
