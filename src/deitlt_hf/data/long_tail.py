"""Long-tailed class profiles, the training images they select, and the head, mid and tail groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deitlt_hf.errors import DeiTLTError

# The only import from above: `evaluate` copies that file out of the package with the metric, so the rule must be in it.
from deitlt_hf.long_tail_accuracy.scores import groups_by_count

PROFILES = ("exp", "step")


def check_imbalance_factor(imbalance_factor: float) -> None:
    """Raise `DeiTLTError` unless the factor (largest / smallest class count) is a finite number of at least 1."""
    if not 1 <= imbalance_factor < math.inf:
        raise DeiTLTError(
            f"imbalance_factor is {imbalance_factor}, but it is the largest class count divided by the smallest: "
            "pass a number of at least 1, such as 100"
        )


def check_class_counts(class_counts: Sequence[int], names: Sequence[str] | None = None) -> None:
    """Raise `DeiTLTError` if a class has no training images, and name the first such class."""
    empty = [label for label, count in enumerate(class_counts) if count < 1]
    if empty:
        name = "" if names is None else f" ({names[empty[0]]!r})"
        others = f", as have {len(empty) - 1} others" if len(empty) > 1 else ""
        raise DeiTLTError(
            f"class without training images: class {empty[0]} of {len(class_counts)}{name} has none{others}; "
            "add images of it or remove it from the label names"
        )


def class_counts_for_imbalance(
    num_classes: int, max_per_class: float, imbalance_factor: float, profile: str = "exp"
) -> list[int]:
    """Training images per class of a long-tailed profile, largest class first, as the reference counts them.

    `"exp"` falls exponentially from `max_per_class` to `max_per_class / imbalance_factor` (Cao et al. 2019); `"step"`
    gives the first half of the classes the former and the rest the latter. Fractions are cut off.

    Args:
        num_classes: number of classes, at least 1; a single class gets `max_per_class`.
        max_per_class: images of the largest class.
        imbalance_factor: largest count / smallest count, at least 1 (the paper's 100 and 50, not 0.01).
        profile: `"exp"` (default) or `"step"`.

    Returns:
        `num_classes` ints, in label order.

    Raises:
        DeiTLTError: for an imbalance factor below 1, an unknown profile, or a class that would get no image.

    Example:
        >>> class_counts_for_imbalance(10, 5000, 100)
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    if num_classes < 1 or max_per_class < 1:
        raise DeiTLTError(
            f"a profile needs at least 1 class and 1 image in the largest, not {num_classes} classes of {max_per_class}"
        )
    counts = [int(max_per_class * share) for share in _shares(num_classes, imbalance_factor, profile)]
    if 0 in counts:
        works = next(factor for factor in range(int(max_per_class), 0, -1) if int(max_per_class * (1 / factor)) > 0)
        raise DeiTLTError(
            f"imbalance_factor {imbalance_factor:g} leaves class {counts.index(0)} without training images when the "
            f"largest class has {max_per_class:g}: pass an imbalance factor of at most {works}"
        )
    return counts


def _shares(num_classes: int, imbalance_factor: float, profile: str) -> list[float]:
    """Images of each class as a share of the largest class's."""
    check_imbalance_factor(imbalance_factor)
    if profile not in PROFILES:
        raise DeiTLTError(f"profile is {profile!r}: pass one of {', '.join(map(repr, PROFILES))}")
    # The reference multiplies by 1 / imbalance_factor instead of dividing, which can cut off one image more.
    smallest_share = 1 / imbalance_factor
    last = max(num_classes - 1, 1)
    exponents = [i / last if profile == "exp" else float(i > 0 and i >= num_classes // 2) for i in range(num_classes)]
    return [smallest_share**exponent for exponent in exponents]


def long_tailed_indices(
    labels: Sequence[int] | np.ndarray, imbalance_factor: float, profile: str = "exp", seed: int = 0
) -> np.ndarray:
    """Select a long-tailed subset of a training set: exactly the images that the reference selects, in its order.

    Of a balanced set, as the reference's are, the first class keeps all images and the others what
    `class_counts_for_imbalance` gives them. Of an uneven one, the most frequent class stays the most frequent and so
    on, and as many images are kept as the imbalance factor allows. Classes come in label order, each shuffled.

    Args:
        labels: `(num_images,)` ints; every class from 0 to the largest label must occur.
        imbalance_factor: largest count / smallest count, at least 1.
        profile: `"exp"` (default) or `"step"`.
        seed: of the legacy numpy generator that shuffles each class, from 0 to 2**32 - 1.

    Returns:
        int64 array of positions in `labels`.

    Raises:
        DeiTLTError: for labels that are negative or leave a class out, a seed out of range, and for what
            `class_counts_for_imbalance` refuses.

    Example:
        >>> long_tailed_indices([0, 1] * 4, imbalance_factor=4).shape
        (5,)
    """
    labels = np.asarray(labels, dtype=np.int64)
    if labels.size == 0 or labels.min() < 0:
        raise DeiTLTError(f"labels must be ints from 0 up, at least one of them; got {labels.size} labels")
    available = np.bincount(labels)
    check_class_counts(available.tolist())
    counts = _counts_within(available, imbalance_factor, profile)
    # One stable sort lists each class's positions in ascending order, as the reference's pass per class does.
    classes = np.split(np.argsort(labels, kind="stable").astype(np.int64), np.cumsum(available)[:-1])
    try:
        generator = np.random.RandomState(seed)  # NumPy's legacy generator, which the reference draws with
    except (TypeError, ValueError) as error:
        raise DeiTLTError(f"the seed of the selection is {seed}: pass an int from 0 to {2**32 - 1}") from error
    for positions in classes:
        generator.shuffle(positions)
    return np.concatenate([positions[:count] for positions, count in zip(classes, counts, strict=True)])


def _counts_within(available: np.ndarray, imbalance_factor: float, profile: str) -> list[int]:
    """Counts of the profile in label order, the largest for which no class needs more images than it has."""
    by_frequency = np.argsort(-available, kind="stable")
    shares = np.array(_shares(len(available), imbalance_factor, profile))
    largest = (available[by_frequency] / shares).min()
    if largest < available.max():
        largest *= 1 + 1e-12  # or rounding could cut off a whole product
    counts = np.empty_like(available)
    counts[by_frequency] = class_counts_for_imbalance(len(available), largest, imbalance_factor, profile)
    return counts.tolist()


def class_groups(
    class_counts: Sequence[int],
    thresholds: tuple[int, int] | None = None,
    *,
    boundaries: tuple[int, int] | None = None,
) -> dict[str, list[int]]:
    """Split the classes into head, mid and tail by their number of training images.

    Args:
        class_counts: training images per class, in label order.
        thresholds: `(high, low)`: head classes have more than `high` images, tail classes fewer than `low`, mid classes
            the rest. By default `(100, 20)`, usual for ImageNet-LT; or thirds of the classes by frequency where that
            would leave a group empty, cut where the frequency changes, so that equally frequent classes stay together.
        boundaries: `(first, second)`: with classes in order of falling frequency (ties by label), the first `first`
            are head, those up to `second` mid, the rest tail. Overrides `thresholds`; the paper's tables use `(3, 7)`
            for CIFAR-10, `(36, 71)` for CIFAR-100.

    Returns:
        `{"head": [...], "mid": [...], "tail": [...]}`: class ids, by falling frequency with `boundaries` and in thirds,
        and in label order with `thresholds`. A group may be empty with `thresholds` or `boundaries`, or where classes
        have fewer than three different frequencies.

    Raises:
        DeiTLTError: for a class without training images, and for thresholds or boundaries out of order or range.

    Example:
        >>> class_groups([500, 60, 5])
        {'head': [0], 'mid': [1], 'tail': [2]}
        >>> class_groups([9, 7, 7, 5, 3])  # none has more than 100 images
        {'head': [0], 'mid': [1, 2], 'tail': [3, 4]}
        >>> class_groups([5, 60, 500], boundaries=(1, 2))
        {'head': [2], 'mid': [1], 'tail': [0]}
    """
    check_class_counts(class_counts)
    try:
        return groups_by_count(class_counts, thresholds, boundaries)
    except ValueError as error:
        raise DeiTLTError(str(error)) from error
