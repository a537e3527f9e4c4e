"""Bad images are left out before anything is counted, said, and found only once."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image

from deitlt_hf.data import readable
from deitlt_hf.data.loading import class_counts, load_long_tailed_dataset
from deitlt_hf.data.readable import leave_out_unreadable, unreadable_images
from deitlt_hf.errors import DeiTLTError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def all_counts(splits: DatasetDict) -> list[int]:
    """Images of each class in all splits."""
    return np.sum([class_counts(split) for split in splits.values()], axis=0).tolist()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Ten images of each of two classes, the first three of cats unreadable."""
    for name in ("cat", "owl"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for index in range(10):
            bad = name == "cat" and index < 3
            (tmp_path / "tree" / name / f"{index}.png").write_bytes(b"" if bad else png(index + 10 * (name == "owl")))
    return tmp_path / "tree"


def test_skipped_images_are_not_counted_and_said(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "deitlt_hf"):
        splits = load_long_tailed_dataset(tree, on_bad_image="skip", test_fraction=0.5)
    assert all_counts(splits) == [7, 10]  # 7 of 10 cats are sound
    for split in splits.values():
        assert all(row["image"].size == (4, 4) for row in split)
    (record,) = caplog.records
    cat = tree / "cat"
    assert record.getMessage() == (
        "left out 3 of 20 images that cannot be read: "
        + "; ".join(
            f"image {index} of train ({cat / f'{index}.png'}): it is no image that Pillow knows" for index in range(3)
        )
    )


def test_sound_data_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    load_long_tailed_dataset("digits-lt", on_bad_image="skip")
    assert not caplog.records


def test_a_class_of_bad_images_alone_is_named(tree: Path) -> None:
    for path in (tree / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DeiTLTError, match=r"class without training images: class 0 of 2 \('cat'\)"):
        load_long_tailed_dataset(tree, on_bad_image="skip")


def test_images_are_checked_once_until_a_file_changes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def decode(value: dict) -> Image.Image:
        opened.append(os.path.relpath(value["path"], tree))
        return real(value)

    real = readable.decode_image
    monkeypatch.setattr(readable, "decode_image", decode)
    for _ in range(2):
        load_long_tailed_dataset(tree, on_bad_image="skip")
    assert len(opened) == 20
    (tree / "cat" / "0.png").write_bytes(png())
    assert all_counts(load_long_tailed_dataset(tree, on_bad_image="skip")) == [8, 10]
    assert len(opened) == 40


def test_missing_files_are_counted_and_the_first_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(4):
        (tmp_path / f"here{index}.png").write_bytes(png(index))
    lines = [f"gone{index}.png,owl" for index in range(5)]
    lines += [f"here{index}.png,{'cat' if index < 3 else 'owl'}" for index in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    with pytest.raises(
        DeiTLTError, match=r"^5 image files do not exist: image 0 of train \(.*gone0.png\); .*; \.\.\.;"
    ):
        load_long_tailed_dataset(tmp_path / "list.csv")
    splits = load_long_tailed_dataset(tmp_path / "list.csv", on_bad_image="skip")
    assert all_counts(splits) == [3, 1]
    assert "left out 5 of 9 images" in caplog.text


def test_embedded_images_are_checked_where_they_were_selected() -> None:
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["cat"])})
    images = [{"bytes": png() if index % 2 else b"x", "path": f"{index}.png"} for index in range(6)]
    rows = Dataset.from_dict({"image": images, "label": [0] * 6}, features=features).select([5, 4, 3, 2])
    assert unreadable_images(rows, "test") == {
        1: ("image 1 of test (4.png)", "it is no image that Pillow knows"),
        3: ("image 3 of test (2.png)", "it is no image that Pillow knows"),
    }
    assert leave_out_unreadable(DatasetDict(test=rows))["test"].num_rows == 2


def test_without_skip_a_bad_image_is_named_where_it_is_read_and_loading_does_not_open_it(tree: Path) -> None:
    assert all_counts(load_long_tailed_dataset(tree)) == [10, 10]
