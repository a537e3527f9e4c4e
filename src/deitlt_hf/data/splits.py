"""What the splits of a data set are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from deitlt_hf.errors import DeiTLTError, notice, some

# Words that name a split, in lower case; `datasets` knows fewer, and only between separators.
_WORDS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "holdout", "heldout"),
    "validation": ("validation", "valid", "val", "validate", "validating", "dev", "development"),
}
SPLITS = tuple(_WORDS)

_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
_ENDING = re.compile(r"(?<=.)(set|data|images|imgs|labels|list|split)$")  # as in trainset, testlist01
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_HELD_OUT = re.compile(r"(?i)\b(hold|held)[ _.-]?out")

Split = TypeVar("Split")


@lru_cache  # a column of a list may name a split in every row
def split_named(name: str) -> str | None:
    """Which of `SPLITS` the words of a name mean: of a folder, a file without its suffix, a key, or a value.

    Anything but a letter separates words, and so does a capital letter. A name with words of two splits means none.

    Example:
        >>> names = ["Training", "labels-val", "birdsTest2", "test_tube", "trainspotting", "train_test_split"]
        >>> [split_named(name) for name in names]
        ['train', 'validation', 'test', 'test', None, None]
    """
    spaced = _CAMEL_CASE.sub(" ", _HELD_OUT.sub("holdout", str(name)))
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", spaced)]
    named = {_SPLIT_OF_WORD.get(word) or _SPLIT_OF_WORD.get(_ENDING.sub("", word)) for word in words} - {None}
    return named.pop() if len(named) == 1 else None


def splits_of_rows(columns: Mapping[str, Sequence[object]]) -> list[str] | None:
    """Which of `SPLITS` each row belongs to, as the column `split` says; None where there is no such column.

    Notices say what words other than these were taken for, and which column of another name holds splits.
    """
    for column, values in columns.items():
        if column.lower() == "split":
            return _splits_of(column, list(map(str, values)))
    for column, values in columns.items():
        if len(values) and split_named(str(values[0])):
            found = sorted(set(map(str, values)))
            meant = set(map(split_named, found))
            if len(meant) > 1 and None not in meant:
                notice(f"column {column!r} holds {some(found)} but is not used: call it 'split' if it tells the splits")
    return None


def _splits_of(column: str, values: list[str]) -> list[str]:
    splits = {value: split_named(value) for value in dict.fromkeys(values)}
    for value, split in splits.items():
        if split is None:
            raise DeiTLTError(f"the column {column!r} holds {value!r}: pass one of {', '.join(SPLITS)}")
    if any(value.lower() != split for value, split in splits.items()):
        notice(f"column {column!r}: {', '.join(f'{value!r} as {split}' for value, split in splits.items())}")
    return [splits[value] for value in values]


def take_splits(names: Iterable[str], passed_over: Iterable[str] = ()) -> dict[str, str]:
    """The name of each split; if several fit, the plainest: `train` and not `train_masks`.

    A notice says what was taken and what was not, unless the names are just `train`, `test` and `validation`.
    """
    names = list(names)
    taken = {}
    for split in SPLITS:
        fitting = sorted((name for name in names if split_named(name) == split), key=_distance_from_plain)
        if split == "train" and len(fitting) > 1 and len(set(map(_distance_from_plain, fitting[:2]))) == 1:
            raise DeiTLTError(
                f"{fitting[0]!r} and {fitting[1]!r} could each be the train split: call the right one 'train'"
            )
        if fitting:
            taken[split] = fitting[0]
    left = [name for name in names if name not in taken.values()] + list(passed_over)
    if taken and (left or any(split != name for split, name in taken.items())):
        shown = ", ".join(f"{name!r} as {split}" for split, name in taken.items())
        notice(f"splits: {shown}" + (f"; passed over: {some(left)}" if left else ""))
    return taken


def known_splits(
    splits: Mapping[str, Split], needs_train: bool = True, is_labelled: Callable[[Split], bool] = lambda split: True
) -> dict[str, Split]:
    """`train`, and `test` and `validation` as far as there are such splits.

    Notices say which names were taken for them, see `take_splits`, and what became of the others. Splits other than
    train are passed over where `is_labelled` is false. Data without a train split are refused if `needs_train`; else
    their test split (or, without one, the validation split) is called `train`, as all images of data without splits
    are.
    """
    taken = {split: splits[name] for split, name in take_splits(splits).items()}
    for split in ("test", "validation"):
        if split in taken and not is_labelled(taken[split]):
            notice(f"no image of the {split} split has a label (all are -1 or empty): the split is passed over")
            del taken[split]
    if "train" not in taken and taken and not needs_train:
        return {"train": taken.get("test", taken.get("validation"))}
    if "train" not in taken:
        raise DeiTLTError(
            f"the data have no train split, only {', '.join(splits)}: name the training images' split 'train'"
        )
    return taken


def _distance_from_plain(name: str) -> int:
    """0 for `train`, 1 for `Train`, 2 for `training`, 3 for `train_set`."""
    split = split_named(name)
    return 0 if name == split else 1 if name.lower() == split else 2 if name.lower() in _SPLIT_OF_WORD else 3
