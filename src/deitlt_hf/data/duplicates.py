"""Identical images in a data set, found by the hashes of their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

EXAMPLES, MEMBERS_SHOWN = 5, 4


@dataclass
class Duplicates:
    """Identical images; a group is an image that is there more than once.

    Args:
        groups: how many such images there are.
        copies: images beyond the first of each group: so many fewer would do.
        within: of each split, groups with at least two images in it.
        across: groups with images in more than one split.
        in_train: of each other split, images that are in train too.
        conflicting: groups whose images have different labels.
        examples: names of images of the first groups; conflicting ones first, then those across splits.
    """

    groups: int
    copies: int
    within: dict[str, int]
    across: int
    in_train: dict[str, int]
    conflicting: int
    examples: list[list[str]]


def find_duplicates(
    hashes: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    readable: Mapping[str, np.ndarray],
    name_of: Callable[[str, int], str],
) -> Duplicates:
    """Group the images of all splits by hash.

    Args:
        hashes: of each split, `train` first, `(images, 2)` uint64: 16 bytes of each image's hash.
        labels: of each split, `(images,)` ints.
        readable: of each split, `(images,)` bools; the others are left out.
        name_of: names an image by its split and position, for the examples.

    Example:
        >>> hashes = {"train": np.array([[1, 1], [2, 2], [1, 1]], np.uint64), "test": np.array([[1, 1]], np.uint64)}
        >>> labels = {"train": np.array([0, 1, 0]), "test": np.array([1])}
        >>> readable = {name: np.ones(len(part), bool) for name, part in labels.items()}
        >>> find_duplicates(hashes, labels, readable, lambda split, index: f"{split} {index}")
        Duplicates(groups=1, copies=2, within={'train': 1, 'test': 0}, across=1, in_train={'test': 1}, conflicting=1, \
examples=[['train 0', 'train 2', 'test 0']])
    """
    names = list(hashes)
    kept = {name: np.flatnonzero(readable[name]) for name in names}
    keys = np.concatenate([hashes[name][kept[name]] for name in names])
    split_of = np.repeat(np.arange(len(names), dtype=np.int8), [len(kept[name]) for name in names])
    position = np.concatenate([kept[name] for name in names])
    label = np.concatenate([labels[name][kept[name]] for name in names])
    order = np.lexsort(keys.T)  # stable: within a group by split and position
    keys, split_of, position, label = keys[order], split_of[order], position[order], label[order]

    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)][: len(keys)])
    sizes = np.diff(np.r_[starts, len(keys)])
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    group_of = np.repeat(np.arange(len(starts)), sizes)
    member = np.repeat(starts - np.r_[0, np.cumsum(sizes)[:-1]][: len(starts)], sizes) + np.arange(sizes.sum())
    split_of, position, label = split_of[member], position[member], label[member]

    in_split = np.stack([np.bincount(group_of[split_of == i], minlength=len(starts)) for i in range(len(names))])
    across = (in_split > 0).sum(axis=0) > 1
    conflicting = np.zeros(len(starts), bool)
    np.logical_or.at(conflicting, group_of, label != label[np.searchsorted(group_of, group_of)])
    shown = np.lexsort((~across, ~conflicting))[:EXAMPLES]
    return Duplicates(
        groups=len(starts),
        copies=int((sizes - 1).sum()),
        within={name: int((in_split[i] > 1).sum()) for i, name in enumerate(names)},
        across=int(across.sum()),
        in_train={name: int(in_split[i, in_split[0] > 0].sum()) for i, name in enumerate(names) if i},
        conflicting=int(conflicting.sum()),
        examples=[
            [name_of(names[split_of[i]], int(position[i])) for i in np.flatnonzero(group_of == group)[:MEMBERS_SHOWN]]
            for group in shown
        ],
    )


def one_of_each_class(hashes: np.ndarray, labels: np.ndarray) -> list[str]:
    """The smallest hash of each class, in hexadecimal, by which a class is known again under another label.

    Args:
        hashes: `(images, 2)` uint64, see `image_hashes`.
        labels: `(images,)` ints, each class from 0 up among them.

    Example:
        >>> one_of_each_class(np.array([[3, 0], [2, 0], [1, 0]], np.uint64), np.array([0, 0, 1]))
        ['02000000000000000000000000000000', '01000000000000000000000000000000']
    """
    order = np.lexsort((*hashes.T, labels))
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return [hashes[row].tobytes().hex() for row in order[first]]


def count_in_train(train: np.ndarray, test: np.ndarray) -> int:
    """How many test images are identical to training images.

    Args:
        train, test: `(images, 2)` uint64, see `image_hashes`.

    Example:
        >>> count_in_train(np.array([[1, 1], [2, 2]], np.uint64), np.array([[1, 1], [1, 2], [1, 1]], np.uint64))
        2
    """
    known = {row.tobytes() for row in train}
    return sum(row.tobytes() in known for row in test)
