from __future__ import annotations

import numpy as np
import pytest
import torch

from deitlt_hf import DeiTLTError, expected_calibration_error
from deitlt_hf.evaluation.analysis.predictions import grouped_reliability, reliability


def waves() -> tuple[torch.Tensor, torch.Tensor]:
    """200 images of five classes, a third of them right for certain; no random numbers, which versions may change."""
    images, classes = torch.arange(200, dtype=torch.float64)[:, None], torch.arange(5, dtype=torch.float64)
    probabilities = (3 * torch.sin(1.7 * images + 2.3 * classes**2)).softmax(-1)
    index = torch.arange(200)
    return probabilities, torch.where(index % 3 == 0, probabilities.argmax(-1), 7 * index % 5)


@pytest.mark.parametrize(("num_bins", "golden"), [(15, 0.2199370563030243), (4, 0.1960439682006836)])
def test_agrees_with_golden_numbers_of_torchmetrics(num_bins, golden):
    # golden: torchmetrics 1.9.0, multiclass_calibration_error(*waves(), num_classes=5, n_bins=num_bins)
    probabilities, labels = waves()
    for kind in (lambda values: values, torch.Tensor.numpy, torch.Tensor.tolist):
        error = expected_calibration_error(kind(probabilities), kind(labels), num_bins)
        assert error == pytest.approx(100 * golden, rel=1e-6)


def test_half_precision():
    probabilities, labels = waves()
    expected = expected_calibration_error(probabilities.bfloat16().float(), labels)
    assert expected_calibration_error(probabilities.bfloat16(), labels) == expected


def test_agrees_with_plain_loops():
    probabilities, labels = waves()
    confidences, classes = probabilities.max(-1)
    expected = 0.0
    for index in range(15):
        inside = [i for i, confidence in enumerate(confidences.tolist()) if int(confidence * 15) == index]
        sure = sum(confidences[i].item() for i in inside)
        right = sum(int(classes[i] == labels[i]) for i in inside)
        expected += abs(sure - right) / 200
    assert expected_calibration_error(probabilities, labels) == pytest.approx(100 * expected)


def test_bins_hold_their_lower_edge_and_the_last_one_also_1():
    bins = reliability(np.array([0.0, 0.25, 0.4999, 0.5, 1.0]), np.array([0, 1, 0, 1, 1], dtype=bool), num_bins=4)[
        "bins"
    ]
    assert [entry["count"] for entry in bins] == [1, 2, 1, 1]
    assert bins[1]["accuracy"] == 50
    assert bins[1]["confidence"] == pytest.approx(37.495)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    sure = np.eye(3, dtype=np.float32)
    assert expected_calibration_error(sure, [0, 1, 2]) == 0
    assert expected_calibration_error(sure, [1, 2, 0]) == 100


def test_groups_are_those_of_the_true_classes():
    confidences, correct = np.array([0.9, 0.9, 0.5, 0.5]), np.array([True, True, True, False])
    groups = {"head": [0], "mid": [], "tail": [1, 2]}
    parts = grouped_reliability(confidences, correct, np.array([0, 0, 1, 2]), groups)
    assert {name: part["ece"] and round(part["ece"], 9) for name, part in parts.items()} == {
        "overall": 5.0,
        "head": 10.0,
        "mid": None,
        "tail": 0.0,
    }
    assert parts["mid"]["bins"] == [{"confidence": None, "accuracy": None, "count": 0}] * 15
    assert sum(entry["count"] for entry in parts["tail"]["bins"]) == 2


@pytest.mark.parametrize(
    ("probabilities", "labels", "options", "said"),
    [
        ([0.5, 0.5], [0, 1], {}, "(2,)"),
        ([[0.5, 0.5]], [0, 1], {}, "(1, 2)"),
        (np.zeros((0, 2)), np.zeros(0, int), {}, "(0, 2)"),
        ([[2.0, -1.0]], [0], {}, "softmax"),
        ([[float("nan"), 1.0]], [0], {}, "nan"),
        ([[0.5, 0.5]], [0], {"num_bins": 0}, "num_bins is 0"),
    ],
)
def test_wrong_probabilities_are_refused(probabilities, labels, options, said):
    with pytest.raises(DeiTLTError, match=r".*") as error:
        expected_calibration_error(probabilities, labels, **options)
    assert said in str(error.value)
