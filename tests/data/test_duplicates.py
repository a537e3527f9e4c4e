"""Hashes of images, against those of `hashlib`, and images that are left out because they are copies."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature

from deitlt_hf import load_long_tailed_dataset
from deitlt_hf.data import duplicates
from deitlt_hf.data.duplicates import image_hashes, without_duplicates
from deitlt_hf.data.readable import undecoded
from deitlt_hf.errors import DeiTLTError


def expected(*contents: bytes) -> list[list[int]]:
    digests = b"".join(hashlib.blake2b(content, digest_size=16).digest() for content in contents)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2).tolist()


def rows(*images: dict) -> Dataset:
    return Dataset.from_dict({"image": list(images)}).cast_column("image", datasets.Image())


def test_files_and_embedded_images_have_the_hash_of_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"same")
    embedded, in_file = {"bytes": b"same", "path": "x.png"}, {"bytes": None, "path": str(tmp_path / "a.png")}
    other = {"bytes": b"other", "path": None}
    assert image_hashes(rows(embedded, in_file, other), "train").tolist() == expected(b"same", b"same", b"other")
    selected = rows(embedded, in_file, other).select([2, 0])
    assert image_hashes(selected, "train").tolist() == expected(b"other", b"same")


def test_what_cannot_be_read_has_the_hash_of_its_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # which would wait for ever
    paths = [str(tmp_path / "pipe.png"), str(tmp_path), "gone.png", "a\0b.png", "http://localhost:1/x.png"]
    found = image_hashes(rows(*({"bytes": None, "path": path} for path in paths), {"bytes": None, "path": None}), "t")
    assert found.tolist() == expected(*(b"path " + path.encode() for path in paths), b"path ")


def test_what_took_long_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(duplicates, "_WORTH_KEEPING", 0.0)
    (tmp_path / "a.png").write_bytes(b"1")
    files = rows({"bytes": None, "path": str(tmp_path / "a.png")})
    assert image_hashes(files, "train").tolist() == expected(b"1")
    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "_hash_of_image", lambda *_: pytest.fail("hashed again"))
        assert image_hashes(files, "train").tolist() == expected(b"1")
    (tmp_path / "a.png").write_bytes(b"22")
    assert image_hashes(files, "train").tolist() == expected(b"22")


def named(contents: dict[str, str]) -> DatasetDict:
    """Splits of images from texts such as `"a0 b1"`: what their files hold, and their labels."""
    features = Features(image=ImageFeature(), label=ClassLabel(num_classes=2))
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "image": [{"bytes": image[0].encode(), "path": None} for image in images.split()],
                    "label": [int(image[1]) for image in images.split()],
                },
                features=features,
            )
            for split, images in contents.items()
        }
    )


def texts(splits: DatasetDict) -> dict[str, str]:
    return {
        name: " ".join(f"{row['image']['bytes'].decode()}{row['label']}" for row in undecoded(split))
        for name, split in splits.items()
    }


@pytest.mark.parametrize(
    ("contents", "left", "dropped"),
    [
        ({"train": "a0 b1 a0 c1 a0"}, {"train": "a0 b1 c1"}, (2, 0, 0)),
        # The training copy goes, and the test split keeps its own copies.
        ({"train": "a0 b1 a0 c1 d0", "test": "x0 a0 a0"}, {"train": "b1 c1 d0", "test": "x0 a0 a0"}, (0, 2, 0)),
        # Different labels: on all sides.
        ({"train": "a0 a1 b1 c0", "test": "c1 x0 x0"}, {"train": "b1", "test": "x0 x0"}, (0, 0, 4)),
        # Test before validation before train.
        (
            {"train": "a0 b1 c0 d1 d1", "test": "a0 x1", "validation": "a0 b1 y0"},
            {"train": "c0 d1", "test": "a0 x1", "validation": "b1 y0"},
            (1, 3, 0),
        ),
        ({"train": "a0 b1", "test": "c0"}, {"train": "a0 b1", "test": "c0"}, (0, 0, 0)),
    ],
)
def test_duplicates_are_left_out(contents, left, dropped, caplog) -> None:
    caplog.set_level(logging.WARNING, logger="deitlt_hf")
    kept, found = without_duplicates(named(contents))
    assert texts(kept) == left
    assert (found.copies, found.in_other_split, found.conflicting) == dropped
    total = sum(len(images.split()) for images in contents.values())
    assert [record.getMessage() for record in caplog.records] == [
        f"drop_duplicates: {sum(dropped)} of {total} images left out: {dropped[0]} copies in train, {dropped[1]} that "
        f"are in another split too, {dropped[2]} with different labels"
    ]


@pytest.mark.parametrize("contents", [{"train": "a0 a1"}, {"train": "a0 b1", "test": "a1"}])
def test_a_split_of_which_nothing_is_left_is_refused(contents) -> None:
    with pytest.raises(DeiTLTError, match=r"no image of the \w+ split is left without duplicates"):
        without_duplicates(named(contents))


def test_the_loader_drops_before_it_counts_and_holds_out() -> None:
    images = " ".join(f"{chr(97 + index % 20)}{index % 20 // 12}" for index in range(60))  # 20 images, each three times
    splits = load_long_tailed_dataset(named({"train": images}), drop_duplicates=True, test_fraction=0.3)
    alone = load_long_tailed_dataset(named({"train": images[:60]}), test_fraction=0.3)
    assert texts(splits) == texts(alone)
    assert sum(split.num_rows for split in splits.values()) == 20
