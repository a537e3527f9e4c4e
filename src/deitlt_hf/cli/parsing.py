"""Flags from dataclasses, with a recipe's settings as their defaults."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from transformers import HfArgumentParser

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.recipes import load_recipe


class OneLineParser(HfArgumentParser):
    """transformers' parser whose errors are one line, without the usage of some hundred flags before it."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)

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
    parser = OneLineParser(
        dataclass_types,
        prog=f"deitlt {command}",
        usage=f"deitlt {command} [--recipe RECIPE] [options]",
        description=description,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", help="name of a recipe (see `deitlt recipes`) or a YAML file")
    argv, left_out = _take_out_none(argv, dataclass_types)
    given, _ = parser.parse_known_args(argv)
    if given.recipe is not None:
        settings = load_recipe(given.recipe)
        _check_settings(given.recipe, settings, dataclass_types)
        settings.setdefault("output_dir", f"runs/{Path(given.recipe).stem}")
        parser.set_defaults(**settings)
    parser.set_defaults(**dict.fromkeys(left_out))
    *instances, _recipe = parser.parse_into(argv)
    return instances


def _take_out_none(argv: Sequence[str], dataclass_types: Sequence[type]) -> tuple[list[str], list[str]]:
    """The flags without those of optional numbers that are `none`, and the names of these."""
    optional = {
        name
        for dataclass_type in dataclass_types
        for name, hint in get_type_hints(dataclass_type).items()
        if type(None) in get_args(hint) and {int, float, list[int]} & set(get_args(hint))
    }
    kept: list[str] = []
    left_out: list[str] = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if not equals:  # the value is a word of its own, behind the flag
            flag, value = (kept[-1] if kept else ""), word
        name = flag.removeprefix("--").replace("-", "_")
        if value == "none" and flag.startswith("--") and name in optional:
            left_out.append(name)
            if not equals:
                kept.pop()
        else:
            kept.append(word)
    return kept, left_out


def _check_settings(recipe: str, settings: dict[str, Any], dataclass_types: Sequence[type]) -> None:
    known = {part.name for dataclass_type in dataclass_types for part in dataclasses.fields(dataclass_type)}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see --help for what it knows"
            raise DeiTLTError(f"recipe {recipe} has an unknown setting {name!r}; {hint}")
