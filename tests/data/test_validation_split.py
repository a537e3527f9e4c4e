"""A validation split is validation, in whatever form it comes, and never the test split."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image

from deitlt_hf import load_long_tailed_dataset
from deitlt_hf.data.readable import undecoded

COUNTS = {"train": {"cat": 20, "owl": 10}, "val": {"cat": 3, "owl": 2}, "test": {"cat": 4, "owl": 4}}


def write_images(folder: Path, splits: list[str]) -> list[tuple[str, str, str]]:
    """Images that differ, as `split/class/number.png`; a list of (path, class, split)."""
    rows = []
    for split in splits:
        for name, count in COUNTS[split].items():
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                path = folder / split / name / f"{index}.png"
                Image.new("RGB", (8, 8), (len(split) * 9, ord(name[0]), index)).save(path)
                rows.append((str(path), name, split))
    return rows


def source_of(kind: str, folder: Path, splits: list[str]) -> Path | DatasetDict:
    rows = write_images(folder / "images", splits)
    if kind == "folders":
        return folder / "images"
    if kind == "column":
        (folder / "all.csv").write_text("\n".join(["file,label,split", *(",".join(row) for row in rows)]))
        return folder / "all.csv"
    features = Features(image=ImageFeature(), label=ClassLabel(names=["cat", "owl"]))
    keys = {"train": "training", "val": "dev", "test": "test"}
    return DatasetDict(
        {
            keys[split]: Dataset.from_dict(
                {
                    "image": [path for path, _, of in rows if of == split],
                    "label": [name for _, name, of in rows if of == split],
                },
                features=features,
            )
            for split in splits
        }
    )


def paths(dataset: Dataset) -> list[str]:
    return [image["path"] for image in undecoded(dataset)["image"]]


@pytest.mark.parametrize("kind", ["folders", "column", "keys"])
def test_beside_a_test_split_both_stay(kind: str, tmp_path: Path) -> None:
    splits = load_long_tailed_dataset(source_of(kind, tmp_path, ["train", "val", "test"]))
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 30, "test": 8, "validation": 5}
    assert all("/val/" in path for path in paths(splits["validation"]))
    assert all("/test/" in path for path in paths(splits["test"]))


@pytest.mark.parametrize("kind", ["folders", "column", "keys"])
def test_without_a_test_split_one_is_held_out_of_train(kind: str, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING, logger="deitlt_hf")
    source = source_of(kind, tmp_path, ["train", "val"])
    splits = load_long_tailed_dataset(source, test_fraction=0.3)
    assert list(splits) == ["train", "test", "validation"]
    assert all("/val/" in path for path in paths(splits["validation"]))
    assert splits["validation"].num_rows == 5
    of_train = paths(splits["train"]) + paths(splits["test"])
    assert len(of_train) == len(set(of_train)) == 30
    assert all("/train/" in path for path in of_train)
    assert np.bincount(splits["test"]["label"][:]).min() > 0
    (line,) = (record.getMessage() for record in caplog.records if "no test split" in record.getMessage())
    assert "held out of train (test_fraction 0.3), and the validation split is used for validation only" in line


def test_the_same_images_are_held_out_with_and_without_a_validation_split(tmp_path: Path) -> None:
    alone = load_long_tailed_dataset(source_of("folders", tmp_path / "a", ["train"]))
    beside = load_long_tailed_dataset(source_of("folders", tmp_path / "b", ["train", "val"]))
    names = [[Path(path).relative_to(tmp_path / of) for path in paths(splits["test"])] for of, splits in
             (("a", alone), ("b", beside))]  # fmt: skip
    assert names[0] == names[1]


def test_a_share_of_train_is_not_taken_where_there_is_a_validation_split(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING, logger="deitlt_hf")
    source = source_of("folders", tmp_path, ["train", "val", "test"])
    splits = load_long_tailed_dataset(source, validation_fraction=0.3)
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 30, "test": 8, "validation": 5}
    said = "validation_fraction 0.3 is not used: the data have a validation split"
    assert said in [record.getMessage() for record in caplog.records]


def test_a_share_of_train_is_taken_beside_a_test_folder(tmp_path: Path) -> None:
    source = source_of("folders", tmp_path, ["train", "test"])
    splits = load_long_tailed_dataset(source, validation_fraction=0.3)
    assert splits["test"].num_rows == 8
    assert splits["train"].num_rows + splits["validation"].num_rows == 30
    assert all("/train/" in path for path in paths(splits["validation"]))
    assert set(splits["train"]["label"][:]) == set(splits["validation"]["label"][:]) == {0, 1}
