"""The images of a run: the flags that choose them, and what is known of their classes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from datasets import Dataset, DatasetDict
from transformers import PreTrainedConfig

from deitlt_hf.data.loading import class_counts, load_long_tailed_dataset
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.training.setting_ranges import check_ranges


@dataclass
class DataArguments:
    """Which images, and how they are split and grouped."""

    data: str = field(
        default="digits-lt",
        metadata={
            "help": "cifar10-lt, cifar100-lt, imagenet-lt, inaturalist-2018, digits-lt; a folder of images; Parquet, "
            "CSV or JSON lines; or a hub id."
        },
    )
    data_dir: str | None = field(default=None, metadata={"help": "Local directory of a named data set."})
    data_config: str | None = field(default=None, metadata={"help": "Configuration of a hub data set."})
    image_column: str | None = field(default=None, metadata={"help": "Left out, it is found by type or name."})
    label_column: str | None = field(default=None, metadata={"help": "Left out, it is found by type or name."})
    test_fraction: float = field(
        default=0.2, metadata={"help": "Share of each class that is held out where the data have no test split."}
    )
    on_bad_image: str = field(
        default="error", metadata={"help": "error, or skip: leave out images that cannot be read."}
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
            "above 100 training images and tail below 20."
        },
    )


@dataclass
class TrainingDataArguments(DataArguments):
    """Which images, and how a model that is trained on them sees them."""

    image_size: int = field(default=224, metadata={"help": "Pixels of a side."})
    horizontal_flip: bool = field(default=True, metadata={"help": "Mirror training images; not for digits or text."})

    def __post_init__(self):
        check_ranges(self)


@dataclass
class Images:
    """The data of a run: splits with an `image` and a `label` column, and what is known of the classes."""

    train: Dataset
    test: Dataset
    class_names: list[str]
    class_counts: list[int]
    class_groups: dict[str, list[int]]

    @property
    def label_maps(self) -> dict[str, dict]:
        """`id2label` and `label2id` of a model's configuration."""
        id2label = dict(enumerate(self.class_names))
        return {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}


def load_splits(data: DataArguments) -> DatasetDict:
    """The data set of a command's flags, see `load_long_tailed_dataset`."""
    return load_long_tailed_dataset(
        data.data,
        data.imbalance_factor,
        profile=data.imbalance_profile,
        seed=data.split_seed,
        data_dir=data.data_dir,
        data_config=data.data_config,
        image_column=data.image_column,
        label_column=data.label_column,
        test_fraction=data.test_fraction,
        on_bad_image=data.on_bad_image,
    )


def load_images(data: DataArguments) -> Images:
    """Load the data set and count its classes, once."""
    splits = load_splits(data)
    counts = class_counts(splits["train"])
    groups = group_classes(counts, data.group_boundaries)
    return Images(splits["train"], splits["test"], splits["train"].features["label"].names, counts, groups)


def images_for_model(images: Images, data: DataArguments, config: PreTrainedConfig, source: str) -> Images:
    """The images with the class counts and groups of what a model was trained on, which its configuration may tell.

    Args:
        images: what `load_images` gave for `data`.
        data: the flags that chose the images; their `group_boundaries` stand over the configuration's groups.
        config: the model's.
        source: the model's directory or hub id, for messages.

    Raises:
        DeiTLTError: the model was trained for other classes.
    """
    known = [name for _, name in sorted(config.id2label.items())]  # files may have 10 before 2
    if known != images.class_names:
        raise DeiTLTError(
            f"{source} was trained for other classes ({len(known)}, first {known[0]!r}) than {data.data} has "
            f"({len(images.class_names)}, first {images.class_names[0]!r}); pass its own data with --data"
        )
    counts = getattr(config, "class_counts", None) or images.class_counts
    groups = getattr(config, "class_groups", None) or images.class_groups
    if data.group_boundaries is not None:
        groups = group_classes(counts, data.group_boundaries)
    return replace(images, class_counts=counts, class_groups=groups)


def group_classes(class_counts: list[int], boundaries: list[int] | None) -> dict[str, list[int]]:
    """Head, mid and tail at the `group_boundaries` of a command, or by `class_groups`' thresholds without them."""
    if boundaries is None:
        return class_groups(class_counts)
    if len(boundaries) != 2:
        raise DeiTLTError(f"group_boundaries are {boundaries}; pass two numbers, such as 3 7")
    return class_groups(class_counts, boundaries=tuple(boundaries))
