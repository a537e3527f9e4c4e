"""Whether a model is right as often as it is sure: expected calibration error and reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.long_tail_accuracy.scores import percent, to_numpy

NUM_BINS = 15


def expected_calibration_error(probabilities: Any, labels: Any, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error in percent: by how much confidence and accuracy differ (Guo et al., 2017, equation 3).

    An image's confidence is its largest probability. Images are put into bins of equal width by it, lower edges
    included and a confidence of 1 in the last bin; the result is the mean over images of the distance between their
    bin's mean confidence and its accuracy. A hundredth of it is torchmetrics' `MulticlassCalibrationError` with its
    defaults, but for confidences of exactly 1, which have a bin of their own there.

    Args:
        probabilities: floats `(N, C)` in 0 to 1, not logits; numpy array, torch tensor on any device, or list.
        labels: true class ids, integers `(N,)`, of the same kinds.
        num_bins: at least 1. Default 15.

    Returns:
        A float in 0 to 100.

    Raises:
        DeiTLTError: no images; shapes that do not fit; probabilities outside 0 to 1.

    Example:
        >>> round(expected_calibration_error([[0.9, 0.1], [0.3, 0.7]], [0, 0]), 6)  # (|1 - 0.9| + |0 - 0.7|) / 2
        40.0
    """
    probabilities, labels = to_numpy(probabilities), to_numpy(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise DeiTLTError(
            f"probabilities of shape {probabilities.shape} do not fit labels of shape {labels.shape}; pass (N, C) "
            "probabilities and (N,) class ids of at least one image"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))][0]
        raise DeiTLTError(f"probabilities hold {outside}; pass numbers in 0 to 1, such as the softmax of logits")
    if num_bins < 1:
        raise DeiTLTError(f"num_bins is {num_bins}; pass 1 or more, such as {NUM_BINS}")
    return reliability(probabilities.max(-1), probabilities.argmax(-1) == labels, num_bins)["ece"]


def reliability(confidences: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS) -> dict[str, Any]:
    """The expected calibration error and the bins that it comes from.

    Args:
        confidences: floats `(N,)` in 0 to 1.
        correct: bools `(N,)`.
        num_bins: as for `expected_calibration_error`.

    Returns:
        `{"ece": percent, "bins": [{"confidence", "accuracy", "count"}, ...]}`, with mean confidence and accuracy in
        percent; None where there are no images.

    Example:
        >>> reliability(np.array([0.9, 0.7]), np.array([True, False]), num_bins=2)["bins"][1]
        {'confidence': 80.0, 'accuracy': 50.0, 'count': 2}
    """
    edges = np.linspace(0, 1, num_bins + 1, dtype=confidences.dtype)
    bins = np.clip(np.searchsorted(edges, confidences, side="right") - 1, 0, num_bins - 1)
    images = np.bincount(bins, minlength=num_bins)
    confidence = percent(np.bincount(bins, weights=confidences, minlength=num_bins), images)
    accuracy = percent(np.bincount(bins, weights=correct, minlength=num_bins), images)
    filled = images > 0
    gap = np.abs(confidence - accuracy)[filled]
    return {
        "ece": float((gap * images[filled]).sum() / len(confidences)) if len(confidences) else None,
        "bins": [
            {
                "confidence": float(confidence[index]) if filled[index] else None,
                "accuracy": float(accuracy[index]) if filled[index] else None,
                "count": int(images[index]),
            }
            for index in range(num_bins)
        ],
    }


def grouped_reliability(
    confidences: np.ndarray, correct: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """`reliability` of all images as `overall`, and of the images whose true class is in each group.

    Example:
        >>> confidences, correct, labels = np.array([0.9, 0.7]), np.array([True, False]), np.array([0, 1])
        >>> parts = grouped_reliability(confidences, correct, labels, {"head": [0], "tail": [1]})
        >>> {name: round(part["ece"]) for name, part in parts.items()}
        {'overall': 40, 'head': 10, 'tail': 70}
    """
    members = {name: np.isin(labels, ids) for name, ids in groups.items()}
    parts = {"overall": np.ones(len(labels), dtype=bool)} | members
    return {name: reliability(confidences[inside], correct[inside]) for name, inside in parts.items()}
