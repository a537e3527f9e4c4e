"""Flags from dataclasses, with a recipe's settings, or those that suit the data, as their defaults."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from transformers import HfArgumentParser

from deitlt_hf.cli.console import OneLineParser
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.hub.data_record import DATA_FILE, at_recorded_places
from deitlt_hf.hub.run_record import RECIPE_FILE
from deitlt_hf.recipes import load_recipe

if TYPE_CHECKING:
    from deitlt_hf.training.measured_data import DataChoice


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
        except (ValueError, ImportError) as error:  # of transformers' own arguments: no bf16 here, or no DeepSpeed
            said = str(error).removeprefix("No package metadata was found for ")
            self.error(said.splitlines()[0].rstrip(". "))
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], flags)
            self.error(f"unknown option {unknown[0]}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        return instances


def take_data_of_run(
    parser: DataclassParser, source: str, argv: Sequence[str], revision: str | None = None
) -> DataChoice:
    """Let the data of the run that made a model be the defaults of `DataArguments`, unless `--data` names others."""
    from deitlt_hf.hub.loading import load_run_settings
    from deitlt_hf.training.measured_data import DataChoice
    from deitlt_hf.training.run_data import DataArguments

    of_data = {part.name for part in dataclasses.fields(DataArguments)}
    given = {name: value for name, value in _given_settings(parser, argv).items() if name in of_data}
    settings = load_run_settings(source, revision)
    own = "data" not in given or _is_same(given["data"], settings.get("data", DataArguments.data))
    if own:
        parser.set_defaults(**{name: value for name, value in settings.items() if name in of_data})
    return DataChoice(own, given)


def _is_same(data: str, other: str) -> bool:
    paths = [Path(source).expanduser() for source in (data, other)]
    return data == other or (all(path.exists() for path in paths) and paths[0].samefile(paths[1]))


def parse_with_recipe(
    command: str,
    description: str,
    dataclass_types: Sequence[type],
    argv: Sequence[str],
    suggest: Callable[[Sequence[Any], dict[str, Any]], dict[str, Any]] | None = None,
) -> list[Any]:
    """Instances of the dataclasses: flags over the recipe of `--recipe`, over the fields' defaults.

    Without `--output_dir`, a run goes to `runs/` and its recipe's name, or its data's. `none` takes back a number that
    the recipe sets and that may be left out: `--drw_start_epoch none`.

    A run that is resumed without a recipe has the one that it left in its directory. Otherwise `suggest` makes settings
    where `--data` is given; it takes the instances as they are without any, and the settings that flags give.

    Raises:
        DeiTLTError: an unknown recipe, or a recipe with a setting that the command does not know; or whatever `suggest`
            raises.
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
    given = _given_settings(parser, argv)
    recipe = given.pop("recipe", None)
    if recipe is None and "data" in given:
        parser.set_defaults(output_dir=f"runs/{_name_of_data(given['data'])}{'-teacher' * (command == 'teacher')}")
    output_dir = given.get("output_dir", parser.get_default("output_dir"))
    resumed = recipe is None and (given.get("resume") or given.get("resume_from_checkpoint"))
    if resumed and output_dir is not None and (Path(output_dir) / RECIPE_FILE).is_file():
        recipe = str(Path(output_dir) / RECIPE_FILE)
    if recipe is not None:
        settings = load_recipe(recipe)
        if resumed or (Path(recipe).is_file() and Path(recipe).with_name(DATA_FILE).is_file()):
            settings = at_recorded_places(settings, Path(recipe).parent)  # relative paths are those of that run
        _check_settings(recipe, settings, dataclass_types)
        if not resumed:
            settings.setdefault("output_dir", f"runs/{Path(recipe).stem}")
        parser.set_defaults(**settings)
    elif suggest is not None and "data" in given and not resumed:
        # Without DRW, whose epoch has to fit the epochs, which are not known yet.
        *instances, _recipe = parser.parse_into([*argv, "--drw_start_epoch", "none"])
        parser.set_defaults(**suggest(instances, given))
    *instances, _recipe = parser.parse_into(argv)
    return instances


def _given_settings(parser: DataclassParser, argv: Sequence[str]) -> dict[str, Any]:
    """The settings that are passed as flags, without the defaults of the others."""
    defaults = [(action, action.default) for action in parser._actions]
    for action, _ in defaults:
        action.default = argparse.SUPPRESS
    given, _ = parser.parse_known_args(argv)
    for action, default in defaults:
        action.default = default
    return vars(given)


def _name_of_data(data: str) -> str:
    path = Path(data).resolve()
    return path.stem if path.is_file() else path.name


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
