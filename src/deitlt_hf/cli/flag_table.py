"""Writes `flags.json`, the flags of the commands' dataclasses: `python -m deitlt_hf.cli.flag_table`.

The dataclasses extend transformers' `TrainingArguments`, whose import loads torch and takes seconds. From the table,
`flags.py` shows the help and refuses a mistake at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
from typing import Any

import transformers

from deitlt_hf.cli.analyze import AnalyzeArguments
from deitlt_hf.cli.calibrate import CalibrateArguments
from deitlt_hf.cli.compare import CompareArguments
from deitlt_hf.cli.data_inspect import InspectArguments
from deitlt_hf.cli.evaluate import EvaluateArguments
from deitlt_hf.cli.fit import FitArguments
from deitlt_hf.cli.flags import FLAGS_FILE
from deitlt_hf.cli.parsing import DataclassParser, accept_none
from deitlt_hf.data.arguments import TrainingDataArguments
from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.data.suggestion import STUDENT_SIZES
from deitlt_hf.losses.by_name import CLS_LOSSES, TEACHER_LOSSES
from deitlt_hf.losses.distillation import DISTILLATION_TYPES
from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CLASSIFIERS
from deitlt_hf.runs.training import StudentArguments, TeacherArguments
from deitlt_hf.teachers.pixels import TEACHER_PIXELS
from deitlt_hf.training.arguments import (
    AUGMENTATION_DEVICES,
    TEACHER_SCHEDULES,
    VIEWS,
    DeiTLTTrainingArguments,
    TeacherTrainingArguments,
)

_OF_COMMANDS = (
    TrainingDataArguments,
    StudentArguments,
    TeacherArguments,
    DeiTLTTrainingArguments,
    TeacherTrainingArguments,
    EvaluateArguments,
    AnalyzeArguments,
    CalibrateArguments,
    CompareArguments,
    FitArguments,
    InspectArguments,
)
# What a setting may be, as the dataclasses and models check it, under the name that their message has.
_WORDS = {
    "student_size": ("student size", STUDENT_SIZES),
    "distillation_type": ("distillation type", DISTILLATION_TYPES),
    "distillation_view": ("distillation view", VIEWS),
    "training_view": ("training view", VIEWS),
    "teacher_pixels": ("teacher_pixels", TEACHER_PIXELS),
    "augmentation_device": ("augmentation_device", AUGMENTATION_DEVICES),
    "cls_loss": ("cls_loss", CLS_LOSSES),
    "loss": ("loss", TEACHER_LOSSES),
    "schedule": ("schedule", TEACHER_SCHEDULES),
    "classifier": ("classifier", CLASSIFIERS),
}
_TYPES = {int: "int", float: "float", "string_to_bool": "bool"}


def flag_table() -> dict[str, Any]:
    """Transformers' version, the names of data sets, and `{"extends": name, "flags": [...]}` of each dataclass."""
    found = {}
    for leaf in _OF_COMMANDS:
        chain = [each for each in reversed(leaf.__mro__) if dataclasses.is_dataclass(each)]
        for each, parent in zip(chain, [None, *chain], strict=False):
            found[each.__name__] = {"extends": parent and parent.__name__, "flags": _flags_of(each)}
    return {"transformers": transformers.__version__, "data_sets": list(BENCHMARKS), "dataclasses": found}


def _flags_of(dataclass_type: type) -> list[dict[str, Any]]:
    """The flags of the fields that a dataclass itself defines."""
    parser = DataclassParser("", [dataclass_type])
    accept_none(parser, [dataclass_type])
    own = inspect.get_annotations(dataclass_type)
    turned_off = {action.dest for action in parser._actions if isinstance(action, argparse._StoreFalseAction)}
    return [
        _flag(action, action.dest in turned_off)
        for action in parser._actions
        if action.dest in own and not isinstance(action, argparse._StoreFalseAction)
    ]


def _flag(action: argparse.Action, can_be_turned_off: bool) -> dict[str, Any]:
    """What there is to say of a flag, without what is argparse's default."""
    convert = getattr(action.type, "__wrapped__", action.type)
    name = _TYPES.get(convert, _TYPES.get(getattr(convert, "__name__", "")))
    aliases = [option for option in action.option_strings if option.strip("-").replace("-", "_") != action.dest]
    called, words = _WORDS.get(action.dest, (None, ()))
    said = {
        "name": action.dest,
        "aliases": [alias.strip("-") for alias in aliases if "-" not in alias.strip("-")],
        "type": name,
        "or_none": convert is not action.type,
        "nargs": action.nargs,
        "const": action.const,
        "choices": action.choices and list(action.choices),
        "called": called,
        "words": list(words),
        "required": action.required,
        "no": can_be_turned_off,
        "default": getattr(action.default, "value", action.default),  # transformers has some as enumerations
        "help": action.help,
    }
    return {key: value for key, value in said.items() if value not in (None, [], "") and (value is not False)}


def write_table() -> None:
    """Write `flags.json`, one flag a line."""
    table = flag_table()
    lines = []
    for name, of in table["dataclasses"].items():
        flags = ",\n".join(f"      {json.dumps(flag, ensure_ascii=False)}" for flag in of["flags"])
        lines.append(f'    "{name}": {{"extends": {json.dumps(of["extends"])}, "flags": [\n{flags}\n    ]}}')
    others = "".join(f"  {json.dumps(key)}: {json.dumps(table[key])},\n" for key in ("transformers", "data_sets"))
    joined = ",\n".join(lines)
    FLAGS_FILE.write_text(f'{{\n{others}  "dataclasses": {{\n{joined}\n  }}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    write_table()
