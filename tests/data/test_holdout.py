"""Held-out test splits, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from deitlt_hf.data.holdout import hold_out
from deitlt_hf.errors import DeiTLTError


def rows(*counts: int) -> Dataset:
    """Classes of these sizes, mixed, each row with its number."""
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return Dataset.from_dict({"label": labels, "row": np.arange(len(labels))})


@pytest.mark.parametrize(
    ("test_fraction", "expected"),
    [
        # 20, 5, 3, 2, 1 images: 4; 1; 0.6 -> 1; 0.4 -> 0; 0.2 -> 0
        (0.2, [4, 1, 1, 0, 0]),
        # 10; 2.5 -> 3; 1.5 -> 2; 1; 0.5 -> 1, but one stays
        (0.5, [10, 3, 2, 1, 0]),
        # 19.8 -> 20, but one stays in every class
        (0.99, [19, 4, 2, 1, 0]),
    ],
)
def test_each_class_gives_its_share_and_keeps_an_image(test_fraction: float, expected: list[int]) -> None:
    data = rows(20, 5, 3, 2, 1)
    train, test = hold_out(data, test_fraction)
    assert np.bincount(test["label"], minlength=5).tolist() == expected
    assert sorted([*train["row"], *test["row"]]) == list(range(31))
    for part in (train, test):
        assert list(part["row"]) == sorted(part["row"])
        assert [data[row]["label"] for row in part["row"]] == list(part["label"])


def test_the_split_depends_on_the_seed_alone() -> None:
    data = rows(20, 20)
    first, again, other = (list(hold_out(data, seed=seed)[1]["row"]) for seed in (3, 3, 4))
    assert first == again != other


def test_rows_that_were_selected_before(recwarn: pytest.WarningsRecorder) -> None:
    data = rows(10, 10).select(range(19, -1, -1))
    train, test = hold_out(data, 0.5)
    assert np.bincount(train["label"]).tolist() == np.bincount(test["label"]).tolist() == [5, 5]


@pytest.mark.parametrize("test_fraction", [0, 1, -0.5, float("nan")])
def test_a_fraction_out_of_its_range_is_refused(test_fraction: float) -> None:
    with pytest.raises(DeiTLTError, match="test_fraction is"):
        hold_out(rows(4), test_fraction)


def test_too_few_images_for_a_test_split_are_refused() -> None:
    with pytest.raises(DeiTLTError, match=r"test_fraction 0\.2 .* larger test_fraction"):
        hold_out(rows(2, 1))
