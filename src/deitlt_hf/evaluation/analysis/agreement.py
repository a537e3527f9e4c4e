"""How often two predictions are the same: the DIST expert follows the teacher, the CLS expert the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deitlt_hf.evaluation.measures import GROUPS
from deitlt_hf.long_tail_accuracy.scores import accuracies, grouped_tally


def grouped_agreement(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Share of images to which two predictions give the same class, right or wrong, in percent.

    Args:
        first, second: predicted class ids, integers `(N,)`.
        labels: true class ids `(N,)`, which say the group of each image.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, lists of class ids.

    Returns:
        `{"overall", "head", "mid", "tail"}` in 0 to 100: `overall` over images, a group's the mean over its classes, as
        in `grouped_accuracy`; nan without images.

    Example:
        >>> same = grouped_agreement(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([0, 0, 1]),
        ...                          {"head": [0], "mid": [], "tail": [1]})
        >>> same["head"], same["tail"]
        (100.0, 0.0)
    """
    # An image on which both agree counts as predicted right, any other as predicted as no class.
    images, same, members = grouped_tally(np.where(first == second, labels, -1), labels, groups)
    means = accuracies(images, same, members)
    return {name: float(means[name]) for name in ("overall", *GROUPS)}
