"""A test or validation split for data that have none: the same images whatever is added, copies on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset

from deitlt_hf.data.columns import labels_of
from deitlt_hf.data.duplicates import image_hashes
from deitlt_hf.errors import DeiTLTError, counted, notice, some


@dataclass(frozen=True)
class HeldOut:
    """A data set in two parts, each in the order of the images, and how they were drawn."""

    train: Dataset
    held: Dataset  # the test or validation split
    fraction: float
    seed: int
    # For each class, in label order, the hash (hexadecimal) of its training image with the smallest number, which a
    # draw from changed data would hold out first. Passed to `hold_out` again, these images stay training images.
    kept: list[str]
    # The hashes of held-out images whose number is not below the fraction: each is the one that its class gave.
    # Passed to `hold_out` again, these images stay held out.
    given: list[str]
    # The names of the groups on each side, if whole groups were held out; see `hold_out_groups`.
    train_groups: list[str] = field(default_factory=list)
    held_groups: list[str] = field(default_factory=list)


def hold_out(
    dataset: Dataset,
    fraction: float = 0.2,
    seed: int = 0,
    kept: Collection[str] = (),
    given: Collection[str] = (),
    split: str = "test",
) -> HeldOut:
    """Split off a part of every class, where `Dataset.train_test_split` would move images whenever others are added.

    The hash of an image's file, the seed and the split's name make a number from 0 to 1; the image is held out if that
    is below `fraction`. So an image stays where it is when others come or go, and identical files are on one side. A
    class of `n` different images gives `n * fraction` of them on average. Small classes need two rules more:

    - A class that should give an image (`n * fraction` is 0.5 or more), but has none below the fraction, gives the one
      with the smallest number.
    - A class keeps a training image: if all would be held out, the one with the largest number, and its copies, are
      not.

    By these two, a training image of a class that grows out of a few images can be held out later, and a held-out one
    can become a training image. `kept` and `given` of an earlier draw prevent that; a run records them.
    """
    check_fraction(split, fraction)
    labels = labels_of(dataset)
    hashes, image_of = np.unique(image_hashes(dataset, "train"), axis=0, return_inverse=True)  # copies are one image
    names = [row.tobytes() for row in hashes]
    numbers = np.array([number_of(name, seed, split) for name in names])
    stays, stays_held = (np.isin([name.hex() for name in names], list(those)) for those in (kept, given))
    # One stable sort instead of a pass over all labels per class.
    rows_of = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    classes = {label: image_of.reshape(-1)[rows] for label, rows in enumerate(rows_of) if rows.size}
    held = _draw(list(classes.values()), numbers, fraction, stays, stays_held)
    instead = f"add images, pass a larger {split}_fraction, or a {split} split"
    if not held.any():
        raise DeiTLTError(
            f"the data have no {split} split, and {split}_fraction {fraction:g} of each class's different images "
            f"is none: {instead}"
        )
    without = [dataset.features["label"].int2str(label) for label, of in classes.items() if not held[of].any()]
    if without:
        notice(
            f"{counted(len(without), 'class')} {'has' if len(without) == 1 else 'have'} no {split} image in the "
            f"held-out split: {some(without)}; {instead}"
        )
    is_held = held[image_of.reshape(-1)]
    return HeldOut(
        train=dataset.select(np.flatnonzero(~is_held)),
        held=dataset.select(np.flatnonzero(is_held)),
        fraction=fraction,
        seed=seed,
        kept=[names[_first(of[~held[of]], numbers)].hex() for of in classes.values()],
        given=[names[image].hex() for image in np.flatnonzero(held & (numbers >= fraction))],
    )


def _draw(
    classes: Sequence[np.ndarray], numbers: np.ndarray, fraction: float, stays: np.ndarray, stays_held: np.ndarray
) -> np.ndarray:
    """Which images are held out, bool `(images,)`; `classes` has the images of each class."""
    held = ((numbers < fraction) | stays_held) & ~stays
    too_few = [of for of in classes if not held[of].any() and np.unique(of).size * fraction >= 0.5]
    for images in too_few:
        first = _first(images, numbers)
        held[first] |= not stays[first]
    too_many = [of for of in classes if held[of].all()]
    for images in too_many:
        held[images[numbers[images].argmax()]] = False
    return held


def _first(images: np.ndarray, numbers: np.ndarray) -> int:
    """The image with the smallest number."""
    return images[numbers[images].argmin()]


def check_fraction(split: str, fraction: float) -> None:
    """Refuse a fraction that is not above 0 and below 1."""
    if not 0 < fraction < 1:
        raise DeiTLTError(f"{split}_fraction is {fraction}: pass a share above 0 and below 1, such as 0.2")


def number_of(name: bytes, seed: int, split: str = "test") -> float:
    """A pseudo-random number in [0, 1) that follows from the seed, the split, and an image's hash or a group's name.

    The splits have different numbers: those of the training images that the test split leaves are all above its
    fraction, so that a smaller fraction of the same numbers would hold out none of them.
    """
    salt = f"{seed} " if split == "test" else f"{split} {seed} "
    return int.from_bytes(hashlib.sha256(salt.encode() + name).digest()[:6]) / 2**48
