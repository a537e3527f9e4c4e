"""The images that a student is calibrated on: neither trained nor tested on."""

from __future__ import annotations

import dataclasses

import numpy as np
from datasets import Dataset

from deitlt_hf.data.arguments import DataArguments, Images, names_of, reading_arguments
from deitlt_hf.data.columns import labels_of
from deitlt_hf.data.duplicates import image_hashes
from deitlt_hf.data.loading import read_splits
from deitlt_hf.data.record import differing_classes
from deitlt_hf.errors import DeiTLTError, counted, notice, some
from deitlt_hf.files import public_name
from deitlt_hf.inference.loading import load_run_settings, load_student_config
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.runs.images import DataChoice, load_images_to_measure, with_classes


def load_validation(data: DataArguments, choice: DataChoice, source: str) -> tuple[Dataset, Images | None, str]:
    """The validation images that a command's flags name, the images of the student's run, and the former in words."""
    config = load_student_config(source)
    if choice.own:
        images = load_images_to_measure(data, choice, config, [source]).images
        if images.validation is None:
            raise DeiTLTError(
                f"there is no validation split to calibrate {source} on, and it is never fitted to test images; train "
                "with --validation_fraction 0.1, or pass images that it was neither trained nor tested on with --data"
            )
        return images.validation, images, f"the validation split of {public_name(data.data)}"
    splits = read_splits(data.data, needs_train=False, **reading_arguments(data))
    if "validation" not in splits and "test" in splits:
        raise DeiTLTError(
            f"{data.data} has a test split and no validation split, and a student is never fitted to test images; pass "
            "data with a validation split, or without splits"
        )
    split = "validation" if "validation" in splits else "train"
    taken = f"{'the validation split' if split == 'validation' else 'all images'} of {public_name(data.data)}"
    validation = with_classes(splits[split], names_of(config), source, data.data)
    return validation, _images_of_run(config, source), taken


def _images_of_run(config: DeiTLTConfig, source: str) -> Images | None:
    """The images that a student was trained and tested on; None, with a notice, if they are not at hand."""
    settings, fields = load_run_settings(source), {part.name for part in dataclasses.fields(DataArguments)}
    reason = "it has no recipe.yaml"
    if settings:
        data = DataArguments(**{name: value for name, value in settings.items() if name in fields})
        try:
            return load_images_to_measure(data, DataChoice(True, ()), config, [source]).images
        except DeiTLTError as error:
            reason = str(error)
    notice(
        f"the images that {source} was trained and tested on are not at hand ({reason}): whether these are among them "
        "is not checked, and nothing is measured"
    )
    return None


def unused_images(validation: Dataset, images: Images | None, config: DeiTLTConfig, source: str, taken: str) -> Dataset:
    """The validation images that are neither training nor test images; a notice counts the others."""
    differing = differing_classes(names_of(config), validation.features["label"].names)
    if differing or not len(validation):
        raise DeiTLTError(
            f"{taken} does not fit {source}: {differing or 'it has no images'}; pass images of its classes"
        )
    hashes = image_hashes(validation, "validation")
    used = np.zeros(len(hashes), bool)
    for split, dataset in {} if images is None else {"train": images.train, "test": images.test}.items():
        of_split = {row.tobytes() for row in image_hashes(dataset, split)}
        in_split = np.array([row.tobytes() in of_split for row in hashes])
        if in_split.all():
            raise DeiTLTError(
                f"all {counted(len(hashes), 'image')} of {taken} are {split} images of {source}; pass images that it "
                "was neither trained nor tested on with --data"
            )
        if in_split.any():
            notice(
                f"{int(in_split.sum())} of {counted(len(hashes), 'validation image')} are {split} images too: left out"
            )
        used |= in_split
    if used.all():
        raise DeiTLTError(f"every image of {taken} is a training or test image of {source}; pass others with --data")
    kept = validation.select(np.flatnonzero(~used)) if used.any() else validation
    absent = np.setdiff1d(np.arange(config.num_labels), labels_of(kept))
    if absent.size:
        names = some([names_of(config)[label] for label in absent])
        notice(f"no validation image of {names}: what is fitted for other classes is taken for them")
    return kept
