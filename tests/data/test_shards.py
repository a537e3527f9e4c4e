"""Shards: whole bytes or none, of the size asked for, loaded by plain `datasets`."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.hub.dataset_directory import has_references, write_shards
from published_layouts import encoded, write_images


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def referenced(tmp_path: Path) -> Dataset:
    """250 rows of three files."""
    paths = [f"images/{name}.JPEG" for name in "abc"]
    write_images(tmp_path, paths)
    images = [{"bytes": None, "path": str(tmp_path / paths[row % 3])} for row in range(250)]
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["x", "y"])})
    return Dataset.from_dict({"image": images, "label": [row % 2 for row in range(250)]}, features=features)


def _write(split: Dataset, directory: Path, name: str, **options) -> list[Path]:
    write_shards(split, directory, name, **options)
    return sorted(directory.glob(f"{name}-*"))


def _read(shards: list[Path]) -> list[dict]:
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def test_references_stay_references(referenced: Dataset, tmp_path: Path) -> None:
    assert has_references(referenced)
    shards = _write(referenced, tmp_path, "train", embed=False)
    assert [shard.name for shard in shards] == ["train-00000-of-00001.parquet"]
    rows = _read(shards)
    assert [row["label"] for row in rows] == referenced["label"][:]
    assert {row["image"]["bytes"] for row in rows} == {None}
    assert rows[4]["image"]["path"] == str(tmp_path / "images" / "b.JPEG")


def test_embedded_images_are_their_files_bytes_in_shards_of_a_size(referenced: Dataset, tmp_path: Path) -> None:
    shards = _write(referenced, tmp_path, "test", embed=True, shard_bytes=100 * len(encoded(0)))
    # 250 images are two and a half times the size, so that there are three shards.
    assert [shard.name for shard in shards] == [f"test-0000{index}-of-00003.parquet" for index in range(3)]
    assert [pq.read_metadata(shard).num_rows for shard in shards] == [84, 83, 83]
    rows = _read(shards)
    assert [row["image"]["bytes"] for row in rows] == [encoded(row % 3) for row in range(250)]
    assert rows[4]["image"]["path"] == "b.JPEG"
    assert not has_references(datasets.load_dataset("parquet", data_files=list(map(str, shards)), split="train"))


def test_a_file_that_went_is_named(referenced: Dataset, tmp_path: Path) -> None:
    (tmp_path / "images" / "c.JPEG").unlink()
    with pytest.raises(DeiTLTError, match=r"cannot read the image .*c\.JPEG: No such file"):
        write_shards(referenced, tmp_path, "train", embed=True)
    assert not list(tmp_path.glob("*.parquet"))
