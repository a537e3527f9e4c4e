"""The part of a card that says how the model was trained, by whom it was taught, and how to train it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from deitlt_hf.cards.descriptions import describe_teacher_training
from deitlt_hf.cards.facts import ModelFacts
from deitlt_hf.cards.markdown import code_block, escape, table
from deitlt_hf.data.suggestion import format_setting
from deitlt_hf.evaluation.measures import MEASURES
from deitlt_hf.files import RECIPE_FILE

TEACHER_FILE = "teacher.yaml"
_PATHS = {"data": "DATA", "data_dir": "DIR", "init_from": "WEIGHTS"}  # what a reader has elsewhere


def training_section(facts: ModelFacts) -> str | None:
    """`## Training`: settings, the command that repeats it, the teacher, and what it took; None if nothing is known.

    Example:
        >>> training_section(facts)  # doctest: +SKIP
    """
    if facts.settings is None and not facts.run:
        return None
    parts = ["## Training"]
    if facts.settings is not None:
        parts += [
            "The settings that differ from the defaults of `deitlt_hf`:"
            if facts.recipe is None
            else f"The settings of the recipe `{facts.recipe}`:",
            code_block("yaml", _as_yaml(facts.settings)),
            *_how_to_repeat(facts),
            *_resumed(facts),
        ]
    return "\n\n".join([*parts, *_teacher(facts), *_what_it_took(facts), *_versions(facts)])


def _as_yaml(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True).rstrip()


def _how_to_repeat(facts: ModelFacts) -> list[str]:
    if facts.recipe is not None:
        return ["To train a teacher and the student:", code_block("sh", _recipe_commands(facts))]
    data = "".join(f" --{name} {place}" for name, place in _PATHS.items() if _is_elsewhere(facts, name))
    processes = (facts.run.get("training") or {}).get("processes", 1)
    train = f"{_launch('train' if facts.is_student else 'teacher', processes)} --recipe {RECIPE_FILE}{data}"
    text = f"They are in `{RECIPE_FILE}`. To train it again:"
    teacher = facts.run.get("teacher") or {}
    if facts.settings.get("teacher") is None or "teacher" in facts.hub_ids:
        return [text, code_block("sh", train)]
    if teacher.get("settings") is None:
        return [text, code_block("sh", f"{train} --teacher TEACHER")]
    text = f"They are in `{RECIPE_FILE}`. To train it again, with the teacher's settings below in `{TEACHER_FILE}`:"
    first = f"deitlt teacher --recipe {TEACHER_FILE} --output_dir runs/teacher{data}"
    return [text, code_block("sh", f"{first}\n{train} --teacher runs/teacher")]


def _resumed(facts: ModelFacts) -> list[str]:
    """What the settings above do not tell: those of before the run was resumed with others."""
    sentences = []
    for entry in (facts.run.get("training") or {}).get("resumed") or []:
        changes = ", ".join(
            f"`{name}` {escape(format_setting(new))} (before: {escape(format_setting(old))})"
            for name, (old, new) in entry["changed"].items()
        )
        sentences.append(f"Resumed after step {entry['step']} with other settings than before: {changes}.")
    return sentences


def _recipe_commands(facts: ModelFacts) -> str:
    """A teacher and its student by the package's recipes; data that are not on the hub lie in a directory."""
    on_hub = facts.data is not None and facts.data.hub_id is not None
    data = "" if on_hub else " --data_dir DIR"
    teacher = f"{facts.recipe}-teacher"
    # The small teachers of images on the hub, CIFAR's, are trained on one device.
    first = f"{_launch('teacher', 1 if on_hub else facts.processes)} --recipe {teacher}{data}"
    return f"{first}\n{_launch('train', facts.processes)} --recipe {facts.recipe}{data} --teacher runs/{teacher}"


def _is_elsewhere(facts: ModelFacts, name: str) -> bool:
    value = facts.settings.get(name)
    if value is None or name in facts.hub_ids:
        return False
    return name != "data" or facts.data.model_index_type == "imagefolder"


def _launch(command: str, processes: int) -> str:
    if processes > 1:
        return f"accelerate launch --num_processes {processes} -m deitlt_hf {command}"
    return f"deitlt {command}"


def _teacher(facts: ModelFacts) -> list[str]:
    teacher = facts.run.get("teacher")
    if teacher is None:
        return []
    name = str(teacher.get("name", ""))
    shown = f"[{name}](https://huggingface.co/{name})" if facts.hub_ids.get("teacher") == name else f"`{escape(name)}`"
    sentences = [f"{shown}: {escape(teacher.get('architecture', 'unknown architecture'))}."]
    settings = teacher.get("settings")
    if settings is not None:
        start = "Fine-tuned" if settings.get("init_from") else "Trained"
        sentences.append(f"{start} with {describe_teacher_training(settings)}.")
    accuracy = teacher.get("accuracy")
    if accuracy:
        values = ", ".join(f"{of.label} {of.text(accuracy.get(of.key))}" for of in MEASURES if of.key in accuracy)
        sentences.append(f"Its accuracy on the test split of its own run, in percent: {values}.")
    parts = ["### Teacher", " ".join(sentences)]
    if settings and facts.recipe is None:
        parts.append(code_block("yaml", _as_yaml(settings)))
    return parts


def _what_it_took(facts: ModelFacts) -> list[str]:
    training = facts.run.get("training")
    if not training or facts.step is not None:
        return []
    known = {label: training[key] for key, label in _TRAINING_ROWS.items() if training.get(key) is not None}
    rows = [(label, f"{value:,.10g}") for label, value in known.items()]
    if training.get("device") is not None:
        rows.append(("device", escape(training["device"])))
    if training.get("hours") is not None:
        rows.append((f"time, {training.get('hours_of', 'the whole run')}", _duration(training["hours"])))
    return ["### What it took", table(("of the run", ""), rows)]


_TRAINING_ROWS = {
    "epochs": "epochs",
    "steps": "optimiser steps",
    "images_seen": "images seen",
    "processes": "processes",
    "seed": "seed",
}


def _duration(hours: float) -> str:
    units = {"hours": hours, "minutes": 60 * hours, "seconds": 3600 * hours}
    return next((f"{value:.1f} {unit}" for unit, value in units.items() if value >= 1), "below a second")


def _versions(facts: ModelFacts) -> list[str]:
    versions = dict(facts.run.get("versions") or {})
    if facts.run.get("python"):
        versions["python"] = facts.run["python"]
    if not versions:
        return []
    rows = [(escape(package), escape(number)) for package, number in versions.items()]
    return ["### Versions", table(("package", "version"), rows)]
