"""The measures of an evaluation, computed from counts per class, and their bootstrap intervals.

`evaluate.load` copies this file and the metric's out of the package, so it imports numpy alone and raises `ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

GROUPS = ("head", "mid", "tail")
USUAL_THRESHOLDS = (100, 20)
CELLS_AT_ONCE = 1_000_000  # of resamples x classes x 2 in memory: 8 MB for each of a handful of arrays


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


def tally(predictions: Any, labels: Any, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Test images of each class, and how many of them are predicted right: two int64 arrays `(num_classes,)`.

    `predictions` are class ids `(N,)` or logits `(N, C)`; an id that is no class counts as wrong. `labels` are true
    class ids `(N,)`, below `num_classes`. Both are numpy arrays, torch tensors or lists.
    """
    predictions, labels = _as_class_ids(predictions, labels)
    if labels.max() >= num_classes:
        raise ValueError(f"label {labels.max()} is outside 0 .. {num_classes - 1}: pass num_classes above every label")
    images = np.bincount(labels, minlength=num_classes)
    return images, np.bincount(labels[predictions == labels], minlength=num_classes)


def grouped_tally(
    predictions: Any, labels: Any, groups: Mapping[str, Sequence[int]]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """`tally` over the classes of the groups, which must hold every label, and the groups as int64 arrays."""
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
    return *tally(predictions, labels, int(classes.max()) + 1), members


def percent(correct: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Share of images that are correct, float64 in 0 to 100; nan where there is no image."""
    return _divide(100.0 * correct, images)


class Measure(NamedTuple):
    """A measure in percent. To add one, add an entry to `MEASURES`: tables, files, cards and logs use that list.

    `compute` takes images and right predictions per class, `(..., classes)`, and the class ids of head, mid and tail by
    name; it gives `(...)` percentages, nan where there are no images. With `of_images=True` images count whatever their
    class: `compute` may get all of them as one class, and intervals come from resamples of all images together.
    """

    key: str  # in results, `metrics.json` and logs, such as `eval_average_tail`
    label: str  # heading of its column
    name: str  # in the `model-index` of a card
    compute: Callable[[np.ndarray, np.ndarray, Mapping[str, np.ndarray]], np.ndarray]
    of_images: bool = False
    format: str = ".1f"  # of a number in tables

    def text(self, value: float | None, interval: Sequence[float] | None = None, sign: str = "") -> str:
        """A value and its interval, such as `75.0 [70.0, 80.0]`, "-" for None; `sign="+"` writes signs."""
        if value is None:
            return "-"
        numbers = [f"{number:{sign}{self.format}}" for number in (value, *(interval or ()))]
        return numbers[0] if interval is None else "{} [{}, {}]".format(*numbers)


def _of_all_images(images: np.ndarray, correct: np.ndarray, members: Mapping[str, np.ndarray]) -> np.ndarray:
    return percent(correct.sum(-1), images.sum(-1))


def _of_all_classes(images: np.ndarray, correct: np.ndarray, members: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean of the classes' accuracies; classes without test images are left out."""
    per_class = percent(correct, images)
    tested = ~np.isnan(per_class)
    return _divide(np.where(tested, per_class, 0.0).sum(-1), tested.sum(-1))


def _of_group(group: str) -> Measure:
    def mean_of_classes(images: np.ndarray, correct: np.ndarray, members: Mapping[str, np.ndarray]) -> np.ndarray:
        ids = np.asarray(members[group], dtype=np.int64)
        return _of_all_classes(images[..., ids], correct[..., ids], members)

    return Measure(group, group, f"Accuracy, {group} classes", mean_of_classes)


MEASURES = [
    Measure("overall", "overall", "Accuracy, overall", _of_all_images, of_images=True),
    *map(_of_group, GROUPS),
    Measure("balanced_accuracy", "balanced", "Balanced accuracy", _of_all_classes),
]


def accuracies(images: np.ndarray, correct: np.ndarray, members: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every measure of one test set, or of many at once, in percent: float64 arrays `(...)` by key.

    `images` and `correct` are counts per class, `(..., num_classes)`; `members` are class ids of head, mid and tail.
    """
    return {measure.key: measure.compute(images, correct, members) for measure in MEASURES}


def bootstrap_intervals(
    images: np.ndarray,
    correct: np.ndarray,
    members: Mapping[str, np.ndarray],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """95 % intervals of `accuracies` of one test set, `[low, high]` by key; nan for a group without images."""

    def value(measure: Measure, images: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return measure.compute(images, drawn[..., 0], members)

    intervals = resampled_intervals(np.stack([correct, images - correct], axis=-1), value, num_resamples, seed)
    return {key: np.clip(ends, 0, 100).tolist() for key, ends in intervals.items()}


def resampled_intervals(
    cells: np.ndarray,
    value: Callable[[Measure, np.ndarray, np.ndarray], np.ndarray],
    num_resamples: int,
    seed: int,
) -> dict[str, list[float]]:
    """The 2.5th and 97.5th percentiles of each measure's value over resamples of the test images, by key.

    A resample draws from each class as many images as it has, with replacement (a stratified bootstrap): a resample of
    all images would lose classes that have few. Measures of images are resampled from all images.

    `cells` are images per class and outcome `(classes, outcomes)`. `value` takes a measure, images per class and drawn
    cells `(resamples, classes, outcomes)`, and gives `(resamples,)`.
    """
    intervals = {}
    for of_images, per_class in ((False, cells), (True, cells.sum(0)[None])):
        measures = [measure for measure in MEASURES if measure.of_images == of_images]
        images = per_class.sum(-1)
        chunks = [
            [value(measure, images, drawn) for measure in measures]
            for drawn in resample_cells(per_class, num_resamples, seed)
        ]
        for measure, parts in zip(measures, zip(*chunks, strict=True), strict=True):
            values = np.concatenate(parts)
            values = values[~np.isnan(values)]  # not `np.nanpercentile`, which warns where all are nan
            ends = np.percentile(values, [2.5, 97.5]).tolist() if values.size else [float("nan")] * 2
            intervals[measure.key] = ends
    return {measure.key: intervals[measure.key] for measure in MEASURES}


def resample_cells(cells: np.ndarray, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw from each class as many images as it has, with replacement, where only each image's outcome matters.

    A resample of `n` images has only `(n - 1) / n` of the variance of new images, noticeably too little for classes of
    few. So the difference of each resample from the images is scaled by `sqrt(n / (n - 1))` (Rao and Wu, 1988, equation
    2.4), which makes the variance unbiased. A class with a single image would be the same in every resample: such
    classes are drawn from all of them together (collapsed strata, Cochran 1977, section 5A.12), except for one alone.

    Yields float64 cells `(resamples, classes, outcomes)` in parts, to save memory.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}: pass at least 1, such as 1000")
    if seed < 0:
        raise ValueError(f"seed is {seed}: pass an int of at least 0")
    generator = np.random.default_rng(seed)
    images = cells.sum(-1)
    shares = cells / np.maximum(images, 1)[:, None]
    drawn_from = images.copy()  # the number of images that a class is drawn from
    single = images == 1
    if single.any():
        shares[single] = shares[single].mean(0)
        drawn_from[single] = single.sum()
    scale = np.sqrt(drawn_from / np.maximum(drawn_from - 1, 1))[:, None]
    at_once = max(1, CELLS_AT_ONCE // cells.size)
    for start in range(0, num_resamples, at_once):
        drawn = generator.multinomial(images, shares, size=(min(at_once, num_resamples - start), len(cells)))
        yield cells + scale * (drawn - images[:, None] * shares)


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
