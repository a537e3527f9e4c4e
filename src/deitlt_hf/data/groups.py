"""Groups of images, such as the sites of camera traps or patients: each is on one side of a held-out split."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from datasets import Dataset, DatasetDict

from deitlt_hf.data.columns import GROUP, labels_of, selected
from deitlt_hf.data.holdout import HeldOut, check_fraction, number_of
from deitlt_hf.errors import DeiTLTError, counted, notice, some


def groups_of(dataset: Dataset) -> np.ndarray:
    """The name of each image's group, an array of str `(num_rows,)`."""
    return np.array(selected(dataset, dataset.data.column(GROUP)).to_pylist(), dtype=object)


def hold_out_groups(
    dataset: Dataset,
    column: str,
    fraction: float = 0.2,
    seed: int = 0,
    kept: Collection[str] = (),
    given: Collection[str] = (),
    split: str = "test",
) -> HeldOut:
    """Split off groups of images, as `hold_out` splits off images: by a number that follows from the group's name.

    So a group stays where it is when images or groups come or go. Its number is a hash of the seed, the split's name
    and its own, and it is held out if that is below `fraction`, a share of the groups. Two rules more, as far as groups
    allow:

    - A class keeps a training image: of its groups, if all would be held out, the one with the largest number is not.
    - Classes of `n` groups that should give one (`n * fraction` is 0.5 or more), but have none below the fraction, get
      theirs held out, smallest number first, while the held-out groups are no more than that share of all.

    `kept` are training groups of an earlier draw, which are never held out, and `given` its held-out ones, which stay
    held out; a run records both. A notice counts the groups and images on each side, and names the classes without a
    held-out image.
    """
    check_fraction(split, fraction)
    labels = labels_of(dataset)
    names, group_of = np.unique(groups_of(dataset), return_inverse=True)
    numbers = np.array([number_of(name.encode(), seed, split) for name in names])
    has = np.zeros((dataset.features["label"].num_classes, len(names)), bool)  # whether a class is in a group
    has[labels, group_of] = True
    stays, stays_held = (np.isin(names, list(those)) for those in (kept, given))
    held = _draw(has[has.any(axis=1)], numbers, fraction, stays, stays_held)
    if not held.any():
        raise DeiTLTError(
            f"the data have no {split} split, and {split}_fraction {fraction:g} of {counted(len(names), 'group')} of "
            f"{column!r}, where every class keeps a training image, is none: add groups, pass a larger "
            f"{split}_fraction, or a {split} split"
        )
    is_held = held[group_of]
    without = [dataset.features["label"].int2str(int(label)) for label in np.flatnonzero(~has[:, held].any(axis=1))]
    in_split, in_train = (
        f"{counted(int(of.sum()), 'group')} with {counted(int(rows.sum()), 'image')}"
        for of, rows in ((held, is_held), (~held, ~is_held))
    )
    notice(
        f"the {split} split is held out by {column!r}: {in_split} in {split}, {in_train} in train"
        + (f"; no {split} image, because of the groups: {some(without)}" if without else "")
    )
    return HeldOut(
        train=dataset.select(np.flatnonzero(~is_held)),
        held=dataset.select(np.flatnonzero(is_held)),
        fraction=fraction,
        seed=seed,
        kept=[],
        given=[],
        train_groups=names[~held].tolist(),
        held_groups=names[held].tolist(),
    )


def _draw(
    has: np.ndarray, numbers: np.ndarray, fraction: float, stays: np.ndarray, stays_held: np.ndarray
) -> np.ndarray:
    """Which groups are held out, bool `(groups,)`; `has` `(classes, groups)` says which class is in which group."""
    held = ((numbers < fraction) | stays_held) & ~stays
    for groups in has:
        if held[groups].all():
            of_class = np.flatnonzero(groups)
            held[of_class[numbers[of_class].argmax()]] = False
    most = int(len(numbers) * fraction + 0.5)
    should_give = has.sum(axis=1) * fraction >= 0.5
    for group in np.argsort(numbers):
        if held.sum() >= most:
            break
        classes = has[:, group]
        is_needed = (classes & should_give & ~has[:, held].any(axis=1)).any()
        leaves_images = (has[classes][:, ~held].sum(axis=1) > 1).all()
        if is_needed and leaves_images and not held[group] and not stays[group]:
            held[group] = True
    return held


def say_shared_groups(splits: DatasetDict, column: str) -> None:
    """Give a notice if a group has images in more than one split: these images are more alike than those of others."""
    groups = {name: set(groups_of(split).tolist()) for name, split in splits.items()}
    shared = [
        f"{len(groups[name] & groups[other])} of {counted(len(groups[other]), 'group')} of {other} in {name} too"
        for name, other in (("train", "test"), ("train", "validation"), ("validation", "test"))
        if groups.get(name, set()) & groups.get(other, set())
    ]
    if shared:
        notice(
            f"{column!r}: {', '.join(shared)}: the accuracy measured on them will be too high for new groups; put each "
            "group on one side"
        )
