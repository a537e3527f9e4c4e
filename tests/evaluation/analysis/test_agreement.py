from __future__ import annotations

import numpy as np
import pytest

from deitlt_hf.evaluation.analysis.predictions import grouped_agreement

GROUPS = {"head": [0], "mid": [], "tail": [1, 2]}


def test_right_or_wrong_does_not_matter():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    first = np.array([0, 0, 1, 2, 0, 1, 2, 2])
    second = np.array([0, 1, 1, 0, 0, 1, 0, 1])
    same = grouped_agreement(first, second, labels, GROUPS)
    # Of class 0 two of four, of class 1 two of three, of class 2 none of one; the tail is the mean of its classes.
    assert np.isnan(same.pop("mid"))
    assert same == {"overall": 50.0, "head": 50.0, "tail": pytest.approx((200 / 3 + 0) / 2)}


def test_a_prediction_agrees_with_itself():
    labels = np.array([0, 1, 2])
    same = grouped_agreement(np.array([2, 2, 0]), np.array([2, 2, 0]), labels, GROUPS)
    assert (same["overall"], same["head"], same["tail"]) == (100, 100, 100)
