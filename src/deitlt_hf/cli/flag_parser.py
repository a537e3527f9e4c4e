"""A parser of the flags in `flags.json`, and its help in groups."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from deitlt_hf.cli.console import OneLineParser

Flag = dict[str, Any]  # a flag of `flags.json`, and the dataclass that defines it as `of`


class Help(NamedTuple):
    """What `--help` shows where a command has too many flags; `--help-all` shows the others too."""

    shown: Mapping[str, str]  # title of a group: the flags in it, in their order
    others: Mapping[str, str]  # dataclass: title of the group of its other flags
    hidden: frozenset[str]  # shown by neither


class FlagParser(OneLineParser):
    """A parser of flags from the table."""

    def __init__(self, prog: str, usage: str, description: str, layout: Help | None):
        options = {"formatter_class": _Formatter, "argument_default": argparse.SUPPRESS, "allow_abbrev": False}
        super().__init__(prog=prog, usage=usage, description=description, add_help=layout is None, **options)
        self.layout = layout
        if layout is not None:
            self.add_argument("-h", "--help", action=_ShortHelp, nargs=0, help="show the most used flags")
            self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show all flags, also those of transformers")

    def add_flags(self, flags: Sequence[Flag], of_run: bool) -> None:
        """Add the flags, in the groups of the layout."""
        if self.layout is None:
            of_data = self.add_argument_group("data, by default those of the model's run") if of_run else self
            for flag in flags:
                is_of_run = of_run and flag["of"] == "DataArguments"
                default = None if is_of_run else flag.get("default")
                self._add_flag(
                    of_data if is_of_run else self, flag, "" if default is None else f" (default: {default})"
                )
            return
        by_name = {flag["name"]: flag for flag in flags}
        titled = {name: title for title, names in self.layout.shown.items() for name in names.split()}
        names = [*titled, *(name for name in by_name if name not in titled)]
        groups: dict[str, argparse._ArgumentGroup] = {}
        for title in (*self.layout.shown, *self.layout.others.values()):
            groups[title] = groups.get(title) or self.add_argument_group(title)
        for name in names:
            title = titled.get(name) or self.layout.others[by_name[name]["of"]]
            self._add_flag(groups[title], by_name[name])

    def _add_flag(self, group: Any, flag: Flag, default: str = "") -> None:
        name, is_hidden = flag["name"], self.layout is not None and flag["name"] in self.layout.hidden
        action = group.add_argument(
            *_both_ways(name, *flag.get("aliases", ())),
            help=argparse.SUPPRESS if is_hidden else flag.get("help", "") + default.replace("%", "%%"),
            **_options(flag),
        )
        action.shown = _shown(flag)
        if flag.get("no") or flag.get("any"):
            names = _both_ways(f"no_{name}")
            group.add_argument(
                *names, action="store_false", dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )


# Where the last word of the name would mislead.
_VALUES = {"init_from": "MODEL", "on_bad_image": "error|skip", "report_to": "NAME"}


def _both_ways(*names: str) -> list[str]:
    """`--batch_size` and `--batch-size`."""
    return list(dict.fromkeys(f"--{way}" for name in names for way in (name, name.replace("_", "-"))))


def _shown(flag: Flag) -> str:
    """A flag's names and value, in the left column of the help."""
    name, is_switch = flag["name"], flag.get("type") == "bool" and flag.get("nargs") == "?"
    names = [*flag.get("aliases", ()), name, *([f"no_{name}"] if flag.get("no") else [])]
    value = "true|false" if flag.get("type") == "bool" else name.rsplit("_", 1)[-1].upper()
    value = _VALUES.get(name, value)
    if len(flag.get("choices", ())) in range(1, 6):
        value = "|".join(flag["choices"])
    ways = {"+": f" {value} ...", "*": f" {value} ...", "?": "" if is_switch else f" [{value}]"}
    return ", ".join(f"--{each}" for each in names) + ways.get(flag.get("nargs"), f" {value}")


class _Formatter(argparse.HelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        return getattr(action, "shown", None) or super()._format_action_invocation(action)


class _ShortHelp(argparse.Action):
    def __call__(self, parser: Any, *_: Any) -> None:
        shown = {name for names in parser.layout.shown.values() for name in names.split()}
        for action in parser._actions:
            if getattr(action, "shown", None) and action.dest not in shown:
                action.help = argparse.SUPPRESS
        parser.print_help()
        parser.exit()


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, *_: Any) -> None:
        parser.print_help()
        parser.exit()


class _OneName(argparse.Action):
    """Stores a value, and refuses another one under another name of the flag."""

    before: tuple[str, Any] | None = None

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        name = f"--{(option or '').strip('-').replace('-', '_')}"
        if self.before is not None and self.before[0] != name and self.before[1] != value:
            other, earlier = self.before
            parser.error(f"{other} {earlier} and {name} {value} are two values of one setting; pass one of them")
        self.before = name, value
        setattr(namespace, self.dest, value)


class _AnyNumber(_OneName):
    """Stores one value as itself, none as the flag's constant, and several as a list."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        value = value[0] if len(value) == 1 else value or self.const
        super().__call__(parser, namespace, value, option)


def _options(flag: Flag) -> dict[str, Any]:
    """What argparse is to know of a flag; of one of another transformers than the table's, as little as it can."""
    convert = _TYPES[flag.get("type"), flag.get("or_none", False)]
    if not flag.get("any"):
        options = {key: flag[key] for key in ("nargs", "const", "choices", "required") if key in flag}
        return options | {"type": convert, "action": _OneName}
    action = _OneName if flag.get("nargs") in ("*", "+") else _AnyNumber
    return {"nargs": "*", "const": flag.get("const", True), "type": _if_it_can(convert), "action": action}


def _if_it_can(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Leave a text that the type of the table does not fit to transformers, whose own type may be another."""

    def parse(text: str) -> Any:
        try:
            return convert(text)
        except (ValueError, argparse.ArgumentTypeError):
            return text

    return parse


def _bool(text: str) -> bool:
    """As transformers' parser reads it, with its message."""
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(
        f"Truthy value expected: got {text} but expected one of yes/no, true/false, t/f, y/n, 1/0 (case insensitive)."
    )


def or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let `none` mean no number, so that a flag can undo a recipe's setting: `--drw_start_epoch none`."""

    def parse(text: str) -> Any:
        return None if text == "none" else convert(text)

    parse.__name__, parse.__wrapped__ = convert.__name__, convert  # argparse names the type in its errors
    return parse


_PLAIN = {None: str, "int": int, "float": float, "bool": _bool}
_TYPES = {(name, none): or_none(to) if none else to for name, to in _PLAIN.items() for none in (False, True)}
