"""The order of the classes in a reference checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy._core._multiarray_umath import __cpu_dispatch__

from deitlt_hf import DeiTLTError
from deitlt_hf.reference.checkpoint_file import ReferenceFile
from deitlt_hf.reference.class_order import find_class_order, frequency_order, read_class_counts, read_class_order


def slow_for_quicksort(size: int) -> np.ndarray:
    """Musser's sequence, on which medians of three split off next to nothing."""
    half = size // 2
    values = np.zeros(size, dtype=np.int64)
    values[half:] = 2 * np.arange(1, half + 1)
    values[0:half:2] = np.arange(1, half + 1, 2)
    values[1:half:2] = half + np.arange(1, half, 2)
    return values


def long_tails() -> list[np.ndarray]:
    generator = np.random.RandomState(0)
    counts = [generator.randint(1, 1 + size // 3, size) for size in (10, 16, 17, 100, 1000, 8142)]
    for size, largest in ((1000, 1280), (8142, 1000)):  # from `largest` down to 5 or 2 images, as in the data sets
        tail = (largest * np.exp(-5.5 * generator.rand(size) ** 0.7)).astype(np.int64) + 2
        counts += [tail, np.sort(tail), np.sort(tail)[::-1]]
    return [*counts, np.full(1000, 7), -slow_for_quicksort(1000), -(slow_for_quicksort(2000) // 2)]


def test_equal_counts_are_ordered_as_by_numpy_without_vector_instructions() -> None:
    counts = [[int(count) for count in tail] for tail in long_tails()]
    script = "import json, sys, numpy; print([numpy.argsort(-numpy.array(c)).tolist() for c in json.load(sys.stdin)])"
    result = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(counts),
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__)},
        capture_output=True,
        text=True,
        check=True,
    )
    orders = json.loads(result.stdout)
    stable = [np.argsort(-np.array(tail), kind="stable").tolist() for tail in counts]
    assert sum(order != other for order, other in zip(orders, stable, strict=True)) > 8  # ties do matter
    assert [frequency_order(tail) for tail in counts] == orders


def test_seventeen_equal_counts_by_hand() -> None:
    # The middle, 8, goes aside to place 15; the scans stop everywhere and swap places 1 and 14, 2 and 13, ..., 7 and 8;
    # 8 comes back to place 8, from where 7 goes to place 15.
    assert frequency_order([5] * 17) == [0, 14, 13, 12, 11, 10, 9, 15, 8, 6, 5, 4, 3, 2, 1, 7, 16]
    assert frequency_order([5] * 16) == list(range(16))
    assert frequency_order([3]) == [0]


COUNTS = [2, 9, 5]
PACO = {"encoder_q.conv1.weight": torch.zeros(64, 3, 7, 7)}


@pytest.mark.parametrize("data_set", ["IMAGENETLT", "INAT18"])
@pytest.mark.parametrize(
    ("args", "options", "order"),
    [
        ({}, {"class_counts": COUNTS}, [1, 2, 0]),
        ({}, {"class_order": [0, 2, 1]}, [0, 2, 1]),
        ({"class_map": None}, {"class_counts": COUNTS}, [1, 2, 0]),
        ({"class_map": [1, 2, 0]}, {}, [2, 0, 1]),
        ({"class_map": [1, 2, 0]}, {"class_counts": COUNTS, "class_order": [2, 0, 1]}, [2, 0, 1]),
    ],
)
def test_order_of_students_that_count_by_frequency(data_set: str, args: dict, options: dict, order: list[int]) -> None:
    file = ReferenceFile(Path("student.pth"), {}, Namespace(data_set=data_set, **args))
    assert find_class_order(file, 3, **options) == order


@pytest.mark.parametrize(
    ("file", "num_labels"),
    [
        (ReferenceFile(Path("cifar.pth"), {}, Namespace(data_set="CIFAR10LT")), 10),
        (ReferenceFile(Path("imagenet.pth"), {}, Namespace(data_set="IMNET")), 1000),
        (ReferenceFile(Path("paco.pth"), PACO), 1000),
        (ReferenceFile(Path("own.pth"), {}), 12),
    ],
)
def test_other_files_have_the_data_sets_order(file: ReferenceFile, num_labels: int) -> None:
    assert find_class_order(file, num_labels) == list(range(num_labels))
    assert find_class_order(file, num_labels, class_counts=range(num_labels)) == list(range(num_labels))


@pytest.mark.parametrize(
    ("args", "num_labels", "options", "message"),
    [
        ({"data_set": "INAT18"}, 3, {}, "pass class_counts .--class-list FILE"),
        ({}, 1000, {}, "does not say which of its 1000 classes is which"),
        ({}, 8142, {}, "does not say which of its 8142 classes is which"),
        ({}, 3, {"class_counts": [1, 2]}, "class_counts has 2 entries for the 3 classes"),
        ({}, 3, {"class_order": [0, 1, 1]}, "pass each index from 0 to 2 once"),
        ({}, 3, {"class_order": [0, 1]}, "pass each index from 0 to 2 once"),
        ({"class_map": [1, 2, 0]}, 3, {"class_order": [1, 2, 0]}, "not the order that student.pth holds"),
        ({"class_map": [1, 2, 2]}, 3, {}, "its class_map is no order of its 3 classes"),
        ({"class_map": 3}, 3, {}, "its class_map is no order of its 3 classes"),
    ],
)
def test_what_cannot_be_told_or_contradicts(args: dict, num_labels: int, options: dict, message: str) -> None:
    file = ReferenceFile(Path("student.pth"), {}, Namespace(**args))
    with pytest.raises(DeiTLTError, match=message):
        find_class_order(file, num_labels, **options)


def test_counts_of_a_training_list(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("train/n01/a.JPEG 2\ntrain/n02/b c.JPEG 0\n\ntrain/n01/d.JPEG 2\n")
    assert read_class_counts(tmp_path / "train.txt") == [1, 0, 2]
    (tmp_path / "order.txt").write_text("2\n0\n1\n")
    assert read_class_order(tmp_path / "order.txt") == [2, 0, 1]


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_class_counts, b"a.jpg 0\nb.jpg\n", "train.txt, line 2: 'b.jpg' is not a path and a label"),
        (read_class_counts, b"a.jpg 0\nb.jpg -1\n", "line 2: 'b.jpg -1' is not a path and a label"),
        (read_class_counts, b"3\n", "line 1: '3' is not a path and a label"),
        (read_class_counts, b"\n", "train.txt is empty"),
        (read_class_counts, b"\xff\xd8", "train.txt is not a UTF-8 text"),
        (read_class_order, b"1\n0.5\n", "'0.5' is no class index"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, read, content: bytes, message: str) -> None:
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(DeiTLTError, match=message):
        read(tmp_path / "train.txt")
