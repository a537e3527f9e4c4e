from __future__ import annotations

import numpy as np
import pytest

from deitlt_hf.evaluation.analysis.predictions import class_confusions, group_confusions

GROUPS = {"head": [2], "mid": [0], "tail": [1, 3]}


def test_rows_are_means_over_the_classes_of_a_group():
    labels = np.array([2, 2, 1, 1, 1, 1, 3])
    predictions = np.array([2, 0, 2, 2, 0, 3, 1])
    head, mid, tail = group_confusions(predictions, labels, GROUPS)["groups"]
    assert head == [50, 50, 0]
    assert np.isnan(mid).all()
    # Class 1: two of four to head, one to mid, one to another tail class; class 3: its one image to tail.
    assert tail == [25, 12.5, 62.5]


def test_classes_without_images_are_left_out():
    assert group_confusions(np.array([2, 1]), np.array([1, 1]), GROUPS)["groups"][2] == [50, 0, 50]


def test_the_commonest_mistakes_between_head_and_tail_come_first():
    labels = np.array([1, 1, 3, 3, 3, 2, 0, 1, 1, 2])
    predictions = np.array([2, 2, 2, 2, 2, 3, 2, 3, 1, 0])
    pairs = group_confusions(predictions, labels, GROUPS)["pairs"]
    assert pairs == [
        {"true": 3, "predicted": 2, "count": 3},
        {"true": 1, "predicted": 2, "count": 2},
        {"true": 2, "predicted": 3, "count": 1},
    ]


def test_ten_mistakes_are_kept():
    groups = {"head": list(range(20)), "mid": [], "tail": list(range(20, 40))}
    labels = np.arange(20, 40).repeat(np.arange(1, 21))
    pairs = group_confusions(labels - 20, labels, groups)["pairs"]
    assert [pair["count"] for pair in pairs] == list(range(20, 10, -1))
    assert pairs[0] == {"true": 39, "predicted": 19, "count": 20}


@pytest.mark.parametrize("predictions", [[1, 2], [0, 0]])
def test_no_mistakes_between_head_and_tail(predictions):
    assert group_confusions(np.array(predictions), np.array([1, 2]), GROUPS)["pairs"] == []


def test_the_matrix_of_all_classes_is_in_the_order_of_frequency():
    labels, predictions = np.array([0, 0, 0, 0, 1, 1, 3]), np.array([0, 0, 0, 1, 0, 1, 1])
    found = class_confusions(predictions, labels, [5, 90, 30, 5])
    assert (found["labels"], found["others"]) == ([1, 2, 0, 3], None)
    one, two, zero, three = found["percent"]
    assert (one, zero, three) == ([50, 0, 50, 0], [25, 0, 75, 0], [100, 0, 0, 0])
    assert np.isnan(two).all()


def test_the_classes_with_the_most_errors_are_shown():
    # Errors: two of class 3, one each of 0 and 2, none of 1: 3 and, more frequent than 0, 2.
    labels, predictions = np.array([3, 3, 3, 3, 0, 2, 2, 1]), np.array([2, 1, 3, 3, 1, 3, 2, 1])
    found = class_confusions(predictions, labels, [5, 90, 30, 7], most=2)
    assert found == {"labels": [2, 3], "percent": [[50, 50], [25, 50]], "others": [0, 25]}
