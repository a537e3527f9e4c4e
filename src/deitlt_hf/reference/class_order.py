"""Finds the class of the data set that each output of a reference checkpoint stands for.

The reference's PaCo teachers and all its models on CIFAR have the data set's own order. On ImageNet-LT and
iNaturalist-2018, its students and the teachers of the published LDAM and cross-entropy code number the classes by
falling training frequency.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deitlt_hf.data.benchmarks.lists import read_list
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.reference.checkpoint_file import ReferenceFile

_BY_FREQUENCY = {"IMAGENETLT": 1000, "INAT18": 8142}  # the reference's names of the data sets, and their classes


def find_class_order(
    file: ReferenceFile,
    num_labels: int,
    class_counts: Sequence[int] | None = None,
    class_order: Sequence[int] | None = None,
) -> list[int]:
    """The data set's index of each class of the file: as given, as the file says, or by falling frequency."""
    if class_counts is not None and len(class_counts) != num_labels:
        raise DeiTLTError(
            f"class_counts has {len(class_counts)} entries for the {num_labels} classes of {file.path}; pass the "
            "training images of each class of its data set"
        )
    kept = _order_in_file(file, num_labels)
    if class_order is not None:
        order = [int(index) for index in class_order]
        if sorted(order) != list(range(num_labels)):
            raise DeiTLTError(
                f"class_order is no order of the {num_labels} classes of {file.path}; pass each index from 0 to "
                f"{num_labels - 1} once"
            )
        if kept is not None and order != kept:
            raise DeiTLTError(f"class_order is not the order that {file.path} holds (its class_map); leave it out")
        return order
    if kept is not None:
        return kept
    data_set = getattr(file.args, "data_set", None)
    by_frequency = data_set in _BY_FREQUENCY if data_set else num_labels in _BY_FREQUENCY.values()
    if file.is_paco or not by_frequency:
        return list(range(num_labels))
    if class_counts is None:
        raise DeiTLTError(
            f"{file.path} does not say which of its {num_labels} classes is which: the reference counts those of "
            "ImageNet-LT and iNaturalist-2018 by falling training frequency; pass class_counts (--class-list FILE, the "
            f"data set's training list), or class_order (--class-order FILE; 0 to {num_labels - 1} if none was changed)"
        )
    return frequency_order(class_counts)


def _order_in_file(file: ReferenceFile, num_labels: int) -> list[int] | None:
    """The inverse of the arguments' `class_map`, the file's position of each class of the data set."""
    class_map = getattr(file.args, "class_map", None)
    if class_map is None:
        return None
    try:
        class_map = [int(position) for position in class_map]
    except (TypeError, ValueError):
        class_map = []
    if sorted(class_map) != list(range(num_labels)):
        raise DeiTLTError(f"{file.path}: its class_map is no order of its {num_labels} classes; it may be damaged")
    return sorted(range(num_labels), key=class_map.__getitem__)


def frequency_order(class_counts: Sequence[int]) -> list[int]:
    """`numpy.argsort(-class_counts)` as the reference's NumPy 1.24 computes it, also for equal counts.

    ImageNet-LT and iNaturalist-2018 have many classes with the same count, and their order depends on the sorting
    algorithm: later versions of NumPy sort with vector instructions, which order equal counts differently. A checkpoint
    made with another NumPy needs its own order: the `class_map` in the file, or `class_order`.
    """
    # As Python objects, which NumPy sorts without vector instructions, by that same introsort.
    return np.argsort(np.array([-int(count) for count in class_counts], dtype=object)).tolist()


def read_class_counts(path: str | os.PathLike[str]) -> list[int]:
    """Training images per class of a list in the published format of ImageNet-LT and iNaturalist-2018."""
    return np.bincount(read_list(path).labels).tolist()


def read_class_order(path: str | os.PathLike[str]) -> list[int]:
    """The data set's index of each of a checkpoint's classes, one a line."""
    lines = read_lines(path, "a class order")
    wrong = next((line for line in lines if not line.strip().isdecimal()), None)
    if wrong is not None:
        raise DeiTLTError(f"{path}: {wrong.strip()[:60]!r} is no class index; pass one index from 0 on a line")
    return [int(line) for line in lines]


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DeiTLTError(f"cannot read {what} from {path}; pass a UTF-8 text file with one entry a line") from error
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise DeiTLTError(f"{path} is empty; pass {what} with one entry a line")
    return lines
