"""Shows that cost is linear: the time of an epoch in the images, and the memory of an evaluation in the classes.

    python benchmarks/scaling.py                                   # about three minutes on two cores
    python benchmarks/scaling.py --picture docs/images/scaling.png

An epoch is `DeiTLTTrainer.train()` over strong views of 32-pixel images, with a small student and a ResNet-20 teacher.
An evaluation's memory is by how much a process grows while it evaluates many images with few pixels.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import torch
from children import in_children, peak_growth
from datasets import ClassLabel, Dataset, Features, Image
from interleaved import machine, markdown_table, median_and_quartiles, time_in_turns
from torch.utils.data import DataLoader
from training_step import CLASS_COUNTS, CLASSES, LoopClock

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    ViewedDataset,
    collate,
    predict_experts,
    strong_view,
)
from deitlt_hf.evaluation.figures.style import save_figure

IMAGES = (1_000, 3_000, 10_000)
CLASS_NUMBERS = (10, 1_000, 8_000)
EVALUATED_IMAGES = 24_000  # about the test set of iNaturalist-2018
EVALUATION_BATCH = 128
HEADS = 3  # the average's logits and those of both heads


class SameImage(torch.utils.data.Dataset):
    """One small image over and over, with the labels in turn."""

    def __init__(self, length: int, classes: int):
        self.length, self.classes = length, classes
        self.pixel_values = torch.randn(3, 16, 16)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixel_values, "labels": index % self.classes}


def small_student(image_size: int, classes: int, class_counts: Sequence[int]) -> DeiTLTForImageClassification:
    config = DeiTLTConfig(
        image_size=image_size,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        num_labels=classes,
        class_counts=class_counts,
        class_groups={"head": list(range(classes // 2)), "mid": [], "tail": list(range(classes // 2, classes))},
    )
    return DeiTLTForImageClassification(config)


def epoch_seconds(images: Dataset, count: int) -> float:
    """Seconds of one epoch over the first `count` images."""
    view = {"pixel_values": strong_view(32)}
    teacher = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=CLASSES))
    with tempfile.TemporaryDirectory() as scratch, redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        args = DeiTLTTrainingArguments(scratch, use_cpu=True, num_train_epochs=1, save_strategy="no", report_to="none")
        trainer = DeiTLTTrainer(
            small_student(32, CLASSES, CLASS_COUNTS),
            args,
            teacher=teacher,
            train_dataset=ViewedDataset(images.select(range(count)), view, "train"),
        )
        clock = LoopClock()
        trainer.add_callback(clock)
        trainer.train()
    return clock.seconds


def random_images(count: int) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(num_classes=CLASSES)})
    few = Dataset.from_dict({"image": list(pixels), "label": [i % CLASSES for i in range(256)]}, features=features)
    return few.select(np.arange(count) % len(few))


def evaluation_growth(classes: int, by_trainer: bool) -> float:
    """MB by which an evaluation of many images lets its process grow."""
    torch.set_num_threads(1)
    student = small_student(16, classes, [5] * classes)
    with tempfile.TemporaryDirectory() as scratch, redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        args = DeiTLTTrainingArguments(
            scratch,
            use_cpu=True,
            distillation_type="none",
            per_device_eval_batch_size=EVALUATION_BATCH,
            report_to="none",
        )
        trainer = DeiTLTTrainer(student, args)

        def evaluate(images: SameImage) -> None:
            if by_trainer:
                trainer.evaluate(images)
            else:
                predict_experts(student, DataLoader(images, EVALUATION_BATCH, collate_fn=collate))

        evaluate(SameImage(8, classes))  # what is imported and set up once is no part of it
        return peak_growth(partial(evaluate, SameImage(EVALUATED_IMAGES, classes)))


def measure_memory() -> list[tuple[int, float, float, float]]:
    """For each number of classes: MB of a run's evaluation, of the Trainer's, and of all logits, which are not kept."""
    return [
        (
            classes,
            in_children(evaluation_growth, classes, False)[0],
            in_children(evaluation_growth, classes, True)[0],
            HEADS * 4 * classes * EVALUATED_IMAGES / 2**20,
        )
        for classes in CLASS_NUMBERS
    ]


def measure_epochs(rounds: int) -> list[tuple[int, float]]:
    """For each number of images: seconds of an epoch."""
    images = random_images(max(IMAGES))
    epoch_seconds(images, 500)
    times = time_in_turns({str(count): partial(epoch_seconds, images, count) for count in IMAGES}, rounds)
    return [(count, median_and_quartiles(times[str(count)])[0]) for count in IMAGES]


def draw(epochs: Sequence[tuple[int, float]], memory: Sequence[tuple[int, float, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts, seconds = zip(*epochs, strict=True)
    left.loglog(counts, seconds, marker="o", label="measured")
    left.loglog(counts, [seconds[0] * count / counts[0] for count in counts], ":", color="grey", label="linear")
    left.set(xlabel="training images", ylabel="seconds per epoch", title="An epoch")
    classes, of_run, of_trainer, logits = zip(*memory, strict=True)
    right.loglog(classes, of_run, marker="o", label="evaluation of a run")
    right.loglog(classes, of_trainer, marker="s", label="Trainer.evaluate()")
    right.loglog(classes, logits, ":", color="grey", label="if all logits were kept")
    right.set(xlabel="classes", ylabel="MB at the peak", title=f"Evaluating {EVALUATED_IMAGES:,} images")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each size (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="PNG to draw the figures into")
    options = parser.parse_args(argv)
    memory = measure_memory()  # first, for its processes must not inherit threads
    epochs = measure_epochs(options.rounds)
    print(f"{machine(torch.device('cpu'))}, medians of {options.rounds} rounds\n")
    first, seconds = epochs[0]
    rows = [
        [f"{count:,}", f"{time:.2f} s", f"{1000 * time / count:.2f} ms", f"{time / seconds / (count / first):.2f}"]
        for count, time in epochs
    ]
    print(markdown_table([["images", "an epoch", "an image", "growth / growth of the images"], *rows]))
    rows = [[f"{classes:,}", *(f"{size:.0f} MB" for size in sizes)] for classes, *sizes in memory]
    print()
    print(markdown_table([["classes", "evaluation of a run", "Trainer.evaluate()", "all logits"], *rows]))
    if options.picture:
        draw(epochs, memory, options.picture)


if __name__ == "__main__":
    main()
