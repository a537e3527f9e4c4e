"""The commands that the last lines of a command name."""

from __future__ import annotations

import shlex

import pytest

from deitlt_hf.cli.next_steps import (
    after_measuring,
    after_training_a_student,
    after_training_a_teacher,
    data_flags,
    flag_value,
    say_next,
)
from deitlt_hf.data.arguments import TrainingDataArguments
from deitlt_hf.data.record import DataRecord


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        # The recipe that is named like the teacher's, not one of its comparisons with the same teacher.
        ("--recipe cifar10-lt-small-teacher", "train --recipe cifar10-lt-small --teacher out"),
        ("--recipe=digits-lt-teacher --epochs 3", "train --recipe digits-lt --teacher out"),
        (
            "--data owls --test-fraction 0.3 --loss ce --group_boundaries 3 7",
            "train --data owls --test-fraction 0.3 --group_boundaries 3 7 --teacher out",
        ),
        ("--recipe own.yaml --data owls", "train --data owls --teacher out"),
        # The data are those that the recipe named.
        ("--recipe own.yaml", "train --data hawks --test_fraction 0.3 --group_boundaries 3 7 --teacher out"),
    ],
)
def test_after_a_teacher_comes_its_student_on_the_same_data(argv, command):
    data = TrainingDataArguments("hawks", test_fraction=0.3, group_boundaries=[3, 7], image_size=64)
    assert shlex.join(after_training_a_teacher(argv.split(), data, "out")[0]) == command


@pytest.mark.parametrize("validated", [[], [1, 0]])
def test_a_student_with_a_validation_split_is_calibrated_next(tmp_path, validated):
    DataRecord(["a", "b"], [9, 3], [2, 1], validation_counts=validated).write(tmp_path)
    commands = [words[0] for words in after_training_a_student(str(tmp_path))]
    assert commands == ["calibrate"] * bool(validated) + ["analyze", "app"]


@pytest.mark.parametrize(
    ("model", "argv", "analyze", "app"),
    [
        ("runs/owls/", "--data owls", "runs/owls/ --data owls --out runs/owls-analysis", "runs/owls/"),
        # A folder `me` would make a path of the id.
        ("me/owls", "--revision v1", "me/owls --revision v1 --out owls-analysis", "me/owls --revision v1"),
    ],
)
def test_after_measuring_comes_the_same_model(tmp_path, monkeypatch, model, argv, analyze, app):
    monkeypatch.chdir(tmp_path)
    if model.startswith("runs"):
        (tmp_path / model).mkdir(parents=True)
    commands = [shlex.join(words) for words in after_measuring(model, argv=argv.split())]
    assert commands == [f"analyze {analyze}", f"app {app}"]


def test_words_are_quoted_for_a_shell_and_safe_to_print(capsys):
    say_next(["app", "my runs/\x1b[2J"], ["push", "a", "b"])
    assert capsys.readouterr().out == "next: deitlt app 'my runs/\\x1b[2J'\n      deitlt push a b\n"


def test_flags_are_found_with_dashes_and_equals_signs():
    assert data_flags(["runs/owls", "--data-dir=here", "--lr", "1"]) == ["--data-dir=here"]
    assert flag_value(["--recipe", "one"], "recipe") == flag_value(["--recipe=one"], "recipe") == "one"
    assert flag_value(["--recipes", "one"], "recipe") is None
