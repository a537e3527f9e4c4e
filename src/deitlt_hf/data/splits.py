"""What the splits of a data set are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from deitlt_hf.errors import DeiTLTError, notice

# Words that name a split, in lower case.
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


def split_named(name: str) -> str | None:
    """Which of `SPLITS` the words of a name say: of a folder, a file without its suffix, a key, or a value.

    Words are parted by anything but letters, and by capitals. A name that speaks of two splits says none.

    Example:
        >>> names = ["Training", "labels-val", "birdsTest2", "test_tube", "trainspotting", "train_test_split"]
        >>> [split_named(name) for name in names]
        ['train', 'validation', 'test', 'test', None, None]
    """
    named = {_SPLIT_OF_WORD.get(word) or _SPLIT_OF_WORD.get(_ENDING.sub("", word)) for word in _words(name)} - {None}
    return named.pop() if len(named) == 1 else None


def take_splits(names: Iterable[str], passed_over: Iterable[str] = ()) -> dict[str, str]:
    """The name of each split: the plainest where several fit, so `train` and not `train_masks`.

    A notice says what was taken and what was not, unless the names are just `train`, `test` and `validation`.

    Args:
        names: of folders or keys, one for each split.
        passed_over: others, for the notice.

    Returns:
        `{split: name}` in the order of `SPLITS`.

    Raises:
        DeiTLTError: where two names could equally be `train`.

    Example:
        >>> take_splits(["Testing", "Training"])
        {'train': 'Training', 'test': 'Testing'}
    """
    names = list(names)
    taken = {}
    for split in SPLITS:
        fitting = sorted((name for name in names if split_named(name) == split), key=_embellishment)
        if split == "train" and len(fitting) > 1 and _embellishment(fitting[0]) == _embellishment(fitting[1]):
            raise DeiTLTError(
                f"{fitting[0]!r} and {fitting[1]!r} could each be the train split: call the right one 'train'"
            )
        if fitting:
            taken[split] = fitting[0]
    left = [name for name in names if name not in taken.values()] + list(passed_over)
    if taken and (left or any(split != name for split, name in taken.items())):
        said = ", ".join(f"{name!r} as {split}" for split, name in taken.items())
        notice(f"splits: {said}" + (f"; passed over: {some(left)}" if left else ""))
    return taken


def known_splits(
    splits: Mapping[str, Split], needs_train: bool = True, is_labelled: Callable[[Split], bool] = lambda split: True
) -> dict[str, Split]:
    """`train`, `test` (a validation split where there is no test), and `validation` where there is one besides `test`.

    Notices say which names were taken for them, see `take_splits`, and what became of the others.

    Args:
        splits: by their names.
        needs_train: whether data without a train split are refused. If not, the test split is called `train`, as all
            images of data without splits are: they are what there is.
        is_labelled: tells a split whose images have labels; others than train without any are passed over.

    Raises:
        DeiTLTError: for data without a train split, and without any of `SPLITS`.

    Example:
        >>> known_splits({"val": 2, "train": 3})
        {'train': 3, 'test': 2}
    """
    taken = {split: splits[name] for split, name in take_splits(splits).items()}
    for split in ("test", "validation"):
        if split in taken and not is_labelled(taken[split]):
            notice(f"no image of the {split} split has a label (all are -1 or empty): the split is passed over")
            del taken[split]
    if "test" not in taken and "validation" in taken:
        if "train" in taken:
            notice("there is no test split: the validation split is used as test")
        taken["test"] = taken.pop("validation")
    if "train" not in taken and "test" in taken and not needs_train:
        return {"train": taken["test"]}
    if "train" not in taken:
        raise DeiTLTError(
            f"the data have no train split, only {', '.join(splits)}: name the training images' split 'train'"
        )
    return taken


def some(names: Iterable[str], shown: int = 3) -> str:
    """The first of several names, for a message.

    Example:
        >>> some(["a", "b", "c", "d", "e"])
        "'a', 'b', 'c' and 2 more"
    """
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, map(str, names[:shown]))) + more


def _words(name: str) -> list[str]:
    spaced = _CAMEL_CASE.sub(" ", _HELD_OUT.sub("holdout", str(name)))
    return [word.lower() for word in re.findall(r"[^\W\d_]+", spaced)]


def _embellishment(name: str) -> int:
    """How far a name is from the plain one: `train`, `Train`, `training`, `train_set`."""
    split = split_named(name)
    return 0 if name == split else 1 if name.lower() == split else 2 if name.lower() in _SPLIT_OF_WORD else 3
