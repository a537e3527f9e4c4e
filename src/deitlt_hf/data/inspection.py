"""What a data set looks like before a GPU is spent on it: its tail, its images, its damage and its duplicates."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from deitlt_hf.data.duplicates import Duplicates, find_duplicates, hash_of
from deitlt_hf.data.images import BadImage, decode_image
from deitlt_hf.data.loading import load_long_tailed_dataset
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.data.readable import image_name, undecoded
from deitlt_hf.data.sources import Source
from deitlt_hf.losses.class_balanced import class_balanced_weights

ROWS_AT_A_TIME = 64
MAX_THREADS = 16
_TWELVE_BITS = "of 12 bits or fewer"
SHOWN = 5  # unreadable files named, most common sizes listed
SMALL_TEST_SPLIT = 200  # images; a change of one is then half a point of accuracy
QUANTILES = {"min": 0, "lower_quartile": 25, "median": 50, "upper_quartile": 75, "max": 100}


@dataclass
class SplitInspection:
    """The images of one split.

    Args:
        images: how many rows, unreadable ones included.
        class_counts: rows of each class, in label order, unreadable ones included.
        unreadable: how many rows hold no image that can be read.
        first_unreadable: the first of them, each with its position, file and reason.
        width, height, shorter_side: pixels of upright images: `min`, `lower_quartile`, `median`, `upper_quartile`,
            `max`; empty where no image can be read.
        common_sizes: the most common `(width, height, images)`.
        modes, formats: how many images have each of Pillow's modes and file formats.
    """

    images: int
    class_counts: list[int]
    unreadable: int
    first_unreadable: list[str]
    width: dict[str, float]
    height: dict[str, float]
    shorter_side: dict[str, float]
    common_sizes: list[tuple[int, int, int]]
    modes: dict[str, int]
    formats: dict[str, int]


@dataclass
class Inspection:
    """What `inspect_dataset` found.

    Args:
        class_names: in label order.
        class_groups: class ids of head, mid and tail.
        drw_weights: class-balanced weights of the training counts, which DRW switches on.
        splits: the images of each split, `train` first.
        duplicates: identical files within and across splits.
    """

    class_names: list[str]
    class_groups: dict[str, list[int]]
    drw_weights: list[float]
    splits: dict[str, SplitInspection]
    duplicates: Duplicates

    @property
    def class_counts(self) -> list[int]:
        """Training images per class, in label order."""
        return self.splits["train"].class_counts

    @property
    def imbalance_factor(self) -> float:
        """Largest class count / smallest."""
        return max(self.class_counts) / min(self.class_counts)

    @property
    def gini(self) -> float:
        """See `gini_coefficient`; of the training counts."""
        return gini_coefficient(self.class_counts)

    @property
    def unreadable(self) -> int:
        """Images of all splits that cannot be read."""
        return sum(split.unreadable for split in self.splits.values())

    @property
    def first_unreadable(self) -> list[str]:
        return [line for split in self.splits.values() for line in split.first_unreadable][:SHOWN]

    def warnings(self) -> list[str]:
        """What to look at before training, a line each; none for data without these faults."""
        return [*_file_warnings(self), *_class_warnings(self)]

    def to_json(self) -> str:
        """All of it, for machines: the fields, what is derived from them, and the warnings."""
        largest, smallest = int(np.argmax(self.class_counts)), int(np.argmin(self.class_counts))
        derived = {
            "num_classes": len(self.class_names),
            "imbalance_factor": self.imbalance_factor,
            "gini": self.gini,
            "largest_class": {"name": self.class_names[largest], "images": self.class_counts[largest]},
            "smallest_class": {"name": self.class_names[smallest], "images": self.class_counts[smallest]},
            "group_sizes": {name: len(classes) for name, classes in self.class_groups.items()},
            "warnings": self.warnings(),
        }
        return json.dumps(derived | dataclasses.asdict(self), indent=2)


def inspect_dataset(
    splits: Source | Mapping[str, Dataset],
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    beta: float = 0.9999,
    progress: bool = True,
) -> Inspection:
    """Read every image of a data set once and say what there is.

    Each image is decoded in full, as training would, so that damage is found. Images pass through in small portions,
    on as many threads as there are cores (at most 16); what stays of each are a few bytes: the hash of its file, its
    size and its label.

    Args:
        splits: `train` and others, with columns `image` and `label`, as `load_long_tailed_dataset` gives them; or a
            source that it takes, such as a directory.
        groups: head, mid and tail; None (default) is `class_groups` of the training counts.
        beta: of the class-balanced weights, DRW's default.
        progress: show a bar, where there is a terminal to show it on.

    Returns:
        An `Inspection`; images that cannot be read are counted in it, and no error.

    Raises:
        DeiTLTError: a class without training images, `beta` outside [0, 1), or a source that cannot be loaded.

    Example:
        >>> from deitlt_hf import load_long_tailed_dataset
        >>> inspection = inspect_dataset(load_long_tailed_dataset("digits-lt"))
        >>> inspection.class_counts
        [134, 96, 68, 49, 35, 25, 18, 13, 9, 6]
        >>> round(inspection.gini, 2), inspection.splits["train"].common_sizes
        (0.47, [(8, 8, 453)])
    """
    if not _is_loaded(splits):
        splits = load_long_tailed_dataset(splits, on_bad_image="keep")
    names = ["train", *(name for name in splits if name != "train")]
    class_names = splits["train"].features["label"].names
    with (
        tqdm(
            total=sum(splits[name].num_rows for name in names),
            desc="reading images",
            unit=" images",
            disable=None if progress else True,
        ) as bar,
        ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, MAX_THREADS)) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF data for instance, which images survive
        read = {name: _read_split(name, splits[name], pool, bar) for name in names}
    inspected = {name: _describe_split(seen, len(class_names)) for name, seen in read.items()}
    counts = inspected["train"].class_counts
    groups = class_groups(counts) if groups is None else groups
    return Inspection(
        class_names=list(class_names),
        class_groups={name: list(classes) for name, classes in groups.items()},
        drw_weights=class_balanced_weights(counts, beta).tolist(),
        splits=inspected,
        duplicates=find_duplicates(
            {name: seen.hashes for name, seen in read.items()},
            {name: seen.labels for name, seen in read.items()},
            {name: seen.readable for name, seen in read.items()},
            lambda name, index: _name(name, index, undecoded(splits[name])[index]["image"]),
        ),
    )


def _is_loaded(splits: object) -> bool:
    columns = {"image", "label"}
    return isinstance(splits, Mapping) and all(columns <= set(split.column_names) for split in splits.values())


def gini_coefficient(class_counts: Sequence[int]) -> float:
    """Gini coefficient of the class counts: 0 where all classes have as many images, towards 1 where one has all.

    It is half the mean absolute difference of two classes' counts, divided by the mean count.

    Args:
        class_counts: images per class, in any order.

    Example:
        >>> gini_coefficient([50, 50]), gini_coefficient([0, 0, 0, 100])
        (0.0, 0.75)
    """
    counts = np.sort(np.asarray(class_counts, dtype=np.float64))
    if not counts.sum():
        return 0.0
    ranks = np.arange(1, len(counts) + 1)
    return float(2 * (ranks * counts).sum() / (len(counts) * counts.sum()) - (len(counts) + 1) / len(counts))


@dataclass
class _SeenSplit:
    """What stays of the images of a split: arrays with a row per image."""

    hashes: np.ndarray  # (images, 2) uint64
    sizes: np.ndarray  # (images, 2) int32, width and height
    labels: np.ndarray  # (images,) int32
    readable: np.ndarray  # (images,) bool
    modes: Counter
    formats: Counter
    first_unreadable: list[str]


@dataclass
class _SeenImage:
    digest: bytes
    size: tuple[int, int]
    mode: str
    file_format: str


def _read_split(name: str, dataset: Dataset, pool: ThreadPoolExecutor, bar: tqdm) -> _SeenSplit:
    images = dataset.num_rows
    seen = _SeenSplit(
        hashes=np.zeros((images, 2), np.uint64),
        sizes=np.zeros((images, 2), np.int32),
        labels=np.zeros(images, np.int32),
        readable=np.zeros(images, bool),
        modes=Counter(),
        formats=Counter(),
        first_unreadable=[],
    )
    for index, value, label, image in _images(dataset, pool):
        bar.update()
        seen.labels[index] = label
        if isinstance(image, BadImage):
            if len(seen.first_unreadable) < SHOWN:
                seen.first_unreadable.append(f"{_name(name, index, value)}: {image}")
            continue
        seen.readable[index] = True
        seen.hashes[index] = np.frombuffer(image.digest, np.uint64)
        seen.sizes[index] = image.size
        seen.modes[image.mode] += 1
        seen.formats[image.file_format] += 1
    return seen


def _images(dataset: Dataset, pool: ThreadPoolExecutor) -> Iterator[tuple[int, Any, int, _SeenImage | BadImage]]:
    index = 0
    for rows in undecoded(dataset).iter(batch_size=ROWS_AT_A_TIME):
        for value, label, image in zip(rows["image"], rows["label"], pool.map(_look_at, rows["image"]), strict=True):
            yield index, value, label, image
            index += 1


def _name(split: str, index: int, value: Mapping[str, Any] | None) -> str:
    return image_name(index, split, value and value["path"])


def _look_at(value: Mapping[str, Any]) -> _SeenImage | BadImage:
    try:
        value = _with_bytes(value)
        decoded = decode_image(value)
        with Image.open(io.BytesIO(value["bytes"])) as image:
            mode, file_format = image.mode, image.format
        if mode.startswith("I;16") and decoded.getextrema()[0][1] < 2**12 >> 8:
            mode = f"{mode} {_TWELVE_BITS}"
    except BadImage as error:
        return error
    return _SeenImage(hash_of(value["bytes"]), decoded.size, mode, file_format)


def _with_bytes(value: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The image with its file read, so that the file is read once; left alone where `decode_image` knows a reason."""
    path = (value or {}).get("path")
    if not path or value["bytes"] is not None or not os.path.isfile(path):
        return value
    try:
        return {"bytes": Path(path).read_bytes(), "path": path}
    except OSError as error:
        raise BadImage(error.strerror or str(error)) from error


def _describe_split(seen: _SeenSplit, num_classes: int) -> SplitInspection:
    sizes = seen.sizes[seen.readable]
    common, numbers = np.unique(sizes, axis=0, return_counts=True)
    most = np.argsort(-numbers, kind="stable")[:SHOWN]
    return SplitInspection(
        images=len(seen.labels),
        class_counts=np.bincount(seen.labels[seen.labels >= 0], minlength=num_classes).tolist(),
        unreadable=int((~seen.readable).sum()),
        first_unreadable=seen.first_unreadable,
        width=_spread(sizes[:, 0]),
        height=_spread(sizes[:, 1]),
        shorter_side=_spread(sizes.min(axis=1)),
        common_sizes=[(*common[i].tolist(), int(numbers[i])) for i in most],
        modes=dict(seen.modes.most_common()),
        formats=dict(seen.formats.most_common()),
    )


def _spread(values: np.ndarray) -> dict[str, float]:
    if not values.size:
        return {}
    return dict(zip(QUANTILES, np.percentile(values, list(QUANTILES.values())).tolist(), strict=True))


def _file_warnings(inspection: Inspection) -> Iterator[str]:
    if inspection.unreadable:
        images = _count(inspection.unreadable, "image")
        yield f"{images} cannot be read, and training would stop; the first: {inspection.first_unreadable[0]}"
    modes = [mode_and_images for split in inspection.splits.values() for mode_and_images in split.modes.items()]
    dark = sum(images for mode, images in modes if _TWELVE_BITS in mode)
    if dark:
        yield f"{_count(dark, 'image')} of 16 bits {_is(dark)} {_TWELVE_BITS}, and dark: multiply the levels by 16"
    duplicates = inspection.duplicates
    for split, images in duplicates.in_train.items():
        if images:
            share = 100 * images / inspection.splits[split].images
            yield f"{_count(images, 'image')} of {split} ({share:.1f} %) {_is(images)} in train too: accuracy flatters"
    if duplicates.conflicting:
        yield (
            f"{_count(duplicates.conflicting, 'image')} {_is(duplicates.conflicting)} there more than once with "
            f"different labels; for instance {duplicates.examples[0][0]} and {duplicates.examples[0][1]}"
        )


def _class_warnings(inspection: Inspection) -> Iterator[str]:
    names = inspection.class_names
    single = [names[label] for label, count in enumerate(inspection.class_counts) if count < 2]
    if single:
        yield f"{_count(len(single), 'class', 'classes')} with a single training image: {_first(single)}"
    for split, found in inspection.splits.items():
        if split == "train":
            continue
        missing = [names[label] for label, count in enumerate(found.class_counts) if not count]
        if missing:
            yield f"{_count(len(missing), 'class', 'classes')} without images in {split}: {_first(missing)}"
        if found.images < SMALL_TEST_SPLIT:
            points = 100 / found.images if found.images else float("nan")
            yield f"{split} has {_count(found.images, 'image')}: one of them is {points:.1f} points of accuracy"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _first(names: Sequence[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
