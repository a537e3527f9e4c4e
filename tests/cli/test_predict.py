"""`deitlt predict` as a user types it; tests/cli/test_commands.py has its table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTForImageClassification,
    ExpertClassifier,
)
from deitlt_hf.cli.main import main
from deitlt_hf.data.views import image_processor
from deitlt_hf.inference.classifier import ClassRow, ImageResult
from deitlt_hf.inference.prediction_files import Decisions

NAMES = ["lynx", "cat", "badger, European", "рысь"]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("predict") / "student"
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        initializer_range=0.3,
        expert="cls",
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
    )
    DeiTLTForImageClassification(config).save_pretrained(directory)
    image_processor(16).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three pictures, two of the same name, and a broken one."""
    folder = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for name in ("a.png", "b/a.jpg", "b/c.webp"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    (folder / "broken.png").write_text("no image")
    return folder


def predict(*argv: str | Path) -> int:
    try:
        return main(["predict", *map(str, argv)])
    except SystemExit as stop:
        return stop.code


def test_a_broken_file_of_many_is_named_and_the_others_are_done(student, photos, capsys):
    assert predict(student, photos) == 2
    printed = capsys.readouterr()
    shown = [line for line in printed.out.splitlines() if line.startswith(str(photos))]
    assert shown == [str(photos / name) for name in ("a.png", "b/a.jpg", "b/c.webp")]
    first, last = printed.err.splitlines()
    assert first.startswith(f"deitlt predict: {photos / 'broken.png'} cannot be read as an image")
    assert last.startswith("deitlt predict: 1 of 4 files could not be read")


def test_a_broken_file_alone_is_one_line(student, photos, capsys):
    assert predict(student, photos / "broken.png") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1


def test_json_and_csv_hold_what_the_classifier_says(student, photos, tmp_path, capsys):
    (photos / "broken.png").unlink()
    for name in ("out.json", "out.csv"):
        assert predict(student, photos, "--top", 2, "--output", tmp_path / name, "--revision", "v1") == 0
        *summary, last, maps, app = capsys.readouterr().out.splitlines()
        assert last == f"predictions: {tmp_path / name}"
        assert maps == f"next: deitlt predict {student} --revision v1 {photos} --attention maps"
        assert app == f"      deitlt app {student} --revision v1"
        assert summary[0].startswith("3 images in ")
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    expected = [
        (str(result.file), rank, row.name, row.probability)
        for result in ExpertClassifier.from_pretrained(student)(files, top=2, expert="cls")
        for rank, row in enumerate(result.rows, start=1)
    ]
    from_json = [
        (entry["file"], rank, row.pop("name"), row)
        for entry in json.loads((tmp_path / "out.json").read_text())
        for rank, row in enumerate(entry["classes"], start=1)
    ]
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        from_csv = [
            (row["file"], int(row["rank"]), row["class"], {expert: float(row[expert]) for expert in expected[0][3]})
            for row in csv.DictReader(file)
        ]
    assert len(expected) == 6
    assert from_json == from_csv == expected


def read_csv(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    with file.open(newline="", encoding="utf-8") as text:
        table = csv.DictReader(text)
        return table.fieldnames, list(table)


OF_EXPERTS = ["cls_class", "cls_probability", "distillation_class", "distillation_probability", "experts_agree"]


@pytest.mark.parametrize(("word", "expert"), [("average", "average"), ("head", "cls"), ("dist", "distillation")])
def test_csv_has_a_row_per_image(student, photos, tmp_path, word, expert):
    (photos / "broken.png").unlink()
    assert predict(student, photos, "--expert", word, "--output", tmp_path / "out.csv") == 0
    columns, rows = read_csv(tmp_path / "out.csv")
    assert columns == ["file", "class", "probability", *OF_EXPERTS]
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    results = ExpertClassifier.from_pretrained(student)(files, top=4)
    for row, file, result in zip(rows, files, results, strict=True):
        best, cls, dist = (result.top(one, 1)[0] for one in (expert, "cls", "distillation"))
        assert row == {
            "file": str(file),
            "class": best.name,
            "probability": str(best.probability[expert]),
            "cls_class": cls.name,
            "cls_probability": str(cls.probability["cls"]),
            "distillation_class": dist.name,
            "distillation_probability": str(dist.probability["distillation"]),
            "experts_agree": "true" if cls.name == dist.name else "false",
        }


def test_below_the_threshold_an_image_is_uncertain(student, photos, tmp_path, capsys):
    (photos / "broken.png").unlink()
    assert predict(student, photos, "--output", tmp_path / "all.csv") == 0
    rows = read_csv(tmp_path / "all.csv")[1]
    middle = sorted(float(row["probability"]) for row in rows)[1]
    capsys.readouterr()
    for name in ("out.csv", "out.json"):
        assert predict(student, photos, "--threshold", middle, "--output", tmp_path / name) == 0
        assert f"uncertain, below {middle:g}: 1 of 3 images" in capsys.readouterr().out.splitlines()
    columns, marked = read_csv(tmp_path / "out.csv")
    assert columns == ["file", "class", "best_class", "probability", *OF_EXPERTS]
    assert [row["best_class"] for row in marked] == [row["class"] for row in rows]
    expected = ["uncertain" if float(row["probability"]) < middle else row["class"] for row in rows]
    assert [row["class"] for row in marked] == expected
    assert [entry["class"] for entry in json.loads((tmp_path / "out.json").read_text())] == expected
    assert predict(student, photos, "--threshold", middle) == 0
    assert capsys.readouterr().out.count(".png  (uncertain)\n") + expected[1:].count("uncertain") == 1


def result_of(probabilities: dict[str, list[float]]) -> ImageResult:
    columns = zip(*probabilities.values(), strict=True)
    return ImageResult(
        None, [ClassRow(name, dict(zip(probabilities, p, strict=True))) for name, p in zip("ab", columns, strict=True)]
    )


def test_the_summary_counts_images_and_doubts():
    decisions = Decisions("average", threshold=0.6)
    for average, cls, dist in ([0.7, 0.8, 0.6], [0.2, 0.1, 0.3], [0.9, 0.9, 0.9], [0.5, 0.8, 0.2], [0.6, 0.9, 0.3]):
        of = {"average": average, "cls": cls, "distillation": dist}
        decisions.count(result_of({name: [p, 1 - p] for name, p in of.items()}))
    assert decisions.summary().splitlines() == [
        "5 images in 2 predicted classes:",
        "  a       3    60.0%",
        "  b       1    20.0%",
        "the experts disagree about 2 of 5 images",
        "uncertain, below 0.6: 1 of 5 images",
    ]


@pytest.mark.parametrize(("classifier", "scale"), [("linear", 1), ("cosine", 30)])  # 30 is LDAM's scale of cosines
def test_a_teacher_has_no_columns_of_experts(photos, tmp_path, capsys, classifier, scale):
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
    config = CifarResNetConfig(classifier=classifier, **names)
    teacher = CifarResNetForImageClassification(config).eval()
    teacher.save_pretrained(tmp_path / "teacher")
    image_processor(16).save_pretrained(tmp_path / "teacher")
    photo = photos / "a.png"
    assert predict(tmp_path / "teacher", photo, "--output", tmp_path / "out.csv") == 0
    columns, ((row),) = read_csv(tmp_path / "out.csv")
    assert columns == ["file", "class", "probability"]
    with Image.open(photo) as image, torch.inference_mode():
        logits = teacher(image_processor(16)(image, return_tensors="pt").pixel_values).logits
    probability, index = (scale * logits).softmax(-1)[0].max(-1)
    assert (row["class"], float(row["probability"])) == (NAMES[index], pytest.approx(probability.item(), abs=1e-6))
    assert predict(tmp_path / "teacher", photo, "--top", 2, "--output", tmp_path / "ranks.csv") == 0
    assert read_csv(tmp_path / "ranks.csv")[0] == ["file", "rank", "class", "probability"]
    capsys.readouterr()
    for flags, words in ((["--expert", "cls"], "has one head"), (["--attention", tmp_path / "m"], "DeiT-LT students")):
        assert predict(tmp_path / "teacher", photo, *flags) == 2
        assert words in capsys.readouterr().err


def test_no_readable_image_is_still_valid_json(student, photos, tmp_path):
    for name in ("a.png", "b/a.jpg", "b/c.webp"):
        (photos / name).write_text("no image either")
    assert predict(student, photos, "--output", tmp_path / "out.json") == 2
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_attention_writes_a_picture_per_image(student, photos, tmp_path, capsys):
    maps = tmp_path / "maps"
    assert predict(student, photos, "--attention", maps, "--top", 1) == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed[9].startswith("3 images in ")
    assert printed[-1] == f"attention maps: {maps}"
    written = sorted(path for path in maps.rglob("*") if path.is_file())
    assert [str(path.relative_to(maps)) for path in written] == ["a.png", "b/a.png", "b/c.png"]
    contents = []
    for path in written:
        with Image.open(path) as panel:
            assert panel.width == 1056
            contents.append(panel.tobytes())
    assert len(set(contents)) == 3

    before = {path: path.stat().st_mtime_ns for path in written}
    assert predict(student, photos / "a.png", "--attention", maps) == 2
    assert f"{maps / 'a.png'} exists" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in maps.rglob("*") if path.is_file()} == before
    assert predict(student, photos / "a.png", photos / "a.png", "--attention", tmp_path / "other") == 0
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["a.png"]
    (photos / "broken.png").unlink()
    assert predict(student, photos / "b", photos, "--attention", tmp_path / "two") == 0
    written = sorted(str(path.relative_to(tmp_path / "two")) for path in (tmp_path / "two").rglob("*.png"))
    assert written == ["b/a.png", "b/c.png", "photos/a.png"]


def test_names_that_are_no_utf_8(student, photos, tmp_path):
    odd = photos / "b" / b"caf\xe9.png".decode(errors="surrogateescape")
    (photos / "a.png").rename(odd)
    assert predict(student, odd) == 0
    assert predict(student, odd, "--output", tmp_path / "out.json", "--attention", tmp_path / "maps") == 0
    assert predict(student, odd, "--output", tmp_path / "out.csv") == 0
    (entry,) = json.loads((tmp_path / "out.json").read_text())
    assert Path(entry["file"]) == odd
    assert b"caf\xe9.png," in (tmp_path / "out.csv").read_bytes()
    assert (tmp_path / "maps" / odd.name).is_file()


def test_names_with_control_characters_are_shown_escaped(student, photos, capsys):
    (photos / "a.png").rename(photos / "new\nline \x1b[31m.png")
    (photos / "broken.png").rename(photos / "bro\nken.png")
    assert predict(student, photos) == 2
    printed = capsys.readouterr()
    assert f"{photos}/new\\nline \\x1b[31m.png" in printed.out.splitlines()
    assert len(printed.err.splitlines()) == 2


def test_a_folder_called_like_an_image_is_searched_through(student, photos, capsys):
    (photos / "broken.png").unlink()
    (photos / "b").rename(photos / "b.png")
    assert predict(student, photos) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(photos))]
    assert shown == [str(photos / name) for name in ("a.png", "b.png/a.jpg", "b.png/c.webp")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output", "out.txt"], "ends in .json or .csv"),
        (["--output", "no/such/folder/out.json"], "is no directory"),
        (["--output", "taken.json"], "taken.json exists"),
        (["--attention", "taken.json"], "taken.json is a file"),
        (["--attention", "taken.json/maps"], "cannot write taken.json/maps: "),
        (["--expert", "middle"], "'middle'"),
        (["--threshold", "1.5"], "threshold is 1.5; pass a number from 0 to 1"),
        (["--threshold", "nan"], "threshold is nan"),
        (["--threshold", "0.5", "--top", "2", "--output", "out.csv"], "pass one of them"),
        (["--top", "0"], "top is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
    ],
)
def test_mistakes_end_in_one_line(student, photos, tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("taken.json").write_text("mine")
    assert predict(student, photos, *argv) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert message in error[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "taken.json"]
    assert Path("taken.json").read_text() == "mine"
