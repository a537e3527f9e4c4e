"""What the splits of a data set are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from deitlt_hf.errors import DeiTLTError

# Names of the test split, the first found taken.
TEST_SPLITS = ("test", "validation", "valid", "val")
SPLITS = ("train", *TEST_SPLITS)


Split = TypeVar("Split")


def known_splits(splits: Mapping[str, Split], needs_train: bool = True) -> dict[str, Split]:
    """`train`, `test` (a validation split where there is no test), and `validation` where there is one besides `test`.

    Args:
        splits: by their names.
        needs_train: whether data without a train split are refused. If not, the test split is called `train`, as all
            images of data without splits are: they are what there is.

    Raises:
        DeiTLTError: for data without a train split, and without any of `SPLITS`.

    Example:
        >>> known_splits({"extra": 1, "val": 2, "train": 3})
        {'train': 3, 'test': 2}
    """
    held_out = [splits[name] for name in TEST_SPLITS if name in splits]
    if "train" not in splits and held_out and not needs_train:
        return {"train": held_out[0]}
    if "train" not in splits:
        raise DeiTLTError(
            f"the data have no train split, only {', '.join(splits)}: name the training images' split 'train'"
        )
    return dict(zip(("train", "test", "validation"), [splits["train"], *held_out], strict=False))
