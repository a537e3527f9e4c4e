"""Settings of `deitlt train` and `deitlt teacher` that cannot work, refused before an image or a model is read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deitlt_hf.cli import suggesting
from deitlt_hf.cli.main import main
from deitlt_hf.runs import training as runs


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    def loaded(*args, **kwargs):
        raise AssertionError("something was loaded before the settings were checked")

    monkeypatch.setattr(suggesting, "load_images", loaded)
    monkeypatch.setattr(runs, "load_images_to_train", loaded)
    monkeypatch.setattr(runs, "load_start", loaded)
    monkeypatch.setattr(runs, "load_classifier", loaded)


TRAIN = [
    (["--seed", "-1"], "seed is -1"),
    (["--learning_rate", "inf"], "learning_rate is inf"),
    (["--num_train_epochs", "nan"], "num_train_epochs is nan"),
    (["--report_to", "wandb"], "report_to wandb"),
    (["--optim", "adamw_8bit"], "bitsandbytes"),
    (["--batch_eval_metrics", "true"], "batch_eval_metrics is True"),
    (["--metric_for_best_model", "accuracy"], "unknown metric_for_best_model 'accuracy'"),
    (["--image_size", "-5"], "image_size is -5"),
    (["--student_size", "huge"], "unknown student size 'huge'"),
    (["--image_size", "32", "--patch_size", "5"], "image_size 32 is not divisible by patch_size 5"),
    (["--hidden_size", "100"], "hidden_size 100 is not divisible by num_attention_heads"),
    (["--init_from", "./no/such/model"], "./no/such/model: there is no such directory"),
    (["--teacher", "no/such/teacher", "--distillation_type", "hard"], "no/such/teacher: there is no such directory"),
    (["--output_dir", "/proc/x"], "cannot write /proc/x"),
    (["--output_dir", "a" * 300], "cannot write aaa"),
]
TEACHER = [
    (["--architecture", "resnt50"], "unknown architecture 'resnt50'; did you mean"),
    (["--depth", "50"], "unknown depth 50"),
    (["--architecture", "resnet", "--classifier", "cosine"], "resnet has a linear classifier"),
    (["--momentum", "2"], "momentum is 2.0"),
    (["--metric_for_best_model", "average_overall"], "pass one of loss, overall, head, mid, tail, balanced_accuracy"),
    (["--init_from", "~/no-such-model"], "there is no such directory"),
]


@pytest.mark.parametrize("source", [["--data", "pictures"], ["--recipe", "digits-lt"]])
@pytest.mark.parametrize(("flags", "message"), TRAIN)
def test_a_students_settings_are_refused_at_once(capsys, tmp_path, monkeypatch, source, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    refused_in_one_line(capsys, ["train", *source, "--distillation_type", "none", *flags], message)


@pytest.mark.parametrize(
    "source", [["--data", "pictures"], ["--recipe", "digits-lt-teacher", "--classifier", "linear"]]
)
@pytest.mark.parametrize(("flags", "message"), TEACHER)
def test_a_teachers_settings_are_refused_at_once(capsys, tmp_path, monkeypatch, source, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    refused_in_one_line(capsys, ["teacher", *source, *flags], message)


def refused_in_one_line(capsys, argv, message):
    assert main(argv) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["recipes", "--help"], ["recipes"]])
def test_a_reader_that_wants_no_output_ends_without_a_word(argv):
    command = f"{sys.executable} -m deitlt_hf {' '.join(argv)} | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stderr == ""
