"""Settings for `--data` without `--recipe`: the data are inspected, and the settings are shown before they are used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.data.arguments import DataArguments, Images, load_images
from deitlt_hf.data.inspection import Inspection, inspect_dataset
from deitlt_hf.data.readable import SKIP_HINT
from deitlt_hf.data.suggestion import Suggestion, format_suggestion, suggest_finetuning, suggest_recipe
from deitlt_hf.errors import DeiTLTError, counted
from deitlt_hf.runs.student_models import image_size_of
from deitlt_hf.runs.training import check_student

Suggest = Callable[[Inspection, Mapping[str, Any]], Suggestion]


def settings_for_data(suggest: Suggest, data: DataArguments, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `suggest` makes of data and of the flags `given`: printed once, the same in all processes."""
    outcome: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            outcome = [_inspect_and_show(suggest, data, given)]
        except DeiTLTError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], DeiTLTError):
        raise outcome[0]
    return outcome[0]


def check_before_suggesting(instances: Sequence[Any], given: Mapping[str, Any]) -> None:
    """Refuse settings of a student that cannot work, before images are read; what is not given is suggested later."""
    data, student, args = instances
    if student.init_from is not None and student.adapt == "head":  # needs settings that are suggested with it
        student = dataclasses.replace(student, adapt="full")
    check_student(student, args, data.image_size if {"image_size", "patch_size"} <= given.keys() else None)


def student_suggestion(init_from: str | None) -> Suggest:
    """What suggests the settings of a student: from scratch, or of the pretrained model `init_from`."""
    if init_from is None:
        return suggest_recipe
    return partial(suggest_finetuning, image_size=image_size_of(init_from))


def _inspect_and_show(suggest: Suggest, data: DataArguments, given: Mapping[str, Any]) -> dict[str, Any]:
    quiet_libraries()
    suggestion = suggest(inspect_to_train(load_images(data)), given)
    print(f"Settings for {data.data}. Override one with a flag, or pass --recipe to replace them all.\n")
    print(format_suggestion(suggestion) + "\n", flush=True)
    return suggestion.settings


def inspect_to_train(images: Images) -> Inspection:
    """The inspection of a training's images; damaged ones are refused."""
    splits = {"train": images.train, "test": images.test}
    splits |= {} if images.validation is None else {"validation": images.validation}
    inspection = inspect_dataset(splits, groups=images.class_groups)
    if inspection.unreadable:
        more = ["..."] if inspection.unreadable > len(inspection.first_unreadable) else []
        raise DeiTLTError(
            f"{counted(inspection.unreadable, 'image')} cannot be read: "
            f"{'; '.join(inspection.first_unreadable + more)}; {SKIP_HINT}"
        )
    return inspection
