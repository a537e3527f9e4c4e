"""A test split for data that have none."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from deitlt_hf.data.columns import labels_of
from deitlt_hf.data.long_tail import seeded
from deitlt_hf.errors import DeiTLTError


def hold_out(dataset: Dataset, test_fraction: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split off a part of every class.

    A class of `n` images gives `n * test_fraction` of them, rounded with halves up, but never its last one. Both parts
    keep the order of the images.

    Args:
        dataset: rows with a `label` column.
        test_fraction: share of each class's images, above 0 and below 1.
        seed: seed of the draw; the same seed gives the same split.

    Returns:
        `(train, test)`.

    Raises:
        DeiTLTError: for a fraction out of its range, and where no class would give an image.

    Example:
        >>> train, test = hold_out(Dataset.from_dict({"label": [0] * 10 + [1] * 2 + [2]}), test_fraction=0.25)
        >>> train["label"][:], test["label"][:]
        ([0, 0, 0, 0, 0, 0, 0, 1, 2], [0, 0, 0, 1])
    """
    check_test_fraction(test_fraction)
    labels = labels_of(dataset)
    generator = seeded(seed)
    # One stable sort instead of a pass over all labels per class.
    classes = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    held_out = np.zeros(len(labels), dtype=bool)
    for positions in classes:
        count = min(int(len(positions) * test_fraction + 0.5), len(positions) - 1)
        held_out[generator.permutation(positions)[: max(count, 0)]] = True
    if not held_out.any():
        raise DeiTLTError(
            f"the data have no test split, and test_fraction {test_fraction:g} of each class's images is none: "
            "add images, pass a larger test_fraction, or a test split"
        )
    return dataset.select(np.flatnonzero(~held_out)), dataset.select(np.flatnonzero(held_out))


def check_test_fraction(test_fraction: float) -> None:
    """Raise `DeiTLTError` unless the fraction is above 0 and below 1.

    Example:
        >>> check_test_fraction(0.2)
    """
    if not 0 < test_fraction < 1:
        raise DeiTLTError(f"test_fraction is {test_fraction}: pass a share above 0 and below 1, such as 0.2")
