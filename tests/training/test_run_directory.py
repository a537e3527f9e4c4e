"""Whose a directory is before a run writes into it, and what says so."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import save_file

from deitlt_hf import DeiTLTError, DeiTLTTrainingArguments, TeacherTrainingArguments
from deitlt_hf.durable.checkpoints import tidy
from deitlt_hf.runs.directory import check_output_directory, claimed_directory, refuse_within


class Run:
    """Stands for a trainer that makes steps."""

    def __init__(self, args):
        self.args, self.callbacks, self.state = args, [], SimpleNamespace(global_step=0)

    def add_callback(self, callback):
        self.callbacks.append(callback)

    def step(self):
        self.state.global_step += 1
        for callback in self.callbacks:
            callback.on_step_end(self.args, self.state, None)


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def arguments(directory, **settings):
    return DeiTLTTrainingArguments(output_dir=str(directory), use_cpu=True, **settings)


@pytest.mark.parametrize("occupied_by", ["a run", "other files"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_occupied_directory_is_replaced_only_if_it_is_a_run(tmp_path, occupied_by, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    if occupied_by == "a run":
        (tmp_path / "recipe.yaml").write_text("data: digits-lt\n")
    args = arguments(tmp_path, overwrite=overwrite)
    if overwrite and occupied_by == "a run":
        assert check_output_directory(args) is None
        run = Run(args)
        with claimed_directory(run, [args], None):
            run.step()
            assert (tmp_path / "recipe.yaml").read_text() != "data: digits-lt\n"
            run.step()
        assert names(tmp_path) == ["recipe.yaml"]
        return
    message = "no run of this package" if overwrite else "is not empty"
    with pytest.raises(DeiTLTError, match=message):
        check_output_directory(args)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def old_run(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "runs").mkdir()
    files = {"recipe.yaml": "data: digits-lt\n", "model.safetensors": "weights", "runs/log": "old"}
    for name, content in (files | {"checkpoint-3/model.safetensors": "weights"}).items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_a_run_that_was_to_be_replaced_is_whole_until_the_other_has_made_a_step(old_run):
    args = arguments(old_run, overwrite=True)
    before = names(old_run)

    def train():
        with claimed_directory(Run(args), [args], None):
            (old_run / "runs" / "new").write_text("new")  # as TensorBoard does
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as error:
        train()
    assert names(old_run) == before
    assert (old_run / "recipe.yaml").read_text() == "data: digits-lt\n"
    assert not hasattr(error.value, "remains")  # what is there is not what was stopped
    run = Run(args)
    with claimed_directory(run, [args], None):
        (old_run / "runs" / "newer").write_text("newer")
        run.step()
        (old_run / "model.safetensors").write_text("of the new run")
        run.step()
    assert names(old_run) == ["model.safetensors", "recipe.yaml", "runs"]
    assert names(old_run / "runs") == ["newer"]
    assert (old_run / "recipe.yaml").read_text() != "data: digits-lt\n"


def test_what_has_to_be_written_before_the_first_step_takes_the_directory_too(old_run):
    args = arguments(old_run, overwrite=True)
    run = Run(args)
    with claimed_directory(run, [args], None):
        run.before_saving()
        (old_run / "checkpoint-0").mkdir()
        run.step()
    assert names(old_run) == ["checkpoint-0", "recipe.yaml", "runs"]


def test_where_something_cannot_be_removed_all_stays(old_run, monkeypatch):
    args = arguments(old_run, overwrite=True)
    rename = Path.rename

    def refuse(path, target):
        if path.name == "model.safetensors":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return rename(path, target)

    run = Run(args)
    before = names(old_run)
    with claimed_directory(run, [args], None):
        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(PermissionError):
            run.step()
    assert names(old_run) == before
    assert (old_run / "recipe.yaml").read_text() == "data: digits-lt\n"


def test_what_a_run_learns_from_is_not_replaced_by_it(tmp_path):
    (tmp_path / "run" / "teacher").mkdir(parents=True)
    inside = str(tmp_path / "run" / "teacher")
    refuse_within(str(tmp_path / "run"), False, teacher=inside)
    refuse_within(str(tmp_path / "run"), True, teacher=str(tmp_path), init_from="me/run", data=None)
    for source in (inside, str(tmp_path / "run")):
        with pytest.raises(DeiTLTError, match=f"^teacher {source} lies in {tmp_path}/run, which is to be replaced"):
            refuse_within(str(tmp_path / "run"), True, teacher=source)


@pytest.mark.parametrize("exists", [False, True])
def test_resuming_needs_a_checkpoint(tmp_path, exists):
    directory = tmp_path / "run"
    if exists:
        directory.mkdir()
        (directory / "recipe.yaml").write_text("{}")
    args = arguments(directory, resume=True)
    instead = "pass --overwrite to start anew" if exists else "leave resume out"
    with pytest.raises(DeiTLTError, match=f"holds no checkpoint to resume from; {instead}"):
        check_output_directory(args)


def test_resuming_takes_the_last_checkpoint_or_the_named_one(tmp_path):
    for step in (2, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        save_file({"weight": torch.ones(1)}, tmp_path / f"checkpoint-{step}" / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({}, tmp_path / f"checkpoint-{step}" / name)
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text("")  # of a process that was killed
    last = check_output_directory(arguments(tmp_path, resume=True))
    assert last == str(tmp_path / "checkpoint-10")
    named = str(tmp_path / "checkpoint-2")
    assert check_output_directory(arguments(tmp_path, resume_from_checkpoint=named)) == named


def test_a_recipe_keeps_a_zero_but_nothing_that_was_left_unset(tmp_path):
    args = TeacherTrainingArguments(output_dir=str(tmp_path), drw_start_epoch=0, loss="ldam", use_cpu=True)
    with claimed_directory(Run(args), [args], None):
        pass
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {"drw_start_epoch": 0, "loss": "ldam"}


def test_a_run_has_its_directory_for_itself_until_its_end(tmp_path):
    args = arguments(tmp_path / "run")

    def train():
        with claimed_directory(Run(args), [args], None):
            assert names(tmp_path / "run") == ["recipe.yaml", "run.lock"]
            raise DeiTLTError("boom")

    with pytest.raises(DeiTLTError, match="boom"):
        train()
    assert names(tmp_path / "run") == []
    (tmp_path / "run" / "run.lock").write_text('{"host": "elsewhere", "pid": 12}')
    for settings in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(DeiTLTError, match="is in use by process 12 on host elsewhere"):
            check_output_directory(arguments(tmp_path / "run", **settings))


@pytest.mark.parametrize(
    ("steps", "other", "left"),
    [(0, None, []), (1, None, ["recipe.yaml"]), (0, "runs", ["recipe.yaml", "runs"])],
    ids=["before its first step", "after it", "with a tracker's files"],
)
def test_a_run_that_fails_keeps_its_settings_where_they_are_of_use(tmp_path, steps, other, left):
    run = Run(arguments(tmp_path / "run"))

    def train():
        with claimed_directory(run, [run.args], None):
            run.state.global_step = steps
            if other is not None:
                (tmp_path / "run" / other).mkdir()
            raise DeiTLTError("boom")

    with pytest.raises(DeiTLTError, match="boom"):
        train()
    assert names(tmp_path / "run") == left


def test_settings_that_a_run_is_resumed_with_take_the_old_ones_place_and_those_are_kept(tmp_path):
    first = arguments(tmp_path, num_train_epochs=2, learning_rate=0.002)
    with claimed_directory(Run(first), [first], None):
        pass
    before = (tmp_path / "recipe.yaml").read_text()

    def checkpoint_of(step):
        checkpoint = tmp_path.with_name(f"{tmp_path.name}-{step}")
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        return str(checkpoint)

    def resumes():
        return json.loads((tmp_path / "resumed.json").read_text())["resumed"]

    def go_on(step, **settings):
        args = arguments(tmp_path, resume=True, **settings)
        run = Run(args)
        run.state.global_step = step
        with claimed_directory(run, [args], checkpoint_of(step)):
            unchanged = (tmp_path / "recipe.yaml").read_text()
            run.step()
            run.step()
        return unchanged

    assert go_on(8, num_train_epochs=2, learning_rate=0.002) == before
    assert names(tmp_path) == ["recipe.yaml"]
    assert go_on(8, num_train_epochs=6) == before  # which holds until the first step
    settings = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert settings["num_train_epochs"] == 6
    assert "learning_rate" not in settings
    assert go_on(20, num_train_epochs=9) != before
    first_resume = {"step": 8, "changed": {"num_train_epochs": [2, 6], "learning_rate": [0.002, 5e-4]}}
    assert resumes() == [first_resume, {"step": 20, "changed": {"num_train_epochs": [6, 9]}}]

    # From older checkpoints: what the steps after them had changed is no part of the run any more.
    go_on(20, num_train_epochs=7)
    assert resumes() == [first_resume, {"step": 20, "changed": {"num_train_epochs": [6, 7]}}]
    go_on(4, num_train_epochs=7)
    assert resumes() == [{"step": 4, "changed": {"num_train_epochs": [2, 7], "learning_rate": [0.002, 5e-4]}}]
    go_on(2, num_train_epochs=2, learning_rate=0.002)
    assert resumes() == []
    assert (tmp_path / "recipe.yaml").read_text() == before


def test_what_killed_saves_left_is_removed_when_a_run_goes_on(tmp_path):
    (tmp_path / "saving").mkdir()
    for name in (".tmpab12CD", "saving/.tmpZZzz00", ".tmp", ".tmp-of-mine", "model.safetensors"):
        (tmp_path / name).write_text("half")
    tidy(tmp_path)
    assert names(tmp_path) == [".tmp", ".tmp-of-mine", "model.safetensors"]
