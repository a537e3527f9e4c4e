"""Settings that have no effect together with the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from deitlt_hf.data.suggestion import format_setting
from deitlt_hf.errors import notice
from deitlt_hf.losses.teacher import TEACHER_LOSSES
from deitlt_hf.teachers.build import CIFAR_RESNET
from deitlt_hf.training.arguments import TeacherTrainingArguments

Settings = Mapping[str, Any]


def _settings_of(loss: str) -> tuple[str, ...]:
    """The arguments of a teacher's loss, which begin with its name."""
    names = (field.name for field in dataclasses.fields(TeacherTrainingArguments))
    return tuple(name for name in names if name.startswith(f"{loss}_"))


# Names, when they count, and what that takes.
_NEEDS: list[tuple[tuple[str, ...], Callable[[Settings], bool], str]] = [
    (("teacher", "teacher_pixels"), lambda s: s["distillation_type"] != "none", "distillation_type hard or soft"),
    (("distillation_temperature",), lambda s: s["distillation_type"] == "soft", "distillation_type soft"),
    (("mixup_in_drw", "class_balanced_beta"), lambda s: s["drw_start_epoch"] is not None,
     "drw_start_epoch"),
    *((_settings_of(loss), lambda s, loss=loss: s["loss"] == loss, f"loss {loss}") for loss in TEACHER_LOSSES),
    (("decay_epochs", "decay_factor"), lambda s: s["schedule"] == "steps", "schedule steps"),
    (("depth",), lambda s: s["init_from"] is None and s["architecture"] == CIFAR_RESNET,
     f"architecture {CIFAR_RESNET}, from scratch"),
    (("architecture",), lambda s: s["init_from"] is None, "a start from scratch, without init_from"),
    (("imbalance_profile",), lambda s: s["imbalance_factor"] is not None or s["data"].endswith("-lt"),
     "imbalance_factor"),
]  # fmt: skip


def say_what_is_unused(parts: Sequence[object]) -> None:
    """Name in one line the settings that have no effect, and what they need."""
    unused = list(_unused(parts))
    if unused:
        notice(f"not used: {'; '.join(unused)}")


def _unused(parts: Sequence[object]) -> Iterator[str]:
    fields = [(field, getattr(part, field.name)) for part in parts for field in dataclasses.fields(part)]
    settings = {field.name: value for field, value in fields}
    changed = {field.name: value for field, value in fields if value != _default(field)}
    for names, counts, what in _NEEDS:
        given = [f"{name} {format_setting(changed[name])}" for name in names if name in changed]
        if given and not counts(settings):
            yield f"{', '.join(given)} (needs {what})"


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
