"""The images of a run: the flags that choose them, and their classes, class counts and groups."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from datasets import Dataset
from transformers import PreTrainedConfig

from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.data.duplicates import Dropped
from deitlt_hf.data.holdout import HeldOut
from deitlt_hf.data.loading import NOTHING, Earlier, LoadedData, class_counts, load_data
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.data.record import differing_classes
from deitlt_hf.errors import DeiTLTError, notice
from deitlt_hf.ranges import check_ranges


@dataclass
class DataArguments:
    """Which images, and how they are split and grouped."""

    data: str = field(
        default="digits-lt",
        metadata={"help": f"{', '.join(BENCHMARKS)}; a folder of images; Parquet, CSV or JSON lines; or a hub id."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Local directory of a named data set."})
    data_config: str | None = field(default=None, metadata={"help": "Configuration of a hub data set."})
    image_column: str | None = field(
        default=None, metadata={"help": "Column of images or their paths; left out, it is found by type or name."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of class names or ids; left out, it is found by type or name."}
    )
    group_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the site, burst or patient of an image, each on one side of a held-out split; for "
            "class folders class/group or group/class, by which folder holds the other."
        },
    )
    test_fraction: float = field(
        default=0.2, metadata={"help": "Share of each class that is held out where the data have no test split."}
    )
    validation_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share of each class's training images that is held out for validation where the data have no "
            "validation split; left out, none is."
        },
    )
    drop_duplicates: bool = field(
        default=False,
        metadata={
            "help": "Keep one of identical training images, none that is in test too, and no image with several labels."
        },
    )
    on_bad_image: str = field(
        default="error", metadata={"help": "error, or skip: leave out images that cannot be read."}
    )
    allow_remote_images: bool = field(
        default=False,
        metadata={"help": "Fetch images at addresses that the data name, once; left off, such data are refused."},
    )
    imbalance_factor: float | None = field(
        default=None, metadata={"help": "Largest class count / smallest; left out, the data set's own."}
    )
    imbalance_profile: str = field(default="exp", metadata={"help": "exp or step."})
    split_seed: int = field(default=0, metadata={"help": "Seed of the selection of training images."})
    group_boundaries: list[int] | None = field(
        default=None,
        metadata={
            "help": "Where mid and tail begin in the classes sorted by frequency (CIFAR-10: 3 7); left out, head is "
            "above 100 training images and tail below 20, or thirds of the classes where that leaves a group empty."
        },
    )


@dataclass
class TrainingDataArguments(DataArguments):
    """Which images a model is trained on, and at which size. Every field's help says what it is.

    Raises:
        DeiTLTError: a number out of its range.

    Example:
        >>> from deitlt_hf import TrainingDataArguments
        >>> TrainingDataArguments(data="digits-lt", image_size=16, horizontal_flip=False).test_fraction
        0.2
    """

    image_size: int = field(default=224, metadata={"help": "Pixels of a side."})
    horizontal_flip: bool = field(default=True, metadata={"help": "Mirror training images; not for digits or text."})

    def __post_init__(self):
        check_ranges(self)


@dataclass
class Images:
    """The data of a run: splits with an `image` and a `label` column, and their classes."""

    train: Dataset | None  # None to measure a model
    test: Dataset
    class_names: list[str]  # in label order
    class_counts: list[int]  # training images, in label order
    class_groups: dict[str, list[int]]  # class ids of head, mid and tail
    validation: Dataset | None = None  # evaluated during training, in place of `test`, and never as test
    held_out: HeldOut | None = None  # None where the data have a test split
    held_for_validation: HeldOut | None = None  # None where the data have a validation split, or there is none
    test_images_in_train: int | None = None  # test images identical to training images; None if not counted
    group_column: str | None = None  # what the column `group` of the splits is; None where they have none
    dropped: Dropped | None = None  # None where duplicates stay
    one_of_each_class: list[str] = field(default_factory=list)  # hash of a training image; empty if not made

    @property
    def label_maps(self) -> dict[str, dict]:
        """`id2label` and `label2id` of a model's configuration."""
        id2label = dict(enumerate(self.class_names))
        return {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}


def reading_arguments(data: DataArguments) -> dict[str, Any]:
    """The arguments of `read_splits` that a command's flags give."""
    names = ("data_dir", "data_config", "image_column", "label_column", "group_column", "on_bad_image")
    names += ("allow_remote_images",)
    return {name: getattr(data, name) for name in names}


def load_splits(data: DataArguments, kept: Earlier = NOTHING, given: Earlier = NOTHING) -> LoadedData:
    """The data set of a command's flags, see `load_data`."""
    return load_data(
        data.data,
        data.imbalance_factor,
        profile=data.imbalance_profile,
        seed=data.split_seed,
        test_fraction=data.test_fraction,
        validation_fraction=data.validation_fraction,
        drop_duplicates=data.drop_duplicates,
        kept=kept,
        given=given,
        **reading_arguments(data),
    )


def load_images(data: DataArguments, kept: Earlier = NOTHING, given: Earlier = NOTHING) -> Images:
    """Load the data set of a command's flags and count its classes.

    Args:
        data: which images, and how they are split and grouped.
        kept: hashes of images, or names of groups, that an earlier run did not hold out: by `test` those that are never
            held out for testing, by `validation` those that are never held out for validation.
        given: those that it held out, in the same way: they are held out again.

    Returns:
        The splits, with class names, counts and groups.

    Raises:
        DeiTLTError: data that cannot be read, or group boundaries that do not fit.

    Example:
        >>> from deitlt_hf import TrainingDataArguments, load_images
        >>> images = load_images(TrainingDataArguments(data="digits-lt", imbalance_factor=20))
        >>> images.class_counts[:3], len(images.test)
        ([134, 96, 68], 400)
    """
    loaded = load_splits(data, kept, given)
    splits, train = loaded.splits, loaded.splits["train"]
    counts = class_counts(train)
    return Images(
        train=train,
        test=splits["test"],
        class_names=train.features["label"].names,
        class_counts=counts,
        class_groups=group_classes(counts, data.group_boundaries),
        validation=splits.get("validation"),
        held_out=loaded.held_out,
        held_for_validation=loaded.held_for_validation,
        group_column=data.group_column,
        dropped=loaded.dropped,
    )


def images_for_model(images: Images, data: DataArguments, config: PreTrainedConfig, source: str) -> Images:
    """The images with the class counts and groups that a model's configuration has of its training data.

    The flags' `group_boundaries` override the configuration's groups; a model of other classes is refused. `source` is
    the model's directory or hub id, for messages.
    """
    differing = differing_classes(names_of(config), images.class_names)
    if differing:
        raise DeiTLTError(
            f"{source} was trained for other classes than {data.data} has: {differing}; pass its own data with --data"
        )
    counts = getattr(config, "class_counts", None) or images.class_counts
    groups = getattr(config, "class_groups", None) or images.class_groups
    if data.group_boundaries is not None:
        groups = group_classes(counts, data.group_boundaries)
    return replace(images, class_counts=counts, class_groups=groups)


def names_of(config: PreTrainedConfig) -> list[str]:
    """The classes of a model, in label order; files may have 10 before 2."""
    return [name for _, name in sorted(config.id2label.items())]


def group_classes(class_counts: list[int], boundaries: list[int] | None) -> dict[str, list[int]]:
    """Head, mid and tail at the `group_boundaries` of a command, or by `class_groups`' thresholds without them."""
    if boundaries is None:
        return class_groups(class_counts)
    if len(boundaries) != 2:
        raise DeiTLTError(f"group_boundaries are {boundaries}; pass two numbers, such as 3 7")
    groups = class_groups(class_counts, boundaries=tuple(boundaries))
    falling = sorted(class_counts, reverse=True)
    parted = [falling[cut] for cut in boundaries if 0 < cut < len(falling) and falling[cut - 1] == falling[cut]]
    if parted:
        images = " and ".join(str(count) for count in dict.fromkeys(parted))
        notice(
            f"group_boundaries {boundaries} divide classes of {images} training images each: by the order of their "
            "labels"
        )
    return groups
