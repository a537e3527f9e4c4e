"""Lists of images, `path label` on each line, as ImageNet-LT and iNaturalist-2018 publish them.

Half a million lines stay in Arrow's and NumPy's memory, a few bytes each; none becomes a Python object.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from deitlt_hf.data.long_tail import check_class_counts
from deitlt_hf.errors import DeiTLTError

MAX_NAMED_FILES = 3


@dataclass(frozen=True)
class ListFacts:
    """What tells one list from another at a glance.

    Args:
        lines: images.
        classes: classes with at least one image.
        largest: images of the largest class.
        smallest: images of the smallest class that has any.

    Example:
        >>> str(ListFacts(115_846, 1000, 1280, 5))
        '115846 lines, 1000 classes, largest class 1280, smallest class 5'
    """

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
    """Images and their labels, in the source's order.

    Args:
        name: what to call the list in messages, such as its file's name.
        paths: Arrow strings `(num_images,)`, relative to the data set's directory.
        labels: int64 `(num_images,)`, from 0 up.

    Example:
        >>> images = ImageList("train.txt", pa.array(["a.jpg", "b.jpg", "c.jpg"]), np.array([0, 0, 2]))
        >>> images.class_counts(3).tolist()
        [2, 0, 1]
        >>> images.facts()
        ListFacts(lines=3, classes=2, largest=2, smallest=1)
    """

    name: str
    paths: pa.Array
    labels: np.ndarray

    def class_counts(self, num_classes: int) -> np.ndarray:
        """Images per class, int64 `(num_classes,)`."""
        return np.bincount(self.labels, minlength=num_classes)

    def facts(self) -> ListFacts:
        """Lines, classes, largest and smallest class."""
        counts = self.class_counts(0)
        counts = counts[counts > 0]
        return ListFacts(len(self.labels), len(counts), int(counts.max()), int(counts.min()))


@dataclass(frozen=True)
class ListedImages:
    """A data set whose images lie in files.

    Args:
        directory: what the paths are relative to.
        class_names: in label order, each another.
        splits: the list of each split, `train` among them.

    Example:
        >>> ListedImages(Path("inat"), ["Grus grus"], {"train": ImageList("t", pa.array(["a.jpg"]), np.zeros(1, int))})
        ... # doctest: +ELLIPSIS
        ListedImages(directory=PosixPath('inat'), class_names=['Grus grus'], ...)
    """

    directory: Path
    class_names: list[str]
    splits: dict[str, ImageList]


def read_list(path: str | os.PathLike[str]) -> ImageList:
    """Read a text file with `path label` on each line; blank lines are passed over.

    Args:
        path: the file, UTF-8. A path in it may hold spaces; the label is what follows the last one.

    Raises:
        DeiTLTError: a file that cannot be read, is not UTF-8 or is empty, or the first line that is not a path and a
            label from 0 to 999999.

    Example:
        >>> _ = Path("list.txt").write_text("train/n01440764/n01440764_190.JPEG 0\\n")
        >>> read_list("list.txt").paths.to_pylist()
        ['train/n01440764/n01440764_190.JPEG']
    """
    lines = _read_lines(Path(path))
    filled = pc.not_equal(pc.binary_length(lines), 0)
    words = pc.utf8_split_whitespace(lines.filter(filled), max_splits=1, reverse=True)
    if len(words) == 0:
        raise DeiTLTError(f"{path} is empty: pass a list with `path label` on each line")
    two = pc.equal(pc.list_value_length(words), 2)
    if not pc.all(two).as_py():
        _refuse_line(path, lines, filled, two)
    labels = pc.list_element(words, 1)
    is_label = pc.match_substring_regex(labels, "^[0-9]{1,6}$")
    if not pc.all(is_label).as_py():
        _refuse_line(path, lines, filled, is_label)
    return ImageList(Path(path).name, pc.list_element(words, 0), pc.cast(labels, pa.int64()).to_numpy())


def check_facts(lists: Iterable[ImageList], published: Iterable[ListFacts]) -> None:
    """Refuse lists that are not the published ones, and say what differs.

    Raises:
        DeiTLTError: lines, classes, largest or smallest class differ in any list.

    Example:
        >>> images = ImageList("train.txt", pa.array(["a.jpg", "b.jpg"]), np.array([0, 1]))
        >>> check_facts([images], [ListFacts(lines=2, classes=2, largest=1, smallest=1)])
    """
    differences = []
    for images, expected in zip(lists, published, strict=True):
        found = images.facts()
        if found != expected:
            differences.append(f"{images.name} has {found}, the published one {expected}")
    if differences:
        raise DeiTLTError(
            f"{'; '.join(differences)}: pass the published lists; others are built with "
            "check_lists=False (deitlt data build --no_check)"
        )


def check_labels(splits: Mapping[str, ImageList], num_classes: int) -> None:
    """Refuse labels beyond the classes, and classes without training images.

    Raises:
        DeiTLTError: either of them, in one line.

    Example:
        >>> check_labels({"train": ImageList("train.txt", pa.array(["a.jpg"]), np.array([0]))}, num_classes=1)
    """
    for images in splits.values():
        beyond = np.flatnonzero(images.labels >= num_classes)
        if len(beyond):
            raise DeiTLTError(
                f"{images.name} gives {images.paths[beyond[0]].as_py()} the label {images.labels[beyond[0]]}, but the "
                f"{num_classes} classes have labels from 0 to {num_classes - 1}: pass the list of the same data set"
            )
    check_class_counts(splits["train"].class_counts(num_classes))


def check_files(splits: Iterable[pa.Array]) -> None:
    """Refuse lists of images that are not all there; names the first of those missing.

    Each folder is listed once, which takes seconds where asking for every file would take minutes.

    Args:
        splits: the paths of each split, Arrow strings.

    Raises:
        DeiTLTError: how many files are missing, and the first three.

    Example:
        >>> _ = Path("a.jpg").write_bytes(b"")
        >>> check_files([pa.array(["a.jpg"])])
    """
    existing: dict[str, pa.Array] = {}
    missing, total = [], 0
    for paths in splits:
        missing.append(_missing(paths, existing))
        total += len(paths)
    count = sum(map(len, missing))
    if count:
        first = ", ".join([path for paths in missing for path in paths[:MAX_NAMED_FILES].to_pylist()][:MAX_NAMED_FILES])
        raise DeiTLTError(
            f"{count} of {total} listed images are missing, first {first}: complete them, or pass the data_dir that "
            "has them all"
        )


def directories_of(paths: pa.Array) -> pa.Array:
    """The folder of each path, "" for a path without one.

    Example:
        >>> directories_of(pa.array(["val/a.jpg", "b.jpg"])).to_pylist()
        ['val', '']
    """
    return pc.replace_substring_regex(paths, "/?[^/]*$", "", max_replacements=1)


def file_names_of(paths: pa.Array) -> pa.Array:
    """The last part of each path.

    Example:
        >>> file_names_of(pa.array(["val/a.jpg", "b.jpg"])).to_pylist()
        ['a.jpg', 'b.jpg']
    """
    return pc.replace_substring_regex(paths, "^.*/", "")


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


def _refuse_line(path: str | os.PathLike[str], lines: pa.Array, filled: pa.Array, good: pa.Array) -> None:
    """Name the first line that is not good; `good` tells of the lines that are filled."""
    number = int(np.flatnonzero(filled)[pc.index(good, False).as_py()])
    raise DeiTLTError(
        f"{path}, line {number + 1}: {lines[number].as_py()[:80]!r} is not a path and a label from 0 to 999999: "
        "pass a list with `path label` on each line"
    )


def _missing(paths: pa.Array, existing: dict[str, pa.Array]) -> pa.Array:
    """The paths without a file, in their order; `existing` keeps the names in each folder from call to call."""
    folders = pc.dictionary_encode(directories_of(paths))
    names = file_names_of(paths)
    # Sorted by folder, the names of one folder lie side by side.
    by_folder = np.argsort(folders.indices.to_numpy(), kind="stable")
    ends = np.cumsum(np.bincount(folders.indices.to_numpy(), minlength=len(folders.dictionary)))
    absent = []
    for folder, of_folder in zip(folders.dictionary.to_pylist(), np.split(by_folder, ends[:-1]), strict=True):
        if folder not in existing:
            existing[folder] = _files_in(Path(folder))
        found = pc.is_in(names.take(pa.array(of_folder)), value_set=existing[folder]).to_numpy(zero_copy_only=False)
        absent.append(of_folder[~found])
    return paths.take(pa.array(np.sort(np.concatenate(absent)), pa.int64()))


def _files_in(folder: Path) -> pa.Array:
    try:
        with os.scandir(folder) as entries:
            return pa.array([entry.name for entry in entries if entry.is_file()], pa.string())
    except OSError:
        return pa.array([], pa.string())
