"""Measures the memory that training steps take at their peak, against steps written by hand, and prints the ratios.

    python benchmarks/memory.py        # half a minute on two cores

On a CPU, each contestant takes its steps in a process of its own, and what counts is by how much the process grows; on
a GPU, what torch has allocated at the most.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from functools import partial

import torch
from children import in_children, peak_growth
from interleaved import HEAD, machine, markdown_table
from torch.utils.data import DataLoader
from training_step import (
    ReadyImages,
    build_models,
    build_trainer,
    dropping,
    handwritten_step,
    parse,
    run_steps,
    timms_student,
    trainer_step,
    transformers_student,
)

from deitlt_hf import collate

STEPS = 3
ROUNDS = 3


def peak(contestant: str, options: argparse.Namespace) -> float:
    """MB at the peak of a few steps, models, gradients and optimiser included."""
    if options.device.type == "cuda":
        gc.collect()  # what the last contestant left would be freed during this one's steps
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        take_steps(contestant, options)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    return peak_growth(partial(take_steps, contestant, options))


def take_steps(contestant: str, options: argparse.Namespace) -> None:
    student, teacher = build_models(options)
    data = ReadyImages(options.batch_size * STEPS, options.image_size)
    with tempfile.TemporaryDirectory() as options.scratch:
        if contestant == "transformers":
            step = handwritten_step(transformers_student(student, options), teacher, options)
        elif contestant == "timm":
            step = handwritten_step(timms_student(options), teacher, options)
        else:
            model = dropping(student, options) if contestant == "ours, dropping" else student
            step = trainer_step(build_trainer(model, teacher, data, options))
        run_steps(step, DataLoader(data, options.batch_size, collate_fn=collate))


def measure(options: argparse.Namespace) -> list[list[str]]:
    """The lines of the table; on a CPU, nothing may have been computed in this process before."""
    in_place = options.device.type == "cuda"

    def median(contestant: str) -> float:
        peaks = [
            peak(contestant, options) if in_place else in_children(peak, contestant, options)[0] for _ in range(ROUNDS)
        ]
        return sorted(peaks)[ROUNDS // 2]

    rows = []
    for what, ours, peer in (
        ("peak memory of steps, transformers' DeiT", "ours", "transformers"),
        ("peak memory of steps, timm's DeiT, drop path", "ours, dropping", "timm"),
    ):
        our, their = median(ours), median(peer)
        rows.append([what, f"{our:.0f} MB", f"{their:.0f} MB", f"{our / their:.2f}", "", "<= 1.05"])
    return rows


def main() -> None:
    options = parse()
    rows = measure(options)
    print(f"{machine(options.device)}\n")
    print(markdown_table([HEAD, *rows]))


if __name__ == "__main__":
    main()
