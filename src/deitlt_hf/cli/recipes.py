"""`deitlt recipes`: the settings that come with the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from deitlt_hf.cli.console import OneLineParser
from deitlt_hf.cli.next_steps import say_next
from deitlt_hf.recipes import recipe_description, recipe_names, recipe_text, teacher_recipe


def run(argv: Sequence[str]) -> None:
    parser = OneLineParser(prog="deitlt recipes", description="List the recipes, or print one.")
    parser.add_argument("name", nargs="?", help="print this recipe, to copy and change")
    options = parser.parse_args(argv)
    if options.name is not None:
        print(recipe_text(options.name), end="")
        return
    width = max(map(len, recipe_names()))
    for name in recipe_names():
        teacher = teacher_recipe(name)
        print(f"{name:<{width}}  {recipe_description(name)}{f'; teacher: {teacher}' if teacher else ''}")
    if sys.stdout.isatty():  # scripts read the list
        say_next(["recipes", "digits-lt"], ["teacher", "--recipe", "digits-lt-teacher"])
