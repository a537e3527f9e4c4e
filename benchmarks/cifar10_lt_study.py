"""Trains the paper's student and its baselines on CIFAR-10-LT at equal budgets, with several seeds, and compares them.

    python benchmarks/cifar10_lt_study.py --data_dir cifar10                     # hours on a CPU
    python benchmarks/cifar10_lt_study.py --data_dir cifar10 --seeds 0 --only vit deit-lt
    python benchmarks/cifar10_lt_study.py --data_dir cifar10 --base cifar10-lt-if100 --epochs 200 -- --student_size tiny

What is trained already is not trained again, and a training that was stopped goes on from its last checkpoint. Flags
after `--` go to every student. One seed after the other, so that what is there is always a comparison.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from transformers.trainer_utils import get_last_checkpoint

from deitlt_hf.cli.main import main as deitlt
from deitlt_hf.hub.run_record import METRICS_FILE

DRW_SHARE = 0.25  # of the epochs, at their end, where --epochs says how many; else the recipe says it


class Student(NamedTuple):
    """A student of the study: what the base recipe's name goes on with, and likewise its teacher's."""

    title: str
    recipe: str
    teacher: str | None


STUDENTS = {
    "vit": Student("ViT", "-vit", None),
    "deit": Student("DeiT", "-deit", "-strong"),
    "no-drw": Student("DeiT-LT without DRW", "-no-drw", ""),
    "no-sam": Student("DeiT-LT, teacher without SAM", "", "-no-sam"),
    "deit-lt": Student("DeiT-LT", "", ""),
}
TEACHERS = {"cifar10-lt-small": "cifar10-lt-small-teacher", "cifar10-lt-if100": "cifar10-lt-if100-teacher-ldam"}


def train(command: list[str], directory: Path, options: argparse.Namespace) -> None:
    """Run `deitlt` unless its result is there; a run without a checkpoint starts again."""
    if (directory / METRICS_FILE).is_file():
        return
    command = [*command, "--output_dir", str(directory), "--dataloader_num_workers", str(options.workers)]
    command += ["--augmentation_device", "device"]
    if options.data_dir is not None:
        command += ["--data_dir", options.data_dir]
    if directory.is_dir():
        command.append("--resume" if get_last_checkpoint(directory) else "--overwrite")
    print(f"deitlt {' '.join(command)}", flush=True)
    if status := deitlt(command):
        raise SystemExit(status)


def teacher_directory(student: Student, options: argparse.Namespace) -> Path:
    return options.output_dir / f"teacher{student.teacher}"


def train_teacher(student: Student, options: argparse.Namespace) -> None:
    recipe = TEACHERS[options.base] + student.teacher
    train(["teacher", "--recipe", recipe], teacher_directory(student, options), options)


def train_student(name: str, seed: int, options: argparse.Namespace) -> None:
    student = STUDENTS[name]
    recipe = options.base + student.recipe
    command = ["train", "--recipe", recipe, "--seed", str(seed), *options.student_flags]
    if student.teacher is not None:
        command += ["--teacher", str(teacher_directory(student, options))]
    if options.epochs is not None:
        command += ["--num_train_epochs", str(options.epochs)]
        if not student.recipe:
            command += ["--drw_start_epoch", str(round(options.epochs * (1 - DRW_SHARE)))]
    train(command, options.output_dir / f"{name}-seed{seed}", options)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="Parquet files of CIFAR-10; left out, the hub's")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/study"), help="default: %(default)s")
    parser.add_argument("--base", choices=list(TEACHERS), default="cifar10-lt-small", help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=list(STUDENTS), metavar="NAME", help=f"of {', '.join(STUDENTS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--epochs", type=int, help="of every student; left out, the recipe's")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images (default: %(default)s)")
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    options = parser.parse_args(own)
    options.student_flags = arguments[len(own) + 1 :]
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    names = [name for name in STUDENTS if options.only is None or name in options.only]
    for name in names:
        if STUDENTS[name].teacher is not None:
            train_teacher(STUDENTS[name], options)
    for seed in options.seeds:
        for name in names:
            train_student(name, seed, options)


if __name__ == "__main__":
    main()
