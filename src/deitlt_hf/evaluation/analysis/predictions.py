"""Measures of a test set's predictions: calibration, confused groups, where the experts cross, and agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.measures import GROUPS, grouped_accuracy, none_for_nan
from deitlt_hf.long_tail_accuracy.scores import percent, to_numpy

NUM_BINS = 15
MOST_PAIRS = 10
MOST_CONFUSED = 30  # classes of a confusion matrix
NO_CROSSING = dict.fromkeys(("class_count", "slope", "at_most", "at_fewest"))


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
    """`ece`, in percent, and `bins`, each with mean `confidence`, `accuracy` and `count`; None without images."""
    edges = np.linspace(0, 1, num_bins + 1, dtype=confidences.dtype)
    bins = np.clip(np.searchsorted(edges, confidences, side="right") - 1, 0, num_bins - 1)
    images = np.bincount(bins, minlength=num_bins)
    confidence = percent(np.bincount(bins, weights=confidences, minlength=num_bins), images)
    accuracy = percent(np.bincount(bins, weights=correct, minlength=num_bins), images)
    filled = images > 0
    gap = np.abs(confidence - accuracy)[filled]
    rows = zip(confidence.tolist(), accuracy.tolist(), images.tolist(), strict=True)
    return {
        "ece": float((gap * images[filled]).sum() / len(confidences)) if len(confidences) else None,
        "bins": none_for_nan([{"confidence": sure, "accuracy": right, "count": count} for sure, right, count in rows]),
    }


def grouped_reliability(
    confidences: np.ndarray, correct: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """`reliability` of all images as `overall`, and of the images whose true class is in each group."""
    members = {name: np.isin(labels, ids) for name, ids in groups.items()}
    parts = {"overall": np.ones(len(labels), dtype=bool)} | members
    return {name: reliability(confidences[inside], correct[inside]) for name, inside in parts.items()}


def group_confusions(
    predictions: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """The groups that images are predicted into, and the commonest mistakes between head and tail.

    `groups` has three rows, for true head, mid and tail: percentages of their images that are predicted as head, mid
    and tail, as means over the row's classes; nan without images. `pairs` are the at most ten commonest mistakes
    `{"true", "predicted", "count"}` of a head for a tail class or the reverse, the commonest first.
    """
    num_classes = sum(len(ids) for ids in groups.values())
    group_of = np.zeros(num_classes, dtype=np.int64)
    for index, name in enumerate(GROUPS):
        group_of[np.asarray(groups[name], dtype=np.int64)] = index
    # Images per true class and predicted group; a matrix of classes by classes would be large for thousands of them.
    cells = np.bincount(len(GROUPS) * labels + group_of[predictions], minlength=len(GROUPS) * num_classes)
    cells = cells.reshape(num_classes, len(GROUPS))
    shares = percent(cells, np.broadcast_to(cells.sum(1, keepdims=True), cells.shape))
    of_groups = [shares[(group_of == index) & (cells.sum(1) > 0)] for index in range(len(GROUPS))]
    rows = [of.mean(0).tolist() if len(of) else [float("nan")] * len(GROUPS) for of in of_groups]
    return {"groups": rows, "pairs": _pairs(predictions, labels, group_of)}


def _pairs(predictions: np.ndarray, labels: np.ndarray, group_of: np.ndarray) -> list[dict[str, int]]:
    far = np.abs(group_of[labels] - group_of[predictions]) == GROUPS.index("tail") - GROUPS.index("head")
    pairs, counts = np.unique(np.stack([labels[far], predictions[far]], axis=1), axis=0, return_counts=True)
    commonest = np.argsort(-counts, kind="stable")[:MOST_PAIRS]
    return [
        {"true": int(true), "predicted": int(predicted), "count": int(count)}
        for (true, predicted), count in zip(pairs[commonest], counts[commonest], strict=True)
    ]


def class_confusions(
    predictions: np.ndarray, labels: np.ndarray, class_counts: Sequence[int], most: int = MOST_CONFUSED
) -> dict[str, Any]:
    """The confusion matrix: percentages of each class's images that are predicted as each class.

    It is of all classes, or of the `most` with the most wrong predictions, from most to fewest training images: their
    ids are `labels`. `percent` has a row for each true class with a column for each predicted one, nan without images.
    `others` are the percentages that are predicted as a class that is not shown, None if all are.
    """
    counts, ids = np.asarray(class_counts), np.arange(len(class_counts))
    wrong = np.bincount(labels[predictions != labels], minlength=len(counts))
    shown = np.lexsort((ids, -counts, -wrong))[:most]
    shown = shown[np.lexsort((shown, -counts[shown]))]
    size = len(shown)
    place = np.full(len(counts), size)  # all other classes are the last column
    place[shown] = np.arange(size)
    inside = place[labels] < size
    cells = (size + 1) * place[labels[inside]] + place[predictions[inside]]
    cells = np.bincount(cells, minlength=size * (size + 1)).reshape(size, size + 1)
    shares = percent(cells, np.broadcast_to(cells.sum(1, keepdims=True), cells.shape))
    return {
        "labels": shown.tolist(),
        "percent": shares[:, :size].tolist(),
        "others": shares[:, size].tolist() if size < len(counts) else None,
    }


def find_crossing(
    cls_accuracy: Sequence[float | None],
    distillation_accuracy: Sequence[float | None],
    class_counts: Sequence[int],
) -> dict[str, float | None]:
    """Where the accuracies of CLS and DIST cross, over class frequency.

    A straight line is fitted by least squares to the classes' differences, DIST minus CLS in points, over the logarithm
    of their training images; they cross where it is 0. Classes without test images (None) or training images are left
    out. The result has `class_count`, the training images where they cross, None if that is beyond the rarest or the
    most frequent class; `at_most` and `at_fewest`, the line's difference at the most frequent and the rarest class;
    `slope`, points for each factor of ten in training images, below 0 where DIST is better on rare classes. All are
    None if fewer than two counts occur.
    """
    tested = [index for index, accuracy in enumerate(cls_accuracy) if accuracy is not None and class_counts[index] > 0]
    logarithms = np.log10([class_counts[index] for index in tested])
    if len(set(logarithms.tolist())) < 2:
        return dict(NO_CROSSING)
    differences = [distillation_accuracy[index] - cls_accuracy[index] for index in tested]
    slope, intercept = np.polyfit(logarithms, differences, 1)
    ends = [float(slope * end + intercept) for end in (logarithms.max(), logarithms.min())]
    crosses = ends[0] * ends[1] < 0
    return {
        "class_count": float(10 ** (-intercept / slope)) if crosses else None,
        "slope": float(slope),
        "at_most": ends[0],
        "at_fewest": ends[1],
    }


def grouped_agreement(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Share of images to which two predictions give the same class, right or wrong, overall and by group in percent."""
    # An image on which both agree counts as predicted right, any other as predicted as no class.
    return grouped_accuracy(np.where(first == second, labels, -1), labels, groups)
