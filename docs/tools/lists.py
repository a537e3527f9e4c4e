"""Writes the lists that pages of docs/ have from the code, so that nobody keeps them by hand.

    python docs/tools/lists.py

A list stands between the comments `<!-- NAME: ... -->` and `<!-- end of NAME -->`; `tests/test_documentation.py` says
if one is old.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from deitlt_hf.long_tail_accuracy.scores import MEASURES
from deitlt_hf.recipes import is_teacher_recipe, load_recipe, recipe_description, recipe_names, teacher_recipe

DOCS = Path(__file__).parents[1]


def students() -> list[str]:
    """The students' recipes, what they are, and their epochs."""
    rows = ["| recipe | what it is | epochs | DRW from | teacher's recipe |", "| --- | --- | ---: | ---: | --- |"]
    for name in recipe_names():
        if not is_teacher_recipe(name):
            recipe = load_recipe(name)
            teacher = teacher_recipe(name) or recipe.get("teacher")
            epochs = " | ".join(str(recipe.get(of, "-")) for of in ("num_train_epochs", "drw_start_epoch"))
            rows.append(f"| `{name}` | {recipe_description(name)} | {epochs} | {f'`{teacher}`' if teacher else '-'} |")
    return rows


def teachers() -> list[str]:
    """The teachers' recipes, what they are, and their epochs."""
    rows = ["| recipe | what it is | epochs |", "| --- | --- | ---: |"]
    for name in filter(is_teacher_recipe, recipe_names()):
        rows.append(f"| `{name}` | {recipe_description(name)} | {load_recipe(name)['num_train_epochs']} |")
    return rows


def measures() -> list[str]:
    """The measures of an evaluation: what each is called, and what it is counted over."""
    heads = ["column", "key in `metrics.json`", "name in the card", "counted over", "while training", "interval"]
    rows = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for one in MEASURES:
        over = "images" if one.of_images else f"classes of the {one.group}" if one.group else "classes"
        images = "yes" if one.fewest_images == 1 else f"from {one.fewest_images} test images of each class on"
        interval = "no" if one.fewest_images == sys.maxsize else images
        logged = "yes" if one.of_class_ids else "no"
        rows.append(f"| {one.label} | `{one.key}` | {one.name} | {over} | {logged} | {interval} |")
    return rows


LISTS = {"recipes.md": [students, teachers], "measures.md": [measures]}


def with_lists(page: str) -> str:
    """The text of a page with its lists as the code has them."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for made in LISTS[page]:
        name = made.__name__
        pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)"
        lines = "\n".join(["", *made(), "", ""])
        text, found = re.subn(pattern, lambda match, lines=lines: match[1] + lines + match[2], text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{page} has {found} places for {name}; give it one")
    return text


if __name__ == "__main__":
    for page in LISTS:
        (DOCS / page).write_text(with_lists(page), encoding="utf-8")
        print(f"docs/{page}")
