"""`--profile` of `deitlt train` and `deitlt teacher`."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from deitlt_hf.cli.main import main
from deitlt_hf.training.stages import OTHER

STUDENT = (
    "train --recipe digits-lt --distillation_type none --hidden_size 24 --num_hidden_layers 1 --num_attention_heads 2 "
    "--use_cpu true --disable_tqdm true"
).split()
TEACHER = "teacher --recipe digits-lt-teacher --sam_rho 0 --use_cpu true --disable_tqdm true".split()


@pytest.mark.parametrize(("command", "learner"), [(STUDENT, "student"), (TEACHER, "teacher")])
def test_a_profile_is_printed_and_its_trace_is_no_run(command, learner, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "trace.json").write_text("{}")  # that of an earlier profile is in nobody's way
    assert main([*command, "--output_dir", str(run), "--profile", "2"]) == 0
    title, *rows = capsys.readouterr().out.splitlines()
    assert title == "a training step: the mean of 2 steps of 32 images, cpu"
    table = {row[2:14].strip(): float(row[14:24]) for row in rows[:-1]}
    assert list(table)[-2:] == [OTHER, "all"]
    assert table[learner] > 0
    assert sum(table.values()) - table["all"] == pytest.approx(table["all"], abs=0.05 * len(table))  # as rounded
    assert rows[-1].endswith(f": {run / 'trace.json'}")
    assert [path.name for path in run.iterdir()] == ["trace.json"]
    assert (run / "trace.json").stat().st_size > 2


def test_a_run_keeps_what_it_has_and_nothing_is_pushed(tmp_path, monkeypatch):
    monkeypatch.setattr("deitlt_hf.durable.trainer.DurableTrainer.init_hf_repo", lambda *_: pytest.fail("made"))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    push = ["--push_to_hub", "true", "--hub_model_id", "me/model"]
    assert main([*STUDENT, *push, "--output_dir", str(run), "--profile", "1"]) == 0
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "trace.json"]
    assert (run / "config.json").read_text() == "{}"


def test_too_short_a_training_is_one_line_and_status_2(tmp_path, capsys):
    flags = [*STUDENT, "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1", "--drw_start_epoch", "none"]
    assert main([*flags, "--profile"]) == 2  # 20 steps where no number follows
    error = capsys.readouterr().err.strip()
    assert error.startswith("deitlt train: the training ended after ")
    assert error.endswith("to profile 20 it takes 28: pass a smaller profile or more epochs")
    assert len(error.splitlines()) == 1


def test_a_disk_that_is_full_is_left_without_a_part_of_a_trace(tmp_path, capsys, monkeypatch):
    def fill_up(source, target):
        Path(target).write_text("half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deitlt_hf.runs.profiling.shutil.copyfile", fill_up)
    run = tmp_path / "run"
    assert main([*STUDENT, "--output_dir", str(run), "--profile", "1"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"deitlt train: cannot write {run}/trace.json: No space left on device; pass another --output_dir"
    assert list(run.iterdir()) == []
