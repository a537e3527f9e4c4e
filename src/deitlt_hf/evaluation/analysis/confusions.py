"""Which images of tail classes are taken for head classes, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deitlt_hf.long_tail_accuracy.scores import GROUPS, percent

MOST_PAIRS = 10


def group_confusions(
    predictions: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Groups that images are predicted into, and the commonest mistakes between head and tail.

    Args:
        predictions: predicted class ids, integers `(N,)`.
        labels: true class ids `(N,)`.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, which hold each class once.

    Returns:
        `groups`: three rows, for true head, mid and tail, of percentages of their images that are predicted as a class
        of head, mid and tail, means over the row's classes as in `grouped_accuracy`; nan without images. `pairs`: the
        at most ten commonest mistakes of a head for a tail class or the reverse, `{"true", "predicted", "count"}` with
        class ids, the commonest first.

    Example:
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> confusions = group_confusions(np.array([0, 0, 1, 0]), np.array([0, 1, 1, 1]), groups)
        >>> confusions["pairs"]
        [{'true': 1, 'predicted': 0, 'count': 2}]
        >>> [round(share, 1) for share in confusions["groups"][2]]
        [66.7, 0.0, 33.3]
    """
    num_classes = sum(len(ids) for ids in groups.values())
    group_of = np.zeros(num_classes, dtype=np.int64)
    for index, name in enumerate(GROUPS):
        group_of[np.asarray(groups[name], dtype=np.int64)] = index
    # Images per true class and predicted group; a matrix of classes by classes would be large for thousands of them.
    cells = np.bincount(len(GROUPS) * labels + group_of[predictions], minlength=len(GROUPS) * num_classes)
    cells = cells.reshape(num_classes, len(GROUPS))
    shares = percent(cells, np.broadcast_to(cells.sum(1, keepdims=True), cells.shape))
    rows = [_mean(shares[(group_of == index) & (cells.sum(1) > 0)]) for index in range(len(GROUPS))]
    return {"groups": rows, "pairs": _pairs(predictions, labels, group_of)}


def _mean(shares: np.ndarray) -> list[float]:
    return shares.mean(0).tolist() if len(shares) else [float("nan")] * len(GROUPS)


def _pairs(predictions: np.ndarray, labels: np.ndarray, group_of: np.ndarray) -> list[dict[str, int]]:
    far = np.abs(group_of[labels] - group_of[predictions]) == GROUPS.index("tail") - GROUPS.index("head")
    pairs, counts = np.unique(np.stack([labels[far], predictions[far]], axis=1), axis=0, return_counts=True)
    commonest = np.argsort(-counts, kind="stable")[:MOST_PAIRS]
    return [
        {"true": int(true), "predicted": int(predicted), "count": int(count)}
        for (true, predicted), count in zip(pairs[commonest], counts[commonest], strict=True)
    ]
