"""A test split for data that have none: the same images whatever is added, identical ones on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
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
    test: Dataset
    test_fraction: float
    seed: int
    # For each class, in label order, the hash (hexadecimal) of its training image with the smallest number, which a
    # draw from changed data would test first. Passed to `hold_out` again, these images stay training images.
    kept: list[str]
    # The names of the groups on each side, if whole groups were held out; see `hold_out_groups`.
    train_groups: list[str] = field(default_factory=list)
    test_groups: list[str] = field(default_factory=list)


def hold_out(dataset: Dataset, test_fraction: float = 0.2, seed: int = 0, kept: Collection[str] = ()) -> HeldOut:
    """Split off a part of every class, where `Dataset.train_test_split` would move images whenever others are added.

    The hash of an image's file and the seed make a number from 0 to 1; the image is tested if that is below
    `test_fraction`. So an image stays where it is when others come or go, and identical files are on one side. A class
    of `n` different images gives `n * test_fraction` of them on average. Small classes need two rules more:

    - A class that should give an image (`n * test_fraction` is 0.5 or more), but has none below the fraction, gives the
      one with the smallest number.
    - A class keeps a training image: if all would be tested, the one with the largest number, and its copies, are not.

    By these two, a training image of a class that grows out of a few images can become a test image. `kept` of an
    earlier draw prevents that; a run records it.
    """
    check_test_fraction(test_fraction)
    labels = labels_of(dataset)
    hashes, image_of = np.unique(image_hashes(dataset, "train"), axis=0, return_inverse=True)  # copies are one image
    names = [row.tobytes() for row in hashes]
    numbers = np.array([number_of(name, seed) for name in names])
    kept = set(kept)
    stays = np.array([name.hex() in kept for name in names])
    tested = (numbers < test_fraction) & ~stays
    # One stable sort instead of a pass over all labels per class.
    rows_of = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    classes = {label: image_of.reshape(-1)[rows] for label, rows in enumerate(rows_of) if rows.size}

    def first(images: np.ndarray) -> int:
        return images[numbers[images].argmin()]

    too_few = [of for of in classes.values() if not tested[of].any() and np.unique(of).size * test_fraction >= 0.5]
    for images in too_few:
        tested[first(images)] |= not stays[first(images)]
    too_many = [of for of in classes.values() if tested[of].all()]
    for images in too_many:
        tested[images[numbers[images].argmax()]] = False

    if not tested.any():
        raise DeiTLTError(
            f"the data have no test split, and test_fraction {test_fraction:g} of each class's different images "
            "is none: add images, pass a larger test_fraction, or a test split"
        )
    untested = [dataset.features["label"].int2str(label) for label, of in classes.items() if not tested[of].any()]
    if untested:
        notice(
            f"{counted(len(untested), 'class')} {'has' if len(untested) == 1 else 'have'} no test image in the "
            f"held-out split: {some(untested)}; add images, pass a larger test_fraction, or a test split"
        )
    is_tested = tested[image_of.reshape(-1)]
    return HeldOut(
        train=dataset.select(np.flatnonzero(~is_tested)),
        test=dataset.select(np.flatnonzero(is_tested)),
        test_fraction=test_fraction,
        seed=seed,
        kept=[names[first(of[~tested[of]])].hex() for of in classes.values()],
    )


def check_test_fraction(test_fraction: float) -> None:
    """Refuse a fraction that is not above 0 and below 1."""
    if not 0 < test_fraction < 1:
        raise DeiTLTError(f"test_fraction is {test_fraction}: pass a share above 0 and below 1, such as 0.2")


def number_of(name: bytes, seed: int) -> float:
    """A pseudo-random number in [0, 1) that follows from the seed and an image's hash, or a group's name."""
    return int.from_bytes(hashlib.sha256(b"%d " % seed + name).digest()[:6]) / 2**48
