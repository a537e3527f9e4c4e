"""The flags of the commands, known without torch: their help, and mistakes in them refused at once.

`flags.json` holds what the dataclasses of the commands say, see `flag_table.py`. What passes here is parsed again with
the dataclasses themselves (`parsing.py`), which fill in recipes and defaults.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from deitlt_hf.cli.flag_parser import Flag, FlagParser, Help
from deitlt_hf.errors import unknown_source
from deitlt_hf.files import is_hub_id
from deitlt_hf.ranges import check_range, one_of

FLAGS_FILE = Path(__file__).with_name("flags.json")
_OF_TRANSFORMERS = "TrainingArguments"

# Our settings, and what other programs call them.
_OTHER_NAMES = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs num_epochs",
    "per_device_train_batch_size": "batch batch_size bs train_batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "dataloader_num_workers": "workers num_workers",
    "weight_decay": "wd",
    "warmup_epochs": "warmup",
    "label_smoothing_factor": "smoothing label_smoothing",
    "drop_path_rate": "drop_path",
    "ema_decay": "ema",
    "student_size": "model arch",
    "architecture": "model arch",
    "image_size": "size img_size input_size resolution",
    "data": "dataset data_path",
    "output_dir": "output out",
    "out": "output",
    "init_from": "pretrained weights",
    "resume_from_checkpoint": "checkpoint",
    "resume": "continue",
    "overwrite": "force",
    "use_cpu": "cpu",
    "bf16": "amp",
    "distillation_temperature": "temperature",
    "distillation_alpha": "alpha",
    "drw_start_epoch": "drw",
}


def near_names(word: str, names: Iterable[str]) -> list[str]:
    """The flags that an unknown one may mean: those with that name in other programs, or with similar letters."""
    names = {name for name in names if name not in ("help", "help_all")}
    word = word.lstrip("-").replace("-", "_").lower()
    known = [name for name, others in _OTHER_NAMES.items() if name in names and word in others.split()]
    return known or difflib.get_close_matches(word, sorted(names), n=3, cutoff=0.75)


def refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    """End with an error about the first argument that a parser did not know, if there is one."""
    if unknown:
        words = {option.strip("-").replace("-", "_") for action in parser._actions for option in action.option_strings}
        near = [f"--{name}" for name in near_names(unknown[0].split("=")[0], words)]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        parser.error(f"unknown option {unknown[0]}{hint}")


def check_flags(
    command: str,
    usage: str,
    description: str,
    dataclasses: Sequence[str],
    argv: Sequence[str],
    add_others: Callable[[argparse.ArgumentParser], None],
    *,
    layout: Help | None = None,
    of_run: bool = False,
) -> argparse.Namespace:
    """Show the help that `argv` asks for, or refuse what is wrong in it; returns what is given, without defaults.

    Args:
        command: the words after `deitlt`, which the usage begins with.
        usage: the rest of the usage.
        description: what the command does.
        dataclasses: names of the dataclasses whose fields are flags.
        argv: the arguments of the command.
        add_others: adds the command's other arguments to a parser.
        layout: groups of flags, for a command with many.
        of_run: whether the data are by default those of a model's run.
    """
    parser = FlagParser(f"deitlt {command}", f"deitlt {command} {usage}", description, layout)
    add_others(parser)
    flags = _flags_of(dataclasses)
    parser.add_flags(flags, of_run)
    given, unknown = parser.parse_known_args(argv)
    refuse_unknown(parser, unknown)
    words = {flag["name"]: (flag["called"], tuple(flag["words"])) for flag in flags if "words" in flag}
    for name, value in vars(given).items():
        check_range(name, value)
        if name in words:
            one_of(words[name][0], value, words[name][1])
    return given


def check_data_is_there(source: str) -> None:
    """Refuse data that are neither a name nor a file or directory, before torch is loaded; hub ids pass."""
    path = Path(source).expanduser()
    if source in _table()["data_sets"] or path.exists() or is_hub_id(source):
        return
    from deitlt_hf.data.benchmarks import BENCHMARKS  # may have a data set more; loading it takes a second

    if source not in BENCHMARKS:
        raise unknown_source(path, BENCHMARKS)


def _table() -> dict[str, Any]:
    return json.loads(FLAGS_FILE.read_text(encoding="utf-8"))


def _flags_of(dataclasses: Sequence[str]) -> list[Flag]:
    """The flags of dataclasses. The installed transformers may have other flags than the one of the table."""
    table = _table()

    def inherited(name: str | None) -> dict[str, Flag]:
        if name is None:
            return {}
        of = table["dataclasses"][name]
        return inherited(of["extends"]) | {flag["name"]: flag | {"of": name} for flag in of["flags"]}

    flags: dict[str, Flag] = {}
    for name in dataclasses:
        flags |= inherited(name)
    theirs = [flag for flag in flags.values() if flag["of"] == _OF_TRANSFORMERS]
    if theirs and metadata.version("transformers") != table["transformers"]:
        installed = _installed_names()
        for flag in theirs:
            if flag["name"] not in installed:
                del flags[flag["name"]]
        unknown = {name: {"name": name} for name in sorted(installed - flags.keys())}
        for flag in [*unknown.values(), *theirs]:
            if flag["name"] in installed:
                flags[flag["name"]] = flag | {"of": _OF_TRANSFORMERS, "any": True}
    return list(flags.values())


def _installed_names() -> set[str]:
    """The names of transformers' training arguments, and a few more, read from its source without running it."""
    spec = importlib.util.find_spec("transformers")
    source = Path(spec.origin).with_name("training_args.py")
    return set(re.findall(r"^    ([a-z]\w*):", source.read_text(encoding="utf-8"), flags=re.MULTILINE))
