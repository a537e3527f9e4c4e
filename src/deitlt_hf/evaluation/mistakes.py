"""Which mistakes of a model to look at: suspected wrong labels, then the most confident errors of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deitlt_hf.evaluation.evaluate import Predictions

MOST_OF_SECTION = 24
MOST_IN_ALL = 200


class Mistakes(NamedTuple):
    """Wrong predictions by their place among the images; what is in `suspected` is not in `by_class`."""

    suspected: list[int]  # at most `MOST_OF_SECTION`, the most suspicious first
    by_class: dict[int, list[int]]  # by true class, the rarest first; the most confident first
    num_suspected: int
    num_wrong: int


def choose_mistakes(predictions: Predictions, own: str, class_counts: Sequence[int]) -> Mistakes:
    """The mistakes of the row `own` that are worth a look; `class_counts` are training images per class."""
    place = predictions.rows.index(own)
    labels, predicted = predictions.labels, predictions.class_ids[:, place]
    confidences = predictions.confidences[:, place]
    agreed = np.ones(len(labels), dtype=bool)
    for row, ids in zip(predictions.rows, predictions.class_ids.T, strict=True):
        if row in ("cls", "distillation"):
            agreed &= ids == predicted
    suspected = suspected_labels(
        labels, predicted, confidences, predictions.label_probabilities[:, place], len(class_counts), agreed
    )
    first = suspected[:MOST_OF_SECTION].tolist()

    wrong = np.flatnonzero(predicted != labels)
    others = wrong[np.argsort(-confidences[wrong], kind="stable")]
    others = others[~np.isin(others, first)].tolist()
    order = {label: place for place, label in enumerate(np.argsort(class_counts, kind="stable").tolist())}
    before: Counter[int] = Counter()  # errors of a class that are more confident
    ranked = []
    for index in others:
        label = int(labels[index])
        ranked.append((before[label], order[label], index, label))
        before[label] += 1
    # Every class gets its first place before any gets its second, so that many classes share the page.
    kept = sorted(entry for entry in ranked if entry[0] < MOST_OF_SECTION)[: MOST_IN_ALL - len(first)]
    by_class: dict[int, list[int]] = {}
    for _, _, index, label in sorted(kept, key=lambda entry: (entry[1], entry[0])):
        by_class.setdefault(label, []).append(index)
    return Mistakes(first, by_class, len(suspected), len(wrong))


def suspected_labels(
    labels: np.ndarray,
    predicted: np.ndarray,
    confidences: np.ndarray,
    label_probabilities: np.ndarray,
    num_classes: int,
    agreed: np.ndarray | bool = True,
) -> np.ndarray:
    """The images whose label is probably wrong, by confident learning, the most suspicious first.

    A class's threshold is its mean probability over the images with that label, so a class of which a model is never
    sure has a low one. An image is suspected if the prediction is another class than its label and reaches that class's
    threshold. Suspected images are ranked by their normalised margin, the prediction's probability minus the label's.
    Both are those of Northcutt et al. 2021, who take the most probable of the classes that reach their threshold, which
    need not be the prediction.

    Args:
        labels: class ids that the data have, int `(N,)`.
        predicted: class ids with the largest probability, int `(N,)`.
        confidences: these probabilities, float `(N,)` in [0, 1].
        label_probabilities: those of the labels, float `(N,)`.
        num_classes: above every id.
        agreed: bool `(N,)`, False where the experts contradict each other; such images are not suspected.

    Returns:
        Indices of images, int64.

    Example:
        >>> labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
        >>> suspected_labels(labels, predicted, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.9, 0.2, 0.7, 0.6]), 2)
        array([1])
    """
    images = np.bincount(labels, minlength=num_classes)
    with np.errstate(invalid="ignore"):  # a class without images has no threshold, which nothing reaches
        thresholds = np.bincount(labels, weights=label_probabilities, minlength=num_classes) / images
    suspected = np.flatnonzero((predicted != labels) & agreed & (confidences >= thresholds[predicted]))
    margin = confidences[suspected] - label_probabilities[suspected]
    return suspected[np.argsort(-margin, kind="stable")]
