"""Flags from dataclasses, with a recipe's settings, or those that suit the data, as their defaults."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from deitlt_hf.cli.console import OneLineParser
from deitlt_hf.cli.flag_parser import or_none
from deitlt_hf.cli.flags import near_names, refuse_unknown
from deitlt_hf.cli.training_flags import add_recipe
from deitlt_hf.data.record import DATA_FILE, at_recorded_places
from deitlt_hf.data.suggestion import format_setting
from deitlt_hf.errors import DeiTLTError, notice
from deitlt_hf.files import RECIPE_FILE, check_is_free
from deitlt_hf.ranges import RANGES, check_ranges
from deitlt_hf.recipes import load_recipe

if TYPE_CHECKING:
    from deitlt_hf.data.arguments import DataArguments
    from deitlt_hf.runs.images import DataChoice


_NAMES_OF_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text, in quotes",
    dict: "a mapping",
}


class DataclassParser(OneLineParser, HfArgumentParser):
    """transformers' parser of dataclasses for `deitlt COMMAND`; `check_flags` has shown the help before."""

    def __init__(self, command: str, dataclass_types: Sequence[type]):
        super().__init__(dataclass_types, prog=f"deitlt {command}", add_help=False, allow_abbrev=False)

    def parse_into(self, argv: Sequence[str]) -> list[Any]:
        """Instances of the dataclasses, and a namespace of the other arguments."""
        try:
            *instances, unknown = self.parse_args_into_dataclasses(
                argv, return_remaining_strings=True, look_for_args_file=False
            )
        except DeiTLTError:
            raise
        except (ValueError, ImportError) as error:  # of transformers' own arguments: no bf16 here, or no DeepSpeed
            reason = str(error).removeprefix("No package metadata was found for ")
            self.error(reason.splitlines()[0].rstrip(". "))
        refuse_unknown(self, unknown)
        return instances


def parse_with_data_of_run(
    command: str,
    dataclass_type: type,
    argv: Sequence[str],
    add_model: Callable[[argparse.ArgumentParser], None],
    model_of: Callable[[argparse.Namespace], str] = lambda known: known.model,
) -> tuple[DataChoice, DataArguments, Any, argparse.Namespace]:
    """Parse a command whose data are by default those of a model's run.

    Args:
        command: the word after `deitlt`.
        dataclass_type: the command's own settings, beside `DataArguments`.
        argv: what is parsed.
        add_model: adds the arguments that name the model.
        model_of: says by these which model that is.

    Returns:
        How the data were chosen, an instance of `DataArguments`, one of the command's dataclass, and what is left.
    """
    from deitlt_hf.data.arguments import DataArguments
    from deitlt_hf.inference.loading import load_run_settings
    from deitlt_hf.runs.images import DataChoice

    parser = DataclassParser(command, [DataArguments, dataclass_type])
    add_model(parser)
    of_data = {part.name for part in dataclasses.fields(DataArguments)}
    known = parser.parse_known_args(argv)[0]
    given = {name: value for name, value in _given_settings(parser, argv).items() if name in of_data}
    settings = load_run_settings(model_of(known), getattr(known, "revision", None))
    own = "data" not in given or _is_same(given["data"], settings.get("data", DataArguments.data))
    if own:
        parser.set_defaults(**{name: value for name, value in settings.items() if name in of_data})
    data, options, others = parser.parse_into(argv)
    check_ranges(options)
    return DataChoice(own, given), data, options, others


def check_analysis(out: str | None, processes: int) -> None:
    """Refuse several processes, and a directory that is in use, before an analysis begins."""
    if processes > 1:
        raise DeiTLTError(f"the analysis runs in one process, not {processes}; run it without accelerate launch")
    if out is not None:
        check_is_free(out)


def _is_same(data: str, other: str) -> bool:
    paths = [Path(source).expanduser() for source in (data, other)]
    return data == other or (all(path.exists() for path in paths) and paths[0].samefile(paths[1]))


def parse_with_recipe(
    command: str,
    dataclass_types: Sequence[type],
    argv: Sequence[str],
    suggest: Callable[[Sequence[Any], dict[str, Any]], dict[str, Any]] | None = None,
) -> list[Any]:
    """Instances of the dataclasses: a flag overrides the recipe of `--recipe`, which overrides the fields' defaults.

    Without `--output_dir`, a run goes to `runs/` and the name of its recipe or data. A run that is resumed without a
    recipe has the recipe in its directory. Otherwise, with `--data`, `suggest` makes settings from the instances
    without a recipe and from the settings that flags give.
    """
    parser = DataclassParser(command, dataclass_types)
    add_recipe(parser)
    accept_none(parser, dataclass_types)
    given = _given_settings(parser, argv)
    recipe = given.pop("recipe", None)
    if recipe is None and "data" in given:
        parser.set_defaults(output_dir=f"{usual_directory(given['data'])}{'-teacher' * (command == 'teacher')}")
    output_dir = given.get("output_dir", parser.get_default("output_dir"))
    resumed = recipe is None and (given.get("resume") or given.get("resume_from_checkpoint"))
    if resumed and output_dir is not None and (Path(output_dir) / RECIPE_FILE).is_file():
        recipe = str(Path(output_dir) / RECIPE_FILE)
    if recipe is not None:
        parser.set_defaults(**_recipe_settings(recipe, bool(resumed), given, dataclass_types))
    elif suggest is not None and "data" in given and not resumed:
        # Without DRW: its epoch must fit the number of epochs, which is not known yet.
        *instances, _recipe = parser.parse_into([*argv, "--drw_start_epoch", "none"])
        parser.set_defaults(**suggest(instances, given))
    *instances, _recipe = parser.parse_into(argv)
    return instances


def usual_directory(data: str) -> str:
    """Where a run on these data goes without `--output_dir`."""
    path = Path(data).resolve()
    return f"runs/{path.stem if path.is_file() else path.name}"


def _recipe_settings(
    recipe: str, resumed: bool, given: Mapping[str, Any], dataclass_types: Sequence[type]
) -> dict[str, Any]:
    """The settings of a recipe, its epochs scaled to those of the flags unless a run is resumed with it."""
    settings = load_recipe(recipe)
    if resumed or (Path(recipe).is_file() and Path(recipe).with_name(DATA_FILE).is_file()):
        settings = at_recorded_places(settings, Path(recipe).parent)  # relative paths are relative to that run
    known = {part.name for dataclass_type in dataclass_types for part in dataclasses.fields(dataclass_type)}
    for name in settings:
        if name not in known:
            near = near_names(name, known)
            hint = f"did you mean {' or '.join(near)}?" if near else "see --help for what it knows"
            raise DeiTLTError(f"recipe {recipe} has an unknown setting {name!r}; {hint}")
    _check_types(recipe, settings, dataclass_types)
    if not resumed:
        return {"output_dir": f"runs/{Path(recipe).stem}"} | settings | scaled_to_epochs(settings, given)
    if settings.get("drw_start_epoch") is not None and _other_epochs(settings, given):
        notice(
            f"resumed with {given['num_train_epochs']:g} epochs in place of {settings['num_train_epochs']:g}: DRW "
            f"starts at epoch {given.get('drw_start_epoch', settings['drw_start_epoch'])}, and the learning rate "
            "follows the schedule of the new number; --drw_start_epoch changes the first"
        )
    return settings


def _check_types(recipe: str, settings: Mapping[str, Any], dataclass_types: Sequence[type]) -> None:
    """Refuse values of another type than the setting's; argparse checks texts alone."""
    hints = {name: hint for dataclass_type in dataclass_types for name, hint in get_type_hints(dataclass_type).items()}
    for name, value in settings.items():
        types = _types_in(hints[name])
        known = types & _NAMES_OF_TYPES.keys()
        accepted = known | ({int} if float in known else set())
        values = value if isinstance(value, list) and list in types else [value]
        wrong = next((one for one in values if not isinstance(one, str | None) and type(one) not in accepted), None)
        if known and wrong is not None:
            kinds = " or ".join(shown for kind, shown in _NAMES_OF_TYPES.items() if kind in known)
            raise DeiTLTError(f"recipe {recipe}: {name} is {format_setting(wrong)}; pass {kinds}")


def _types_in(hint: Any) -> set[Any]:
    """The types that a type hint is made of."""
    return {hint, get_origin(hint)}.union(*map(_types_in, get_args(hint)))


def _other_epochs(settings: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether flags give another number of epochs than a recipe, in the range that training accepts."""
    before, now = (source.get("num_train_epochs") for source in (settings, given))
    return before != now and all(epochs in RANGES["num_train_epochs"] for epochs in (before, now))


def scaled_to_epochs(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The epochs in a recipe's settings, scaled to the number of epochs that a flag gives; a notice says which."""
    if not _other_epochs(settings, given):
        return {}
    before, now = settings["num_train_epochs"], given["num_train_epochs"]
    scaled = {
        name: [int(epoch * now / before) for epoch in value] if isinstance(value, list) else int(value * now / before)
        for name, value in settings.items()
        if name in ("drw_start_epoch", "decay_epochs", "sam_rho_epochs") and isinstance(value, (int, list))
    }
    warmup = settings.get("warmup_epochs", 5)  # the default of both trainers
    if warmup >= now:
        scaled["warmup_epochs"] = warmup * now / before
    scaled = {name: value for name, value in scaled.items() if name not in given and value != settings.get(name)}
    if scaled:
        shown = ", ".join(f"{name} {format_setting(value)}" for name, value in scaled.items())
        notice(f"{now:g} epochs in place of the recipe's {before:g}; in proportion: {shown}")
    return scaled


def _given_settings(parser: DataclassParser, argv: Sequence[str]) -> dict[str, Any]:
    """The settings that are passed as flags, without any defaults."""
    defaults = [(action, action.default) for action in parser._actions]
    for action, _ in defaults:
        action.default = argparse.SUPPRESS
    given, _ = parser.parse_known_args(argv)
    for action, default in defaults:
        action.default = default
    return vars(given)


def accept_none(parser: HfArgumentParser, dataclass_types: Sequence[type]) -> None:
    """Let `none` mean no number, so that a flag can undo a recipe's setting: `--drw_start_epoch none`."""
    hints = {name: hint for dataclass_type in dataclass_types for name, hint in get_type_hints(dataclass_type).items()}
    for action in parser._actions:
        of_type = get_args(hints.get(action.dest))
        if type(None) in of_type and {int, float} & set(of_type):
            action.type = or_none(action.type)
