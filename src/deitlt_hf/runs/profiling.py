"""Profiles training steps: the time of each stage, and a trace of a few steps.

The table has a clock of its own: torch's profiler records every operation, which slows a step down.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import whole_file
from deitlt_hf.training.long_tail import LongTailTrainer
from deitlt_hf.training.stages import Ranges, Timeline, record_with, stage

TRACE_FILE = "trace.json"
WARM_UP_STEPS = 5  # compilation, the first batches of the loader's workers, the choice of convolutions
PREFETCH_FACTOR = 2  # batches that a worker of torch's DataLoader makes ahead where no number is given
TRACED_STEPS = 3  # not the timed ones: recording every operation slows a step down


@dataclass
class StepProfile:
    """What `profile_training` measured."""

    milliseconds: dict[str, float]  # of each stage, the mean over the steps; they add up to a step
    steps: int  # how many were timed
    images: int  # of a step, over all processes
    device: str
    busy: float | None  # share in [0, 1] of the time in which a GPU computed; None on a CPU
    trace: Path | None

    @property
    def step(self) -> float:
        """Milliseconds of a whole step."""
        return sum(self.milliseconds.values())


def format_profile(profile: StepProfile) -> str:
    """The profile as a table of lines."""
    lines = [f"a training step: the mean of {profile.steps} steps of {profile.images} images, {profile.device}"]
    for name, value in [*profile.milliseconds.items(), ("all", profile.step)]:
        lines.append(f"  {name:<12}{value:>10.1f} ms{100 * value / profile.step:>7.1f} %")
    lines[-1] += f"   {1000 * profile.images / profile.step:,.0f} images per second"
    if profile.busy is not None:
        lines.append(f"  the GPU computes for {100 * profile.busy:.0f} % of the time")
    if profile.trace is not None:
        lines.append(f"trace of {TRACED_STEPS} more steps, for https://ui.perfetto.dev: {profile.trace}")
    return "\n".join(lines)


def profile_training(trainer: LongTailTrainer, steps: int = 20, checkpoint: str | None = None) -> StepProfile:
    """Train for a few steps, measure their stages, and write a trace into the trainer's output directory.

    Nothing is evaluated or saved. The trainer's model is changed by these steps.
    """
    args = trainer.args
    profiler = _ProfileSteps(steps, args)
    try:
        train_for_the_clock(trainer, profiler, checkpoint)
    finally:
        profiler.close()
    if profiler.steps_done < profiler.total:
        smallest = profiler.total - steps + 1
        smaller = "a smaller profile or more" if profiler.steps_done >= smallest else "more"
        fewer = ", or fewer dataloader_num_workers" * (smaller == "more" and args.dataloader_num_workers > 0)
        raise DeiTLTError(
            f"the training ended after {profiler.steps_done} steps; to profile {steps} it takes {profiler.total}: pass "
            f"{smaller} epochs{fewer}"
        )
    return StepProfile(
        milliseconds={name: 1000 * seconds / steps for name, seconds in profiler.timeline.seconds().items()},
        steps=steps,
        images=images_of_a_step(args),
        device=device_name(args.device),
        busy=profiler.busy,
        trace=_write_trace(profiler.trace, Path(args.output_dir)) if args.should_save else None,
    )


def train_for_the_clock(trainer: LongTailTrainer, callback: TrainerCallback, checkpoint: str | None = None) -> None:
    """Train until a callback stops it, without evaluating, saving, or showing the progress of a whole training."""
    args = trainer.args
    args.save_strategy, args.eval_strategy, args.eval_on_start = SaveStrategy.NO, IntervalStrategy.NO, False
    args.load_best_model_at_end, args.rewind_at_non_finite, trainer.writes_checkpoints = False, 0, False
    for other in list(trainer.callback_handler.callbacks):
        if isinstance(other, PrinterCallback | ProgressCallback):
            trainer.remove_callback(other)
    trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        trainer.remove_callback(callback)


def warm_up_steps(args: TrainingArguments) -> int:
    """Steps before the timed ones: until the device is warm, and then those whose batches workers have made by then.

    While the first steps compile, the workers fill their queue. Steps that live on it wait for nothing, and would hide
    that the workers are slower than the model.
    """
    return WARM_UP_STEPS + math.ceil(batches_ahead(args) / args.gradient_accumulation_steps)


def images_of_a_step(args: TrainingArguments) -> int:
    """Training images of a step, over all processes."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def device_name(device: torch.device) -> str:
    """What a record calls a device: a GPU's own name, or its kind, such as `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def batches_ahead(args: TrainingArguments) -> int:
    """The batches that the workers of a training's loader have made or begun while the model has one."""
    return args.dataloader_num_workers * (args.dataloader_prefetch_factor or PREFETCH_FACTOR)


class _ProfileSteps(TrainerCallback):
    """Warms up, times, traces, and stops the training. It has to be the last callback: what others do is timed too."""

    def __init__(self, steps: int, args: TrainingArguments):
        self.steps_done = 0
        self._warm_up = warm_up_steps(args)
        self.total = self._warm_up + steps + TRACED_STEPS
        self.timeline: Timeline | None = None
        self.trace: torch.profiler.profile | None = None
        self.busy: float | None = None
        self._steps, self._device, self._traces = steps, args.device, args.should_save
        self._optimiser = stage("optimiser")
        silent = args.disable_tqdm or not self._traces
        self._bar = tqdm(total=self.total, desc="profiling", unit="step", leave=False, disable=silent)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._optimiser = stage("optimiser")  # until the end of the step: also schedule and averaged weights
        self._optimiser.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        self._optimiser.__exit__()
        self.steps_done += 1
        self._bar.update()
        if self.steps_done == self._warm_up:
            self.timeline = Timeline(self._device)
            record_with(self.timeline)
        elif self.steps_done == self._warm_up + self._steps:
            self.timeline.finish()
            self._start_trace()
        elif self.steps_done == self.total:
            self._stop_trace()
            control.should_training_stop = True

    def _start_trace(self) -> None:
        record_with(Ranges())
        if self._traces:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it reports starts, stops and missing GPUs as errors
            on_gpu = self._device.type == "cuda"
            self.trace = torch.profiler.profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu)
            self.trace.start()
            self._trace_started = time.perf_counter()

    def _stop_trace(self) -> None:
        record_with(None)
        if self.trace is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._trace_started
        self.trace.stop()
        if self._device.type == "cuda":
            kernels = [
                (event.time_range.start, event.time_range.end)
                for event in self.trace.events()
                if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
            ]
            self.busy = covered(kernels) / (1e6 * seconds)  # the trace's times are in microseconds

    def close(self) -> None:
        """Stop every recording, however the training ended."""
        record_with(None)
        self._bar.close()
        if self.trace is not None and self.steps_done < self.total:
            self.trace.stop()


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Total length of intervals, with overlaps counted once."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def _write_trace(trace: torch.profiler.profile, directory: Path) -> Path:
    path = directory / TRACE_FILE
    # torch leaves a part of what a full disk refuses, without an error.
    with whole_file(path, "pass another --output_dir") as unfinished, tempfile.TemporaryDirectory() as elsewhere:
        written = Path(elsewhere, TRACE_FILE)
        trace.export_chrome_trace(str(written))
        shutil.copyfile(written, unfinished)
    return path
