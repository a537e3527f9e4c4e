"""Identical images, known by the hashes of their files."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict

from deitlt_hf.data.columns import labels_of
from deitlt_hf.data.readable import cache_file, look_at_images
from deitlt_hf.errors import DeiTLTError, counted, notice
from deitlt_hf.files import whole_file

EXAMPLES, MEMBERS_SHOWN = 5, 4

_HASH_BYTES = 16
_WORTH_KEEPING = 1.0  # seconds that hashing took
_BAR_AFTER = 2.0  # seconds


def image_hashes(dataset: Dataset, split: str) -> np.ndarray:
    """The hash `(images, 2)` uint64 of what is stored of each image: its file, or the bytes in the table.

    No image is decoded. An image at an address, or whose file cannot be read, has the hash of its path. Hashes that
    took over a second are kept in the cache of `datasets` until the rows, or the files that they refer to, change.
    """
    cache = cache_file(dataset, "hashes", ".npy")
    if cache.is_file():
        return np.load(cache)
    started = time.perf_counter()
    looked = look_at_images(dataset, _hash_of_image, desc=f"hashing {split} images", delay=_BAR_AFTER)
    hashes = np.frombuffer(b"".join(digest for _, _, digest in looked), np.uint64).reshape(-1, 2)
    if time.perf_counter() - started > _WORTH_KEEPING:
        with whole_file(cache) as unfinished:  # several processes may hash at once
            np.save(unfinished, hashes)
    return hashes


def hash_of(content: bytes) -> bytes:
    """The 16 bytes that stand for the file of an image."""
    return hashlib.blake2b(content, digest_size=_HASH_BYTES).digest()


def _hash_of_image(image: Mapping[str, Any] | None) -> bytes:
    image = image or {}
    if image.get("bytes") is not None:
        return hash_of(image["bytes"])
    path = image.get("path") or ""
    try:
        if os.path.isfile(path):  # a named pipe would wait for ever
            with open(path, "rb") as file:
                return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_HASH_BYTES)).digest()
    except (OSError, ValueError):  # ValueError: a path with a null in it
        pass
    return hash_of(b"path " + os.fsencode(path))


@dataclass
class Duplicates:
    """Identical images; a group is all copies of one image."""

    groups: int
    copies: int  # images beyond the first of each group
    within: dict[str, int]  # groups with at least two images in this split
    across: int  # groups with images in more than one split
    in_train: dict[str, int]  # images of each other split that are in train too
    conflicting: int  # groups whose images have different labels
    examples: list[list[str]]  # names of images: of conflicting groups first, then of those across splits


def find_duplicates(splits: Mapping[str, pd.DataFrame], name_of: Callable[[str, int], str]) -> Duplicates:
    """Group the images of all splits, `train` first, by their hashes: columns `high`, `low`, `label`, by position."""
    first, *others = splits
    images = pd.concat(splits, names=["split", "position"]).reset_index()
    images = images[images.duplicated(["high", "low"], keep=False)]
    images["group"] = images.groupby(["high", "low"], sort=False).ngroup()
    in_split = pd.crosstab(images["group"], images["split"]).reindex(columns=list(splits), fill_value=0)
    across = (in_split > 0).sum(axis=1) > 1
    conflicting = images.groupby("group")["label"].nunique() > 1
    ranked = pd.DataFrame({"conflicting": conflicting, "across": across})
    ranked = ranked.sort_values(["conflicting", "across"], ascending=False, kind="stable")
    shown = [images[images["group"] == group].head(MEMBERS_SHOWN) for group in ranked.index[:EXAMPLES]]
    return Duplicates(
        groups=len(in_split),
        copies=len(images) - len(in_split),
        within={name: int((in_split[name] > 1).sum()) for name in splits},
        across=int(across.sum()),
        in_train={name: int(in_split.loc[in_split[first] > 0, name].sum()) for name in others},
        conflicting=int(conflicting.sum()),
        examples=[[name_of(row.split, row.position) for row in of.itertuples()] for of in shown],
    )


@dataclass(frozen=True)
class Dropped:
    """Images that `without_duplicates` left out."""

    copies: int  # training images after the first of identical ones
    in_other_split: int  # training images that are in validation or test too, validation images that are in test too
    conflicting: int  # images of any split whose copies have different labels


def without_duplicates(splits: DatasetDict) -> tuple[DatasetDict, Dropped]:
    """Leave out images that are identical to others, by the hashes of their files; a notice counts them.

    Of identical training images the first stays. An image of two splits stays in `test` rather than in `validation`,
    and in `validation` rather than in `train`. An image that has different labels is left out everywhere, because it
    is unknown which label is right. Copies within `test` or `validation` stay, so that these splits stay comparable.
    """
    in_order = [name for name in ("test", "validation", "train") if name in splits]
    hashed = {name: pd.DataFrame(image_hashes(splits[name], name), columns=["high", "low"]) for name in in_order}
    images = pd.concat({name: of.assign(label=labels_of(splits[name])) for name, of in hashed.items()}, names=["split"])
    images = images.reset_index("split").reset_index(drop=True)
    same = images.groupby(["high", "low"], sort=False)
    conflicting = same["label"].transform("nunique") > 1
    in_other_split = ~conflicting & (same["split"].transform("first") != images["split"])
    repeated = images.duplicated(["high", "low"]) & (images["split"] == "train")
    copies = repeated & ~conflicting & ~in_other_split
    left_out = conflicting | in_other_split | copies
    kept = {}
    for name, split in splits.items():
        rows = np.flatnonzero(~left_out[images["split"] == name])
        if not rows.size:
            raise DeiTLTError(f"no image of the {name} split is left without duplicates: leave drop_duplicates out")
        kept[name] = split if rows.size == split.num_rows else split.select(rows)
    dropped = Dropped(*(int(of.sum()) for of in (copies, in_other_split, conflicting)))
    notice(
        f"drop_duplicates: {int(left_out.sum())} of {counted(len(images), 'image')} left out: {dropped.copies} copies "
        f"in train, {dropped.in_other_split} that are in another split too, {dropped.conflicting} with different labels"
    )
    return DatasetDict(kept), dropped


def one_of_each_class(hashes: np.ndarray, labels: np.ndarray) -> list[str]:
    """The smallest hash of each class, in hexadecimal; it identifies a class whose label or name has changed."""
    order = np.lexsort((*hashes.T, labels))
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return [hashes[row].tobytes().hex() for row in order[first]]


def count_in_train(train: np.ndarray, test: np.ndarray) -> int:
    """How many test images are identical to training images, by their hashes `(images, 2)`."""
    known = {row.tobytes() for row in train}
    return sum(row.tobytes() in known for row in test)
