"""Hashes of images, against those of `hashlib`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset

from deitlt_hf.data import duplicates
from deitlt_hf.data.duplicates import image_hashes


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
