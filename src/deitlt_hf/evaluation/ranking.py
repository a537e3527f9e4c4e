"""Measures of the order in which a model's probabilities put the images of a class: for thresholds of one's own.

Each class stands against the rest: how good is its probability at telling its images from all others?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deitlt_hf.errors import DeiTLTError, printable
from deitlt_hf.evaluation.measures import aligned, describe_group, none_for_nan, number_or_dash
from deitlt_hf.long_tail_accuracy.intervals import Resampler
from deitlt_hf.long_tail_accuracy.scores import AT, GROUPS, RANKED, mean_of_classes

MOST_NUMBERS = 100_000_000  # of images x classes: 400 MB
MOST_RESAMPLED = 3_000_000_000  # of images x classes x resamples: a minute
FEWEST_IMAGES = 5  # of each class, for an interval; see docs/measures.md
MEASURES = ("average_precision", "recall", "precision")


def ranking_measures(
    probabilities: np.ndarray,
    labels: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    at: float = AT,
    num_resamples: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Average precision, recall at a precision, and precision at a recall, of each class against the rest, in percent.

    As in scikit-learn: `average_precision` is `average_precision_score`; `recall` is the largest recall of
    `precision_recall_curve` at which the precision is at least `at`, 0 where there is none; `precision` the largest
    precision at which the recall is at least `at`.

    Args:
        probabilities: `(N, C)`.
        labels: true class ids `(N,)`.
        groups: class ids of head, mid and tail.
        at: the precision and the recall, above 0 and at most 1.
        num_resamples: of the test images, for 95 % intervals of the means of average precision; 0 for none.
        seed: of the resamples.

    Returns:
        `at`; `classes`: for each of the three a list in label order, None without test images; `means`: for each of
        them `all`, `head`, `mid`, `tail`, means over classes; and `intervals`, those of average precision's means.

    Example:
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> found = ranking_measures([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]], [0, 0, 1], groups)
        >>> [round(value, 1) for value in found["classes"]["average_precision"]]
        [83.3, 50.0]
    """
    if not 0 < at <= 1:
        raise DeiTLTError(f"at is {at:g}; pass a precision or recall above 0 and up to 1, such as 0.9")
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    num_classes = probabilities.shape[1]
    curves = _curves(probabilities, labels)
    rows = np.array([curve.measures(at) for curve in curves]).T
    members = {"all": list(range(num_classes))} | {name: list(groups[name]) for name in GROUPS}
    weights = np.isin(np.arange(num_classes), labels).astype(float)
    found = {
        "at": at,
        "classes": dict(zip(MEASURES, rows, strict=True)),
        "means": {name: _means(row, weights, members) for name, row in zip(MEASURES, rows, strict=True)},
    }
    if num_resamples and num_resamples * probabilities.size <= MOST_RESAMPLED:
        found["intervals"] = _intervals(curves, labels, groups, members, found["means"], num_resamples, seed)
    return none_for_nan(found)


def check_numbers(images: int, classes: int) -> None:
    """Refuse, before the work, more probabilities than are kept at once."""
    if images * classes > MOST_NUMBERS:
        raise DeiTLTError(
            f"the probabilities of {images:,} images and {classes:,} classes are too many to be kept; leave --at out"
        )


def class_ranking(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of `RANKED` of each class against the rest, by key, in percent `(C,)`; nan without test images.

    Args:
        probabilities: `(N, C)`.
        labels: true class ids `(N,)`.
    """
    rows = np.array([curve.measures(AT) for curve in _curves(probabilities, labels)]).T
    return {measure.key: row for measure, row in zip(RANKED, rows, strict=True)}


class _Curve:
    """A class's images and the others by falling probability, in steps of equal probability."""

    def __init__(self, scores: np.ndarray, positive: np.ndarray):
        order = np.argsort(-scores, kind="stable")
        self._order, self._positive = order, positive[order]
        self._ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last of each step

    def measures(self, at: float) -> tuple[float, float, float]:
        """Average precision, recall at the precision `at`, and precision at the recall `at`, in percent."""
        hits, precision = self._steps(np.ones((1, len(self._order))))
        total = hits[0, -1]
        if not total:
            return (np.nan,) * 3
        hits, precision = hits[0], precision[0]
        recall = hits / total
        average = (np.diff(hits, prepend=0) * precision).sum() / total
        at_precision = recall[precision >= at].max(initial=0.0)
        return 100 * average, 100 * at_precision, 100 * precision[recall >= at].max()

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Of resamples `(resamples,)`, from weights of the images `(resamples, N)`."""
        hits, precision = self._steps(weights)
        total = hits[:, -1]
        with np.errstate(invalid="ignore"):
            return 100 * (np.diff(hits, axis=1, prepend=0) * precision).sum(1) / total

    def _steps(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight of the class's images, and precision, at the end of each step `(resamples, steps)`."""
        sorted_weights = weights[:, self._order]
        hits = np.cumsum(sorted_weights * self._positive, axis=1)[:, self._ends]
        taken = np.cumsum(sorted_weights, axis=1)[:, self._ends]
        return hits, np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)


def _curves(probabilities: np.ndarray, labels: np.ndarray) -> list[_Curve]:
    return [_Curve(scores, labels == label) for label, scores in enumerate(probabilities.T)]


def _means(row: np.ndarray, weights: np.ndarray, members: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: float(mean_of_classes(row[..., ids], weights[..., ids])) for name, ids in members.items()}


def _intervals(
    curves: Sequence[_Curve],
    labels: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    members: Mapping[str, Sequence[int]],
    means: Mapping[str, Mapping[str, float]],
    num_resamples: int,
    seed: int,
) -> dict[str, list[float]]:
    """95 % intervals of the means of average precision over resamples, whose mean is moved onto the value.

    None where a tested class has fewer than five images: resamples say too little about their order. A resample repeats
    images and so makes the order of a class look better than it is, see `Bootstrap`.
    """
    images = np.bincount(labels, minlength=len(curves))
    members = {
        name: ids for name, ids in members.items() if not ((images[ids] > 0) & (images[ids] < FEWEST_IMAGES)).any()
    }
    parts: dict[str, list[np.ndarray]] = {name: [] for name in members}
    for weights, of_classes in Resampler(labels, groups, len(curves), seed).by_class(num_resamples):
        averages = np.stack([curve.average_precision(weights) for curve in curves], axis=1)
        for name, ids in members.items():
            parts[name].append(mean_of_classes(averages[:, ids], of_classes[:, ids]))
    found = {}
    for name, drawn in parts.items():
        values = np.concatenate(drawn)
        values = values[~np.isnan(values)]
        if values.size:
            moved = values + means["average_precision"][name] - values.mean()
            found[name] = np.clip(np.percentile(moved, [2.5, 97.5]), 0, 100).tolist()
    return found


def format_ranking(metrics: Mapping[str, Any], found: Mapping[str, Any], most: int | None = None) -> str:
    """The result of `ranking_measures` as aligned text: means, and a row for each class if these are at most `most`."""
    at = f"{100 * found['at']:g} %"
    heading = ["", "average precision", f"recall at {at} precision", f"precision at {at} recall"]
    rows = []
    for name in ("all", *GROUPS):
        cells = [number_or_dash(found["means"][measure][name]) for measure in MEASURES]
        interval = found.get("intervals", {}).get(name)
        cells[0] += "" if interval is None else " [{:.1f}, {:.1f}]".format(*interval)
        rows.append([name, *cells])
    names, counts = metrics["class_names"], metrics["class_counts"]
    if most is None or len(names) <= most:
        for label in sorted(range(len(names)), key=lambda label: (-counts[label], label)):
            rows.append([printable(names[label]), *(number_or_dash(found["classes"][of][label]) for of in MEASURES)])
    groups = ", ".join(f"{name}: {describe_group(metrics, name)}" for name in GROUPS)
    return "\n".join(
        [
            *aligned([heading, *rows]),
            f"each class against the rest; all, head, mid and tail are means over classes; {groups}",
        ]
    )
