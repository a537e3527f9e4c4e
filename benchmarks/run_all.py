"""Measures everything against its peers in one run, and prints one table of ratios.

    python benchmarks/run_all.py             # about nine minutes on two cores with nothing else running
    python benchmarks/run_all.py --quick     # two minutes, with small batches and few rounds

Training steps, the loop around them, reading and augmenting images, evaluation, peak memory, and two processes; where
there is a GPU, also what `on_gpu.py` measures.
"""

from __future__ import annotations

import argparse
import time

import input_pipeline
import memory
import on_gpu
import processes
import torch
import training_step
from interleaved import HEAD, machine, markdown_table

import evaluation

QUICK = "--rounds 2 --steps 1 --loop-steps 3 --batch-size 8 --teacher-depth 20".split()


def measure_on_cpu(options: argparse.Namespace) -> list[list[str]]:
    """The lines of the table, as measured on the CPU."""
    threads = torch.get_num_threads()
    # What forks comes first: see children.py.
    rows = memory.measure(options) + processes.measure(options)
    batch_size = options.batch_size
    rows = training_step.measure(options) + rows
    rows += evaluation.measure(options)
    torch.set_num_threads(1)
    rows += input_pipeline.measure(options.rounds)
    torch.set_num_threads(threads)
    assert options.batch_size == batch_size  # children changed only their copy
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batches, few rounds")
    quick = parser.parse_args(argv).quick
    started = time.perf_counter()
    options = training_step.parse(QUICK if quick else [])
    print(f"{training_step.describe(options)}\n", flush=True)
    rows = measure_on_cpu(options)
    print(markdown_table([HEAD, *rows]))
    print(f"\n{machine(torch.device('cpu'))}")
    print("\nOn a GPU\n", flush=True)
    on_gpu.main(["--steps", "10"] if quick else [])
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
