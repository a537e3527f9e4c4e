"""The walk-through notebook runs from top to bottom, and the outputs that it is committed with are fit to be shown."""

from __future__ import annotations

import ast
import importlib.util
import io
import itertools
import json
import re
import subprocess
import sys
import tomllib
from base64 import b64decode
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from deitlt_hf import CifarResNetForImageClassification, DeiTLTForImageClassification
from deitlt_hf.recipes import load_recipe
from hub_server import HubServer

NOTEBOOK = Path(__file__).parents[2] / "examples" / "deit_lt_walkthrough.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
INSTALL, SETTINGS = CODE[:2]
PARAMETERS = {"OUTPUT_DIR": "walkthrough", "TEACHER_EPOCHS": 1, "STUDENT_EPOCHS": 2, "HUB_ID": "me/digits"}


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def run_cell(cell: dict[str, Any], names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does; returns the value of its last line, which would be shown."""
    statements = ast.parse(source(cell)).body
    shown = statements.pop() if isinstance(statements[-1], ast.Expr) else None
    exec(compile(ast.Module(statements, []), NOTEBOOK.name, "exec"), names)
    return None if shown is None else eval(compile(ast.Expression(shown.value), NOTEBOOK.name, "eval"), names)


class Execution(NamedTuple):
    """Where the notebook wrote, the hub that it pushed to, its names, what it printed, and what each cell showed."""

    directory: Path
    hub: HubServer
    names: dict[str, Any]
    printed: str
    shown: list[Any]


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Iterator[Execution]:
    """The notebook with a training of one and two epochs."""
    directory, printed, names = tmp_path_factory.mktemp("notebook"), io.StringIO(), {}
    with pytest.MonkeyPatch.context() as monkeypatch, HubServer(directory / "hub") as hub, redirect_stdout(printed):
        hub.connect(monkeypatch)
        monkeypatch.chdir(directory)
        shown = []
        for cell in CODE:
            shown.append(run_cell(cell, names))
            if cell["metadata"].get("tags") == ["parameters"]:
                assert names.keys() >= PARAMETERS.keys()
                names |= PARAMETERS
        yield Execution(directory / "walkthrough", hub, names, printed.getvalue(), shown)


def test_it_leaves_a_teacher_a_student_and_an_analysis(executed):
    directory = executed.directory
    teacher = CifarResNetForImageClassification.from_pretrained(directory / "teacher")
    student = DeiTLTForImageClassification.from_pretrained(directory / "student")
    assert teacher.config.id2label == student.config.id2label
    record = json.loads((directory / "analysis" / "analysis.json").read_text())
    experts = json.loads((directory / "student" / "metrics.json").read_text())["experts"]
    # Measures of a ranking may differ: batches of another size round otherwise, which swaps images that nearly tie.
    for expert, name in itertools.product(experts, ("overall", "head", "mid", "tail", "per_class")):
        assert record["experts"][expert][name] == experts[expert][name]
    assert {"teacher", "teacher-cls", "teacher-distillation", "cls-distillation"} <= record["agreement"].keys()
    assert "<img" in (directory / "analysis" / "index.html").read_text()


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [("digits-lt-teacher", ("data", "teacher", "teacher_args")), ("digits-lt", ("data", "student", "student_args"))],
)
def test_it_trains_with_the_settings_of_the_recipes(executed, recipe, settings):
    used = {key: value for name in settings for key, value in vars(executed.names[name]).items()}
    for key, value in load_recipe(recipe).items():
        if key not in ("num_train_epochs", "drw_start_epoch", "logging_steps"):
            assert used[key] in (value, [value]), key


def test_it_trains_as_long_as_the_recipes_unless_told_otherwise():
    names = {}
    run_cell(SETTINGS, names)
    for parameter, recipe in (("TEACHER_EPOCHS", "digits-lt-teacher"), ("STUDENT_EPOCHS", "digits-lt")):
        assert names[parameter] == load_recipe(recipe)["num_train_epochs"]
    assert names["TEACHER_EPOCHS"] * 4 // 5 == load_recipe("digits-lt-teacher")["drw_start_epoch"]
    assert names["STUDENT_EPOCHS"] // 2 == load_recipe("digits-lt")["drw_start_epoch"]


def test_it_installs_the_package_where_it_is_missing_and_nothing_elsewhere(monkeypatch):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    run_cell(INSTALL, {})
    assert commands == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run_cell(INSTALL, {})
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-1] == tomllib.loads((NOTEBOOK.parents[1] / "pyproject.toml").read_text())["project"]["name"]


def test_it_shows_pictures_and_the_table(executed):
    pictures = [value for value in executed.shown if value is not None]
    assert len(pictures) >= 5
    assert all(isinstance(picture, Image.Image) and picture.width > 400 for picture in pictures)
    # 134 zeros fill the first row of the tail's picture, 6 nines begin the last one.
    tail = pictures[0]
    assert tail.size == (8 * 134, 80)
    assert tail.crop((8 * 6, 72, 8 * 134, 80)).getextrema() == (255, 255)
    assert tail.crop((8 * 5, 72, 8 * 6, 80)).getextrema() != (255, 255)
    assert "DIST expert" in executed.printed
    assert "cls-distillation" in executed.printed


def test_it_pushes_what_it_then_loads(executed):
    hub = executed.hub
    assert {"README.md", "model.safetensors", "preprocessor_config.json"} <= hub.files("me/digits").keys()
    assert f"pushed to {hub.endpoint}/me/digits" in executed.printed
    assert any(re.fullmatch(r"/me/digits/resolve/\w+/model\.safetensors", path) for _, path in hub.requests)


def test_the_committed_outputs_are_those_of_one_whole_execution():
    assert NOTEBOOK.stat().st_size < 400_000
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 5
    for picture in pictures:
        Image.open(io.BytesIO(b64decode(picture))).verify()


def test_it_tells_nothing_of_the_machine_it_ran_on():
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", NOTEBOOK.read_text())
    assert not re.search(r"/(?:root|home|tmp|work|Users|mnt)/|site-packages|localhost|127\.0\.0\.1", without_pictures)


def test_its_cells_have_ids_of_their_own_and_its_links_lead_somewhere():
    ids = [cell["id"] for cell in CELLS]
    assert len({*ids}) == len(ids)
    text = "\n".join(source(cell) for cell in CELLS if cell["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)]*)\)", text):
        assert link.startswith("https://") or (NOTEBOOK.parent / link).is_file()
