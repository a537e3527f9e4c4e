"""Measures calibrated students on images that took no part in the calibration.

    python benchmarks/answers.py --students digits-lt runs/methods/digits-lt/test/chosen-seed* --page docs/answers.md
    python benchmarks/answers.py --students cifar10-lt-small runs/methods/cifar10-lt-small/test/chosen-seed* \
        --data_dir cifar10

A name stands for students that differ only in their seed. The test images of each class are split into halves at
random, five times: one half stands for a validation split, on which the fusion is fitted, the other one is measured.
So the students are not changed, and no image is measured by what was fitted to it. The table has the mean over seeds
and splits, and the standard deviation over seeds; the calibration error is of all predictions of a seed together,
because that of a few images is mostly chance.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from interleaved import markdown_table
from study.page import spread, write_parts

from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.data.arguments import DataArguments, load_images
from deitlt_hf.evaluation.analysis.predictions import reliability
from deitlt_hf.evaluation.fusion import fit_fusion, fused_probabilities
from deitlt_hf.evaluation.measures import EXPERT_LABELS, grouped_accuracy
from deitlt_hf.inference.loading import load_run_settings, load_student
from deitlt_hf.runs.calibrating import predict_logits

SPLITS = 5
COLUMNS = ("overall", "head", "mid", "tail")


class Logits(NamedTuple):
    """What a student says of its test images: logits `(N, C)`, labels `(N,)`, and its classes."""

    cls: np.ndarray
    distillation: np.ndarray
    labels: np.ndarray
    class_counts: list[int]
    groups: Mapping[str, Sequence[int]]


def read_logits(directory: Path, data_dir: str | None) -> Logits:
    """Run a saved student over the test split of its data."""
    fields = ("data", "imbalance_factor", "group_boundaries", "test_fraction", "split_seed")
    settings = load_run_settings(str(directory))
    chosen = {name: settings[name] for name in fields if name in settings}
    images = load_images(DataArguments(data_dir=data_dir, **chosen))
    cls, distillation, labels = predict_logits(load_student(str(directory)), images.test, 256)
    return Logits(cls, distillation, labels, images.class_counts, images.class_groups)


def halves(labels: np.ndarray, split: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both halves of the images, of each class as many in both, or one more in the second."""
    draw = np.random.default_rng(split)
    classes = [draw.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    first = np.concatenate([rows[: len(rows) // 2] for rows in classes])
    return first, np.setdiff1d(np.arange(len(labels)), first)


def predictions(logits: Logits) -> Iterator[dict[str, tuple[np.ndarray, np.ndarray]]]:
    """For each split and row the probabilities and labels of the half that is measured."""
    average = (logits.cls + logits.distillation) / 2
    experts = {"average": average, "cls": logits.cls, "distillation": logits.distillation}
    for split in range(SPLITS):
        fitted, measured = halves(logits.labels, split)
        fit = fit_fusion(logits.cls[fitted], logits.distillation[fitted], logits.labels[fitted], logits.class_counts)
        rows = {row: torch.tensor(of[measured]).softmax(-1).numpy() for row, of in experts.items()}
        rows["fused"] = fused_probabilities(fit.fusion, logits.cls[measured], logits.distillation[measured])
        yield {row: (of, logits.labels[measured]) for row, of in rows.items()}


def measure(logits: Logits) -> dict[str, dict[str, float]]:
    """Accuracies by group, means over the splits, and the calibration error, all in percent, of each row."""
    splits = list(predictions(logits))
    found = {}
    for row in splits[0]:
        accuracies = [grouped_accuracy(of, labels, logits.groups) for of, labels in (split[row] for split in splits)]
        found[row] = {name: statistics.fmean(of[name] for of in accuracies) for name in COLUMNS}
        of_all = np.concatenate([split[row][0] for split in splits])
        right = of_all.argmax(1) == np.concatenate([split[row][1] for split in splits])
        found[row]["error"] = reliability(of_all.max(1), right)["ece"]
    return found


def table(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """A line for each row, with the mean and the deviation over the seeds."""
    head = ["prediction", *COLUMNS, "calibration error"]
    rows = [
        [EXPERT_LABELS[row], *(spread([seed[row][name] for seed in seeds]) for name in (*COLUMNS, "error"))]
        for row in seeds[0]
    ]
    return markdown_table([head, *rows])


def parse(description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a benchmark of saved students."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--students", nargs="+", action="append", required=True, metavar="NAME DIR", help="a name and its students"
    )
    parser.add_argument("--data_dir", help="of CIFAR's images, where they are not downloaded")
    parser.add_argument("--page", type=Path, help="put the tables between its markers")
    quiet_libraries()
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(__doc__, argv)
    parts = {}
    for name, *directories in options.students:
        parts[name] = table([measure(read_logits(Path(directory), options.data_dir)) for directory in directories])
        print(f"{name}, {len(directories)} seeds\n\n{parts[name]}\n", flush=True)
    if options.page is not None:
        write_parts(options.page, parts)


if __name__ == "__main__":
    main()
