"""What the command line does at SIGTERM and Ctrl-C."""

from __future__ import annotations

import errno
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import datasets
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from deitlt_hf.cli.main import main
from deitlt_hf.cli.resuming import resume_command
from deitlt_hf.durable.signals import Stopped
from deitlt_hf.training.student import DeiTLTTrainer
from published_layouts import write_cifar

RUN = ["--data", "digits-lt", "--distillation_type", "none", "--image_size", "16", "--num_train_epochs", "2"]
RUN += ["--hidden_size", "24", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--patch_size", "8"]
RUN += ["--per_device_train_batch_size", "32", "--drw_start_epoch", "none", "--dataloader_num_workers", "0"]
MACHINE = ["--use_cpu", "true", "--disable_tqdm", "true"]


def test_a_stopped_run_prints_the_command_that_goes_on(capsys, monkeypatch, tmp_path):
    class SendSignal(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step + 1 == 3:
                signal.raise_signal(signal.SIGTERM)

    directory, init = tmp_path / "a run", DeiTLTTrainer.__init__
    monkeypatch.setattr(DeiTLTTrainer, "__init__", lambda *a, **k: init(*a, callbacks=[SendSignal()], **k))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["train", *RUN, *MACHINE, "--output_dir", str(directory)]) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    line = capsys.readouterr().err.splitlines()[-1]
    said, command = line.split("; go on with: ")
    assert said == f"deitlt train: stopped by SIGTERM after step 3; saved {directory}/checkpoint-3"
    assert shlex.split(command) == ["deitlt", "train", "--output_dir", str(directory), "--resume", *MACHINE]
    assert [path.name for path in directory.glob("checkpoint-*")] == ["checkpoint-3"]

    assert main(shlex.split(command)[1:]) == 0
    assert (directory / "metrics.json").is_file()


def test_a_data_set_that_is_being_built_is_removed(capsys, monkeypatch, tmp_path):
    seen = []

    def while_it_is_written(*args, **kwargs):
        seen.extend(path.name for path in (tmp_path / "there").iterdir())
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("deitlt_hf.hub.dataset_directory.draw_class_counts", while_it_is_written)
    write_cifar(tmp_path / "cifar10", np.tile(np.arange(10), 4), np.arange(10))
    argv = [
        "--data-dir",
        str(tmp_path / "cifar10"),
        "--out",
        str(tmp_path / "there" / "out"),
        "--imbalance-factor",
        "2",
    ]
    assert main(["data", "build", "cifar10-lt", *argv]) == 143
    assert capsys.readouterr().err.strip().splitlines()[-1] == "deitlt data: stopped by SIGTERM"
    assert len(seen) == 1
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (
            "train --recipe digits-lt --report_to=none --learning_rate 1e-3",
            "deitlt train --output_dir runs/x --resume --report_to=none",
        ),
        (
            "teacher --overwrite --push_to_hub true --hub_model_id me/x --hub_token hf_secret --bf16",
            "deitlt teacher --output_dir runs/x --resume --push_to_hub true --hub_model_id me/x --bf16",
        ),
        (
            "train --output_dir runs/x --resume --learning_rate 1e-3",
            "deitlt train --output_dir runs/x --resume --learning_rate 1e-3",
        ),
    ],
)
def test_the_command_repeats_what_the_runs_recipe_does_not_hold(given, command):
    assert resume_command(given.split(), "runs/x/checkpoint-3") == command


def test_where_a_later_checkpoint_is_left_the_one_to_go_on_from_is_named(tmp_path):
    for step in (4, 6):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        save_file({"weight": torch.ones(1)}, checkpoint / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({}, checkpoint / name)
    arguments = ["train", "--output_dir", str(tmp_path), "--resume_from_checkpoint", f"{tmp_path}/checkpoint-2"]
    command = f"deitlt train --output_dir {tmp_path} --resume"
    assert resume_command(arguments, f"{tmp_path}/checkpoint-6") == command
    assert resume_command(arguments, f"{tmp_path}/checkpoint-4") == f"{command}_from_checkpoint {tmp_path}/checkpoint-4"


@pytest.mark.parametrize(
    ("started_by", "program"),
    [
        (
            "/usr/bin/python /usr/bin/accelerate launch --num_processes 4 -m deitlt_hf train",
            "accelerate launch --num_processes 4 -m deitlt_hf",
        ),
        (
            "python -m accelerate.commands.launch --config_file ddp.yaml -m deitlt_hf train",
            "python -m accelerate.commands.launch --config_file ddp.yaml -m deitlt_hf",
        ),
        ("-bash", "deitlt"),
        ("timeout 25 python -m deitlt_hf train", "deitlt"),
    ],
)
def test_what_launched_the_processes_launches_them_again(monkeypatch, started_by, program):
    launcher = SimpleNamespace(cmdline=started_by.split)
    monkeypatch.setattr(psutil.Process, "parent", lambda process: launcher)
    assert resume_command(["train"], "a/checkpoint-3") == f"{program} train --output_dir a --resume"


def test_a_launch_of_several_processes_is_started_as_one_again(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    expected = "accelerate launch -m deitlt_hf train --output_dir 'a b' --resume"
    assert resume_command(["train", "--recipe", "digits-lt"], "a b/checkpoint-3") == expected


@pytest.mark.parametrize("saves", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_a_run_after_its_last_step_says_what_there_is(
    capsys, monkeypatch, tmp_path, saves, error, status, said
):
    def fail(*args):
        raise error

    directory = tmp_path / "run"
    monkeypatch.setattr("deitlt_hf.runs.training.save_result", fail)
    flags = [*MACHINE, "--max_steps", "2", "--save_strategy", "steps" if saves else "no"]
    assert main(["train", *RUN, *flags, "--output_dir", str(directory)]) == status
    left = f"{directory} holds the trained model, but not its evaluation"
    if saves:
        left = f"go on with: deitlt train --output_dir {directory} --resume {' '.join(MACHINE)}"
    assert capsys.readouterr().err.splitlines()[-1] == f"deitlt train: {said}; {left}"


def test_a_directory_that_cannot_be_made_is_refused_before_the_data_are_loaded(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("deitlt_hf.runs.training.load_images_to_train", lambda *_: pytest.fail("loaded"))
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "run"):
        assert main(["train", *RUN, *MACHINE, "--output_dir", str(directory)]) == 2
        assert capsys.readouterr().err == (
            f"deitlt train: cannot write {directory}: {tmp_path}/file is no directory to write into; "
            "pass another --output_dir\n"
        )


def test_a_reader_that_has_enough_ends_a_command_without_a_word():
    command = [sys.executable, "-m", "deitlt_hf", "recipes"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running.stdout.close()
    assert (running.stderr.read(), running.wait()) == ("", 141)
