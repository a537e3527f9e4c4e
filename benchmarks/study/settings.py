"""What the runs of the study were told beside their recipes, which has to be the same for all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deitlt_hf import DeiTLTTrainingArguments, StudentArguments, TeacherArguments, TrainingDataArguments
from deitlt_hf.recipes import load_recipe
from study.saved_runs import STUDENTS, Run, Runs, student_directory, student_recipe, teacher_directory

# Settings that say where a run computed, or that its command names anyway.
_NAMED = {"data_dir", "teacher", "seed", "augmentation_device", "dataloader_num_workers"}
_DEFAULTS = {
    part.name: part.default if part.default_factory is dataclasses.MISSING else part.default_factory()
    for arguments in (TrainingDataArguments, StudentArguments, TeacherArguments, DeiTLTTrainingArguments)
    for part in dataclasses.fields(arguments)
}
FOLLOWS = "drw_start_epoch"  # from the epochs, for the students with DRW


def changed_settings(run: Run, recipe: str) -> dict[str, Any]:
    """Those that a run was given beside its recipe; a default that it went back to is not told of."""
    told = {name: value for name, value in run.settings.items() if name not in _NAMED}
    of_recipe = load_recipe(recipe)
    return {name: value for name, value in told.items() if value != of_recipe.get(name) and value != []}


def check_comparable(base: str, runs: Runs) -> None:
    """Refuse runs that were not told the same beside their recipes, or that have another student's teacher."""
    first: tuple[str, dict[str, Any]] | None = None
    for name, of_seeds in runs.items():
        for seed, run in of_seeds.items():
            here, changed = (
                student_directory(Path(), name, seed).name,
                changed_settings(run, student_recipe(base, STUDENTS[name])),
            )
            changed.pop(FOLLOWS, None)
            first = first or (here, changed)
            if changed != first[1]:
                raise SystemExit(
                    f"{here} and {first[0]} were trained with other settings, {_difference(changed, first[1])}; "
                    "take one of them away and train it again"
                )
            _check_teacher(here, run, STUDENTS[name].teacher)


def check_is_as_told(directory: Path, settings: Mapping[str, Any], flags: Sequence[str]) -> None:
    """Refuse a finished run that was trained with other values of some flags than they have now."""
    given = {name: values or ["true"] for name, values in _values(flags).items()}
    for name, values in given.items():
        if name in _NAMED or name not in _DEFAULTS:  # what no training knows it refuses itself
            continue
        recorded = settings.get(name, _DEFAULTS[name])
        if [_plain(value) for value in _listed(recorded)] != [_plain(text) for text in values]:
            raise SystemExit(
                f"{directory} was trained with {name} {recorded}, and now it is {' '.join(values)}; pass another "
                "--output_dir, or take the run away"
            )


def _check_teacher(here: str, run: Run, suffix: str | None) -> None:
    teacher = run.settings.get("teacher")
    own = None if suffix is None else teacher_directory(Path(), suffix).name
    if (None if teacher is None else Path(teacher).name) != own:
        raise SystemExit(f"{here} has the teacher {teacher}, not {own}; take the run away and train it again")


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return ", ".join(f"{name} {one.get(name, 'as in its recipe')} and {other.get(name, 'as there')}" for name in names)


def _values(flags: Sequence[str]) -> dict[str, list[str]]:
    """What follows each flag."""
    values: dict[str, list[str]] = {}
    for text in flags:
        name, equals, value = text.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if text.startswith("--"):
            values[name] = [value] if equals else []
        elif values:
            values[list(values)[-1]].append(text)
    return values


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _plain(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value).lower()
