"""Lists of images, `path label` on each line, as ImageNet-LT and iNaturalist-2018 publish them, and where to find them.

Half a million lines stay in Arrow's and NumPy's memory, a few bytes each; none becomes a Python object.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import DatasetDict
from pyarrow import csv

from deitlt_hf.data.columns import referenced_images
from deitlt_hf.data.long_tail import check_class_counts
from deitlt_hf.errors import DeiTLTError

# Kaggle's ILSVRC2012 has its tree in ILSVRC/Data/CLS-LOC and the names of the synsets three folders above.
LEVELS_ABOVE = 3


@dataclass(frozen=True)
class ListFacts:
    """How many images and classes a list has, and how many images its largest and its smallest class."""

    lines: int
    classes: int
    largest: int
    smallest: int

    def __str__(self) -> str:
        return (
            f"{self.lines} lines, {self.classes} classes, largest class {self.largest}, smallest class {self.smallest}"
        )


@dataclass(frozen=True)
class ImageList:
    """Relative paths `(num_images,)`, Arrow strings, and labels `(num_images,)`, int64 from 0; messages use `name`."""

    name: str
    paths: pa.Array
    labels: np.ndarray

    def facts(self) -> ListFacts:
        counts = np.bincount(self.labels)
        counts = counts[counts > 0]
        return ListFacts(len(self.labels), len(counts), int(counts.max()), int(counts.min()))


def read_list(path: str | os.PathLike[str]) -> ImageList:
    """Read a UTF-8 file with `path label` on each line; the label, from 0 to 999999, follows the last space."""
    lines = _read_lines(Path(path))
    filled = pc.not_equal(pc.binary_length(lines), 0)
    rows = pc.extract_regex(lines.filter(filled), r"^(?P<path>.*\S)\s+(?P<label>[0-9]{1,6})$")
    if len(rows) == 0:
        raise DeiTLTError(f"{path} is empty: pass a list with `path label` on each line")
    if rows.null_count:
        number = int(np.flatnonzero(filled)[pc.index(rows.is_null(), True).as_py()])
        raise DeiTLTError(
            f"{path}, line {number + 1}: {lines[number].as_py()[:80]!r} is not a path and a label from 0 to 999999: "
            "pass a list with `path label` on each line"
        )
    paths, labels = rows.flatten()
    return ImageList(Path(path).name, paths, pc.cast(labels, pa.int64()).to_numpy())


def _read_lines(path: Path) -> pa.Array:
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=["line"]),
            # A line is one column: the unit separator occurs in no path.
            parse_options=csv.ParseOptions(delimiter="\x1f", quote_char=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(column_types={"line": pa.string()}),
        )
    except OSError as error:
        raise DeiTLTError(f"cannot read {path}: {error.strerror or error}") from error
    except pa.ArrowInvalid as error:
        if path.stat().st_size == 0:
            raise DeiTLTError(f"{path} is empty: pass a list with `path label` on each line") from error
        raise DeiTLTError(f"{path} is not a UTF-8 text with `path label` on each line") from error
    return pc.utf8_trim_whitespace(table["line"].combine_chunks())


def check_published(splits: Mapping[str, ImageList], published: Mapping[str, ListFacts]) -> None:
    """Refuse lists that are not the published ones, and say what differs."""
    differences = [
        f"{images.name} has {images.facts()}, the published one {published[split]}"
        for split, images in splits.items()
        if images.facts() != published[split]
    ]
    if differences:
        raise DeiTLTError(
            f"{'; '.join(differences)}: pass the published lists; others are built with "
            "check_lists=False (deitlt data build --no_check)"
        )


def check_labels(splits: Mapping[str, ImageList], num_classes: int) -> None:
    """Refuse labels beyond the classes, and classes without training images."""
    for images in splits.values():
        beyond = np.flatnonzero(images.labels >= num_classes)
        if len(beyond):
            raise DeiTLTError(
                f"{images.name} gives {images.paths[beyond[0]].as_py()} the label {images.labels[beyond[0]]}, but the "
                f"{num_classes} classes have labels from 0 to {num_classes - 1}: pass the list of the same data set"
            )
    check_class_counts(np.bincount(splits["train"].labels, minlength=num_classes))


def referenced_splits(directory: Path, splits: Mapping[str, ImageList], class_names: Sequence[str]) -> DatasetDict:
    """The splits with the images as absolute paths; no file is opened."""
    return DatasetDict(
        {
            split: referenced_images(
                pc.binary_join_element_wise(str(directory), images.paths, "/"), images.labels, class_names
            )
            for split, images in splits.items()
        }
    )


def directories_of(paths: pa.Array) -> pa.Array:
    """The folder of each path, "" for a path without one."""
    return pc.replace_substring_regex(paths, "/?[^/]*$", "", max_replacements=1)


def file_names_of(paths: pa.Array) -> pa.Array:
    """The last part of each path."""
    return pc.replace_substring_regex(paths, "^.*/", "")


def unique_names(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """The names, with the key appended if several classes share one; for an empty name only the key."""
    count = Counter(names)
    return [
        key if not name else name if count[name] == 1 else f"{name} ({key})"
        for name, key in zip(names, keys, strict=True)
    ]


def images_directory(name: str, data_dir: str | Path | None, folder: str, what: str) -> Path:
    """The directory that holds `folder`: `data_dir`, or the one above where `data_dir` is that folder itself."""
    if data_dir is None:
        raise DeiTLTError(f"{name} is not downloaded: pass data_dir, {what}")
    data_dir = absolute(data_dir)
    for directory in (data_dir, *([data_dir.parent] if data_dir.name == folder else [])):
        if (directory / folder).is_dir():
            return directory
    if not data_dir.is_dir():
        raise DeiTLTError(f"data directory {str(data_dir)!r} does not exist: pass {what} as data_dir")
    raise DeiTLTError(f"{str(data_dir)!r} has no folder {folder}: pass {what} as data_dir")


def find_beside(
    directory: Path, lists_dir: str | Path | None, names: Sequence[str], also_above: bool = False
) -> Path | None:
    """The first of the files in `lists_dir`; without it, or with `also_above`, in the tree and three folders above."""
    places = [directory, *list(directory.parents)[:LEVELS_ABOVE]]
    if lists_dir is not None:
        lists = absolute(lists_dir)
        if not lists.is_dir():
            raise DeiTLTError(f"lists directory {str(lists)!r} does not exist: pass the directory with the lists")
        places = [lists, *places] if also_above else [lists]
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def places_searched(directory: Path, lists_dir: str | Path | None) -> str:
    """Where `find_beside` looks, for messages."""
    return f"{str(directory)!r} or above it" if lists_dir is None else repr(str(absolute(lists_dir)))


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path from the root on, with `~` replaced; links stay."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def fingerprint(files: Iterable[Path]) -> str:
    """Text that changes when one of the files does: paths, sizes and times of change."""
    facts = [(path, path.stat()) for path in sorted(files)]
    return ",".join(f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in facts)
