"""What is found in data sets whose faults are known, because the tests put them there."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image

from deitlt_hf import DeiTLTError
from deitlt_hf.data.duplicates import find_duplicates
from deitlt_hf.data.inspection import format_inspection, gini_coefficient, inspect_dataset


def encoded(width: int, height: int, *, mode: str = "RGB", file_format: str = "PNG", seed: int = 0, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def split(rows: list[tuple[bytes | str | None, int]], names: tuple[str, ...] = ("cat", "lynx")) -> Dataset:
    features = Features({"image": datasets.Image(decode=False), "label": ClassLabel(names=list(names))})
    images = [
        {"bytes": None, "path": image} if isinstance(image, str) else image and {"bytes": image, "path": None}
        for image, _ in rows
    ]
    return Dataset.from_dict({"image": images, "label": [label for _, label in rows]}, features=features).cast_column(
        "image", datasets.Image()
    )


def look(**splits: list[tuple[bytes | str | None, int]]):
    return inspect_dataset({name: split(rows) for name, rows in splits.items()}, progress=False)


@pytest.mark.parametrize(
    ("counts", "expected"),
    # By the definition: mean absolute difference over all ordered pairs, halved, over the mean.
    [([5], 0.0), ([7, 7, 7], 0.0), ([1, 3], 0.25), ([3, 1], 0.25), ([0, 0, 0, 8], 0.75), ([1, 2, 3, 4], 0.25)],
)
def test_gini_coefficient(counts, expected):
    assert gini_coefficient(counts) == pytest.approx(expected)
    differences = np.abs(np.subtract.outer(counts, counts)).mean()
    assert gini_coefficient(counts) == pytest.approx(differences / 2 / np.mean(counts))


def test_counts_sizes_modes_and_formats():
    train = [
        (encoded(8, 6), 0),
        (encoded(8, 6, seed=1), 0),
        (encoded(20, 10, mode="L", file_format="JPEG"), 0),
        (encoded(4, 40, mode="P", file_format="GIF"), 1),
    ]
    found = look(test=[(encoded(5, 5), 1)], train=train)
    assert list(found.splits) == ["train", "test"]
    assert found.class_names == ["cat", "lynx"]
    assert found.class_counts == [3, 1]
    assert found.splits["test"].class_counts == [0, 1]
    assert found.imbalance_factor == 3
    assert found.class_groups == {"head": [0], "mid": [], "tail": [1]}  # thirds, for none has more than 100 images
    # Effective numbers 1 + b + b^2 and 1, whose inverses are scaled to add up to 2 classes.
    effective = 1 + 0.9999 + 0.9999**2
    assert found.drw_weights == pytest.approx([2 / (1 + effective), 2 * effective / (1 + effective)])
    seen = found.splits["train"]
    assert (seen.width["min"], seen.width["median"], seen.width["max"]) == (4, 8, 20)
    assert (seen.height["min"], seen.height["median"], seen.height["max"]) == (6, 8, 40)
    assert (seen.shorter_side["min"], seen.shorter_side["median"], seen.shorter_side["max"]) == (4, 6, 10)
    assert seen.common_sizes == [(8, 6, 2), (4, 40, 1), (20, 10, 1)]
    assert seen.modes == {"RGB": 2, "L": 1, "P": 1}
    assert seen.formats == {"PNG": 2, "JPEG": 1, "GIF": 1}
    assert found.unreadable == 0


def test_a_turned_photograph_has_the_size_that_training_sees():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    found = look(train=[(encoded(30, 20, file_format="JPEG", exif=exif), 0), (encoded(20, 30), 1)])
    assert found.splits["train"].common_sizes == [(20, 30, 2)]


def test_images_that_cannot_be_read_are_counted_and_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    good = encoded(9, 9)
    broken = [str(tmp_path / name) for name in ("text.jpg", "empty.png", "folder.png", "absent.png")]
    found = look(
        train=[(good, 0), *((path, 0) for path in broken), (good[:100], 1), (None, 1)],
        test=[(b"", 0), (encoded(9, 9, seed=1), 1)],
    )
    train, test = found.splits["train"], found.splits["test"]
    assert (train.unreadable, test.unreadable, found.unreadable) == (6, 1, 7)
    assert [line.split(":")[0] for line in train.first_unreadable] == [
        *(f"image {index} of train ({path})" for index, path in enumerate(broken, start=1)),
        "image 5 of train",
    ]
    assert test.first_unreadable == ["image 0 of test: it is empty"]
    assert train.class_counts == [5, 2]
    assert train.common_sizes == [(9, 9, 1)]
    # Files without an image are no copies of each other.
    assert found.duplicates.groups == 0
    assert found.warnings()[0].startswith(
        "7 images cannot be read, and training would stop; the first: image 1 of train"
    )


def test_no_image_can_be_read():
    found = look(train=[(b"x", 0), (b"y", 1)])
    assert found.splits["train"].width == {}
    assert json.loads(found.to_json())["splits"]["train"]["common_sizes"] == []
    assert "unreadable" in format_inspection(found)


def test_duplicates_within_and_across_splits(tmp_path):
    one, two, three = (encoded(9, 9, seed=seed) for seed in range(3))
    (tmp_path / "two.png").write_bytes(two)  # a file and the same bytes inside the data set are the same image
    found = look(
        train=[(one, 0), (two, 0), (one, 0), (three, 1), (three, 0), (encoded(9, 9, seed=3), 1)],
        test=[(str(tmp_path / "two.png"), 0), (encoded(9, 9, seed=4), 1), (two, 0)],
    )
    assert found.duplicates.groups == 3
    assert found.duplicates.copies == 1 + 2 + 1
    assert found.duplicates.within == {"train": 2, "test": 1}
    assert found.duplicates.across == 1
    assert found.duplicates.in_train == {"test": 2}
    assert found.duplicates.conflicting == 1
    assert found.duplicates.examples == [
        ["image 3 of train", "image 4 of train"],
        ["image 1 of train", f"image 0 of test ({tmp_path / 'two.png'})", "image 2 of test"],
        ["image 0 of train", "image 2 of train"],
    ]


@pytest.mark.parametrize("images", [0, 1, 2, 50])
def test_duplicates_against_counting_one_by_one(images):
    generator = np.random.default_rng(images)
    hashes, labels, readable = {}, {}, {}
    for name in ("train", "test", "validation"):
        hashes[name] = generator.integers(0, 4, (images, 2)).astype(np.uint64)
        labels[name] = generator.integers(0, 2, images)
        readable[name] = generator.random(images) < 0.8
    groups: dict[bytes, list] = {}
    for name in hashes:
        for index in np.flatnonzero(readable[name]):
            groups.setdefault(hashes[name][index].tobytes(), []).append((name, labels[name][index]))
    groups = {key: group for key, group in groups.items() if len(group) > 1}
    splits = {
        name: pd.DataFrame(hashes[name], columns=["high", "low"]).assign(label=labels[name])[readable[name]]
        for name in hashes
    }
    found = find_duplicates(splits, lambda split, index: f"{split} {index}")
    splits_of = [[name for name, _ in group] for group in groups.values()]
    assert found.groups == len(groups)
    assert found.copies == sum(len(group) - 1 for group in groups.values())
    assert found.within == {name: sum(splits.count(name) > 1 for splits in splits_of) for name in hashes}
    assert found.across == sum(len(set(splits)) > 1 for splits in splits_of)
    in_train = {name: sum(s.count(name) for s in splits_of if "train" in s) for name in ("test", "validation")}
    assert found.in_train == in_train
    assert found.conflicting == sum(len({label for _, label in group}) > 1 for group in groups.values())
    assert len(found.examples) == min(5, len(groups))


def test_warnings_say_what_to_look_at():
    one = encoded(9, 9)
    found = look(train=[(one, 0), (encoded(9, 9, seed=1), 0), (encoded(9, 9, seed=2), 1)], test=[(one, 1)])
    assert found.warnings() == [
        "1 image of test (100.0 %) is in train too: the measured accuracy will be too high",
        "1 image occurs more than once with different labels; for instance image 0 of train and image 0 of test",
        "1 class with a single training image: lynx",
        "1 class without images in test: cat",
        "test has 1 image: one of them is 100.0 points of accuracy",
    ]


def test_data_without_faults_have_no_warnings():
    rows = [(encoded(9, 9, seed=seed), seed % 2) for seed in range(204)]
    found = look(train=rows[:4], test=rows[4:])
    assert found.warnings() == []
    assert "warning" not in format_inspection(found)


def test_json_has_the_fields_and_what_follows_from_them():
    found = look(train=[(encoded(9, 9, seed=seed), int(seed > 2)) for seed in range(4)])
    read = json.loads(found.to_json())
    assert read["largest_class"] == {"name": "cat", "images": 3}
    assert read["smallest_class"] == {"name": "lynx", "images": 1}
    assert (read["num_classes"], read["imbalance_factor"], read["gini"]) == (2, 3.0, 0.25)
    assert read["group_sizes"] == {"head": 1, "mid": 0, "tail": 1}
    assert read["splits"]["train"]["class_counts"] == [3, 1]
    assert read["warnings"] == found.warnings()


def test_table_of_several_splits_is_aligned():
    rows = [(encoded(9, 9, seed=seed), seed % 2) for seed in range(9)]
    table = format_inspection(look(train=rows, test=rows[:2], validation=rows[2:4])).split("\n\n")[1].splitlines()
    assert table[0].split() == ["train", "test", "validation"]
    assert len({len(line) for line in table}) == 1
    assert table[1].split() == ["images", "9", "2", "2"]


def test_a_class_without_training_images_is_refused():
    with pytest.raises(DeiTLTError, match="class 1"):
        look(train=[(encoded(9, 9), 0)])


def test_memory_stays_flat(tmp_path):
    """Of 1000 images of 20 KB each, little more than their hashes stays at any time."""

    def rows(number):
        image = encoded(4, 4) + np.random.default_rng(0).bytes(20_000)
        for index in range(number):
            # A comment behind the end of an image is allowed, and makes the files differ.
            yield {"image": {"bytes": image + str(index).encode(), "path": None}, "label": index % 2}

    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["cat", "lynx"])})

    def peak(number):
        made = Dataset.from_generator(rows, gen_kwargs={"number": number}, features=features, cache_dir=str(tmp_path))
        tracemalloc.start()
        try:
            inspect_dataset(DatasetDict(train=made), progress=False)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what is loaded and cached once
    assert peak(1000) - peak(200) < 800 * 500


def test_a_file_that_may_not_be_read_has_a_reason(tmp_path, monkeypatch):
    path = tmp_path / "locked.png"
    path.write_bytes(encoded(9, 9))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # whoever runs the tests may read any file
    found = look(train=[(encoded(9, 9), 0), (str(path), 1)])
    assert found.splits["train"].first_unreadable == [f"image 1 of train ({path}): Permission denied"]


def test_twelve_bits_in_sixteen_are_dark_and_named():
    def deep(levels: list[int]) -> bytes:
        stored = io.BytesIO()
        Image.fromarray(np.array([levels], np.uint16)).save(stored, "PNG")
        return stored.getvalue()

    found = look(train=[(deep([0, 4095]), 0), (deep([0, 4096]), 1), (deep([0, 65535]), 1)])
    assert [line for line in found.warnings() if "16 bits" in line] == [
        "1 image of 16 bits is of 12 bits or fewer, and dark: multiply the levels by 16"
    ]


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "WEBP"])
def test_images_of_several_pages_are_counted(file_format):
    stored = io.BytesIO()
    pages = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    pages[0].save(stored, file_format, save_all=True, append_images=pages[1:])
    found = look(train=[(stored.getvalue(), 0), (encoded(9, 9), 1)])
    assert found.splits["train"].formats == {f"{file_format} of several pages": 1, "PNG": 1}
    assert "1 image is of several pages or frames, of which only the first is looked at" in found.warnings()


@pytest.mark.parametrize("of_type", [str, Path])
def test_a_source_is_loaded(tmp_path, of_type):
    for name, images in {"cat": 6, "lynx": 2}.items():
        (tmp_path / name).mkdir()
        for index in range(images):
            (tmp_path / name / f"{index}.png").write_bytes(encoded(8, 8, seed=index + images))
    found = inspect_dataset(of_type(tmp_path), progress=False)
    assert found.class_names == ["cat", "lynx"]
    assert sum(split.images for split in found.splits.values()) == 8


def test_streams_are_read_into_the_cache_first(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    rows = split([(encoded(8, 8, seed=seed), seed % 2) for seed in range(4)])
    streams = datasets.IterableDatasetDict(train=rows.to_iterable_dataset(), test=rows.to_iterable_dataset())
    found = inspect_dataset(streams, progress=False)
    assert found.class_counts == [2, 2]
    assert found.splits["test"].images == 4
