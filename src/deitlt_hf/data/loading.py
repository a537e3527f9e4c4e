"""Data sets with columns `image` and `label`, whatever the source, made long-tailed on request.

Named data sets are in `benchmarks/`, all others are read by `sources.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.data.columns import ColumnNames, labels_of, say_similar, with_image_and_label
from deitlt_hf.data.duplicates import Dropped, without_duplicates
from deitlt_hf.data.groups import hold_out_groups, say_shared_groups
from deitlt_hf.data.holdout import HeldOut, check_fraction, hold_out
from deitlt_hf.data.long_tail import check_class_counts, check_imbalance_factor, long_tailed_indices
from deitlt_hf.data.readable import check_files_exist, fetch_images, leave_out_unreadable, refuse_addresses
from deitlt_hf.data.sources import Source, load_from_hub, read_path, read_streams
from deitlt_hf.errors import DeiTLTError, notice
from deitlt_hf.files import is_hub_id

# Images, by their hashes, or groups, by their names, on one side of an earlier draw, by the split that was drawn.
Earlier = Mapping[str, Collection[str]]
NOTHING: Earlier = MappingProxyType({})


def load_long_tailed_dataset(
    source: Source,
    imbalance_factor: float | None = None,
    *,
    profile: str = "exp",
    seed: int = 0,
    data_dir: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    data_config: str | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float | None = None,
    drop_duplicates: bool = False,
    on_bad_image: str = "error",
    allow_remote_images: bool = False,
) -> DatasetDict:
    """Load an image classification data set and make its train split long-tailed.

    Args:
        source: one of

            - a name of `deitlt_hf.data.benchmarks.BENCHMARKS`, such as `"cifar10-lt"`, `"cifar100-lt"` (downloaded from
              the hub unless `data_dir` is given) and `"digits-lt"` (scikit-learn's digits, no download);
            - a directory with a folder of images per class, or with `train` and `test` folders that hold them;
            - a file, or a directory of files, in Parquet, CSV, TSV or JSON lines: images or their paths (absolute, or
              relative to the file) and class names or ids; files or folders called `train...`, `test...`, or a column
              `split`, tell the splits apart;
            - a directory that `save_to_disk` wrote;
            - a data set of the hub, `"owner/name"`;
            - a `Dataset` or `DatasetDict`; or a streaming one, which is read once into the local cache.
        imbalance_factor: largest class count / smallest, at least 1. None (default) is 100 for the two CIFAR sources
            and 20 for the digits, and leaves other data as they are.
        profile: `"exp"` (default) or `"step"`, see `class_counts_for_imbalance`.
        seed: seed of the selection, see `long_tailed_indices`, and of a held-out test split, see `hold_out`.
        data_dir: for named sources, a local directory; for the CIFAR ones with the Parquet files of the hub's
            `uoft-cs/cifar10` or `uoft-cs/cifar100`.
        image_column: the column of images or their paths; by default found by its type or name.
        label_column: the column of class names or ids; by default found by its type or name.
        group_column: the column of what an image belongs to (a site, a burst, a patient); for class folders
            `"class/group"`, where each class folder holds a folder per group, or `"group/class"`. A held-out test split
            then has whole groups, see `hold_out_groups`; if a group is in several splits of the source, a warning says
            so. The names are kept as a column `group`.
        data_config: configuration of a data set of the hub.
        test_fraction: share of each class of train that is held out where the data have no test split, before the train
            split is made long-tailed. Adding an image moves no other, identical images are on one
            side, and every class keeps a training image; see `hold_out`.
        validation_fraction: share of each class of train that is held out for a split `validation`, in the same way,
            after the train split is made long-tailed; so `test` is what it is without it, and `train` and `validation`
            together are what `train` is. None (default) holds out none. Not used where the data have a validation
            split.
        drop_duplicates: keep one of identical training images (the same file), and none that is in `test` or
            `validation` too; leave images out whose copies have different labels. See `without_duplicates`.
        on_bad_image: `"error"` (default) raises where an image is read that cannot be, and here for files that are
            missing. `"skip"` reads all images once, leaves out those that cannot be read before anything is counted,
            and says in a warning how many they were. `"keep"` looks at none, for an inspection that does.
        allow_remote_images: fetch images at addresses (`https://...`) that files or rows of the source name, once, into
            the cache of `datasets`. False (default) refuses them: whoever wrote the data would choose the hosts.

    Returns:
        Splits `train` (long-tailed), `test`, and `validation` if the data have one or it is held out, with columns
        `image` (`datasets.Image`) and `label` (`ClassLabel`). Encoded images are not changed, images in files not
        copied.

    Raises:
        DeiTLTError: for an unknown source, data that are missing or cannot be read, an imbalance factor below 1, a
            missing train split, columns that are missing or cannot be told apart, labels that are missing or out of
            range, fewer than two classes, a class without training images, and a hub that cannot be reached.

    Example:
        >>> digits = load_long_tailed_dataset("digits-lt", imbalance_factor=20)
        >>> digits["test"].num_rows
        400
    """
    return load_data(
        source,
        imbalance_factor,
        profile=profile,
        seed=seed,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        data_dir=data_dir,
        drop_duplicates=drop_duplicates,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        data_config=data_config,
        on_bad_image=on_bad_image,
        allow_remote_images=allow_remote_images,
    ).splits


@dataclass(frozen=True)
class LoadedData:
    """The splits of a data set, and how they came about."""

    splits: DatasetDict
    held_out: HeldOut | None  # the draw of the test split; None where the data have one
    held_for_validation: HeldOut | None  # the draw of the validation split; None where there is none, or the data's own
    dropped: Dropped | None  # None where duplicates stay


def load_data(
    source: Source,
    imbalance_factor: float | None = None,
    *,
    profile: str = "exp",
    seed: int = 0,
    test_fraction: float = 0.2,
    validation_fraction: float | None = None,
    drop_duplicates: bool = False,
    kept: Earlier = NOTHING,
    given: Earlier = NOTHING,
    **reading: Any,
) -> LoadedData:
    """`load_long_tailed_dataset`, and how splits were held out.

    `kept` and `given` of earlier draws, by the split (`test`, `validation`), keep images in place: see `hold_out`.
    """
    if imbalance_factor is not None:
        check_imbalance_factor(imbalance_factor)
    check_fraction("test", test_fraction)
    if validation_fraction is not None:
        check_fraction("validation", validation_fraction)
    splits = read_splits(source, **reading)
    if imbalance_factor is None and is_named(source):
        imbalance_factor = BENCHMARKS[source].imbalance_factor
    splits, dropped = without_duplicates(splits) if drop_duplicates else (splits, None)
    counts, names = class_counts(splits["train"]), splits["train"].features["label"].names
    if len(counts) == 1:
        raise DeiTLTError(f"all images have the label {names[0]!r}: pass data with at least two classes")
    check_class_counts(counts, names)
    held_out, column = None, reading.get("group_column")

    def draw(split: str, train: Dataset, fraction: float) -> HeldOut:
        earlier = {"kept": kept.get(split, ()), "given": given.get(split, ())}
        if column is None:
            return hold_out(train, fraction, seed, **earlier, split=split)
        return hold_out_groups(train, column, fraction, seed, **earlier, split=split)

    if "test" not in splits:
        if "validation" in splits:
            notice(
                f"there is no test split: one is held out of train (test_fraction {test_fraction:g}), and the "
                "validation split is used for validation only"
            )
        held_out = draw("test", splits["train"], test_fraction)
        of_source = {name: split for name, split in splits.items() if name != "train"}
        splits = DatasetDict(train=held_out.train, test=held_out.held, **of_source)
    if column is not None:
        say_shared_groups(splits, column)
    if imbalance_factor is not None:
        indices = long_tailed_indices(labels_of(splits["train"]), imbalance_factor, profile, seed)
        splits["train"] = splits["train"].select(indices)
    validation = None
    if validation_fraction is not None and "validation" in splits:
        notice(f"validation_fraction {validation_fraction:g} is not used: the data have a validation split")
    elif validation_fraction is not None:
        # Last, so that the test images and the long-tailed selection are those of a run without it.
        validation = draw("validation", splits["train"], validation_fraction)
        splits = DatasetDict(splits | {"train": validation.train, "validation": validation.held})
    return LoadedData(splits, held_out, validation, dropped)


def read_splits(
    source: Source,
    *,
    data_dir: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    data_config: str | None = None,
    on_bad_image: str = "error",
    allow_remote_images: bool = False,
    needs_train: bool = True,
) -> DatasetDict:
    """The splits as they are in the source, see `load_long_tailed_dataset`; for `needs_train` see `known_splits`."""
    if on_bad_image not in ("error", "skip", "keep"):
        raise DeiTLTError(f"on_bad_image is {on_bad_image!r}: pass 'error', 'skip' or 'keep'")
    columns = ColumnNames(image_column, label_column, group_column)
    named = is_named(source)
    on_hub = not named and isinstance(source, str) and is_hub_id(source)
    if data_dir is not None and not named:
        raise DeiTLTError(
            f"data_dir {str(data_dir)!r} goes with {', '.join(BENCHMARKS)}: pass it as the source instead"
        )
    if data_config is not None and not on_hub:
        raise DeiTLTError(f"data_config {data_config!r} goes with a data set of the hub, owner/name: leave it out")
    if isinstance(source, (str, Path)) and not (on_hub or named):
        splits = read_path(Path(source).expanduser(), BENCHMARKS, columns, needs_train)
    else:
        if named:
            splits = BENCHMARKS[source].read(data_dir)
        elif on_hub:
            splits = load_from_hub(source, data_config)
        elif isinstance(source, (IterableDataset, IterableDatasetDict)):
            splits = read_streams(source, columns, allow_remote_images)
        elif isinstance(source, (Dataset, DatasetDict)):
            splits = DatasetDict(train=source) if isinstance(source, Dataset) else source
        else:
            raise DeiTLTError(
                f"source has type {type(source).__name__}: pass a name, a file, a directory, a data set of the hub, or "
                "one that datasets has loaded"
            )
        splits = with_image_and_label(splits, columns, needs_train)
    if not named:
        say_similar(next(iter(splits.values())).features["label"].names)
    if allow_remote_images:
        splits = fetch_images(splits, on_bad_image)
    else:
        refuse_addresses(splits)
    if on_bad_image == "skip":
        splits = leave_out_unreadable(splits)
    elif on_bad_image == "error":
        check_files_exist(splits)
    return splits


def is_named(source: Source) -> bool:
    """Whether it is the name of a data set of `BENCHMARKS`."""
    return isinstance(source, str) and source in BENCHMARKS


def class_counts(train: Dataset) -> list[int]:
    """Images per class of a split with a `label` column, in label order; classes without images count 0.

    Example:
        >>> class_counts(load_long_tailed_dataset("digits-lt")["train"])
        [134, 96, 68, 49, 35, 25, 18, 13, 9, 6]
    """
    return np.bincount(labels_of(train), minlength=train.features["label"].num_classes).tolist()
