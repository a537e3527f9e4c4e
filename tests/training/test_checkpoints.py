"""Checkpoints on disk: what counts as complete, what is kept, and what a disk that is full leaves."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deitlt_hf import DeiTLTError, DeiTLTTrainer
from deitlt_hf.durable.checkpoints import finish, is_complete, newest_complete, rotate, tidy, unfinished


def write(checkpoint: Path) -> Path:
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.ones(100)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(100)}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    return checkpoint


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda checkpoint: (checkpoint / "trainer_state.json").unlink(),
        lambda checkpoint: (checkpoint / "trainer_state.json").write_text('{"global_st'),
        lambda checkpoint: (checkpoint / "model.safetensors").unlink(),
        lambda checkpoint: cut(checkpoint / "model.safetensors"),
        lambda checkpoint: (checkpoint / "model.safetensors").write_bytes(b""),
        lambda checkpoint: cut(checkpoint / "optimizer.pt"),
        lambda checkpoint: (checkpoint / "optimizer.pt").write_bytes(b""),
        lambda checkpoint: (checkpoint / "optimizer.pt").unlink(),
        lambda checkpoint: (checkpoint / "scheduler.pt").unlink(),
        lambda checkpoint: (checkpoint / "rng_state.pth").unlink(),
        lambda checkpoint: (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}'),
        lambda checkpoint: (checkpoint / "0_0.distcp").write_bytes(b"a shard without what lists it"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_word(tmp_path, caplog, damage):
    older, newer = write(tmp_path / "checkpoint-9"), write(tmp_path / "checkpoint-10")
    assert newest_complete(tmp_path) == str(newer)
    damage(newer)
    assert not is_complete(newer)
    with caplog.at_level(logging.WARNING):
        assert newest_complete(tmp_path) == str(older)
    assert caplog.messages == [f"{newer}: not complete; going on from {older}"]


def test_what_killed_saves_left_goes_and_what_they_were_replacing_comes_back(tmp_path):
    whole = write(tmp_path / "checkpoint-4")
    write(tmp_path / ".saving-checkpoint-6")
    write(tmp_path / ".removing-checkpoint-2")
    write(tmp_path / ".replaced-checkpoint-4")  # its successor is there
    write(tmp_path / ".replaced-checkpoint-5")  # its successor is not
    tidy(tmp_path)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5"]
    assert is_complete(whole)
    assert is_complete(tmp_path / "checkpoint-5")


def test_a_finished_checkpoint_takes_the_place_of_an_older_one_of_its_step(tmp_path):
    checkpoint = write(tmp_path / "checkpoint-4")
    (write(unfinished(checkpoint)) / "new").touch()
    finish(checkpoint)
    assert names(tmp_path) == ["checkpoint-4"]
    assert (checkpoint / "new").is_file()


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for age, step in enumerate((2, 4, 6, 8)):
        os.utime(write(tmp_path / f"checkpoint-{step}"), (1000 + age, 1000 + age))
    rotate(str(tmp_path), None, best=None)
    rotate(str(tmp_path), 2, best=str(tmp_path / "checkpoint-2"))
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-8"]
    rotate(str(tmp_path), 1, best=str(tmp_path / "checkpoint-2"))
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-8"]
    rotate(str(tmp_path), 1, best=None)
    assert names(tmp_path) == ["checkpoint-8"]


@pytest.fixture
def trainer(tiny_student, images, arguments):
    settings = {"distillation_type": "none", "save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}
    return DeiTLTTrainer(tiny_student(), arguments(**settings), train_dataset=images())


@pytest.mark.parametrize(
    ("part", "error", "reason"),
    [
        ("_save_rng_state", OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            "_save_optimizer_and_scheduler",
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
            "the disk did not take all of it",
        ),
    ],
)
def test_a_disk_that_is_full_stops_the_run_in_one_line(trainer, monkeypatch, part, error, reason):
    works = getattr(trainer, part)

    def fills_up(directory):
        if trainer.state.global_step >= 6:
            raise error
        works(directory)

    monkeypatch.setattr(trainer, part, fills_up)
    directory = Path(trainer.args.output_dir)
    with pytest.raises(DeiTLTError) as stopped:
        trainer.train()
    assert str(stopped.value) == (
        f"cannot write the checkpoint {directory}/checkpoint-6: {reason}; the last intact one is "
        f"{directory}/checkpoint-4; make room in {directory} or make it writable, and resume"
    )
    assert names(directory) == ["checkpoint-2", "checkpoint-4"]
    assert newest_complete(directory) == f"{directory}/checkpoint-4"


def test_another_error_in_a_save_is_not_taken_for_a_full_disk(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "_save_rng_state", lambda directory: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        trainer.train()


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ("config.json", "File too large"),
        ("model.safetensors", "File too large"),
        ("optimizer.pt", "the disk did not take all of it"),
    ],
)
def test_a_file_that_the_system_refuses_stops_the_run_too(trainer, refused, reason):
    """Files up to a limit only, for the time of the checkpoint: what writers of torch and safetensors really raise."""
    directory = Path(trainer.args.output_dir)
    save, limits = trainer._save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_with_a_limit(*args):
        if trainer.state.global_step == 4:
            size = (directory / "checkpoint-2" / refused).stat().st_size - 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        save(*args)

    trainer._save_checkpoint = save_with_a_limit
    try:
        with pytest.raises(DeiTLTError) as error:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(error.value)
    assert message.startswith(f"cannot write the checkpoint {directory}/checkpoint-4: ")
    assert reason in message
    assert f"the last intact one is {directory}/checkpoint-2;" in message
    assert "\n" not in message
    assert names(directory) == ["checkpoint-2"]


def test_a_directory_that_cannot_be_written_stops_the_run_too(trainer):
    directory = Path(trainer.args.output_dir)
    shutil.rmtree(directory)
    directory.write_text("a file is in the way")
    with pytest.raises(DeiTLTError, match=r"^cannot write the checkpoint \S*checkpoint-2: .*; there is none before it"):
        trainer.train()
