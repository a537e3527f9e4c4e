"""The images of a run: those it trains on, checked against the run that it resumes, and those it is measured on."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from transformers import PreTrainedConfig

from deitlt_hf.data.arguments import DataArguments, Images, group_classes, load_images, names_of, reading_arguments
from deitlt_hf.data.columns import labels_of, similar_form
from deitlt_hf.data.duplicates import count_in_train, image_hashes, one_of_each_class
from deitlt_hf.data.loading import class_counts, read_splits
from deitlt_hf.data.record import (
    DATA_FILE,
    DataRecord,
    differing_classes,
    differing_counts,
    moved_classes,
    places_of,
    read_data_record,
)
from deitlt_hf.errors import DeiTLTError, counted, notice, some
from deitlt_hf.evaluation.class_prior import ClassPrior
from deitlt_hf.inference.loading import load_any_config

# What decides which images of the same data are held out.
_OF_THE_DRAW = ("test_fraction", "split_seed", "group_column", "drop_duplicates")


@dataclass(frozen=True)
class DataChoice:
    """How a command's flags chose the data."""

    own: bool  # the data are those of the model's run
    given: Collection[str]  # names of the data settings that were passed as flags


@dataclass(frozen=True)
class MeasuredImages:
    """Images to measure a model on, and which part of the source they are."""

    images: Images  # only `test` is measured
    taken: str  # such as "the test split of pets"
    rows: np.ndarray | None = None  # of the data, from 0; None where all of them are measured

    def __str__(self) -> str:
        return f"{counted(len(self.images.test), 'test image')}: {self.taken}"


def load_images_to_train(data: DataArguments, checkpoint: str | None = None) -> Images:
    """Load a training's images; refuse data that changed since the checkpoint, and warn of test images in train."""
    images = load_images(data)
    if images.held_out is not None and images.group_column is None:  # identical images are on one side
        leaked, images.one_of_each_class = 0, images.held_out.kept
    else:
        in_train = image_hashes(images.train, "train")
        leaked = count_in_train(in_train, image_hashes(images.test, "test"))
        images.one_of_each_class = one_of_each_class(in_train, labels_of(images.train))
    images.test_images_in_train = leaked
    if checkpoint is not None:
        _check_unchanged(images, data.data, checkpoint)
    if leaked:
        share = 100 * leaked / len(images.test)
        notice(
            f"{leaked} of {len(images.test)} test images ({share:.1f} %) are identical to training images, so that "
            "the measured accuracy will be too high; `deitlt data inspect` names some"
        )
    return images


def _check_unchanged(images: Images, name: str, checkpoint: str) -> None:
    record = read_data_record(checkpoint)
    if record is None:  # a run of an older version
        if not (Path(checkpoint) / "config.json").is_file():
            return
        config = load_any_config(checkpoint)
        record = DataRecord(names_of(config), getattr(config, "class_counts", None) or [], [])
    if other := _other_validation(images, record):
        raise DeiTLTError(f"the run of {checkpoint} {other}: leave these flags out, or start a new run")
    changed = differing_classes(record.class_names, images.class_names)
    changed = changed or _changed_images(images, images.one_of_each_class, record)
    for draw, groups in ((images.held_out, record.test_groups), (images.held_for_validation, record.validation_groups)):
        if not changed and draw and draw.held_groups != groups:
            changed = f"other groups are held out ({some(draw.held_groups)})"
    if changed:
        raise DeiTLTError(
            f"{name} is not what it was when the run of {checkpoint} began: {changed}; restore it, or start a new run "
            "with --overwrite or another --output_dir"
        )


def data_record(images: Images, sources: Mapping[str, str | None]) -> DataRecord:
    """The record of a run's data, written to `data.json`."""
    test, validation = images.held_out, images.held_for_validation
    last = validation or test
    return DataRecord(
        class_names=images.class_names,
        train_counts=images.class_counts,
        test_counts=class_counts(images.test),
        validation_counts=_validation_counts(images),
        places=places_of(sources),
        test_fraction=test and test.fraction,
        split_seed=last and last.seed,
        kept=images.one_of_each_class,
        group_column=images.group_column,
        drop_duplicates=images.dropped is not None,
        train_groups=[] if last is None else last.train_groups,
        test_groups=[] if test is None else test.held_groups,
        validation_groups=[] if validation is None else validation.held_groups,
        validation_fraction=validation and validation.fraction,
        kept_in_train=[] if validation is None else validation.kept,
        tested=[] if test is None else test.given,
        validated=[] if validation is None else validation.given,
    )


def _validation_counts(images: Images) -> list[int]:
    return [] if images.validation is None else class_counts(images.validation)


def load_images_to_measure(
    data: DataArguments, choice: DataChoice, config: PreTrainedConfig, sources: Sequence[str]
) -> MeasuredImages:
    """Load the test images that a command's flags name.

    The run's own data give their test split, held out as for the training even if images were added or removed since.
    Another source gives its test split, or all of its images if it has none; it may have only some of the classes.
    """
    measured = _of_the_run(data, config, sources) if choice.own else _of_another_source(data, config, sources[0])
    unused = ["test_fraction"] if measured.images.held_out is None else []
    unused += [] if choice.own else ["drop_duplicates", "validation_fraction"]
    for name in unused:
        if name in choice.given:
            notice(f"--{name} is not used: the test images are {measured.taken}")
    return measured


def of_occurring_classes(measured: MeasuredImages, prior: ClassPrior, config: PreTrainedConfig) -> MeasuredImages:
    """The images of classes that can occur; a notice counts the others, which no prediction could get right."""
    test, names = measured.images.test, measured.images.class_names
    absent = {name for name, can_occur in zip(names_of(config), prior.can_occur, strict=True) if not can_occur}
    labels = labels_of(test)
    rows = np.flatnonzero([names[label] not in absent for label in labels])
    if not len(rows):
        raise DeiTLTError(
            f"none of {counted(len(test), 'test image')} is of a class that can occur; list other classes"
        )
    if len(rows) == len(test):
        return measured
    left_out = len({names[label] for label in labels} & absent)
    notice(
        f"{len(test) - len(rows)} of {counted(len(test), 'test image')} are left out: they are of "
        f"{counted(left_out, 'class')} that cannot occur"
    )
    images = replace(measured.images, test=test.select(rows))
    return replace(measured, images=images, taken=f"{measured.taken}, of classes that can occur", rows=rows)


def _of_the_run(data: DataArguments, config: PreTrainedConfig, sources: Sequence[str]) -> MeasuredImages:
    records = _records(data, sources)
    own = records.get(sources[0])
    for source, record in records.items():
        if other := _other_draw(data, record):
            raise DeiTLTError(f"{source} {other}: leave {'these flags' if record is own else 'this model'} out")
    untested = {name for of in records.values() for name in (*of.kept, *of.train_groups, *of.validation_groups)}
    kept, given = {"test": untested}, {}
    if own is not None:
        kept["validation"] = {*own.kept_in_train, *own.train_groups}
        given = {"test": {*own.tested, *own.test_groups}, "validation": {*own.validated, *own.validation_groups}}
    images = load_images(data, kept, given)
    if own and (other := _other_validation(images, own)):
        raise DeiTLTError(f"{sources[0]} {other}: leave these flags out")
    if own and own.test_fraction is None and images.held_out:
        raise DeiTLTError(
            f"{sources[0]} was trained on all training images of {data.data}, which have no test split now (or only a "
            "validation split, which earlier versions tested on): pass images to test on with --data"
        )
    if own is None and (images.held_out or images.held_for_validation):
        notice(
            f"{sources[0]} has no {DATA_FILE}, which lists held-out images: some "
            f"{'test' if images.held_out else 'validation'} images may be ones that it was trained on"
        )
    if own is None and getattr(config, "class_counts", None):
        draw = images.held_for_validation
        own = DataRecord(names_of(config), config.class_counts, [], validation_fraction=draw and draw.fraction)
        records = {sources[0]: own} | records
    for source, record in records.items():
        _say_changes(images, data.data, source, record)
    which = "held out of" if images.held_out else "the test split of"
    return MeasuredImages(images, f"{which} {data.data}")


def say_draw_of_teacher(data: DataArguments, images: Images, teacher: str | None) -> None:
    """Give a notice if the teacher's run held out other images of the same data."""
    record = None if teacher is None else read_data_record(teacher)
    if record is None or _place_of(data) not in record.places.values():
        return
    if other := _other_draw(data, record) or _other_validation(images, record):
        notice(f"the teacher {teacher} {other} of the teacher: train it with the same flags")


def _other_draw(data: DataArguments, record: DataRecord) -> str | None:
    """How a run held out other images than these data arguments do, in words; None if it did not."""
    if record.test_fraction is None:
        return None
    then, now = ({name: getattr(of, name) for name in _OF_THE_DRAW} for of in (record, data))
    return _difference("test", then, now)


def _other_validation(images: Images, record: DataRecord) -> str | None:
    """How a run held out other validation images than these are, in words; None if it did not."""
    draw = images.held_for_validation
    if draw is None:
        return None
    now = {
        "validation_fraction": draw.fraction,
        "split_seed": draw.seed,
        "group_column": images.group_column,
        "drop_duplicates": images.dropped is not None,
    }
    then = {name: getattr(record, name) for name in now}
    if record.split_seed is None:  # nothing was drawn
        then["split_seed"] = draw.seed
    return _difference("validation", then, now)


def _difference(split: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How the settings of two draws of a split differ, in words; None if they do not."""
    if then == now:
        return None
    shown = [name for name in then if then[name] != now[name] or name in (f"{split}_fraction", "split_seed")]
    trained = " and ".join(f"{name} {_plain(then[name])}" for name in shown)
    here = " and ".join(_plain(now[name]) for name in shown)
    return f"was trained with {trained}; with {here}, {split} images would be training images"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _records(data: DataArguments, sources: Sequence[str]) -> dict[str, DataRecord]:
    """The data records of the models' runs, for these data."""
    found = {source: read_data_record(source) for source in sources}
    return {
        source: record
        for source, record in found.items()
        if record is not None and (source == sources[0] or _place_of(data) in record.places.values())
    }


def _place_of(data: DataArguments) -> str:
    return os.path.abspath(os.path.expanduser(data.data))


def _say_changes(images: Images, name: str, source: str, record: DataRecord) -> None:
    """Log that images of a class have changed; changed classes are refused later."""
    if differing_classes(record.class_names, images.class_names):
        return
    changed = _changed_images(images, images.held_out.kept if images.held_out else [], record)
    if changed:
        notice(f"{name} has changed since {source} was trained: {changed}")


def _changed_images(images: Images, kept: Sequence[str], record: DataRecord) -> str | None:
    """How the images of the same classes differ from a record, in words; `kept` is a hash of an image of each class."""
    names, draw = images.class_names, images.held_for_validation
    then = [record.train_counts, record.validation_counts if record.validation_fraction is not None else []]
    now = [images.class_counts, _validation_counts(images) if draw else []]
    if record.validation_fraction != (draw and draw.fraction):  # another run of the same images
        then, now = ([_sums(*counts), []] for counts in (then, now))
    train, validation = zip(then, now, strict=True)
    counts = {"training": train, "validation": validation, "test": (record.test_counts, class_counts(images.test))}
    return differing_counts(names, counts) or moved_classes(names, record.kept, kept)


def _sums(train: Sequence[int], validation: Sequence[int]) -> list[int]:
    return [sum(pair) for pair in zip(train, validation, strict=True)] if validation else list(train)


def _of_another_source(data: DataArguments, config: PreTrainedConfig, source: str) -> MeasuredImages:
    splits = read_splits(data.data, needs_train=False, **reading_arguments(data))
    split = next((name for name in ("test", "validation") if name in splits), "train")
    has_both, test = split != "train", splits[split]
    taken = f"the {split} split of {data.data}" if has_both else f"all images of {data.data}"
    counts, groups = (getattr(config, name, None) for name in ("class_counts", "class_groups"))
    if counts is None and has_both:  # not a model of a run: the training images define head and tail
        return MeasuredImages(replace(load_images(replace(data, validation_fraction=None)), test=test), taken)
    test = with_classes(test, names_of(config), source, data.data)
    if counts is None:
        counts = class_counts(test)
        notice(f"{source} does not say how many training images a class had: these test images define head and tail")
    groups = groups or _groups_of_known(counts, data.group_boundaries)
    return MeasuredImages(Images(None, test, names_of(config), counts, groups), taken)


def _groups_of_known(counts: Sequence[int], boundaries: list[int] | None) -> dict[str, list[int]]:
    """Head, mid and tail of the classes that have images; a model may know a thousand others, which join the tail."""
    known = [label for label, count in enumerate(counts) if count]
    groups = group_classes([counts[label] for label in known], boundaries)
    groups = {name: [known[place] for place in places] for name, places in groups.items()}
    return groups | {"tail": groups["tail"] + [label for label, count in enumerate(counts) if not count]}


def with_classes(dataset: Dataset, names: Sequence[str], source: str, data: str) -> Dataset:
    """The images with a model's class ids, matched by class name."""
    found = dataset.features["label"].names
    if list(found) == list(names):
        return dataset
    labels = labels_of(dataset)
    known = {name: label for label, name in enumerate(names)}
    unknown = [found[label] for label in np.unique(labels) if found[label] not in known]
    if unknown:
        similar = {similar_form(name): name for name in names}
        pairs = [f"{name!r} is {similar[form]!r} there" for name in unknown if (form := similar_form(name)) in similar]
        raise DeiTLTError(
            f"{data} has images of {some(unknown, 5)}, which {source} does not know, only {some(names, 5)}: name the "
            "classes as it does, or leave these images out"
            + (f"; except for case, spaces, zeros or encoding {', '.join(pairs[:3])}" if pairs else "")
        )
    ids = np.array([known.get(name, -1) for name in found])[labels]
    relabelled = dataset.add_column("of the model", ids).remove_columns("label").rename_column("of the model", "label")
    return relabelled.cast_column("label", ClassLabel(names=list(names)))
