"""The reference's learning rates, as plain functions of the epoch; epochs may be fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine_with_warmup(
    epoch: float,
    *,
    epochs: float,
    learning_rate: float,
    min_learning_rate: float = 1e-5,
    warmup_epochs: float = 5,
    warmup_learning_rate: float = 1e-6,
) -> float:
    """The student's schedule: a cosine over all epochs, whose start is replaced by a linear warm-up.

    The cosine starts at epoch 0, unlike transformers', which start at the end of the warm-up; so it is below
    `learning_rate` there already.

    Example:
        >>> round(cosine_with_warmup(600, epochs=1200, learning_rate=2.5e-4), 8)
        0.00013
    """
    if epoch < warmup_epochs:
        return warmup_learning_rate + epoch / warmup_epochs * (learning_rate - warmup_learning_rate)
    if epoch >= epochs:
        return min_learning_rate
    return min_learning_rate + 0.5 * (learning_rate - min_learning_rate) * (1 + math.cos(math.pi * epoch / epochs))


def steps_with_warmup(
    epoch: float,
    *,
    learning_rate: float,
    decay_epochs: Sequence[float] = (160, 180),
    decay_factor: float = 0.01,
    warmup_epochs: float = 5,
) -> float:
    """The CIFAR teachers' schedule (Cao et al., 2019): linear warm-up, then a factor at each decay epoch.

    The warm-up rises once per epoch and reaches `learning_rate` in the last of its epochs.

    Example:
        >>> [steps_with_warmup(epoch, learning_rate=0.1) for epoch in (0, 4, 159, 160)]
        [0.02, 0.1, 0.1, 0.001]
    """
    if epoch < warmup_epochs:
        return learning_rate * min(math.floor(epoch) + 1, warmup_epochs) / warmup_epochs
    return learning_rate * decay_factor ** sum(epoch >= decay_epoch for decay_epoch in decay_epochs)


def sam_radius(epoch: float, *, epochs: float, radii: Sequence[float], change_epochs: Sequence[float] = ()) -> float:
    """SAM's radius in an epoch, by the schedules published for long tails (Rangwani et al., 2022).

    A single one of `radii` holds in all epochs. With `change_epochs`, the second radius and those after it begin there.
    Two radii without `change_epochs` are those of the first and the last epoch, with equal steps between them.

    Example:
        >>> [sam_radius(epoch, epochs=90, radii=(0.05, 0.1, 0.5), change_epochs=(5, 60)) for epoch in (4.9, 5, 60)]
        [0.05, 0.1, 0.5]
        >>> [sam_radius(epoch, epochs=5, radii=(0, 1)) for epoch in (0, 0.9, 1, 4)]
        [0.0, 0.0, 0.25, 1.0]
    """
    if change_epochs or len(radii) == 1:
        return radii[sum(epoch >= change_epoch for change_epoch in change_epochs)]
    first, last = radii
    return first + (last - first) * min(math.floor(epoch) / max(epochs - 1, 1), 1.0)
