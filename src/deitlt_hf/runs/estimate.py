"""How long a training will take on this machine: before it begins, and after its first steps with what it needs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass

import psutil
import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from deitlt_hf.errors import counted
from deitlt_hf.runs.profiling import batches_ahead, images_of_a_step, train_for_the_clock, warm_up_steps
from deitlt_hf.training.long_tail import LongTailTrainer

TIMED_STEPS = 10  # at least, and for so many seconds, unless the training is shorter
TIMED_SECONDS = 10.0
SHORT = 10.0  # seconds of a training that needs no estimate
LONG = 3600.0  # seconds on a CPU, from which on the estimate says what would make it shorter
FEW_STEPS, FEW_SECONDS = 20, 3.0  # what a training is timed for before it begins, whichever is over first
EVALUATED = 1 / 3  # of the time of a training image: there is no backward pass


class TimeEstimate(TrainerCallback):
    """Times the first steps of a training, and prints once what the whole will take.

    Args:
        trainer: whose steps it is called for.
        test_images: that are evaluated after the training.
    """

    def __init__(self, trainer: LongTailTrainer, test_images: int) -> None:
        self._trainer, self._test_images = trainer, test_images
        self._warm_up = warm_up_steps(trainer.args)
        self._steps = 0
        self._started = 0.0
        self._done = False

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        if self._done:
            return
        self._steps += 1
        if self._steps == self._warm_up:
            self._started = self._now()
        timed = self._steps - self._warm_up
        # Looking at the clock waits for a GPU, which slows a step down: not in every step of a long training.
        if timed >= TIMED_STEPS and timed % TIMED_STEPS == 0:
            seconds = self._now() - self._started
            if seconds >= TIMED_SECONDS or timed >= 10 * TIMED_STEPS:
                self._done = True
                self._say(seconds / timed, state.max_steps - state.global_step, optimizer)

    def _now(self) -> float:
        return clock(self._trainer.args.device)

    def _say(self, step: float, steps_left: int, optimizer: torch.optim.Optimizer) -> None:
        trainer, args = self._trainer, self._trainer.args
        images = images_of_a_step(args)
        evaluated = _evaluated_in_training(trainer, args) + self._test_images
        evaluation = evaluated * EVALUATED * step / images
        whole = step * steps_left + evaluation
        if whole < SHORT or not trainer.is_world_process_zero():
            return
        of_evaluation = f"; {duration(evaluation)} of it for evaluation" if evaluation >= 1 else ""
        lines = [
            f"about {duration(whole)} more on this machine: {steps_left:,} steps of {counted(images, 'image')}, "
            f"{images / step:,.3g} images per second{of_evaluation}",
            f"it needs {self._memory()}, and {self._disk(optimizer)}",
        ]
        if whole > LONG and args.device.type == "cpu":
            lines.append(
                "shorter: fewer --epochs; for a student a smaller --image_size, --student_size tiny, or a "
                "pretrained start (--init_from); or a GPU"
            )
        tqdm.write("\n".join(lines))  # above the progress bar

    def _memory(self) -> str:
        """What a process takes by now."""
        device = self._trainer.args.device
        if device.type == "cuda":
            return f"{size(torch.cuda.max_memory_allocated(device))} of memory on each GPU"
        taken = psutil.Process().memory_info().rss
        return f"{size(taken)} of memory (of {size(psutil.virtual_memory().total)})"

    def _disk(self, optimizer: torch.optim.Optimizer) -> str:
        trainer, args = self._trainer, self._trainer.args
        model = _bytes([*trainer.model.parameters(), *trainer.model.buffers()])
        state = _bytes(value for of in optimizer.state.values() for value in of.values() if torch.is_tensor(value))
        kept = min(self._saves(), args.save_total_limit or self._saves())
        needed = model + kept * (model + state)
        free = shutil.disk_usage(args.output_dir).free
        few = f", and only {size(free)} are free" if free < needed else ""
        checkpoints = f" and {counted(kept, 'checkpoint')}" if kept else ""
        return f"{size(needed)} of disk for the model{checkpoints}{few}"

    def _saves(self) -> int:
        """How many checkpoints a whole training saves."""
        args, state = self._trainer.args, self._trainer.state
        if args.save_strategy == SaveStrategy.NO:
            return 0
        if args.save_strategy == SaveStrategy.STEPS and state.save_steps:
            return state.max_steps // state.save_steps
        return state.num_train_epochs


@dataclass(frozen=True)
class TrainingTime:
    """What a training will take on this machine, before it begins."""

    steps: int
    step: float  # seconds of one
    images: int  # of a step, over all processes
    evaluated: int  # images, during the training and after it

    @property
    def seconds(self) -> float:
        """Of the whole training, evaluations included."""
        return self.step * (self.steps + EVALUATED * self.evaluated / self.images)


def time_training(trainer: LongTailTrainer, test_images: int) -> TrainingTime:
    """Time a few steps of a training that is to come, in seconds; the trainer cannot be used afterwards.

    Args:
        trainer: whose output directory nothing is written into.
        test_images: that will be evaluated after the training.
    """
    args = copy(trainer.args)  # for the clock, nothing is evaluated
    steps = _FewSteps(args)
    trainer.keeps_pixels = False  # a few steps are not worth reading all images
    train_for_the_clock(trainer, steps)
    evaluated = _evaluated_in_training(trainer, args) + test_images
    return TrainingTime(trainer.state.max_steps, steps.seconds, images_of_a_step(args), evaluated)


class _FewSteps(TrainerCallback):
    """Stops a training after a few steps, and knows what one of them took."""

    def __init__(self, args: TrainingArguments) -> None:
        self._warm_up, self._device = 1 + batches_ahead(args), args.device
        self._times: list[float] = []

    @property
    def seconds(self) -> float:
        """Of a step after the warm-up; of a training that is shorter than that, of any."""
        first = min(self._warm_up, len(self._times) - 2)
        return (self._times[-1] - self._times[first]) / (len(self._times) - 1 - first)

    def on_train_begin(self, args, state, control, **kwargs):
        self._times.append(clock(self._device))

    def on_step_end(self, args, state, control, **kwargs):
        self._times.append(clock(self._device))
        timed = len(self._times) - 1 - self._warm_up
        long_enough = timed >= 2 and self._times[-1] - self._times[self._warm_up] >= FEW_SECONDS
        control.should_training_stop |= long_enough or timed >= FEW_STEPS


def _evaluated_in_training(trainer: LongTailTrainer, args: TrainingArguments) -> int:
    """How many images are evaluated during the rest of a training with these arguments, the same ones each time."""
    state, evaluations = trainer.state, 0
    if args.eval_strategy == IntervalStrategy.EPOCH:
        evaluations = round(state.num_train_epochs - (state.epoch or 0))
    elif args.eval_strategy == IntervalStrategy.STEPS and state.eval_steps:
        evaluations = (state.max_steps - state.global_step) // state.eval_steps
    return evaluations * len(trainer.eval_dataset or ())


def clock(device: torch.device) -> float:
    """The time in seconds, when a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def duration(seconds: float) -> str:
    """Seconds in the unit that one would say it in.

    Example:
        >>> duration(42), duration(150), duration(7200), duration(400_000)
        ('42 seconds', '2.5 minutes', '2 hours', '4.6 days')
    """
    for name, unit in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * unit:
            count = seconds / unit
            return f"{count:.2g} {name}" if count < 10 else f"{count:.0f} {name}"
    return counted(round(seconds), "second")


def size(count: float) -> str:
    """Bytes in MB or GB.

    Example:
        >>> size(14_000_000), size(2_500_000_000)
        ('14 MB', '2.5 GB')
    """
    return f"{count / 1e9:.2g} GB" if count >= 1e9 else f"{max(count / 1e6, 1):.0f} MB"


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
