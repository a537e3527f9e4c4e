"""`deitlt data inspect`, and `deitlt train` and `teacher` for data without a recipe, as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image
from transformers import ViTConfig, ViTModel

from deitlt_hf.cli.data_inspect import run
from deitlt_hf.cli.main import main
from deitlt_hf.errors import DeiTLTError

QUICK = "--num_train_epochs 1 --per_device_train_batch_size 8 --dataloader_num_workers 0 --use_cpu true".split()
QUICK += "--disable_tqdm true --save_strategy no".split()
TINY = "--hidden_size 16 --num_attention_heads 2 --num_hidden_layers 1".split()


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """24, 8 and 2 training images of 40 x 36 pixels, and 2 test images of each class."""
    directory = tmp_path_factory.mktemp("data") / "animals"
    generator = np.random.default_rng(0)
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["cat", "snow leopard", "рысь"])})

    def split(counts):
        labels = np.repeat(np.arange(3), counts)
        images = [Image.fromarray(generator.integers(0, 256, (36, 40, 3), dtype=np.uint8)) for _ in labels]
        return Dataset.from_dict({"image": images, "label": labels}, features=features)

    DatasetDict(train=split([24, 8, 2]), test=split([2, 2, 2])).save_to_disk(directory)
    return directory


@pytest.fixture(scope="module")
def damaged(animals, tmp_path_factory):
    """The same with one image cut off."""
    splits = DatasetDict.load_from_disk(str(animals))
    features = splits["train"].features

    def cut(row, index):
        return {"image": {"bytes": row["image"]["bytes"][: 200 if index == 30 else None], "path": "30.png"}}

    undecoded = splits["train"].cast_column("image", datasets.Image(decode=False))
    splits["train"] = undecoded.map(cut, with_indices=True).cast(features)
    directory = tmp_path_factory.mktemp("data") / "damaged"
    splits.save_to_disk(directory)
    return directory


def test_the_table_says_what_matters_first(animals, capsys):
    run([str(animals)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=1) == ["classes", "3, from 24 images (cat) down to 2 (рысь)"]
    assert lines[1].split(maxsplit=2)[2] == "12; Gini coefficient 0.43"  # half of (16 + 22 + 6) 2 / 9 over 34 / 3
    assert lines[-3] == "warning: test has 6 images: one of them is 16.7 points of accuracy"
    assert lines[-2:] == [f"next: deitlt fit {animals}", f"      deitlt teacher --data {animals}"]


def test_json_alone_goes_to_stdout(animals, capsys):
    run([str(animals), "--json", "--group_boundaries", "1", "2"])
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["class_counts"] == [24, 8, 2]
    assert found["class_names"][2] == "рысь"
    assert found["class_groups"] == {"head": [0], "mid": [1], "tail": [2]}
    assert found["splits"]["train"]["common_sizes"] == [[40, 36, 34]]


def test_the_selected_data_are_inspected(animals, capsys):
    run([str(animals), "--json", "--imbalance_factor", "4"])
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["class_counts"] == [8, 4, 2]


def test_picture_and_numbers_are_kept_and_replaced(animals, tmp_path, capsys):
    out = tmp_path / "new" / "inspection"
    for _ in range(2):
        run([str(animals), "--out", str(out)])
        assert sorted(path.name for path in out.iterdir()) == ["inspection.html", "inspection.json", "inspection.png"]
    assert json.loads((out / "inspection.json").read_text())["imbalance_factor"] == 12
    with Image.open(out / "inspection.png") as picture:
        assert picture.width > 1200
    assert "<h1>Data set animals</h1>" in (out / "inspection.html").read_text()
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in out.iterdir())


def test_a_directory_of_other_files_is_left_alone(animals, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DeiTLTError, match="that no inspection wrote"):
        run([str(animals), "--out", str(tmp_path)])
    with pytest.raises(DeiTLTError, match="no directory"):
        run([str(animals), "--out", str(tmp_path / "thesis.tex")])
    with pytest.raises(DeiTLTError, match="cannot write"):
        run([str(animals), "--out", str(tmp_path / "thesis.tex" / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["/no/such/data"], "/no/such/data"),
        (["digits-lt", "--imbalance_factor", "0.5"], "0.5"),
        (["digits-lt", "--jsn"], "--json"),
        ([], "SOURCE"),
    ],
)
def test_a_mistake_is_one_line(argv, part, capsys):
    with pytest.raises((DeiTLTError, SystemExit)) as caught:
        run(argv)
    message = str(caught.value)
    if caught.type is SystemExit:
        assert message == "2"
        message = capsys.readouterr().err.strip()
    assert part in message
    assert len(message.splitlines()) == 1


def test_damage_is_reported_and_no_error(damaged, capsys):
    run([str(damaged), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["unreadable"] == 1
    assert found["splits"]["train"]["first_unreadable"][0].startswith("image 30 of train (30.png): ")


def test_teacher_and_student_without_a_recipe(animals, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(animals)]
    assert main(["teacher", *data, *QUICK, "--depth", "20"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^architecture +cifar_resnet +\S", shown, re.MULTILINE)
    assert re.search(r"^depth +20 +given$", shown, re.MULTILINE)
    teacher = yaml.safe_load((tmp_path / "runs/animals-teacher/recipe.yaml").read_text())
    assert (teacher["image_size"], teacher["loss"], teacher["classifier"]) == (32, "ldam", "cosine")

    assert main(["train", *data, "--teacher", "runs/animals-teacher", *QUICK, *TINY]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^image_size +32 +\S", shown, re.MULTILINE)
    assert re.search(r"^num_train_epochs +1 +given$", shown, re.MULTILINE)
    student = yaml.safe_load((tmp_path / "runs/animals/recipe.yaml").read_text())
    assert (student["image_size"], student["patch_size"], student["student_size"]) == (32, 4, "tiny")
    assert student["group_boundaries"] == [1, 2]
    metrics = json.loads((tmp_path / "runs/animals/metrics.json").read_text())
    assert metrics["class_counts"] == [24, 8, 2]


def test_a_pretrained_start_without_a_recipe(animals, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **shape)).save_pretrained("vit")
    assert main(["train", "--data", str(animals), "--init_from", "vit", *QUICK]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^image_size +16 +that of the images that the pretrained model knows$", shown, re.MULTILINE)
    assert re.search(r"^adapt +head +there is no GPU here", shown, re.MULTILINE)
    assert re.search(r"^teacher +class_means +none was given", shown, re.MULTILINE)
    metrics = json.loads(Path("runs/animals/metrics.json").read_text())
    assert {"average", "cls", "distillation"} <= metrics["experts"].keys()
    assert metrics["teacher"]["overall"] is not None


def test_a_resumed_run_goes_on_with_its_own_settings(animals, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--data", str(animals), *QUICK, *TINY, "--distillation_type", "none", "--learning_rate", "0.002"]
    assert main([*argv, "--save_strategy", "epoch"]) == 0
    before = (tmp_path / "runs/animals/metrics.json").read_text()
    recipe = (tmp_path / "runs/animals/recipe.yaml").read_text()
    capsys.readouterr()
    again = ["train", "--resume", "--output_dir", "runs/animals", "--use_cpu", "true", "--disable_tqdm", "true"]
    assert main(again) == 0
    assert "Settings for" not in capsys.readouterr().out
    assert (tmp_path / "runs/animals/metrics.json").read_text() == before
    assert (tmp_path / "runs/animals/recipe.yaml").read_text() == recipe


@pytest.mark.parametrize("command", ["train", "teacher"])
def test_an_unreadable_image_stops_the_run_before_it_begins(damaged, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    more = ["--distillation_type", "none", *TINY] if command == "train" else ["--depth", "20"]
    argv = [command, "--data", str(damaged), *QUICK, *more]
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "image 30 of train (30.png)" in error
    assert "--on_bad_image skip" in error
    assert not list(tmp_path.iterdir())
    assert main([*argv, "--on_bad_image", "skip"]) == 0
    metrics = json.loads(next(tmp_path.rglob("metrics.json")).read_text())
    assert metrics["class_counts"] == [24, 7, 2]


def test_what_would_fail_anyway_fails_before_the_images_are_read(damaged, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--data", str(damaged), *QUICK, *TINY]
    assert main(argv) == 2
    assert "deitlt teacher" in capsys.readouterr().err
    (tmp_path / "runs/damaged").mkdir(parents=True)
    (tmp_path / "runs/damaged/mine").touch()
    assert main([*argv, "--distillation_type", "none"]) == 2
    assert "not empty" in capsys.readouterr().err


def test_files_that_are_missing_are_counted_not_refused(tmp_path, capsys):
    for number in range(4):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    rows = [
        f"{number}.png,{name}" for name, numbers in {"cat": (0, 1, 7), "owl": (2, 3, 8)}.items() for number in numbers
    ]
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *rows]))
    run([str(tmp_path / "list.csv"), "--json", "--test_fraction", "0.34"])
    inspection = json.loads(capsys.readouterr().out)
    assert sum(split["unreadable"] for split in inspection["splits"].values()) == 2
    assert main(["teacher", "--data", str(tmp_path / "list.csv"), "--output_dir", str(tmp_path / "run")]) == 2
    assert "7.png" in capsys.readouterr().err


def test_images_elsewhere_and_classes_that_may_be_one_are_named(tmp_path, caplog):
    (tmp_path / "lists").mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        folder = "lists" if number < 8 else "."
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    places = [f"{number}.png" if number < 8 else f"../{number}.png" for number in range(12)]
    lines = [f"{place},{['owl', 'Owl', 'lynx'][number % 3]}" for number, place in enumerate(places)]
    (tmp_path / "lists" / "list.csv").write_text("\n".join(["file_name,label", *lines]))
    assert main(["data", "inspect", str(tmp_path / "lists" / "list.csv"), "--test_fraction", "0.5"]) == 0
    assert f"4 image paths lead out of {tmp_path / 'lists'}, the first to " in caplog.text
    assert "('Owl', 'owl'): give them one name if they are one" in caplog.text


def test_a_held_out_validation_split_is_a_column(tmp_path, capsys):
    for number in range(60):
        (tmp_path / "pics" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "pics" / "ab"[number % 2] / f"{number}.png")
    run([str(tmp_path / "pics"), "--json", "--validation_fraction", "0.3"])
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert list(splits) == ["train", "test", "validation"]
    assert sum(split["images"] for split in splits.values()) == 60
    run([str(tmp_path / "pics"), "--validation_fraction", "0.3"])
    printed = capsys.readouterr().out
    assert f"next: deitlt fit {tmp_path / 'pics'} --validation_fraction 0.3\n" in printed
    assert f"      deitlt teacher --data {tmp_path / 'pics'} --validation_fraction 0.3\n" in printed
    assert ["train", "test", "validation"] in [line.split() for line in printed.splitlines()]
