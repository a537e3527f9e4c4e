"""Example pictures for the app, of the most and the least frequent classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from deitlt_hf.data.arguments import DataArguments, load_splits, names_of
from deitlt_hf.data.columns import labels_of
from deitlt_hf.data.images import decode_image
from deitlt_hf.data.readable import undecoded
from deitlt_hf.evaluation.class_prior import ClassPrior
from deitlt_hf.inference.classifier import decode_picture, named_images
from deitlt_hf.inference.loading import load_run_settings
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig

PER_END = 3  # classes at each end of the tail that get an example
# The settings of a run that decide which images are test images.
_SPLIT_SETTINGS = (
    *("data", "data_dir", "data_config", "image_column", "label_column", "group_column"),
    *("test_fraction", "split_seed", "drop_duplicates", "on_bad_image"),
)


@dataclass
class ExamplePicture:
    """A picture to try, and what to write below it."""

    image: Image.Image
    caption: str


def class_caption(config: DeiTLTConfig, class_id: int) -> str:
    """A class's group, name and number of training images, where the configuration has them."""
    caption = config.id2label[class_id]
    if config.class_counts is not None:
        count = config.class_counts[class_id]
        caption += f" ({count:,} training image{'s' * (count != 1)})"
    group = next((name for name, members in (config.class_groups or {}).items() if class_id in members), None)
    return caption if group is None else f"{group}: {caption}"


def both_ends(config: DeiTLTConfig, class_ids: Iterable[int], prior: ClassPrior | None = None) -> list[int]:
    """The `PER_END` classes with the most training images and as many with the fewest, most frequent first.

    With a prior, they are of the classes that can occur.
    """
    if prior is not None:
        can_occur = prior.can_occur
        class_ids = [class_id for class_id in class_ids if can_occur[class_id]]
    ordered = sorted(class_ids, key=lambda class_id: -config.class_counts[class_id] if config.class_counts else 0)
    return ordered if len(ordered) <= 2 * PER_END else ordered[:PER_END] + ordered[-PER_END:]


def examples_in_folder(folder: Path, config: DeiTLTConfig, prior: ClassPrior | None = None) -> list[ExamplePicture]:
    """A picture for each class at both ends, from folders named as classes; without such folders the first pictures."""
    files = list(named_images([folder]))
    ids = {name: class_id for class_id, name in config.id2label.items()}
    first_of_class = {ids[file.parent.name]: file for file in reversed(files) if file.parent.name in ids}
    if not first_of_class:
        captions = {file: file.stem for file in files[: 2 * PER_END]}
    else:
        shown = both_ends(config, first_of_class, prior)
        captions = {first_of_class[label]: class_caption(config, label) for label in shown}
    return [ExamplePicture(decode_picture(file, f"example {file}"), text) for file, text in captions.items()]


def examples_of_run(
    source: str, config: DeiTLTConfig, revision: str | None = None, prior: ClassPrior | None = None
) -> list[ExamplePicture]:
    """Test images of the most and the least frequent classes, from the data of the model's run.

    The list is empty if the data are not on this machine or have other classes now. Models of the hub have examples
    only if they were trained on digits.

    Args:
        source: directory or hub id of the model.
        config: its configuration.
        revision: branch, tag or commit of a model on the hub.
        prior: of a classifier; classes that cannot occur get no example.

    Example:
        >>> from deitlt_hf import examples_of_run
        >>> examples_of_run("demo-output/student", classifier.config)  # doctest: +SKIP
    """
    settings = load_run_settings(source, revision)
    data = settings.get("data", "digits-lt")
    # A path in the recipe of a model on the hub is one of another machine.
    is_here = data == "digits-lt" or (Path(source).is_dir() and Path(settings.get("data_dir") or data).exists())
    if not settings or not is_here:
        return []
    loaded = load_splits(DataArguments(**{name: settings[name] for name in _SPLIT_SETTINGS if name in settings}))
    test = undecoded(loaded.splits["test"])
    if test.features["label"].names != names_of(config):
        return []
    labels, first_images = np.unique(labels_of(test), return_index=True)
    first_image = dict(zip(labels.tolist(), first_images.tolist(), strict=True))
    return [
        ExamplePicture(decode_image(test[first_image[index]]["image"]), class_caption(config, index))
        for index in both_ends(config, first_image, prior)
    ]
