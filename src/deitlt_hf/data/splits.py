"""What the splits of a data set are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from deitlt_hf.errors import DeiTLTError

# Names of the test split, the first found taken.
TEST_SPLITS = ("test", "validation", "valid", "val")
SPLITS = ("train", *TEST_SPLITS)


Split = TypeVar("Split")


def known_splits(splits: Mapping[str, Split]) -> dict[str, Split]:
    """`train`, `test` (a validation split where there is no test), and `validation` where there is one besides `test`.

    Raises:
        DeiTLTError: for data without a train split.

    Example:
        >>> known_splits({"extra": 1, "val": 2, "train": 3})
        {'train': 3, 'test': 2}
    """
    if "train" not in splits:
        raise DeiTLTError(
            f"the data have no train split, only {', '.join(splits)}: name the training images' split 'train'"
        )
    held_out = [splits[name] for name in TEST_SPLITS if name in splits]
    return dict(zip(("train", "test", "validation"), [splits["train"], *held_out], strict=False))
