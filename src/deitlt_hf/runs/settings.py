"""The settings of a run: those that its recipe records, those that a resumed run changes, and those without effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from deitlt_hf.cards.record import PRIVATE_SETTINGS
from deitlt_hf.data.suggestion import format_setting
from deitlt_hf.errors import notice
from deitlt_hf.losses.by_name import TEACHER_LOSSES
from deitlt_hf.teachers.build import CIFAR_RESNET
from deitlt_hf.training.arguments import TeacherTrainingArguments

# Settings that a recipe does not hold: another run, or a run on another machine, should choose its own.
_OF_THE_RUN = {"overwrite", "resume", "resume_from_checkpoint"} | PRIVATE_SETTINGS
OF_THE_MACHINE = {"bf16", "dataloader_pin_memory", "report_to", "use_cpu", "disable_tqdm"}

Settings = Mapping[str, Any]


def _settings_of(loss: str) -> tuple[str, ...]:
    """The arguments of a teacher's loss, which begin with its name."""
    names = (field.name for field in dataclasses.fields(TeacherTrainingArguments))
    return tuple(name for name in names if name.startswith(f"{loss}_"))


# Settings, when they have an effect, and what that needs, in words.
_NEEDS: list[tuple[tuple[str, ...], Callable[[Settings], bool], str]] = [
    (("teacher", "teacher_pixels", "teacher_prior_tau"), lambda s: s["distillation_type"] != "none",
     "distillation_type hard, soft or ltkd"),
    (("distillation_temperature",), lambda s: s["distillation_type"] in ("soft", "ltkd"),
     "distillation_type soft or ltkd"),
    (("mixup_in_drw", "class_balanced_beta"), lambda s: s["drw_start_epoch"] is not None,
     "drw_start_epoch"),
    *((_settings_of(loss), lambda s, loss=loss: loss in (s.get("loss"), s.get("cls_loss")), f"loss {loss}")
      for loss in TEACHER_LOSSES),
    (("decay_epochs", "decay_factor"), lambda s: s["schedule"] == "steps", "schedule steps"),
    (("depth",), lambda s: s["init_from"] is None and s["architecture"] == CIFAR_RESNET,
     f"architecture {CIFAR_RESNET}, from scratch"),
    (("architecture",), lambda s: s["init_from"] is None, "a start from scratch, without init_from"),
    (("lora_rank",), lambda s: s["adapt"] == "lora", "adapt lora"),
    (("imbalance_profile",), lambda s: s["imbalance_factor"] is not None or s["data"].endswith("-lt"),
     "imbalance_factor"),
    (("metric_for_best_model",), lambda s: s["load_best_model_at_end"] or s["save_strategy"] == "best"
     or s["lr_scheduler_type"] == "reduce_lr_on_plateau", "load_best_model_at_end"),
]  # fmt: skip


def say_what_is_unused(parts: Sequence[object]) -> None:
    """Name in one line the settings that have no effect together with the others, and what they need."""
    settings = {name: value for name, value, _ in _fields(parts)}
    changed = {name: value for name, value, default in _fields(parts) if value != default}
    unused = []
    for names, counts, what in _NEEDS:
        given = [f"{name} {format_setting(changed[name])}" for name in names if name in changed]
        if given and not counts(settings):
            unused.append(f"{', '.join(given)} (needs {what})")
    if unused:
        notice(f"not used: {'; '.join(unused)}")


def recipe_of(parts: Sequence[object]) -> dict[str, Any]:
    """The settings that differ from their defaults and that YAML can hold."""
    recipe = {}
    for name, value, default in _fields(parts):
        plain = getattr(value, "value", value)  # transformers turns some strings into enumerations
        is_off = default in (None, "") and (plain is False or plain == [])
        can_be_held = isinstance(plain, str | int | float | bool | list)
        if plain != default and can_be_held and not is_off and name not in _OF_THE_RUN | OF_THE_MACHINE:
            recipe[name] = plain
    return recipe


def changed_by_resuming(before: Settings, now: Settings, parts: Sequence[object]) -> dict[str, list[Any]]:
    """The settings that a resumed run changes: `{name: [old, new]}`."""
    defaults = {name: default for name, _, default in _fields(parts) if name not in _OF_THE_RUN | OF_THE_MACHINE}
    names = [name for name in dict.fromkeys([*before, *now]) if name in defaults]
    pairs = {name: [settings.get(name, defaults[name]) for settings in (before, now)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _fields(parts: Sequence[object]) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and default of each field of the dataclasses that a user can set."""
    for part in parts:
        for field in dataclasses.fields(part):
            if field.init:
                is_made = field.default_factory is not dataclasses.MISSING
                yield field.name, getattr(part, field.name), field.default_factory() if is_made else field.default
