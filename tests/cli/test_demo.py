"""`deitlt demo`, with trainings of an epoch."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from deitlt_hf.cli import demo as demo_command
from deitlt_hf.cli import parsing
from deitlt_hf.cli.main import main
from deitlt_hf.recipes import is_teacher_recipe, load_recipe

TINY = {"num_train_epochs": 1, "drw_start_epoch": 0, "disable_tqdm": True, "use_cpu": True}
TINY_STUDENT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str]:
    """The directory that it wrote, and what it printed."""
    directory = tmp_path_factory.mktemp("demo") / "output"
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(io.StringIO()) as printed:
        monkeypatch.setattr(parsing, "load_recipe", _shortened)
        monkeypatch.setattr(demo_command, "_LONGER", [])
        assert main(["demo", "--output_dir", str(directory)]) == 0
    return directory, printed.getvalue()


def _shortened(name: str) -> dict:
    return load_recipe(name) | TINY | ({} if is_teacher_recipe(name) else TINY_STUDENT)


def test_it_ends_with_the_analysis_of_its_student(demo):
    directory, printed = demo
    assert {path.name for path in directory.iterdir()} == {
        *("teacher", "student", "analysis", "metrics.json", "report.png")
    }
    *_, analysis, following, _ = printed.splitlines()
    assert analysis == f"analysis {directory / 'analysis' / 'index.html'}"
    assert following == f"next: deitlt app {directory / 'student'}"
    assert "<html" in (directory / "analysis" / "index.html").read_text()
    record = json.loads((directory / "analysis" / "analysis.json").read_text())
    metrics = json.loads((directory / "metrics.json").read_text())
    for expert, measured in metrics["experts"].items():
        of_record = record["experts"][expert]
        assert of_record.keys() == measured.keys()
        # The analysis's attention rounds otherwise, and so orders nearly equal probabilities otherwise.
        for key in ("average_precision", "per_class_average_precision"):
            assert of_record.pop(key) == pytest.approx(measured[key], abs=1)
        # The other two measures of this order jump from image to image.
        assert {key: value for key, value in of_record.items() if "_90" not in key} == {
            key: value for key, value in measured.items() if key in of_record and "_90" not in key
        }
    assert record["experts"].keys() == metrics["experts"].keys()
    assert record["num_images"] == metrics["num_images"] == 400
    assert "teacher-distillation" in record["agreement"]  # the teacher that it trained is the one compared with


def test_it_names_the_best_experts_by_what_it_measured(demo):
    directory, printed = demo
    metrics = json.loads((directory / "metrics.json").read_text())
    rows = metrics["experts"] | {"teacher": metrics["teacher"]}
    (line,) = [line for line in printed.splitlines() if line.startswith("Best on head classes: ")]
    said = {"average": "average", "cls": "CLS expert", "distillation": "DIST expert", "teacher": "teacher"}
    for sentence, group in zip(line.rstrip(".").split(". "), ("head", "tail", "overall"), strict=True):
        best = max(scores[group] for scores in rows.values())
        named = {said[name] for name, scores in rows.items() if scores[group] == best}
        assert set(sentence.partition(": ")[2].split(" and ")) == named


@pytest.mark.parametrize(
    ("overall", "tail", "expected"),
    [
        ((-3.21, True), (0.5, False),
         "The student's average is 3.2 points behind its teacher; on tail classes it is 0.5 points ahead of its "
         "teacher, which may be chance."),
        ((2.0, True), (4.0, True),
         "The student's average is 2.0 points ahead of its teacher; on tail classes it is 4.0 points ahead of its "
         "teacher."),
    ],
)  # fmt: skip
def test_it_says_who_is_better_and_whether_it_may_be_chance(overall, tail, expected):
    of = {
        name: {"value": value, "excludes_zero": sure}
        for name, (value, sure) in {"overall": overall, "tail": tail}.items()
    }
    assert demo_command._against_teacher({"against_teacher": {"average": of}}).startswith(expected)


def test_it_replaces_only_what_a_demo_left(demo, tmp_path, capsys):
    directory = demo[0]
    before = (directory / "metrics.json").read_bytes()
    assert main(["demo", "--output_dir", str(directory)]) == 2
    assert "is not empty; pass --overwrite" in capsys.readouterr().err
    (tmp_path / "mine").write_text("")
    assert main(["demo", "--output_dir", str(tmp_path), "--overwrite"]) == 2
    assert "files that a demo does not write" in capsys.readouterr().err
    assert (directory / "metrics.json").read_bytes() == before
    assert (tmp_path / "mine").exists()
