"""Signals during a training: the step is finished, a checkpoint saved, and the process leaves with its status."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl

from deitlt_hf import DeiTLTTrainer
from deitlt_hf.durable.leaving import LeaveAtSignal
from deitlt_hf.durable.signals import Stopped, StopRequest, signals_end_runs

STEPS = 4  # of an epoch


class SendSignal(TrainerCallback):
    """Sends one to this process in the middle of a step, or of an evaluation."""

    def __init__(self, signum: int, step: int | None = None, times: int = 1):
        self.signum, self.step, self.times = signum, step, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.signum)

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.step is None:
            os.kill(os.getpid(), self.signum)


@pytest.fixture
def make_trainer(tiny_student, images, arguments):
    def make(*callbacks, **settings):
        settings = {"distillation_type": "none", "save_strategy": "epoch", "num_train_epochs": 2} | settings
        datasets = {"train_dataset": images(), "eval_dataset": images()}
        return DeiTLTTrainer(tiny_student(), arguments(**settings), **datasets, callbacks=list(callbacks))

    return make


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(make_trainer, signum, status):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    whole = make_trainer()
    whole.train()
    trainer = make_trainer(SendSignal(signum, step=6))
    with pytest.raises(Stopped) as stopped, signals_end_runs():
        trainer.train()
    assert (stopped.value.code, stopped.value.step) == (status, 6)
    assert stopped.value.checkpoint == f"{trainer.args.output_dir}/checkpoint-6"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers

    resumed = make_trainer()
    resumed.train(resume_from_checkpoint=True)
    torch.testing.assert_close(dict(resumed.model.state_dict()), dict(whole.model.state_dict()), rtol=0, atol=0)


def test_an_evaluation_is_left_and_its_epoch_saved(make_trainer):
    trainer = make_trainer(SendSignal(signal.SIGTERM), eval_strategy="epoch", per_device_eval_batch_size=4)
    predicted = []
    prediction_step = trainer.prediction_step
    trainer.prediction_step = lambda *args, **kwargs: (predicted.append(1), prediction_step(*args, **kwargs))[1]
    with pytest.raises(Stopped) as stopped, signals_end_runs():
        trainer.train()
    assert stopped.value.checkpoint == f"{trainer.args.output_dir}/checkpoint-{STEPS}"
    assert len(predicted) < STEPS


def test_an_evaluation_before_the_first_step_is_left_too(make_trainer):
    trainer = make_trainer(SendSignal(signal.SIGTERM), eval_on_start=True, per_device_eval_batch_size=4)
    with pytest.raises(Stopped) as stopped, signals_end_runs():
        trainer.train()
    assert (stopped.value.code, stopped.value.checkpoint) == (143, None)


def test_a_signal_after_the_last_step_ends_the_process_too(make_trainer):
    class SendAtEnd(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            signal.raise_signal(signal.SIGTERM)

    trainer = make_trainer(SendAtEnd())
    with pytest.raises(Stopped) as stopped, signals_end_runs():
        trainer.train()
    assert (stopped.value.code, stopped.value.checkpoint) == (143, None)
    assert trainer.last_checkpoint == f"{trainer.args.output_dir}/checkpoint-{2 * STEPS}"
    assert "eval_loss" in trainer.evaluate()  # the signal is not still noted


def test_outside_a_training_a_signal_ends_at_once():
    with pytest.raises(Stopped) as stopped, signals_end_runs():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.checkpoint is None


def test_without_being_asked_a_training_leaves_signals_alone(make_trainer):
    with pytest.raises(KeyboardInterrupt):
        make_trainer(SendSignal(signal.SIGINT, step=2)).train()


def test_the_same_signal_twice_is_one_and_a_second_later_ends_at_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    request = StopRequest()
    request.note(signal.SIGINT, None)
    now[0] += 0.2  # a launcher passes on what the terminal has sent to all
    request.note(signal.SIGINT, None)
    assert request.signum == signal.SIGINT
    now[0] += 2.0
    with pytest.raises(Stopped) as stopped:
        request.note(signal.SIGINT, None)
    assert stopped.value.code == 130


def test_loader_workers_stay_for_the_step(make_trainer):
    """A signal to the whole group reaches them too."""

    class SendToWorkers(SendSignal):
        def on_step_begin(self, args, state, control, train_dataloader=None, **kwargs):
            if state.global_step + 1 == self.step:
                for worker in train_dataloader.base_dataloader._iterator._workers:
                    os.kill(worker.pid, signal.SIGTERM)
                    os.kill(worker.pid, signal.SIGINT)
                    os.kill(worker.pid, signal.SIGHUP)
            super().on_step_begin(args, state, control, **kwargs)

    trainer = make_trainer(
        SendToWorkers(signal.SIGTERM, step=6), dataloader_num_workers=1, dataloader_persistent_workers=True
    )
    with pytest.raises(Stopped) as stopped, signals_end_runs():
        trainer.train()
    trainer.callback_handler.train_dataloader.base_dataloader._iterator._shutdown_workers()
    assert stopped.value.step == 6


def process(rank: int, store: str, pipe) -> None:
    """One of two, of which the second gets a signal in its third step; sends the step after which each leaves."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    callback, request, control = LeaveAtSignal(), StopRequest(), TrainerControl()
    callback.begin(request, processes=2)
    for step in range(1, 10):
        if (rank, step) == (1, 3):
            request.note(signal.SIGTERM, None)
        callback.on_step_end(None, None, control)
        if control.should_training_stop:
            pipe.send((step, callback.signum, control.should_save))
            return


def test_all_processes_leave_after_the_same_step(tmp_path):
    forking = multiprocessing.get_context("fork")
    pipes = [forking.Pipe() for _ in range(2)]
    children = [
        forking.Process(target=process, args=(rank, str(tmp_path / "store"), theirs))
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    # They learn of it with the step that follows.
    assert [ours.recv() if ours.poll() else None for ours, _ in pipes] == [(4, signal.SIGTERM, True)] * 2
