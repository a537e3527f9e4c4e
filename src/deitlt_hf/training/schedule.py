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
    """The student's schedule: a cosine over all epochs whose start a linear warm-up replaces.

    The cosine counts from epoch 0, not from the end of the warm-up, so that it is already below `learning_rate` where
    it takes over.

    Example:
        >>> from deitlt_hf.training.schedule import cosine_with_warmup
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
        >>> from deitlt_hf.training.schedule import steps_with_warmup
        >>> [steps_with_warmup(epoch, learning_rate=0.1) for epoch in (0, 4, 159, 160)]
        [0.02, 0.1, 0.1, 0.001]
    """
    if epoch < warmup_epochs:
        return learning_rate * min(math.floor(epoch) + 1, warmup_epochs) / warmup_epochs
    return learning_rate * decay_factor ** sum(epoch >= decay_epoch for decay_epoch in decay_epochs)
