"""The comparison of methods: its held-out split, its commands and its tables, without a training."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from deitlt_hf.cli import parsing
from deitlt_hf.data.arguments import TrainingDataArguments
from deitlt_hf.data.columns import labels_of
from deitlt_hf.evaluation.measures import expert_metrics
from deitlt_hf.recipes import load_recipe
from deitlt_hf.runs.student_models import StudentArguments
from deitlt_hf.runs.training import TeacherArguments
from deitlt_hf.training.arguments import DeiTLTTrainingArguments, TeacherTrainingArguments

GROUPS = {"head": [0], "mid": [1], "tail": [2]}


@pytest.fixture(scope="module")
def module():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
        yield importlib.import_module


def test_held_out_images_are_training_images_that_are_not_trained_on(module):
    methods = module("methods")
    splits = methods.held_out(methods.BASES["digits-lt"], load_recipe("digits-lt"), None)
    # 134 images of each digit; at imbalance factor 20 the train split has these, of which 104 are left at most.
    whole = [134, 96, 68, 49, 35, 25, 18, 13, 9, 6]
    assert np.bincount(labels_of(splits["train"])).tolist() == [min(count, 104) for count in whole]
    assert np.bincount(labels_of(splits["test"])).tolist() == [30] * 10
    pixels = {name: {np.asarray(image).tobytes() for image in split["image"]} for name, split in splits.items()}
    assert not pixels["train"] & pixels["test"]


@pytest.mark.parametrize("base", ["digits-lt", "cifar10-lt-small"])
def test_every_method_is_a_command_that_exists(module, base, monkeypatch, tmp_path):
    methods = module("methods")
    monkeypatch.setattr(methods, "deitlt", lambda command: commands.append(command) or 0)
    place = methods.Place(tmp_path, methods.BASES[base], [])
    for name, method in methods.METHODS.items():
        commands: list[list[str]] = []
        methods.train(name, 0, place)
        *needed, own = commands
        assert len(needed) == (method.teacher is not None) + (method.start is not None)
        kinds = [TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments]
        if own[0] == "teacher":
            kinds = [TrainingDataArguments, TeacherArguments, TeacherTrainingArguments]
        *_, args = parsing.parse_with_recipe("x", kinds, [*own[1:], "--use_cpu"])
        assert args.num_train_epochs == load_recipe(own[2])["num_train_epochs"]
    methods.train("deit-lt", 0, place, budget=2)
    epochs = 2 * load_recipe(base)["num_train_epochs"]
    given = dict(zip(commands[-1][1::2], commands[-1][2::2], strict=True))
    assert (given["--num_train_epochs"], given["--drw_start_epoch"]) == (str(epochs), str(round(0.8 * epochs)))
    assert given["--output_dir"].endswith("deit-lt-x2-seed0")


@pytest.fixture
def place(module, tmp_path):
    """Two seeds of a teacher and a student, with 100 and 50 views of training images."""
    methods = module("methods")
    place = methods.Place(tmp_path, methods.BASES["digits-lt"], [])
    labels = np.array([0, 0, 1, 1, 2, 2])
    for seed, wrong in ((0, 1), (1, 3)):
        predicted = np.where(np.arange(6) < wrong, 2, labels)
        metrics, perfect = (
            expert_metrics(np.stack([column] * 3, axis=1), labels, [9, 5, 1], GROUPS, ["cat", "dog", "lynx"])
            for column in (predicted, labels)
        )
        _save(place.of("chosen", seed), metrics, 50)
        _save(place.of("teacher", seed), {"accuracy": metrics["experts"]["average"]}, 100)
        _save(place.of("chosen", seed, budget=4), perfect, 200)
    return place


def _save(directory: Path, metrics: dict, images: int) -> None:
    directory.mkdir()
    (directory / "metrics.json").write_text(json.dumps(metrics))
    took = {"hours": 0.05, "hours_of": "the whole run", "images_seen": images}
    (directory / "run.json").write_text(json.dumps({"training": took}))
    (directory / "recipe.yaml").write_text("data: digits-lt\n")


def test_the_table_has_means_deviations_and_minutes(module, place):
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in module("methods").table(place).splitlines()
    ]
    # Of six images one and three are wrong: 83.33 and 50 %, deviation 23.57; both or one of the head's two are wrong.
    expected = ["66.7 ± 23.6", "25.0 ± 35.4", "75.0 ± 35.4", "100.0 ± 0.0"]
    assert rows[0] == ["method", "overall", "head", "mid", "tail", "minutes", "seeds"]
    assert rows[2] == ["CNN: the teacher's recipe", *expected, "3.0", "2"]
    assert [row[0] for row in rows[3:]] == [
        "DeiT-LT: the student's recipe (LTKD)",
        "- CLS expert",
        "- DIST expert",
    ]
    assert rows[3][1:] == [*expected, "3.0", "2"]


def test_the_crossing_is_where_the_students_mean_reaches_the_teachers(module, place):
    crossing = module("crossing")
    points = crossing.curves(place, [4, 1])
    assert [point.images_seen for point in points["average"]] == [50e-6, 200e-6]
    # The tail is right from the start; overall, student and teacher are equal at once.
    assert crossing.crossing(points, "tail") == (
        "tail classes: the student reaches its teacher, 100.0 %, at 5e-05 million views"
    )
    better = {"overall": 100.0, "tail": 100.0}
    points["teacher"] = [crossing.Point(1, 1e-4, [better])]
    assert crossing.crossing(points, "overall").endswith("100.0 %, at 0.0002 million views")
    points["average"] = points["average"][:1]
    assert crossing.crossing(points, "overall") == (
        "all classes: the student does not reach its teacher, 100.0 %; its best is 66.7 %"
    )
    assert [axes.get_title() for axes in crossing.draw(points).axes] == ["all classes", "tail classes"]


def test_a_page_without_the_markers_is_refused_before_anything_is_trained(module, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no marker")
    with pytest.raises(SystemExit, match="lacks the lines <!-- digits-lt, test -->"):
        module("methods").main(["--split", "test", "--output_dir", str(tmp_path / "runs"), "--page", str(page)])
    assert page.read_text() == "no marker"
    assert not (tmp_path / "runs").exists()
