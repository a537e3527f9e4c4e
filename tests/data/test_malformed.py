"""Over 300 malformed inputs: each ends in one clear line, a counted skip or an image, never another error or a hang."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.data.loading import class_counts, load_long_tailed_dataset
from deitlt_hf.data.views import evaluation_view
from deitlt_hf.errors import DeiTLTError

SECONDS_PER_CASE = 5
VIEWS = {"pixel_values": evaluation_view(8)}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


class Hang(BaseException):
    """No Exception, or the code under test could take it for an unreadable image."""


@contextmanager
def in_time() -> Iterator[None]:
    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_CASE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def message_of(action: Callable[[], object]) -> str:
    """The one line that an action ends in, or nothing if it succeeds."""
    with in_time():
        try:
            action()
        except DeiTLTError as error:
            message = str(error)
        else:
            return ""
    assert len(message.splitlines()) == 1
    assert 20 < len(message) < 20_000
    return message


def encoded(image_format: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.RandomState(0).randint(0, 256, (24, 20, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((48, 40)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


IMAGES = {
    ".png": encoded("PNG"),
    ".jpg": encoded("JPEG"),
    ".grey.png": encoded("PNG", "L"),
    ".palette.png": encoded("PNG", "P"),
    ".cmyk.jpg": encoded("JPEG", "CMYK", progressive=True),
    ".tif": encoded("TIFF"),
    ".lzw.tiff": encoded("TIFF", compression="tiff_lzw"),
    ".gif": encoded("GIF", "P"),
    ".webp": encoded("WEBP"),
    ".bmp": encoded("BMP"),
}


def damaged_images() -> Iterator[tuple[str, bytes]]:
    """Name and content of images that are cut off or have a flipped bit, most of them PNG and JPEG."""
    random = np.random.RandomState(0)
    for suffix, content in IMAGES.items():
        count = 25 if suffix in (".png", ".jpg") else 4
        for kept in random.choice(len(content) - 1, count, replace=False) + 1:
            yield f"cut{kept}{suffix}", content[:kept]
        # The first hundred bytes say how the others are to be read.
        for position in [*random.choice(100, count, replace=False), *random.choice(len(content), count, replace=False)]:
            flipped = bytearray(content)
            flipped[position] ^= 1 << random.randint(8)
            yield f"bit{position}-{random.randint(10**9)}{suffix}", bytes(flipped)


def no_images() -> Iterator[tuple[str, bytes]]:
    contents = [
        b"",
        b"hello\n",
        b"<html></html>",
        b'{"a": 1}',
        b"\0" * 999,
        b"\xff\xd8\xff",
        IMAGES[".png"][:8],
        b"GIF89a",
    ]
    for (number, content), suffix in itertools.product(enumerate(contents), (".jpg", ".PNG", ".webp")):
        yield f"text{number}{suffix}", content


DAMAGED, NOT_IMAGES = list(damaged_images()), list(no_images())


def write_tree(directory: Path, bad: list[tuple[str, bytes]]) -> None:
    """Three sound images of a class, and the bad files among as many of another; none is a copy."""
    for name in ("cat", "owl"):
        (directory / name).mkdir(parents=True)
        for index in range(3):
            (directory / name / f"sound{index}.png").write_bytes(IMAGES[".png"] + f"{name}{index}".encode())
    for name, content in bad:
        (directory / "cat" / name).write_bytes(content)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("files", "at_least_bad"), [(DAMAGED, 100), (NOT_IMAGES, len(NOT_IMAGES))])
def test_each_bad_image_is_one_line_or_a_counted_skip(
    files: list[tuple[str, bytes]], at_least_bad: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tree(tmp_path / "tree", files)
    train = load_long_tailed_dataset(tmp_path / "tree", test_fraction=0.3)
    readable = 0
    for split, rows in train.items():
        viewed = ViewedDataset(rows, VIEWS, split)
        for index in range(len(viewed)):
            path = viewed.rows[index]["image"]["path"]
            message = message_of(partial(viewed.__getitem__, index))
            readable += message == ""
            assert message == "" or message.startswith(f"image {index} of {split} ({path}) cannot be read: ")
    bad = len(files) + 6 - readable
    assert bad >= at_least_bad
    with caplog.at_level(logging.WARNING, "deitlt_hf"):
        kept = load_long_tailed_dataset(tmp_path / "tree", test_fraction=0.3, on_bad_image="skip")
    assert sum(map(sum, map(class_counts, kept.values()))) == readable
    assert f"left out {bad} of {len(files) + 6} images" in caplog.text
    for split, rows in kept.items():
        assert len(ViewedDataset(rows, VIEWS, split).__getitems__(range(rows.num_rows))) == rows.num_rows


# What is wrong, and the rows of a list that has it: `{a}` and `{b}` are images.
ROWS = {
    "no image column": [{"x": "{a}", "label": "cat"}, {"x": "{b}", "label": "owl"}],
    "no label column": [{"image": "{a}", "y": "cat"}, {"image": "{b}", "y": "owl"}],
    "no columns": [{}, {}],
    "no rows": [],
    "two image columns": [
        {"image": "{a}", "path": "{a}", "label": "cat"},
        {"image": "{b}", "path": "", "label": "owl"},
    ],
    "two label columns": [{"image": "{a}", "label": "cat", "class": "x"}, {"image": "{b}", "label": "a", "class": "b"}],
    "an empty label": [{"image": "{a}", "label": "cat"}, {"image": "{b}", "label": ""}],
    "an empty path": [{"image": "", "label": "cat"}, {"image": "{b}", "label": "owl"}],
    "a missing file": [{"image": "gone.png", "label": "cat"}, {"image": "{b}", "label": "cat"}],
    "a file's name that is too long": [{"image": "x" * 5000, "label": "cat"}, {"image": "{b}", "label": "cat"}],
    "a null in a folder's name": [{"image": "a\0b/c", "label": "cat"}, {"image": "{b}", "label": "cat"}],
    "a null in a file's name": [{"image": "a\0b", "label": "cat"}, {"image": "{b}", "label": "cat"}],
    "a directory as an image": [{"image": "dir.png", "label": "cat"}, {"image": "{b}", "label": "owl"}] * 2,
    "text as an image": [{"image": "text.jpg", "label": "cat"}, {"image": "empty.jpg", "label": "owl"}] * 2,
    "an address of nowhere": [{"image": "nowhere://x/y.png", "label": "cat"}, {"image": "{b}", "label": "owl"}] * 2,
    "a negative label": [{"image": "{a}", "label": "-2"}, {"image": "{b}", "label": "0"}],
    "a label that is too large": [{"image": "{a}", "label": "0"}, {"image": "{b}", "label": "99999999999999999999999"}],
    "a label that skips a class": [{"image": "{a}", "label": "0"}, {"image": "{b}", "label": "2"}] * 3,
    "an unknown split": [
        {"image": "{a}", "label": "x", "split": "train"},
        {"image": "{b}", "label": "y", "split": "?"},
    ],
    "no train split": [
        {"image": "{a}", "label": "x", "split": "test"},
        {"image": "{b}", "label": "y", "split": "test"},
    ],
    "a class in test alone": [
        {"image": "{a}", "label": "x", "split": "train"},
        {"image": "{b}", "label": "y", "split": "test"},
    ],
    "too few images for a test split": [{"image": "{a}", "label": "cat"}, {"image": "{b}", "label": "owl"}],
}


def write_rows(path: Path, rows: list[dict], suffix: str) -> None:
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        columns = list(rows[0]) if rows else ["image", "label"]
        lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
        path.write_text("\n".join(("," if suffix == ".csv" else "\t").join(line) for line in lines))


def place_of(tmp_path: Path) -> Path:
    """A directory with two images, and things that look like some."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(IMAGES[".png"] + name.encode())
    (tmp_path / "dir.png").mkdir()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    return tmp_path


def read_all(source: Path, on_bad_image: str) -> None:
    splits = load_long_tailed_dataset(source, on_bad_image=on_bad_image, test_fraction=0.5)
    for split, rows in splits.items():
        ViewedDataset(rows, VIEWS, split).__getitems__(range(rows.num_rows))


def ends_in_a_line_or_a_skip(source: Path) -> str:
    """Load and read everything in both ways; returns the message, or nothing."""
    message, when_skipping = (message_of(partial(read_all, source, mode)) for mode in ("error", "skip"))
    return message or when_skipping


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("wrong", ROWS)
def test_each_wrong_list_is_one_line(wrong: str, suffix: str, tmp_path: Path) -> None:
    place = place_of(tmp_path)
    rows = [{name: value.format(a="a.png", b="b.png") for name, value in row.items()} for row in ROWS[wrong]]
    write_rows(place / f"list{suffix}", rows, suffix)
    assert ends_in_a_line_or_a_skip(place / f"list{suffix}")


GOOD = "image,label\na.png,cat\nb.png,owl\na.png,cat\nb.png,owl\n"
CONTENTS = {
    ".csv": [
        b"",
        b"\n\n\n",
        b"\xef\xbb\xbf",
        b"image,label\n",
        GOOD.encode("utf-16"),
        GOOD.replace("cat", "Kätzchen").encode("latin-1"),
        IMAGES[".png"],
        IMAGES[".jpg"],
        b"\0" * 100,
        (GOOD + "a.png\n").encode(),
        (GOOD + "a.png,cat,more,and more\n").encode(),
        (GOOD + '"a.png,cat\n').encode(),
        GOOD.replace(",", ";").encode(),
        b"image,image\na.png,b.png\n",
        b"{}",
    ],
    ".jsonl": [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"[1, 2]",
        b'{"image": "a.png", "label": "cat"}\n{"image": "b.png", "lab',
        b'{"image": "a.png", "label": "cat"}\n7\n',
        b'{"image": "a.png", "label": "cat"}\n{"image": "b.png", "label": 1}',
        b'{"image": "a.png", "label": 0.5}\n{"image": "b.png", "label": 1.5}',
        b'{"image": "a.png", "label": ["cat"]}\n{"image": "b.png", "label": ["owl"]}',
        b'{"image": ["a.png"], "label": "cat"}\n{"image": {"b": 1}, "label": "owl"}',
        b'{"image": "a.png", "label": true}\n{"image": "b.png", "label": false}',
        b'{"image": "a.png"}\n{"label": "cat"}',
        b"[" * 100_000,
        json.dumps({"image": "a.png", "label": "Kätzchen"}, ensure_ascii=False).encode("latin-1"),
        IMAGES[".jpg"],
    ],
    ".parquet": [b"", b"PAR1", b"PAR1PAR1", b"hello", IMAGES[".png"]],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("suffix", "number"), [(suffix, number) for suffix, contents in CONTENTS.items() for number in range(len(contents))]
)
def test_each_file_that_is_no_list_is_one_line(suffix: str, number: int, tmp_path: Path) -> None:
    place = place_of(tmp_path)
    (place / f"list{suffix}").write_bytes(CONTENTS[suffix][number])
    assert ends_in_a_line_or_a_skip(place / f"list{suffix}")


@pytest.mark.parametrize("kept", np.linspace(0.01, 0.99, 12))
def test_parquet_that_is_cut_off_is_one_line(kept: float, tmp_path: Path) -> None:
    rows = [{"image": {"bytes": IMAGES[".png"], "path": None}, "label": index % 2} for index in range(8)]
    Dataset.from_list(rows).to_parquet(tmp_path / "all.parquet")
    content = (tmp_path / "all.parquet").read_bytes()
    (tmp_path / "all.parquet").write_bytes(content[: int(len(content) * kept)])
    assert "cannot read the data in" in ends_in_a_line_or_a_skip(tmp_path / "all.parquet")


def link_to_itself(tree: Path) -> None:
    (tree / "cat" / "loop.png").symlink_to(tree / "cat" / "loop.png")


def name_that_is_no_text(tree: Path) -> None:
    with open(os.path.join(os.fsencode(tree / "cat"), b"\xff\xfe.png"), "wb") as file:
        file.write(IMAGES[".png"])


def saved_with_two_classes_of_one_name(tree: Path) -> None:
    Dataset.from_dict({"image": ["a.png"], "label": [0]}).save_to_disk(tree)
    info = json.loads((tree / "dataset_info.json").read_text())
    info["features"]["label"] = {"names": ["cat", "cat"], "_type": "ClassLabel"}
    (tree / "dataset_info.json").write_text(json.dumps(info))


TREES: dict[str, Callable[[Path], None]] = {
    "a directory called .png": lambda tree: (tree / "cat" / "x.png").mkdir(),
    "a class folder called .png without images": lambda tree: (tree / "x.png").mkdir(),
    "an empty class": lambda tree: (tree / "bat").mkdir(),
    "a class with text alone": lambda tree: ((tree / "bat").mkdir(), (tree / "bat" / "x.txt").write_text("x")),
    "a class of hidden files": lambda tree: ((tree / "bat").mkdir(), (tree / "bat" / ".x.png").write_bytes(b"x")),
    "a class of bad files": lambda tree: ((tree / "bat").mkdir(), (tree / "bat" / "x.png").write_bytes(b"x")),
    "a link to nowhere": lambda tree: (tree / "cat" / "x.png").symlink_to(tree / "gone"),
    "a link to itself": link_to_itself,
    "a circle of folders": lambda tree: (tree / "cat" / "x").symlink_to(tree),
    "a named pipe": lambda tree: os.mkfifo(tree / "cat" / "x.png"),
    "a name that is no text": name_that_is_no_text,
    "a name with line breaks": lambda tree: (tree / "cat" / "x\ny\r.png").write_bytes(b""),
    "a directory called train.csv": lambda tree: (tree / "train.csv").mkdir(),
    "an empty train.parquet": lambda tree: (tree / "train.parquet").write_bytes(b""),
    "an empty metadata.csv": lambda tree: (tree / "metadata.csv").write_bytes(b""),
    "a broken dataset_dict.json": lambda tree: (tree / "dataset_dict.json").write_text("{"),
    "an empty state.json": lambda tree: (tree / "state.json").write_text("{}"),
    "two classes of one name": saved_with_two_classes_of_one_name,
}
# These are no harm: there is nothing to read or to find, or class folders are there to be read instead.
SOUND = {"a directory called .png", "a circle of folders", "an empty train.parquet"}


@pytest.mark.parametrize("wrong", TREES)
def test_each_wrong_tree_is_one_line(wrong: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", [])
    TREES[wrong](tmp_path / "tree")
    assert bool(ends_in_a_line_or_a_skip(tmp_path / "tree")) == (wrong not in SOUND)


def test_there_are_over_300_of_them() -> None:
    lists = 5 * len(ROWS) + sum(map(len, CONTENTS.values())) + 12
    assert len(DAMAGED) + len(NOT_IMAGES) + lists + len(TREES) >= 300
