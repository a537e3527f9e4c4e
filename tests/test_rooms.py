"""The rooms of the package: each imports only rooms below it, so that there is no circle and a reader goes one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import deitlt_hf

PACKAGE = Path(deitlt_hf.__file__).parent
# From the top down; see CONTRIBUTING.md.
ROOMS = [
    "cli",
    "runs",
    "training",
    "durable",
    "teachers",
    "inference",
    "hub",
    "cards",
    "reference",
    "evaluation",
    "data",
    "losses",
    "models",
    "foreign",
    "long_tail_accuracy",
    "files",
]
# `training` holds the method of the paper alone.
NOT_FOR_TRAINING = {"cards", "hub", "runs", "evaluation.figures"}


def _imports(file: Path) -> Iterator[str]:
    """The modules of this package that a file imports, at its top or inside a function, without `deitlt_hf.`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("deitlt_hf."):
            yield node.module.removeprefix("deitlt_hf.")


def _room(module: str) -> str:
    return module.split(".")[0]


def _modules(room: str) -> list[Path]:
    return sorted(PACKAGE.joinpath(room).rglob("*.py")) or [PACKAGE / f"{room}.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    below = set(ROOMS[ROOMS.index(room) :]) | {"errors", "ranges", "recipes"}
    up = {
        f"{file.relative_to(PACKAGE)} imports {module}"
        for file in _modules(room)
        for module in _imports(file)
        if _room(module) not in below
    }
    assert not up


def test_every_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"recipes"} <= set(ROOMS)


def test_contributing_lists_the_rooms_in_this_order():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    section = text.split("## Where things go")[1].split("and beside them")[0]
    listed = re.findall(r"^    (\w+)  +\S", section, flags=re.MULTILINE)
    assert [*listed, "files"] == ROOMS


def test_training_knows_no_cards_hub_runs_or_figures():
    known = {
        f"{file.name} imports {module}"
        for file in _modules("training")
        for module in _imports(file)
        if any(f"{module}.".startswith(f"{room}.") for room in NOT_FOR_TRAINING)
    }
    assert not known


@pytest.mark.parametrize("room", ["models", "long_tail_accuracy"])
def test_what_travels_to_the_hub_imports_nothing_of_the_package(room):
    assert not [f"{file.name}: {module}" for file in _modules(room) for module in _imports(file)]
