"""When a model should say nothing, and which classes to name so that the right one is among them.

Thresholds for a precision: an image gets an answer where the model's confidence is at least the threshold of its
predicted class. Conformal sets for a coverage: of each class, the share of images whose set holds that class.

Both are found on validation images, and hold for images like these, whose classes come as often. A class with too few
of them shares a threshold with the other such classes of its group (head, mid or tail), or where even these have too
few, with those of the other groups. So each threshold holds for just the classes that use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deitlt_hf.errors import DeiTLTError, counted, notice, some
from deitlt_hf.evaluation.measures import none_for_nan
from deitlt_hf.long_tail_accuracy.scores import GROUPS, percent
from deitlt_hf.ranges import Range

# Of 50 images, the coverage of a threshold for 0.9 has a standard deviation of 4 points, of 9 images one of 9 points.
FEWEST_OF_A_CLASS = 50
SURE = 0.9  # probability that a threshold's precision is at least what was asked
FIRST_TESTED = 0.1  # of the images: so that one wrong answer of high confidence among many is not the end
SHARES = Range(0, 1, above=True, below=True)
_TINY = 1e-9  # 10 * 0.7 is a little more than 7
_KEYS = ("labels", "predicted", "confidence", "true_probability")


@dataclass(frozen=True)
class Validation:
    """What a model predicts for the validation images.

    Args:
        labels: true class ids, int64 `(N,)`.
        predicted: predicted class ids, int64 `(N,)`.
        confidence: probability of the predicted class in 0 to 1, float64 `(N,)`.
        true_probability: probability of the true class in 0 to 1, float64 `(N,)`.
        num_classes: of the model.
        groups: class ids of head, mid and tail; without them, classes with few images share one threshold.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    true_probability: np.ndarray
    num_classes: int
    groups: Mapping[str, Sequence[int]]

    @classmethod
    def read(
        cls, lists: Mapping[str, Sequence[float]], num_classes: int, groups: Mapping[str, Sequence[int]] | None
    ) -> Validation:
        """From the lists of a calibration file, which others may have written."""
        try:
            arrays = [np.asarray(lists[key], dtype=float) for key in _KEYS]
            sizes = {array.shape for array in arrays}
            ids, shares = np.stack(arrays[:2]), np.stack(arrays[2:])
            fits = ids.size and ((ids >= 0) & (ids < num_classes) & (ids % 1 == 0)).all()
            fits = fits and len(sizes) == 1 and ((shares >= 0) & (shares <= 1)).all()
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise DeiTLTError(
                f"the validation of the calibration does not hold class ids below {num_classes} and probabilities of "
                "one image each; run `deitlt calibrate` again"
            )
        return cls(*ids.astype(np.int64), *shares, num_classes, groups or {})


class Thresholds(NamedTuple):
    """A threshold for each class, and where it comes from.

    `values` are float64 `(classes,)`; infinity for a class that is never answered. `rows` has a dict for each
    threshold: `of` (`"class"`, a group, or `"all"`: what it was found on), the `classes` that use it, the number of
    validation `images`, and the `threshold`, None where no threshold reaches what was asked. For a precision also
    `answered` and `right`, numbers of images, and `precision` with its 95 % `interval` (Clopper and Pearson, 1934), in
    percent.
    """

    values: np.ndarray
    rows: list[dict[str, Any]]


def precision_thresholds(validation: Validation, precision: float) -> Thresholds:
    """For each predicted class the lowest confidence from which on answers have a precision, with probability 0.9.

    Learn then Test, with a fixed sequence of tests (Angelopoulos et al., Annals of Applied Statistics, 2025): the
    threshold falls from image to image, for as long as the precision of the validation images above it is large enough
    for sure: the lower end of its one-sided 90 % interval (Clopper and Pearson, 1934) is at least what was asked, the
    bound of Geifman and El-Yaniv (2017) too. The first test is of a tenth of the images, or of as many as are enough if
    all are right: 22 for a precision of 0.9, 45 for 0.95. So a few lucky images are not enough, and of ten thresholds
    nine keep their precision on new images. Classes for which no test passes are never answered.

    Raises:
        DeiTLTError: `precision` is not between 0 and 1, or no threshold of any class reaches it.

    Example:
        >>> validation = Validation.read(
        ...     {"labels": [0, 0, 0, 0, 1], "predicted": [0, 0, 0, 0, 0], "confidence": [0.9, 0.9, 0.8, 0.7, 0.6],
        ...      "true_probability": [0.9, 0.9, 0.8, 0.7, 0.4]}, 2, None)
        >>> precision_thresholds(validation, 0.5).values.tolist()  # 4 right of 4: at least 0.1 ** (1 / 4) = 0.56
        [0.7, 0.7]
    """
    _check_share("precision", precision)
    rows = _precision_rows(validation, precision)
    if not any(row["answered"] for row in rows):
        lower = (step / 100 for step in range(math.ceil(100 * precision) - 1, 0, -1))
        best = next((each for each in lower if any(row["answered"] for row in _precision_rows(validation, each))), None)
        reached = "no lower one is reached either" if best is None else f"the best there is: {best:g}"
        images = counted(len(validation.labels), "validation image")
        raise DeiTLTError(
            f"precision is {precision:g}, which no threshold reaches on {images}; {reached}; pass less, "
            "or calibrate with more validation images"
        )
    return _for_each_class(rows, validation.num_classes, never=math.inf)


def _precision_rows(validation: Validation, precision: float) -> list[dict[str, Any]]:
    from scipy.special import betaincinv

    correct = validation.predicted == validation.labels
    fewest = math.ceil(math.log(1 - SURE) / math.log(precision) - _TINY)  # that can pass: precision ** fewest <= 0.1
    rows = []
    for pool in _pools(validation.predicted, validation, fewest):
        falling = np.argsort(-validation.confidence[pool.inside], kind="stable")
        confidence, right = validation.confidence[pool.inside][falling], np.cumsum(correct[pool.inside][falling])
        answered = np.arange(1, len(right) + 1)
        is_tested = answered >= max(fewest, math.ceil(len(right) * FIRST_TESTED))
        is_tested[:-1] &= confidence[1:] < confidence[:-1]  # equally confident ones are answered together
        tested = is_tested.nonzero()[0]
        least = np.where(right > 0, betaincinv(np.maximum(right, 1), answered - right + 1, 1 - SURE), 0.0)
        passed = np.logical_and.accumulate(least[tested] >= precision).sum()
        last = int(tested[passed - 1]) if passed else -1
        numbers = (last + 1, int(right[last])) if passed else (0, 0)
        found = {"threshold": float(confidence[last]) if passed else None, "answered": numbers[0], "right": numbers[1]}
        rows.append(pool.row | found | _precision(*numbers))
    return rows


def coverage_thresholds(validation: Validation, coverage: float) -> Thresholds:
    """For each class the probability from which on an image's set holds it: split conformal prediction.

    Of the `n` validation images of a class, `ceil((n + 1) * coverage)` have at least this probability of it, so that
    a new image's set holds the true class with probability `coverage` (Vovk et al., 2005), for each class that has
    enough images (class-conditional) and for the rest of each group. The probabilities are those for classes that come
    equally often. So they are p(y | x) / p(y), the prevalence-adjusted softmax of Ding, Fermanian and Salmon
    ("Conformal Prediction for Long-Tailed Classification", ICLR 2026), scaled to sum to 1 for each image. Ding et al.
    interpolate between the thresholds of a class and of all images, which has no exact coverage of either; groups have.

    Raises:
        DeiTLTError: `coverage` is not between 0 and 1, or there are too few validation images for it.

    Example:
        >>> validation = Validation.read(
        ...     {"labels": [0, 0, 1, 1], "predicted": [0, 0, 1, 0], "confidence": [0.9, 0.8, 0.7, 0.6],
        ...      "true_probability": [0.9, 0.8, 0.7, 0.4]}, 2, None)
        >>> coverage_thresholds(validation, 0.6).values.tolist()  # 3 of 4 images, since 0.6 of 5 is 3
        [0.7, 0.7]
    """
    _check_share("coverage", coverage)
    images = len(validation.labels)
    if images < _fewest(coverage):
        raise DeiTLTError(
            f"coverage is {coverage:g}, which needs {_fewest(coverage)} validation images, and there are {images}; "
            f"pass at most {math.floor(1000 * images / (images + 1)) / 1000:g}, or calibrate with more"
        )
    rows = []
    for pool in _pools(validation.labels, validation, _fewest(coverage)):
        if pool.inside.sum() < _fewest(coverage):
            pool = pool._replace(of="all", inside=np.ones(images, bool))
        rising = np.sort(validation.true_probability[pool.inside])
        covered = math.ceil((len(rising) + 1) * coverage - _TINY)
        rows.append(pool.row | {"threshold": float(rising[len(rising) - covered])})
    return _for_each_class(rows, validation.num_classes, never=0.0)


def prediction_sets(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which classes are in each image's set, bool `(N, classes)`, from probabilities `(N, classes)`.

    These are all classes whose probability is at least their threshold. The most probable class is always one of them:
    a set could be empty otherwise, where a model is right more often than was asked.

    Example:
        >>> prediction_sets(np.array([[0.6, 0.4], [0.7, 0.3]]), np.array([0.65, 0.35])).tolist()
        [[True, True], [True, False]]
    """
    sets = probabilities >= thresholds
    sets[np.arange(len(sets)), probabilities.argmax(-1)] = True
    return sets


def measure_answers(
    labels: np.ndarray, predicted: np.ndarray, answered: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """How many images are answered, and how often the answers are right: overall, and for head, mid and tail.

    A group's `images` are those of its classes, and `share` is the percentage of them that are answered. Its `answers`
    are those that name one of its classes, whatever the image shows, and `precision` is the percentage of them that are
    right, with its 95 % `interval`. `answered` is bool `(N,)`. None without images or answers.
    """
    measured = {}
    for name, (of_group, in_group) in _by_group(labels, predicted, groups).items():
        answers = answered & in_group
        measured[name] = {
            "images": int(of_group.sum()),
            "share": _percent(answered[of_group]),
            "answers": int(answers.sum()),
            **_precision(int(answers.sum()), int((predicted == labels)[answers].sum())),
        }
    return measured


def measure_sets(
    covered: np.ndarray, sizes: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """How often sets hold the true class, and how large they are: overall, and for images of head, mid and tail.

    `covered` is bool `(N,)`, `sizes` are numbers of classes `(N,)`. Each has `images`, `coverage`, the percentage of
    them whose set holds the true class, `size`, the mean number of classes, and `single`, the percentage of sets of one
    class. None without images.
    """
    measured = {}
    for name, (of_group, _) in _by_group(labels, labels, groups).items():
        measured[name] = {
            "images": int(of_group.sum()),
            "coverage": _percent(covered[of_group]),
            "size": float(sizes[of_group].mean()) if of_group.any() else None,
            "single": _percent(sizes[of_group] == 1),
        }
    return measured


def say_shared(asked: str, thresholds: Thresholds, class_names: Sequence[str]) -> None:
    """Say in one line which classes are never answered, or have a threshold that was found on other classes' images."""

    def of(which: Callable[[dict[str, Any]], bool]) -> list[str]:
        return [class_names[class_id] for row in thresholds.rows if which(row) for class_id in row["classes"]]

    never, of_all = of(lambda row: row["threshold"] is None), of(lambda row: row["of"] == "all")
    if never:
        notice(f"{asked}: never answered, for no threshold of the validation images reaches it: {some(never)}")
    if of_all:
        notice(f"{asked}: too few validation images, so the threshold is that of all images: {some(of_all)}")


class _Pool(NamedTuple):
    """Validation images on which one threshold is found."""

    of: str
    classes: list[int]
    inside: np.ndarray  # bool (N,)

    @property
    def row(self) -> dict[str, Any]:
        return {"of": self.of, "classes": self.classes, "images": int(self.inside.sum())}


def _pools(class_of: np.ndarray, validation: Validation, fewest: int) -> list[_Pool]:
    """Each class with enough images, the other classes of each group, and the rest, of groups with too few."""
    images = np.bincount(class_of, minlength=validation.num_classes)
    has_own = images >= max(FEWEST_OF_A_CLASS, fewest)
    pools = [_Pool("class", [class_id], class_of == class_id) for class_id in has_own.nonzero()[0].tolist()]
    left = set((~has_own).nonzero()[0].tolist())
    for name in GROUPS:
        members = sorted(left.intersection(validation.groups.get(name, ())))
        inside = np.isin(class_of, members)
        if inside.sum() >= fewest:
            pools.append(_Pool(name, members, inside))
            left -= set(members)
    if left:
        pools.append(_Pool("rest", sorted(left), np.isin(class_of, sorted(left))))
    return pools


def _fewest(coverage: float) -> int:
    """Images with which a coverage can be had: from this `n` on `ceil((n + 1) * coverage) <= n`."""
    return math.ceil(coverage / (1 - coverage) - _TINY)


def _for_each_class(rows: list[dict[str, Any]], num_classes: int, never: float) -> Thresholds:
    values = np.full(num_classes, never)
    for row in rows:
        if row["threshold"] is not None:
            values[row["classes"]] = row["threshold"]
    return Thresholds(values, rows)


def _precision(answered: int, right: int) -> dict[str, Any]:
    """The precision of answers in percent, and its 95 % interval of Clopper and Pearson."""
    from scipy.special import betaincinv

    if not answered:
        return {"precision": None, "interval": None}
    low = betaincinv(right, answered - right + 1, 0.025) if right else 0.0
    high = betaincinv(right + 1, answered - right, 0.975) if right < answered else 1.0
    return {"precision": 100 * right / answered, "interval": [100 * float(low), 100 * float(high)]}


def _by_group(
    labels: np.ndarray, predicted: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Which images are of a group's classes, and for which one of them is predicted; `overall` is all."""
    every = np.ones(len(labels), bool)
    found = {
        name: (np.isin(labels, groups[name]), np.isin(predicted, groups[name])) for name in GROUPS if name in groups
    }
    return {"overall": (every, every)} | found


def _percent(holds: np.ndarray) -> float | None:
    return none_for_nan(float(percent(holds.sum(), np.array(len(holds)))))


def _check_share(name: str, value: float) -> None:
    if value not in SHARES:
        raise DeiTLTError(f"{name} is {value:g}; pass {SHARES}, such as {0.95 if name == 'precision' else 0.9}")
