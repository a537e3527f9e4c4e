"""The measures of an evaluation, computed from counts per class.

`evaluate.load` copies this file and the metric's out of the package, so it imports numpy alone and raises `ValueError`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

GROUPS = ("head", "mid", "tail")
USUAL_THRESHOLDS = (100, 20)
TABLES = ACCURACY, MORE = "accuracy", "more"  # in which measures are shown
TOP = 5
FEWEST_CLASSES_OF_TOP = 10  # with fewer, the true class is among the five too easily to say anything
AT = 0.9  # the precision at which a recall is measured, and the recall at which a precision is


def groups_by_count(
    class_counts: Sequence[int],
    thresholds: tuple[int, int] | None = None,
    boundaries: tuple[int, int] | None = None,
) -> dict[str, list[int]]:
    """`deitlt_hf.class_groups` without the package; wrong input is a `ValueError`."""
    empty = next((label for label, count in enumerate(class_counts) if count < 1), None)
    if empty is not None:
        raise ValueError(f"class {empty} has {class_counts[empty]} training images: pass counts of at least 1")
    if boundaries is not None:
        return _cut(class_counts, *boundaries)
    high, low = USUAL_THRESHOLDS if thresholds is None else thresholds
    if high < low:
        raise ValueError(f"thresholds are {(high, low)}: pass the head's first, such as (100, 20)")
    groups: dict[str, list[int]] = {"head": [], "mid": [], "tail": []}
    for label, count in enumerate(class_counts):
        groups["head" if count > high else "tail" if count < low else "mid"].append(label)
    thirds = _thirds(class_counts)
    return _cut(class_counts, *thirds) if thresholds is None and thirds and not all(groups.values()) else groups


def _cut(class_counts: Sequence[int], first: int, second: int) -> dict[str, list[int]]:
    """Head, mid and tail of the classes in order of falling frequency."""
    if not 0 <= first <= second <= len(class_counts):
        raise ValueError(f"boundaries are {(first, second)}: pass two rising numbers from 0 to {len(class_counts)}")
    by_frequency = sorted(range(len(class_counts)), key=lambda label: -class_counts[label])
    return {"head": by_frequency[:first], "mid": by_frequency[first:second], "tail": by_frequency[second:]}


def _thirds(class_counts: Sequence[int]) -> tuple[int, int] | None:
    """The cuts nearest to thirds that keep equally frequent classes together; None where all are equally frequent."""
    falling = sorted(class_counts, reverse=True)
    cuts = [place for place in range(1, len(falling)) if falling[place - 1] > falling[place]]
    if not cuts:
        return None
    first, second = (min(cuts, key=lambda cut: abs(cut - part * len(falling) / 3)) for part in (1, 2))
    return first, second


def to_numpy(values: Any) -> np.ndarray:
    """The values as an array; torch tensors from any device."""
    # Not `isinstance`, because this module must work without torch.
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()  # numpy has no bfloat16
    return np.asarray(values)


def group_members(groups: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """The class ids of head, mid and tail as int64 arrays."""
    missing = [name for name in GROUPS if name not in groups]
    if missing:
        raise ValueError(f"groups {sorted(groups)} lack {missing[0]!r}: pass lists of class ids for head, mid and tail")
    members = {name: np.asarray(groups[name], dtype=np.int64) for name in GROUPS}
    for name, ids in members.items():
        if ids.size and ids.min() < 0:
            raise ValueError(f"group {name} holds class id {ids.min()}: pass class ids from 0")
    return members


def grouped_class_ids(
    predictions: Any, labels: Any, groups: Mapping[str, Sequence[int]]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], int]:
    """Predictions and labels as int64 class ids `(N,)`, the groups as int64 arrays, and the number of their classes.

    Predictions are class ids `(N,)` or logits `(N, C)`; an id that is no class counts as wrong. Labels are true class
    ids `(N,)`, which the groups must hold. Both are numpy arrays, torch tensors or lists.
    """
    predictions, labels = _as_class_ids(predictions, labels)
    members = group_members(groups)
    classes, groups_of_class = np.unique(np.concatenate(list(members.values())), return_counts=True)
    if (groups_of_class > 1).any():
        raise ValueError(f"class {classes[groups_of_class > 1][0]} is in the groups twice: pass each class once")
    outside = labels[~np.isin(labels, classes)]
    if outside.size:
        raise ValueError(
            f"label {outside[0]} is in none of the groups head, mid and tail: pass labels that belong to the groups' "
            f"{classes.size} classes"
        )
    return predictions, labels, members, int(classes.max()) + 1


def percent(correct: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Share of images that are correct, float64 in 0 to 100; nan where there is no image."""
    return _divide(100.0 * correct, images)


class Tally(NamedTuple):
    """What is counted per class: arrays `(..., classes)` of one test set, or of many resamples of it at once."""

    images: np.ndarray  # test images of the class
    correct: np.ndarray  # of those, predicted as the class
    predicted: np.ndarray  # images of whatever class that are predicted as the class
    weights: np.ndarray  # of the class in a mean over classes: 1, or 0 without test images; see `Resampler`
    in_top: np.ndarray | None = None  # test images whose class is among the five with the largest logits
    ranked: Mapping[str, np.ndarray] | None = None  # by the keys of `RANKED`, in percent; not of resamples


Members = Mapping[str, np.ndarray]


class Measure(NamedTuple):
    """A measure in percent. To add one, add an entry to `MEASURES`: tables, files, cards and logs use that list.

    `compute` takes a `Tally` of arrays `(..., classes)` and the class ids of head, mid and tail by name; it gives
    percentages `(...)`, nan where there are no images, or None where the tally lacks what it needs. With
    `of_images=True` images count whatever their class, and intervals come from resamples of all images together. An
    interval is given where each tested class has at least `fewest_images`.
    """

    key: str  # in results, `metrics.json` and logs, such as `eval_average_tail`
    label: str  # heading of its column
    name: str  # in the `model-index` of a card
    compute: Callable[[Tally, Members], np.ndarray | None]
    of_images: bool = False
    table: str = ACCURACY  # in which it is shown
    group: str | None = None  # the group whose classes alone it is about
    metric_type: str = "accuracy"  # in the `model-index`
    is_linear: bool = True  # in the images' weights; otherwise resamples differ from the test set also in the mean
    fewest_images: int = 1
    of_class_ids: bool = True  # can be told from class ids alone, as the Trainer's evaluation has them
    format: str = ".1f"  # of a number in tables

    def text(self, value: float | None, interval: Sequence[float] | None = None, sign: str = "") -> str:
        """A value and its interval, such as `75.0 [70.0, 80.0]`, "-" for None; `sign="+"` writes signs."""
        if value is None:
            return "-"
        numbers = [f"{number:{sign}{self.format}}" for number in (value, *(interval or ()))]
        return numbers[0] if interval is None else "{} [{}, {}]".format(*numbers)


def _of_all_images(tally: Tally, members: Members) -> np.ndarray:
    return percent(tally.correct.sum(-1), tally.images.sum(-1))


def _in_top(tally: Tally, members: Members) -> np.ndarray | None:
    if tally.in_top is None or tally.images.shape[-1] < FEWEST_CLASSES_OF_TOP:
        return None
    return percent(tally.in_top.sum(-1), tally.images.sum(-1))


def mean_of_classes(per_class: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the classes that have a weight; nan where none has."""
    counted = weights > 0
    return _divide(np.where(counted, weights * per_class, 0.0).sum(-1), np.where(counted, weights, 0.0).sum(-1))


def _balanced(tally: Tally, members: Members) -> np.ndarray:
    return mean_of_classes(percent(tally.correct, tally.images), tally.weights)


def _of_group(group: str) -> Measure:
    def accuracy(tally: Tally, members: Members) -> np.ndarray:
        ids = np.asarray(members[group], dtype=np.int64)
        return mean_of_classes(percent(tally.correct, tally.images)[..., ids], tally.weights[..., ids])

    return Measure(group, group, f"Accuracy, {group} classes", accuracy, group=group)


def f1_of_classes(tally: Tally) -> np.ndarray:
    """F1 of each class in percent, 0 for one that is never predicted, nan without test images."""
    f1 = percent(2 * tally.correct, tally.images + tally.predicted)
    return np.where(tally.images > 0, f1, np.nan)


def precision_of_classes(tally: Tally) -> np.ndarray:
    """Share of the images predicted as a class that are of it, in percent; nan if never predicted or not tested."""
    return np.where(tally.images > 0, percent(tally.correct, tally.predicted), np.nan)


def _macro_f1(tally: Tally, members: Members) -> np.ndarray:
    return mean_of_classes(f1_of_classes(tally), tally.weights)


def _worst_class(tally: Tally, members: Members) -> np.ndarray:
    accuracy = np.where(tally.weights > 0, percent(tally.correct, tally.images), np.inf).min(-1)
    return np.where(np.isinf(accuracy), np.nan, accuracy)


def _of_ranking(key: str, label: str, name: str, metric_type: str) -> Measure:
    """A mean over classes of what the order of the images by the class's probability gives.

    It has no interval, for resamples would need a sort for each class; `ranking_measures` has those of mAP.
    """

    def mean(tally: Tally, members: Members) -> np.ndarray | None:
        return None if tally.ranked is None else mean_of_classes(tally.ranked[key], tally.weights)

    return Measure(
        key, label, name, mean, table=MORE, metric_type=metric_type, is_linear=False, fewest_images=sys.maxsize,
        of_class_ids=False,
    )  # fmt: skip


RANKED = [
    _of_ranking("average_precision", "mAP", "Mean average precision", "average_precision"),
    _of_ranking("recall_at_precision_90", "R at P90", "Mean recall at 90 % precision", "recall"),
    _of_ranking("precision_at_recall_90", "P at R90", "Mean precision at 90 % recall", "precision"),
]
MEASURES = [
    Measure("overall", "overall", "Accuracy, overall", _of_all_images, of_images=True),
    *map(_of_group, GROUPS),
    Measure("balanced_accuracy", "balanced", "Balanced accuracy", _balanced),
    Measure("macro_f1", "macro-F1", "Macro-F1", _macro_f1, table=MORE, metric_type="f1", is_linear=False),
    Measure(
        "worst_class", "worst", "Accuracy, worst class", _worst_class, table=MORE, is_linear=False, fewest_images=50
    ),  # with 20 images per class the interval held the value of other test images in 75 of 100 cases
    Measure("top_5", "top-5", "Accuracy, top 5", _in_top, of_images=True, table=MORE, of_class_ids=False),
    *RANKED,
]


def measured(tally: Tally, members: Members, measures: Sequence[Measure] | None = None) -> dict[str, np.ndarray]:
    """Every measure, or those, that the tally has the numbers for, in percent: float64 arrays `(...)` by key."""
    values = {one.key: one.compute(tally, members) for one in (MEASURES if measures is None else measures)}
    return {key: value for key, value in values.items() if value is not None}


class Counter:
    """Counts a model's predictions per class, with weights of the images.

    `predictions` and `labels` are class ids int64 `(N,)`; a prediction that is no class counts as wrong. `in_top` says
    of each image whether its class is among the five with the largest logits, bool `(N,)`. `ranked` has for each key of
    `RANKED` the percentages of the classes, `(classes,)`, which only the tally of all images has.
    """

    def __init__(
        self,
        predictions: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        in_top: np.ndarray | None = None,
        ranked: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._images = _SumBy(labels, num_classes)
        self._correct = _SumBy(np.where(predictions == labels, labels, -1), num_classes)
        self._predicted = _SumBy(predictions, num_classes)
        self._in_top = None if in_top is None else _SumBy(np.where(in_top, labels, -1), num_classes)
        self._ranked = ranked

    def count(self, weights: np.ndarray | None = None, class_weights: np.ndarray | None = None) -> Tally:
        """The tally of images with weights `(..., N)` and of classes `(..., classes)`; each is 1 by default."""
        sums = (self._images, self._correct, self._predicted, self._in_top)
        images, correct, predicted, in_top = (of if of is None else of(weights) for of in sums)
        counted = images > 0
        of_classes = counted if class_weights is None else class_weights
        return Tally(images, correct, predicted, of_classes, in_top, self._ranked if weights is None else None)


class _SumBy:
    """Sums of the images' weights `(..., N)` by an id of each image, `(..., classes)`; other ids are left out."""

    def __init__(self, ids: np.ndarray, num_classes: int) -> None:
        inside = np.flatnonzero((ids >= 0) & (ids < num_classes))
        self._order = inside[np.argsort(ids[inside], kind="stable")]
        self._present, self._starts = np.unique(ids[self._order], return_index=True)
        self._counts = np.bincount(ids[inside], minlength=num_classes)

    def __call__(self, weights: np.ndarray | None) -> np.ndarray:
        if weights is None:
            return self._counts
        sums = np.zeros((*weights.shape[:-1], len(self._counts)))
        if len(self._order):
            sums[..., self._present] = np.add.reduceat(weights[..., self._order], self._starts, axis=-1)
        return sums


def _divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    total, count = np.broadcast_arrays(total, count)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _as_class_ids(predictions: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both arguments as int64 class ids of shape `(N,)`, checked."""
    if getattr(predictions, "ndim", 1) == 2:  # before leaving torch: numpy has no bfloat16
        predictions = predictions.argmax(-1)
    predictions, labels = to_numpy(predictions), to_numpy(labels)
    if predictions.ndim == 2:
        predictions = predictions.argmax(-1)
    if predictions.ndim != 1 or labels.ndim != 1 or len(predictions) != len(labels):
        raise ValueError(
            f"predictions of shape {predictions.shape} do not fit labels of shape {labels.shape}: pass one class id or "
            "one row of logits per label"
        )
    if len(labels) == 0:
        raise ValueError("there are no images to evaluate: pass at least one prediction and its label")
    for name, values in (("predictions", predictions), ("labels", labels)):
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} have type {values.dtype}: pass class ids as integers, or predictions as logits")
    if labels.min() < 0:
        raise ValueError(f"label {labels.min()} is negative: pass class ids from 0 and leave unlabelled images out")
    return predictions.astype(np.int64), labels.astype(np.int64)
