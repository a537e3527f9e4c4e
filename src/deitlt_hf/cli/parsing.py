"""Flags from dataclasses, with a recipe's settings as their defaults."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

from transformers import HfArgumentParser

from deitlt_hf.cli.console import OneLineParser
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.recipes import load_recipe


class DataclassParser(OneLineParser, HfArgumentParser):
    """transformers' parser of dataclasses."""

    def parse_into(self, argv: Sequence[str]) -> list[Any]:
        """Instances of the dataclasses, and a namespace of the other arguments."""
        try:
            *instances, unknown = self.parse_args_into_dataclasses(
                argv, return_remaining_strings=True, look_for_args_file=False
            )
        except DeiTLTError:
            raise
        except ValueError as error:  # of transformers' own arguments, bf16 on a device without it for instance
            self.error(str(error).splitlines()[0].rstrip("."))
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], flags)
            self.error(f"unknown option {unknown[0]}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return instances


def parse_with_recipe(
    command: str, description: str, dataclass_types: Sequence[type], argv: Sequence[str]
) -> list[Any]:
    """Instances of the dataclasses: flags over the recipe of `--recipe`, over the fields' defaults.

    Without `--output_dir`, a run goes to `runs/` and its recipe's name. `none` takes back a number that the recipe sets
    and that may be left out: `--drw_start_epoch none`.

    Raises:
        DeiTLTError: an unknown recipe, or a recipe with a setting that the command does not know.
    """
    parser = DataclassParser(
        dataclass_types,
        prog=f"deitlt {command}",
        usage=f"deitlt {command} [--recipe RECIPE] [options]",
        description=description,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", help="name of a recipe (see `deitlt recipes`) or a YAML file")
    _accept_none(parser, dataclass_types)
    given, _ = parser.parse_known_args(argv)
    if given.recipe is not None:
        settings = load_recipe(given.recipe)
        _check_settings(given.recipe, settings, dataclass_types)
        settings.setdefault("output_dir", f"runs/{Path(given.recipe).stem}")
        parser.set_defaults(**settings)
    *instances, _recipe = parser.parse_into(argv)
    return instances


def _accept_none(parser: HfArgumentParser, dataclass_types: Sequence[type]) -> None:
    """Let `none` stand for an optional number that is left out, so that a flag can take back what a recipe sets."""
    hints = {name: hint for dataclass_type in dataclass_types for name, hint in get_type_hints(dataclass_type).items()}
    for action in parser._actions:
        of_type = get_args(hints.get(action.dest))
        if type(None) in of_type and {int, float} & set(of_type):
            action.type = partial(_number_or_none, action.type)


def _number_or_none(convert: type, text: str) -> float | None:
    return None if text == "none" else convert(text)


def _check_settings(recipe: str, settings: dict[str, Any], dataclass_types: Sequence[type]) -> None:
    known = {part.name for dataclass_type in dataclass_types for part in dataclasses.fields(dataclass_type)}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see --help for what it knows"
            raise DeiTLTError(f"recipe {recipe} has an unknown setting {name!r}; {hint}")
