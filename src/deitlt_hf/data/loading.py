"""Data sets with columns `image` and `label`, from names, directories and `DatasetDict`s, made long-tailed on request.

A new named source is one builder function and one line in `NAMED_SOURCES`; `_normalised` gives whatever it returns the
columns that the package works with.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image

from deitlt_hf.data.long_tail import check_class_counts, check_imbalance_factor, long_tailed_indices
from deitlt_hf.errors import DeiTLTError

# Other names for the columns and for the test split, the first found taken.
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
TEST_SPLITS = ("test", "validation", "valid", "val")

DIGITS_TEST_IMAGES_PER_CLASS = 40


def load_long_tailed_dataset(
    source: str | Path | DatasetDict,
    imbalance_factor: float | None = None,
    *,
    profile: str = "exp",
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> DatasetDict:
    """Load an image classification data set and make its train split long-tailed.

    Args:
        source: one of the names `"cifar10-lt"`, `"cifar100-lt"` (downloaded from the hub unless `data_dir` is given)
            and `"digits-lt"` (scikit-learn's digits, no download); or a local directory that holds Parquet files or
            was written by `DatasetDict.save_to_disk`; or a `DatasetDict`.
        imbalance_factor: largest class count / smallest, at least 1. None (default) is 100 for the two CIFAR sources
            and 20 for the digits, and leaves other data as they are.
        profile: `"exp"` (default) or `"step"`, see `class_counts_for_imbalance`.
        seed: seed of the selection, see `long_tailed_indices`.
        data_dir: for the CIFAR sources, a local directory with the Parquet files of the hub's `uoft-cs/cifar10` or
            `uoft-cs/cifar100`.

    Returns:
        Splits `train` (long-tailed) and `test`, with columns `image` (`datasets.Image`) and `label` (`ClassLabel`).
        Encoded images stay as they are.

    Raises:
        DeiTLTError: for an unknown source, a directory that is missing or cannot be read, an imbalance factor below 1,
            a missing split or column, a class without training images, and a hub that cannot be reached.

    Example:
        >>> digits = load_long_tailed_dataset("digits-lt", imbalance_factor=20)
        >>> digits["test"].num_rows
        400
    """
    if imbalance_factor is not None:
        check_imbalance_factor(imbalance_factor)
    splits, default_imbalance_factor = _load(source, data_dir)
    splits = _normalised(splits)
    imbalance_factor = default_imbalance_factor if imbalance_factor is None else imbalance_factor
    check_class_counts(class_counts(splits["train"]))
    if imbalance_factor is not None:
        indices = long_tailed_indices(_labels(splits["train"]), imbalance_factor, profile, seed)
        splits["train"] = splits["train"].select(indices)
    return splits


def class_counts(train: Dataset) -> list[int]:
    """Images per class of a split with a `label` column, in label order; classes without images count 0.

    Example:
        >>> class_counts(load_long_tailed_dataset("digits-lt")["train"])
        [134, 96, 68, 49, 35, 25, 18, 13, 9, 6]
    """
    return np.bincount(_labels(train), minlength=train.features["label"].num_classes).tolist()


def _labels(dataset: Dataset) -> np.ndarray:
    return dataset.select_columns("label").with_format("arrow")[:]["label"].to_numpy()


def _load(source: str | Path | DatasetDict, data_dir: str | Path | None) -> tuple[DatasetDict, float | None]:
    """The source's own splits and columns, and its default imbalance factor."""
    if isinstance(source, str) and source in NAMED_SOURCES:
        named = NAMED_SOURCES[source]
        return named.build(data_dir), named.imbalance_factor
    if data_dir is not None:
        raise DeiTLTError(
            f"data_dir {str(data_dir)!r} goes with cifar10-lt and cifar100-lt: pass it as the source instead"
        )
    if isinstance(source, DatasetDict):
        return source, None
    if not isinstance(source, (str, Path)):
        raise DeiTLTError(
            f"source has type {type(source).__name__}: pass a name, a directory, or a DatasetDict with a train split"
        )
    if not Path(source).is_dir():
        near = difflib.get_close_matches(str(source), NAMED_SOURCES, cutoff=0.8)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the names are {', '.join(NAMED_SOURCES)}"
        raise DeiTLTError(
            f"unknown data source {str(source)!r}, which is neither a name nor a directory of Parquet files: {hint}"
        )
    return _read_directory(source), None


def _read_directory(directory: str | Path) -> DatasetDict:
    directory = Path(directory)
    if not directory.is_dir():
        raise DeiTLTError(f"data directory {str(directory)!r} does not exist: pass a directory of Parquet files")
    try:
        if (directory / "dataset_dict.json").is_file():
            return DatasetDict.load_from_disk(str(directory))
        files = _parquet_files(directory)
        if files:
            return datasets.load_dataset("parquet", data_files=files)
    except Exception as error:  # datasets, pyarrow and fsspec each raise their own
        raise DeiTLTError(f"cannot read the data in {str(directory)!r}: {_reason(error)}") from error
    raise DeiTLTError(
        f"data directory {str(directory)!r} holds no Parquet files of a split: "
        "pass one with files such as train-00000-of-00001.parquet and test-00000-of-00001.parquet"
    )


def _parquet_files(directory: Path) -> dict[str, list[str]]:
    """The files of each split, whose name starts a file's name (`train-00000-of-00001.parquet`) or is its folder's."""
    files: dict[str, list[str]] = {}
    for path in sorted(directory.rglob("*.parquet")):
        words = [part.split("-")[0].split(".")[0] for part in path.relative_to(directory).parts]
        split = next((word for word in reversed(words) if word in ("train", *TEST_SPLITS)), None)
        if split is not None:
            files.setdefault(split, []).append(str(path))
    return files


def _reason(error: BaseException) -> str:
    """The first line of the error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _normalised(splits: DatasetDict) -> DatasetDict:
    """Splits `train` and `test` with the columns `image` and `label` alone."""
    if "train" not in splits:
        raise DeiTLTError(
            f"the data have no train split, only {', '.join(splits)}: name the training images' split 'train'"
        )
    test = next((name for name in TEST_SPLITS if name in splits), None)
    if test is None:
        raise DeiTLTError(
            f"the data have no test split, only {', '.join(splits)}: name the held-out images' split 'test'"
        )
    chosen = DatasetDict({"train": splits["train"], "test": splits[test]})
    image, label = (_column(chosen, names) for names in (IMAGE_COLUMNS, LABEL_COLUMNS))
    renamed = {column: name for column, name in ((image, "image"), (label, "label")) if column != name}
    chosen = chosen.select_columns([image, label]).rename_columns(renamed)
    chosen = chosen.cast_column("image", datasets.Image())
    class_label = _class_label(chosen)
    if chosen["train"].features["label"] != class_label:
        chosen = chosen.cast_column("label", class_label)
    for name, split in chosen.items():
        if not (_labels(split) >= 0).all():
            raise DeiTLTError(f"the {name} split has images without a label (-1 or empty): remove them")
    return chosen


def _class_label(splits: DatasetDict) -> ClassLabel:
    """The label names of both splits: their own, or the numbers up to the largest, or the sorted texts."""
    train, test = splits["train"].features["label"], splits["test"].features["label"]
    if train != test:
        raise DeiTLTError(f"train has the labels {train}, test has {test}: give both splits the same label names")
    if isinstance(train, ClassLabel):
        return train
    values = {value for split in splits.values() for value in split.unique("label") if value is not None}
    if values and all(isinstance(value, int) for value in values):
        return ClassLabel(num_classes=max(values) + 1)
    if values and all(isinstance(value, str) for value in values):
        return ClassLabel(names=sorted(values))
    raise DeiTLTError(f"the label column holds {train}: pass class numbers from 0 up, or class names")


def _column(splits: DatasetDict, names: tuple[str, ...]) -> str:
    columns = splits["train"].column_names
    name = next((name for name in names if name in columns), None)
    if name is None:
        raise DeiTLTError(
            f"the data have no column {names[0]!r}, only {', '.join(columns)}: rename one to {names[0]!r}"
        )
    return name


def _build_parquet(hub_name: str, data_dir: str | Path | None) -> DatasetDict:
    if data_dir is not None:
        return _read_directory(data_dir)
    try:
        return datasets.load_dataset(hub_name)
    except Exception as error:  # the network, the hub's client and datasets each raise their own
        raise DeiTLTError(
            f"cannot load {hub_name} from the hub ({_reason(error)}): pass data_dir, a directory with its Parquet files"
        ) from error


def _build_digits(data_dir: str | Path | None) -> DatasetDict:
    """Balanced train and test splits of scikit-learn's 8x8 digits: 134 and 40 images a class, always the same ones."""
    if data_dir is not None:
        raise DeiTLTError("digits-lt is embedded and reads no data: leave data_dir out")
    from sklearn.datasets import load_digits  # takes over a second, and only this source needs it

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    by_class = [np.flatnonzero(digits.target == label) for label in range(10)]
    generator = np.random.RandomState(0)
    for positions in by_class:
        generator.shuffle(positions)
    kept = min(map(len, by_class))
    selected = {
        "test": np.concatenate([positions[:DIGITS_TEST_IMAGES_PER_CLASS] for positions in by_class]),
        "train": np.concatenate([positions[DIGITS_TEST_IMAGES_PER_CLASS:kept] for positions in by_class]),
    }
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=[str(label) for label in range(10)])})
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "image": [Image.fromarray(grey[position]).convert("RGB") for position in positions],
                    "label": digits.target[positions],
                },
                features=features,
            )
            for split, positions in selected.items()
        }
    )


@dataclass(frozen=True)
class NamedSource:
    """A data set known by name.

    Args:
        build: makes the splits from `data_dir`, or None where the user gave none.
        imbalance_factor: the default, as in the paper where it has one.

    Example:
        >>> NAMED_SOURCES["cifar10-lt"].imbalance_factor
        100
    """

    build: Callable[[str | Path | None], DatasetDict]
    imbalance_factor: float


NAMED_SOURCES: dict[str, NamedSource] = {
    "cifar10-lt": NamedSource(partial(_build_parquet, "uoft-cs/cifar10"), 100),
    "cifar100-lt": NamedSource(partial(_build_parquet, "uoft-cs/cifar100"), 100),
    "digits-lt": NamedSource(_build_digits, 20),
}
