"""Where the time of a step goes."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from deitlt_hf import DeiTLTTrainer, TeacherTrainer
from deitlt_hf.durable.signals import Stopped, signals_end_runs
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.runs.profiling import (
    TRACE_FILE,
    TRACED_STEPS,
    WARM_UP_STEPS,
    StepProfile,
    format_profile,
    profile_training,
    warm_up_steps,
)
from deitlt_hf.training import stages
from deitlt_hf.training.stages import OTHER, Timeline, stage

STAGES = {"data", "mixing", "teacher", "student", "loss", "optimiser", OTHER}
NAP = 0.02
STEPS = 4


WORKERS_NAP = 0.1


class Clock:
    """A clock on which time passes only where a test says so, whatever else the machine does."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def nap(self, *_):
        self.now += NAP


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stages, "time", clock)
    return clock


def napping(function, clock):
    def slow(*args, **kwargs):
        clock.nap()
        return function(*args, **kwargs)

    return slow


def test_a_moment_belongs_to_the_innermost_stage(clock):
    timeline = Timeline(torch.device("cpu"))
    timeline.enter("student")
    clock.nap()
    timeline.enter("loss")
    clock.nap()
    clock.nap()
    timeline.leave()
    clock.nap()
    timeline.leave()
    clock.nap()
    timeline.finish()
    assert timeline.seconds() == pytest.approx({"student": 2 * NAP, "loss": 2 * NAP, OTHER: NAP})


@pytest.mark.parametrize("slow", ["data", "mixing", "teacher", "student", "loss", "optimiser", OTHER])
def test_a_nap_shows_in_its_stage(slow, tiny_student, tiny_teacher, arguments, images, clock):
    args = arguments(mixup=0.8, cutmix=1.0, ema_decay=0.9, gradient_accumulation_steps=2, num_train_epochs=40)
    trainer = DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=images(16))
    owner, name = {
        "data": (trainer, "data_collator"),
        "mixing": (trainer, "mixing"),
        "teacher": (trainer.teacher, "model"),
        "student": (trainer.accelerator, "backward"),
        "loss": (trainer, "distillation_loss"),
        "optimiser": (trainer.ema, "update"),
        OTHER: (trainer, "floating_point_ops"),
    }[slow]
    if isinstance(getattr(owner, name), nn.Module):
        getattr(owner, name).register_forward_pre_hook(clock.nap)
    else:
        setattr(owner, name, napping(getattr(owner, name), clock))
    profile = profile_training(trainer, STEPS)
    naps = 1 if slow == "optimiser" else 2  # two batches a step
    assert list(profile.milliseconds)[-1] == OTHER
    assert set(profile.milliseconds) - {"augmentation"} == STAGES
    assert profile.milliseconds == pytest.approx(dict.fromkeys(profile.milliseconds, 0) | {slow: 1000 * naps * NAP})
    assert profile.step == pytest.approx(1000 * naps * NAP)
    assert (profile.images, profile.steps, profile.busy) == (8, STEPS, None)


@pytest.mark.parametrize(
    ("workers", "prefetch", "accumulated", "ahead"), [(0, None, 1, 0), (8, None, 1, 16), (3, 5, 4, 4), (2, 2, 8, 1)]
)
def test_the_warm_up_uses_up_what_the_workers_have_made(arguments, workers, prefetch, accumulated, ahead):
    args = arguments(
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=prefetch,
        gradient_accumulation_steps=accumulated,
    )
    assert warm_up_steps(args) == WARM_UP_STEPS + ahead


def test_waiting_for_workers_is_seen_although_they_filled_their_queue(tiny_student, arguments, images):
    class SlowlyMade(images):
        def __getitem__(self, index):
            time.sleep(WORKERS_NAP / 4)  # a batch has four
            return super().__getitem__(index)

    class SlowBegin(TrainerCallback):  # as that of a compilation
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == WARM_UP_STEPS:
                time.sleep(4 * WORKERS_NAP)

    args = arguments(distillation_type="none", dataloader_num_workers=1, num_train_epochs=1)
    trainer = DeiTLTTrainer(tiny_student(), args, train_dataset=SlowlyMade(60), callbacks=[SlowBegin()])
    profile = profile_training(trainer, 2)
    assert trainer.state.global_step == WARM_UP_STEPS + 2 + 2 + TRACED_STEPS
    assert profile.milliseconds["data"] > profile.step / 3  # it was a hundredth


@pytest.mark.parametrize(
    ("steps", "workers", "instead"),
    [
        (3, 0, "the training ended after 9 steps; to profile 3 it takes 11: pass a smaller profile or more epochs"),
        (3, 1, "the training ended after 9 steps; to profile 3 it takes 13: pass more epochs, or fewer dataloader_"),
    ],
)
def test_what_helps_a_training_that_is_too_short(tiny_student, arguments, images, steps, workers, instead):
    args = arguments(distillation_type="none", dataloader_num_workers=workers, num_train_epochs=1)
    trainer = DeiTLTTrainer(tiny_student(), args, train_dataset=images(36))
    with pytest.raises(DeiTLTError, match=instead):
        profile_training(trainer, steps)


def test_trace_shows_the_stages_and_nothing_else_is_written(tiny_student, tiny_teacher, arguments, images, tmp_path):
    args = arguments(save_strategy="epoch", eval_strategy="epoch", num_train_epochs=20)
    data = images(16)
    trainer = DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=data, eval_dataset=data)
    profile = profile_training(trainer, 2)
    assert trainer.state.global_step == WARM_UP_STEPS + 2 + TRACED_STEPS
    assert not any("eval_loss" in entry for entry in trainer.state.log_history)
    assert [path.name for path in (tmp_path / "student").iterdir()] == [TRACE_FILE]
    events = json.loads(profile.trace.read_text())["traceEvents"]
    spans = {
        name: [(event["ts"], event["ts"] + event["dur"]) for event in events if event.get("name") == name]
        for name in ("data", "mixing", "teacher", "student", "loss", "optimiser", "aten::convolution")
    }
    assert {name: len(found) for name, found in spans.items() if name != "aten::convolution"} == dict.fromkeys(
        ("data", "mixing", "teacher", "student", "loss", "optimiser"), TRACED_STEPS
    )
    # The patches' convolution runs in the student, the loss inside of it, and neither in the teacher.
    for start, end in spans["aten::convolution"] + spans["loss"]:
        assert any(first <= start and end <= last for first, last in spans["student"])
        assert not any(first <= start and end <= last for first, last in spans["teacher"])


def test_a_teacher_with_sam_and_paco(tiny_teacher, teacher_arguments, images):
    class TwoViews(images):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return example | {"key_pixel_values": example["pixel_values"]}

    args = teacher_arguments(loss="paco", paco_dim=4, paco_queue=8, sam_rho=[0.1])
    trainer = TeacherTrainer(tiny_teacher(), args, class_counts=[5] * 10, train_dataset=TwoViews())
    profile = profile_training(trainer, 3)
    assert set(profile.milliseconds) == {"data", "key encoder", "teacher", "loss", "optimiser", OTHER}


def test_nothing_stays_behind(tiny_student, tiny_teacher, arguments, images, monkeypatch):
    trainer = DeiTLTTrainer(tiny_student(), arguments(), teacher=tiny_teacher(), train_dataset=images(16))
    with pytest.raises(DeiTLTError, match="after 16 steps; to profile 20 it takes 28: pass a smaller"):
        profile_training(trainer, 20)
    assert stages._recorder is None

    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", fails)
    with pytest.raises(DeiTLTError, match=f"{TRACE_FILE}: No space left on device"):
        profile_training(trainer, 1)
    assert stages._recorder is None
    assert not list(Path(trainer.args.output_dir).iterdir())
    with pytest.raises(DeiTLTError, match="profile is -1"):
        arguments(profile=-1)


def test_a_stage_costs_nothing_where_nothing_is_profiled():
    started = time.perf_counter()
    for _ in range(10_000):
        with stage("loss"):
            pass
    assert (time.perf_counter() - started) / 10_000 < 2e-5  # six of them in a step of many milliseconds


def test_the_table_adds_up():
    profile = StepProfile({"data": 1.0, "student": 7.0, OTHER: 2.0}, 5, 64, "some GPU", busy=0.873, trace=None)
    lines = format_profile(profile).splitlines()
    assert lines[0] == "a training step: the mean of 5 steps of 64 images, some GPU"
    assert [line.split() for line in lines[1:3]] == [
        ["data", "1.0", "ms", "10.0", "%"],
        ["student", "7.0", "ms", "70.0", "%"],
    ]
    assert lines[4].split() == ["all", "10.0", "ms", "100.0", "%", "6,400", "images", "per", "second"]
    assert lines[5] == "  the GPU computes for 87 % of the time"


def test_a_later_phase_from_a_checkpoint(tiny_student, tiny_teacher, arguments, images, tmp_path):
    def make(**settings):
        args = arguments(drw_start_epoch=1, **settings)
        return DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=images(16))

    make(save_strategy="epoch", num_train_epochs=2).train()
    checkpoint = tmp_path / "student" / "checkpoint-4"
    before = {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    trainer = make(num_train_epochs=8)
    profile_training(trainer, 2, str(checkpoint))
    assert trainer.state.global_step == 4 + WARM_UP_STEPS + 2 + TRACED_STEPS
    assert trainer.drw_active
    assert {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()} == before
    assert not (tmp_path / "student" / "checkpoint-12").exists()


def test_a_signal_and_what_another_run_is_saving_leave_the_directory_as_it_is(
    tiny_student, arguments, images, tmp_path
):
    class SendSignal(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 6:
                signal.raise_signal(signal.SIGTERM)

    args = arguments(distillation_type="none", num_train_epochs=20, rewind_at_non_finite=1, save_total_limit=1)
    trainer = DeiTLTTrainer(tiny_student(), args, train_dataset=images(16), callbacks=[SendSignal()])
    names = ["checkpoint-500", ".saving-checkpoint-600"]
    for name in names:
        (tmp_path / "student" / name).mkdir(parents=True)
    with pytest.raises(Stopped) as stopped, signals_end_runs():
        profile_training(trainer, 2)
    assert stopped.value.checkpoint is None
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == sorted(names)
