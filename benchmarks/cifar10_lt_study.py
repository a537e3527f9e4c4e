"""Trains the paper's student and its baselines on CIFAR-10-LT at equal budgets, with several seeds, and compares them.

    python benchmarks/cifar10_lt_study.py --data_dir cifar10                     # hours on a CPU
    python benchmarks/cifar10_lt_study.py --data_dir cifar10 --seeds 0 --only vit deit-lt
    python benchmarks/cifar10_lt_study.py --data_dir cifar10 --base cifar10-lt-if100 --epochs 200 -- --student_size tiny
    python benchmarks/cifar10_lt_study.py --data_dir cifar10 --report_only --page docs/results.md
    python benchmarks/cifar10_lt_study.py --numbers docs/results.json --page docs/results.md

What is trained already is not trained again, and a training that was stopped goes on from its last checkpoint. Flags
after `--` go to every student. One seed after the other, so that what is there is always a comparison. Each run is then
analysed, once. What all of them saved makes the tables, which are printed and, with `--page` and the figures, replace
what stands between the page's markers; its numbers go beside it as JSON, and `--numbers` makes the page of them where
the runs are not. `--report_only` trains nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from study.figures import draw_all
from study.page import check_page, figure_parts, make_parts, write_parts
from study.saved_runs import (
    ANALYSIS_FILE,
    RUNS,
    STUDENTS,
    TEACHERS,
    Student,
    read_numbers,
    read_run,
    read_students,
    read_teachers,
    save_numbers,
    student_directory,
    student_recipe,
    teacher_directory,
)
from study.settings import check_comparable, check_is_as_told
from torch.utils.data import DataLoader
from transformers.trainer_utils import get_last_checkpoint

from deitlt_hf import ViewedDataset, analyze_model, collate, evaluation_view
from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.cli.main import main as deitlt
from deitlt_hf.data.arguments import DataArguments, Images, load_images
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import METRICS_FILE, read_json, write_json
from deitlt_hf.inference.loading import load_run_settings, load_student
from deitlt_hf.recipes import load_recipe

DRW_SHARE = 0.25  # of the epochs, at their end, where --epochs says how many; else the recipe says it
BATCH_SIZE = 256  # of the analysis


def train(command: list[str], directory: Path, options: argparse.Namespace) -> None:
    """Run `deitlt` unless its result is there; a run without a checkpoint starts again."""
    if (finished := read_run(directory)) is not None:
        check_is_as_told(directory, finished.settings, command[1:])
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


def train_teacher(student: Student, options: argparse.Namespace) -> None:
    recipe = TEACHERS[options.base] + student.teacher
    train(["teacher", "--recipe", recipe], teacher_directory(options.output_dir, student.teacher), options)


def train_student(name: str, seed: int, options: argparse.Namespace) -> None:
    student = STUDENTS[name]
    recipe = student_recipe(options.base, student)
    command = ["train", "--recipe", recipe, "--seed", str(seed), *options.student_flags]
    if student.teacher is not None:
        command += ["--teacher", str(teacher_directory(options.output_dir, student.teacher))]
    if options.epochs is not None:
        command += ["--num_train_epochs", str(options.epochs)]
        if not student.recipe:
            command += ["--drw_start_epoch", str(round(options.epochs * (1 - DRW_SHARE)))]
    train(command, student_directory(options.output_dir, name, seed), options)


def train_all(options: argparse.Namespace) -> None:
    names = [name for name in STUDENTS if options.only is None or name in options.only]
    for name in names:
        if STUDENTS[name].teacher is not None:
            train_teacher(STUDENTS[name], options)
    for seed in options.seeds:
        for name in names:
            train_student(name, seed, options)


def analyse_all(options: argparse.Namespace) -> None:
    """Analyse the finished runs that are not analysed yet, each with every test image."""
    directories = [
        student_directory(options.output_dir, name, seed)
        for name, runs in read_students(options.output_dir).items()
        for seed, run in runs.items()
        if not run.analysis
    ]
    if not directories:
        return
    recipe = load_recipe(options.base)
    of_data = {name: recipe[name] for name in ("data", "imbalance_factor", "group_boundaries")}
    images = load_images(DataArguments(**of_data, data_dir=options.data_dir))
    for directory in directories:
        print(f"analysing {directory}", flush=True)
        write_json(directory / ANALYSIS_FILE, analyse(directory, images))


def analyse(directory: Path, images: Images) -> dict[str, Any]:
    """The record of a run's analysis, in which the model has to be as good as its run said."""
    model = load_student(str(directory))
    dataset = ViewedDataset(images.test, {"pixel_values": evaluation_view(model.config.image_size)}, "test")
    analysis = analyze_model(
        model,
        DataLoader(dataset, BATCH_SIZE, collate_fn=collate),
        class_names=images.class_names,
        class_counts=images.class_counts,
        groups=images.class_groups,
        source=directory.name,
        device=PartialState().device,
        dist_is_trained=load_run_settings(str(directory)).get("distillation_type") != "none",
    )
    measured = read_json(directory / METRICS_FILE)["experts"]
    for expert, accuracies in analysis.record["experts"].items():
        # Save an image or two, whose logits other sizes of batches round otherwise.
        if abs(accuracies["overall"] - measured[expert]["overall"]) > 0.05:
            raise SystemExit(f"{directory}: {expert} is not what {METRICS_FILE} says; remove the run to train it again")
    return analysis.record


def report(options: argparse.Namespace) -> None:
    """Make the page of what the runs saved, with figures beside it in `images`, and print its main tables."""
    if options.numbers is None:
        runs, teachers = read_students(options.output_dir), read_teachers(options.output_dir)
    else:
        runs, teachers = read_numbers(options.numbers)
    if not any(runs.values()):
        raise SystemExit(f"no finished run in {options.output_dir}; leave --report_only out to train them")
    check_comparable(options.base, runs)
    parts = make_parts(options.base, runs, teachers)
    if options.page is not None:
        write_parts(options.page, parts | figure_parts(draw_all(runs, options.page.parent / "images"), options.page))
        save_numbers(runs, teachers, options.page.with_suffix(".json"))
    print(parts["students"], parts["claims"], sep="\n\n")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="Parquet files of CIFAR-10; left out, the hub's")
    parser.add_argument("--output_dir", type=Path, default=RUNS, help="default: %(default)s")
    parser.add_argument("--base", choices=list(TEACHERS), default="cifar10-lt-small", help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=list(STUDENTS), metavar="NAME", help=f"of {', '.join(STUDENTS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--epochs", type=int, help="of every student; left out, the recipe's")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images (default: %(default)s)")
    parser.add_argument("--report_only", action="store_true", help="train nothing, report what is trained")
    parser.add_argument("--page", type=Path, help="put tables and figures between this Markdown page's markers")
    parser.add_argument("--numbers", type=Path, help="make the page of these, in place of what runs saved")
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    options = parser.parse_args(own)
    options.student_flags = arguments[len(own) + 1 :]
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    quiet_libraries()
    if options.page is not None:
        check_page(options.page)
    try:
        if options.numbers is None:
            if not options.report_only:
                train_all(options)
            analyse_all(options)
        report(options)
    except DeiTLTError as error:  # such as data that are not there
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
