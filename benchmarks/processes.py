"""Trains with one process and with two, each on one core, and prints how many images more two get through.

    python benchmarks/processes.py        # about a minute and a half on two cores

Both train the same student by `DeiTLTTrainer.train()` with the same batch per process, so that two would see twice the
images in the same time, were it not for averaging their gradients (gloo) and for sharing the machine's memory. A third
line is what one process with two threads gets through with the batch of both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial

import torch
from children import in_children
from interleaved import HEAD, machine, markdown_table, median_and_quartiles, time_in_turns
from training_step import ReadyImages, build_models, build_trainer
from training_step import parse as parse_step
from transformers import TrainerCallback

from deitlt_hf.training.callbacks import ProgressBar

WARM_UP_STEPS = 2


class Clock(TrainerCallback):
    """Seconds of the steps after the first few."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP_STEPS:
            self.start = time.perf_counter()
        self.end = time.perf_counter()


def train(options: argparse.Namespace, threads: int, batch_size: int, processes: int) -> float:
    """Seconds that this process takes for an image that any of them trains on."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # else accelerate chooses, with two processes
    torch.set_num_threads(threads)
    options.batch_size = batch_size
    student, teacher = build_models(options)
    steps = WARM_UP_STEPS + options.loop_steps
    with tempfile.TemporaryDirectory() as options.scratch:
        data = ReadyImages(steps * batch_size * processes, options.image_size)
        trainer = build_trainer(student, teacher, data, options)
        trainer.pop_callback(ProgressBar)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
    if trainer.args.world_size != processes or trainer.state.global_step != steps:
        raise SystemExit(f"{trainer.args.world_size} processes took {trainer.state.global_step} steps of {steps}")
    return (clock.end - clock.start) / (options.loop_steps * batch_size * processes)


def measure(options: argparse.Namespace) -> list[list[str]]:
    """The lines of the table; nothing may have been computed in this process before."""
    batch = options.batch_size
    launches = {"one": (1, batch, 1), "two": (1, batch, 2), "threads": (2, 2 * batch, 1)}

    def seconds(threads: int, batch_size: int, processes: int) -> float:
        return max(in_children(train, options, threads, batch_size, processes, processes=processes))

    turns = {name: partial(seconds, *launch) for name, launch in launches.items()}
    times = time_in_turns(turns, max(1, options.rounds // 2))
    rows = []
    for what, name in (
        ("two processes of a core, one process", "two"),
        ("one process of two cores, one core", "threads"),
    ):
        ratios = [one / both for one, both in zip(times["one"], times[name], strict=True)]
        ratio, lower, upper = (f"{value:.2f}" for value in median_and_quartiles(ratios))
        speeds = [f"{1 / median_and_quartiles(times[side])[0]:.1f} images/s" for side in (name, "one")]
        rows.append([what, *speeds, ratio, f"{lower} to {upper}", "2 at best"])
    return rows


def main() -> None:
    options = parse_step()
    rows = measure(options)
    print(f"{machine(torch.device('cpu'))}, {max(1, options.rounds // 2)} rounds\n")
    print(markdown_table([HEAD, *rows]))


if __name__ == "__main__":
    main()
