"""Long-tailed profiles, indices and groups, against the reference's numbers."""

from __future__ import annotations

import hashlib
import re
import time

import numpy as np
import pytest

from deitlt_hf.data.long_tail import class_counts_for_imbalance, class_groups, long_tailed_indices
from deitlt_hf.errors import DeiTLTError


def _setting(name: str) -> tuple[int, int, str, int, int | None]:
    """Classes, images per class, profile, imbalance factor and label seed of a golden split's name."""
    values = dict(re.findall(r"(\w+)=([\w.]+)", name))
    seed = values.get("target_seed")
    # The reference's factor is the smallest share, such as 0.01.
    factor = round(1 / float(values["factor"]))
    return int(values["classes"]), int(values["per_class"]), values["kind"], factor, seed and int(seed)


def test_counts_and_indices_are_the_references(golden_json: dict) -> None:
    with_indices = 0
    for name, split in golden_json["splits"].items():
        classes, per_class, profile, factor, seed = _setting(name)
        counts = class_counts_for_imbalance(classes, per_class, factor, profile)
        assert counts == split["class_counts"], name
        assert sum(counts) == split["total"], name
        if seed is None:
            continue
        with_indices += 1
        labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(classes), per_class))
        indices = long_tailed_indices(labels, factor, profile)
        assert indices.dtype == np.int64
        assert indices[:16].tolist() == split["first"], name
        assert hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest() == split["sha256_of_int64_le"], name
    assert with_indices == 5


@pytest.mark.parametrize("profile", ["exp", "step"])
def test_a_single_class_keeps_its_images(profile: str) -> None:
    assert class_counts_for_imbalance(1, 12, 4, profile) == [12]


def test_step_gives_the_middle_class_of_an_odd_number_to_the_tail() -> None:
    assert class_counts_for_imbalance(3, 10, 2, "step") == [10, 5, 5]


def test_the_factor_that_the_error_names_works_and_the_next_does_not() -> None:
    # 49 * (1 / 49) is just below 1 in floating point, so 48 is the largest factor that leaves an image.
    with pytest.raises(DeiTLTError, match=r"class 9 without training images.* at most 48$"):
        class_counts_for_imbalance(10, 49, 49)
    assert class_counts_for_imbalance(10, 49, 48)[-1] == 1


@pytest.mark.parametrize("factor", [0.01, 0, -3, float("nan"), float("inf")])
def test_an_imbalance_factor_below_one_is_refused(factor: float) -> None:
    with pytest.raises(DeiTLTError, match=r"imbalance_factor is .* at least 1"):
        class_counts_for_imbalance(10, 5000, factor)


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(DeiTLTError, match="'linear': pass one of 'exp', 'step'"):
        class_counts_for_imbalance(10, 5000, 10, "linear")


@pytest.mark.parametrize(
    ("available", "factor", "profile", "expected"),
    [
        # 40, 40 / 10 ** 0.5 = 12.6 and 4: every class has enough.
        ([40, 15, 5], 10, "exp", [40, 12, 4]),
        # The same with the most frequent class last.
        ([5, 15, 40], 10, "exp", [4, 12, 40]),
        # The second class limits the largest to 10 * 4 ** 0.5 = 20, and the rarest gets 20 / 4.
        ([100, 10, 9], 4, "exp", [20, 10, 5]),
        # The rarest limits the largest to 1 * 2.
        ([100, 10, 1], 2, "exp", [2, 1, 1]),
        # Of two steps, the second class limits the first.
        ([300, 50, 7, 2], 25, "step", [50, 50, 2, 2]),
    ],
)
def test_uneven_data_keep_as_many_images_as_the_factor_allows(available, factor, profile, expected):
    labels = np.repeat(np.arange(len(available)), available)
    selected = labels[long_tailed_indices(labels, factor, profile)]
    assert np.bincount(selected).tolist() == expected


def test_the_seed_chooses_the_images() -> None:
    labels = np.repeat([0, 1], 50)
    first, second = (long_tailed_indices(labels, 10, seed=seed) for seed in (0, 1))
    assert len(first) == len(second) == 55
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("labels", "message"), [([0, 2], "class 1 of 3"), ([-1, 0], "from 0 up"), ([], "0 labels")])
def test_labels_that_leave_a_class_out_are_refused(labels: list[int], message: str) -> None:
    with pytest.raises(DeiTLTError, match=message):
        long_tailed_indices(labels, 1)


def test_many_classes_take_no_pass_over_all_labels_each() -> None:
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(8_000), 50))
    start = time.perf_counter()
    long_tailed_indices(labels, 20)
    # A pass per class takes about 3 s, one sort less than 0.1 s.
    assert time.perf_counter() - start < 1


def test_thresholds_include_both_ends_in_the_middle() -> None:
    groups = class_groups([500, 101, 100, 20, 19, 1])
    assert groups == {"head": [0, 1], "mid": [2, 3], "tail": [4, 5]}


def test_boundaries_give_the_references_groups(golden_json: dict) -> None:
    expected = {name: list(range(*ends)) for name, ends in golden_json["groups"].items()}
    assert class_groups(golden_json["class_counts"], boundaries=(3, 7)) == expected


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ([500, 60, 5], (1, 1, 1)),  # thresholds
        ([9, 8, 7, 6, 5, 4], (2, 2, 2)),  # thirds
        ([9, 8, 8, 8, 5, 4], (1, 3, 2)),  # the cuts nearest to thirds that leave equal classes together
        ([9, 9, 3, 3], (2, 0, 2)),
        ([3, 3, 3], (0, 0, 3)),  # no cut: thresholds
        ([300, 300, 300], (3, 0, 0)),
    ],
)
def test_groups_are_thirds_where_thresholds_leave_one_empty(counts: list[int], sizes: tuple[int, int, int]) -> None:
    groups = class_groups(counts)
    assert tuple(map(len, groups.values())) == sizes
    assert sorted(label for group in groups.values() for label in group) == list(range(len(counts)))
    rarest_of_head = min((counts[label] for label in groups["head"]), default=1000)
    assert all(counts[label] < rarest_of_head for name in ("mid", "tail") for label in groups[name])


def test_boundaries_follow_frequency_with_ties_by_label() -> None:
    groups = class_groups([5, 80, 5, 90, 80], boundaries=(2, 3))
    assert groups == {"head": [3, 1], "mid": [4], "tail": [0, 2]}


@pytest.mark.parametrize("boundaries", [(7, 3), (-1, 2), (1, 4)])
def test_boundaries_out_of_order_or_range_are_refused(boundaries: tuple[int, int]) -> None:
    with pytest.raises(DeiTLTError, match=re.escape(f"boundaries are {boundaries}")):
        class_groups([3, 2, 1], boundaries=boundaries)


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(DeiTLTError, match="thresholds are"):
        class_groups([3, 2, 1], (20, 100))


def test_groups_refuse_a_class_without_training_images() -> None:
    with pytest.raises(DeiTLTError, match="class without training images: class 1 of 3"):
        class_groups([3, 0, 1])
