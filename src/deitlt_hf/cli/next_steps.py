"""The last lines of a command: the one or two commands that make sense next, with the paths filled in."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deitlt_hf.errors import printable
from deitlt_hf.recipes import recipe_names, teacher_recipe

if TYPE_CHECKING:
    from deitlt_hf.data.arguments import DataArguments


def say_next(*commands: Sequence[object]) -> None:
    """Print commands of `deitlt`, each given as its words.

    Example:
        >>> say_next(["app", "my runs/owls"], ["analyze", "my runs/owls", "--out", "owls"])
        next: deitlt app 'my runs/owls'
              deitlt analyze 'my runs/owls' --out owls
    """
    lines = [printable(shlex.join(["deitlt", *map(str, words)])) for words in commands]
    print("next: " + "\n      ".join(lines))


def after_training_a_teacher(argv: Sequence[str], data: DataArguments, directory: str) -> list[list[str]]:
    """The command that trains a student of a teacher on the same data, with a recipe if the teacher had one."""
    recipe = flag_value(argv, "recipe")
    student = None if recipe is None else _student_recipe(recipe)
    if student is not None:
        return [["train", "--recipe", student, *data_flags(argv), "--teacher", directory]]
    # Without --data, a recipe of the user's own or a resumed run has said which data these are.
    flags = data_flags(argv) if flag_value(argv, "data") is not None else _flags_of(data)
    return [["train", *flags, "--teacher", directory]]


def after_training_a_student(directory: str) -> list[list[str]]:
    """The commands after a training: its calibration where it had a validation split, then those after measuring."""
    from deitlt_hf.data.record import read_data_record

    record = read_data_record(directory)
    calibrate = [["calibrate", directory]] if record is not None and record.validation_counts else []
    return calibrate + after_measuring(directory)


def after_measuring(model: str, is_student: bool = True, argv: Sequence[str] = ()) -> list[list[str]]:
    """A page with figures, on the data that `argv` names, and a student on pictures of one's own."""
    from deitlt_hf.files import is_hub_id, last_part

    # Not `owner/name-analysis` for a hub id: beside a folder `owner`, the id would be taken for a path.
    place = last_part(model) if is_hub_id(model) else model.rstrip("/")
    model_words = [model, *of_revision(argv)]
    page = ["analyze", *model_words, *data_flags(argv), "--out", f"{place}-analysis"]
    return [page, ["app", *model_words]] if is_student else [page]


def of_revision(argv: Sequence[str]) -> list[str]:
    """The flag that chose a branch, tag or commit of the model, as the next command needs it too."""
    revision = flag_value(argv, "revision")
    return [] if revision is None else ["--revision", revision]


def data_flags(argv: Sequence[str]) -> list[str]:
    """Those of a command's words that choose the data, as the next command needs them too.

    Example:
        >>> data_flags(["--data", "owls", "--epochs", "9", "--group-boundaries", "3", "7"])
        ['--data', 'owls', '--group-boundaries', '3', '7']
    """
    names, kept, keeps = _data_names(), [], False
    for word in argv:
        if word.startswith("--"):
            keeps = _name(word) in names
        if keeps:
            kept.append(word)
    return kept


def _flags_of(data: DataArguments) -> list[str]:
    """The flags that choose these data: its name, and what is not a default."""
    flags = ["--data", data.data]
    for part in dataclasses.fields(data):
        value = getattr(data, part.name)
        if part.name != "data" and part.name in _data_names() and value != part.default:
            flags += [f"--{part.name}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def _data_names() -> set[str]:
    from deitlt_hf.data.arguments import DataArguments

    return {part.name for part in dataclasses.fields(DataArguments)}


def flag_value(argv: Sequence[str], name: str) -> str | None:
    """What follows a flag in a command's words, None where the flag is not there."""
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        if word.startswith("--") and _name(word) == name:
            return word.partition("=")[2] or following
    return None


def _name(word: str) -> str:
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def _student_recipe(teacher: str) -> str | None:
    """The recipe whose teacher this one is: the one named like it if there are several."""
    own = teacher.partition("-teacher")[0]
    students = [name for name in recipe_names() if teacher_recipe(name) == teacher]
    return own if own in students else next(iter(students), None)
