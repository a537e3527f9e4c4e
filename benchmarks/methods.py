"""Compares losses, samplers and ways to distil on long-tailed images at equal budgets, and chooses settings by it.

    python benchmarks/methods.py --base digits-lt                         # about five hours on one core
    python benchmarks/methods.py --base digits-lt --only cnn-ce deit-lt --seeds 0
    python benchmarks/methods.py --base digits-lt --split test --only teacher deit-lt chosen
    python benchmarks/methods.py --base cifar10-lt-small --data_dir cifar10
    python benchmarks/methods.py --report_only --page docs/methods.md

Settings are chosen on images that are held out of the training images (`--split held-out`, the default): equally many
of each class, taken before the train split is made long-tailed. A class keeps the number of images that it has in the
whole train split, if enough are left. The test split (`--split test`) is for what was chosen, once.

A method is a CNN, a Vision Transformer on ground truth alone, or a student with a teacher: one of the CNNs of its
seed. All CNNs see equally many images, and so do all Vision Transformers; only cRT's second stage comes on top of its
first. One process trains one after the other with the user's commands; what is trained already is not trained again,
and what was stopped goes on from its last checkpoint. The table has the mean over seeds and the standard deviation, and
the time of a training.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import DatasetDict
from interleaved import markdown_table
from study.page import COLUMNS, WHOLE_RUN, check_markers, spread, write_parts
from study.saved_runs import Run, read_run
from transformers.trainer_utils import get_last_checkpoint

from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.cli.main import main as deitlt
from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.data.columns import labels_of, with_image_and_label
from deitlt_hf.data.long_tail import long_tailed_indices
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.measures import EXPERT_LABELS
from deitlt_hf.recipes import load_recipe

SPLITS = ("held-out", "test")
SEED_OF_SPLIT = 1


class Base(NamedTuple):
    """A setting in which methods are compared: its recipes, and the images of each class that are held out."""

    teacher: str
    student: str
    held_out: int


BASES = {
    "digits-lt": Base("digits-lt-teacher", "digits-lt", 30),
    "cifar10-lt-small": Base("cifar10-lt-small-teacher", "cifar10-lt-small", 500),
}


class Method(NamedTuple):
    """What is trained: flags over the base's recipe of a teacher, or of a student where `kind` is not `cnn`."""

    title: str
    flags: str
    kind: str = "cnn"  # cnn; vit: a Vision Transformer that learns from the ground truth alone; student: with a teacher
    teacher: str | None = None  # a method of the table, which is trained first
    start: str | None = None  # likewise: the run starts from its weights


_CRT = "--class_balanced_sampling true --retrain_classifier true"
_ALONE = "--distillation_type none --mixup 0 --cutmix 0 --drw_start_epoch none"
_CLS_ALONE = f"{_ALONE} --expert cls --distillation_alpha 0"
# The paper's way: mixing, and hard labels of the teacher.
_DEIT = "--mixup 0.8 --cutmix 1.0 --cls_loss ce --distillation_type hard"
_UNMIXED = "--mixup 0 --cutmix 0 --distillation_type hard"
_ADJUSTED = "--cls_loss logit_adjusted --logit_adjusted_tau 1.5"


def _cnn(loss: str, more: str = "") -> str:
    return f"--loss {loss} --classifier linear --drw_start_epoch none --sam_rho 0 {more}"


def _vit(loss: str, more: str = "") -> str:
    return f"{_CLS_ALONE} --cls_loss {loss} {more}"


METHODS = {
    "cnn-ce": Method("CNN: cross-entropy", _cnn("ce")),
    "cnn-focal": Method("CNN: focal loss", _cnn("focal")),
    "cnn-cb-ce": Method("CNN: class-balanced cross-entropy", _cnn("ce", "--drw_start_epoch 0")),
    "cnn-balanced-softmax": Method("CNN: balanced softmax", _cnn("balanced_softmax")),
    "cnn-logit-adjusted": Method("CNN: logit adjustment, tau 1.5", _cnn("logit_adjusted", "--logit_adjusted_tau 1.5")),
    "cnn-balanced-bce": Method("CNN: balanced BCE", _cnn("balanced_bce")),
    "cnn-crt": Method("CNN: cRT", _cnn("ce", _CRT), start="cnn-ce"),
    "cnn-ldam-drw": Method("CNN: LDAM + DRW", "--loss ldam --classifier cosine --sam_rho 0"),
    "cnn-ldam-drw-sam": Method("CNN: LDAM + DRW + SAM", "--loss ldam --classifier cosine"),
    "vit-ce": Method("ViT: cross-entropy", _vit("ce"), "vit"),
    "vit-focal": Method("ViT: focal loss", _vit("focal"), "vit"),
    # Of a student without a teacher DIST learns the ground truth too, under DRW.
    "vit-cb-ce": Method(
        "ViT: class-balanced cross-entropy",
        f"{_ALONE} --expert distillation --distillation_alpha 1 --drw_start_epoch 0",
        "vit",
    ),
    "vit-balanced-softmax": Method("ViT: balanced softmax", _vit("balanced_softmax"), "vit"),
    "vit-logit-adjusted": Method(
        "ViT: logit adjustment, tau 1.5", _vit("logit_adjusted", "--logit_adjusted_tau 1.5"), "vit"
    ),
    "vit-balanced-bce": Method("ViT: balanced BCE", _vit("balanced_bce"), "vit"),
    "vit-crt": Method("ViT: cRT", _vit("ce", _CRT), "vit", start="vit-ce"),
    "teacher": Method("CNN: the teacher's recipe", ""),
    "teacher-strong": Method("CNN: the teacher's recipe, on strong views", "--training_view strong"),
    "deit": Method("DeiT", f"{_DEIT} --drw_start_epoch none", "student", "teacher-strong"),
    "deit-lt": Method("DeiT-LT, as in the paper", f"{_DEIT} --drw_start_epoch LATE", "student", "teacher"),
    "unmixed": Method("... without mixing", f"{_UNMIXED} --cls_loss ce --drw_start_epoch LATE", "student", "teacher"),
    "adjusted": Method(
        "... and logit-adjusted CLS, tau 1.5",
        f"{_UNMIXED} {_ADJUSTED} --drw_start_epoch LATE",
        "student",
        "teacher",
    ),
    "early": Method(
        "... and DRW from half of the epochs",
        f"{_UNMIXED} {_ADJUSTED} --drw_start_epoch HALF",
        "student",
        "teacher",
    ),
    "soft": Method(
        "... and soft labels at temperature 2",
        f"{_UNMIXED} {_ADJUSTED} --drw_start_epoch HALF --distillation_type soft --distillation_temperature 2",
        "student",
        "teacher",
    ),
    "chosen": Method("DeiT-LT: the student's recipe (LTKD)", "", "student", "teacher"),
}
LATE, HALF = 0.8, 0.5  # of the epochs


class Place(NamedTuple):
    """Where the runs of a base and split are, and the flags that lead to its images."""

    directory: Path
    base: Base
    data: list[str]

    def of(self, name: str, seed: int | str, budget: float = 1) -> Path:
        """Where a method's run is, which has `budget` times the recipe's epochs."""
        times = "" if budget == 1 else f"-x{budget:g}"
        return self.directory / f"{name}{times}-seed{seed}"


def held_out(base: Base, recipe: dict[str, Any], data_dir: str | None) -> DatasetDict:
    """A long-tailed train split, and as the test split training images of which none is in it."""
    pool = with_image_and_label(BENCHMARKS[recipe["data"]].read(data_dir))["train"]
    labels, draw = labels_of(pool), np.random.default_rng(SEED_OF_SPLIT)
    classes = [draw.permutation(np.flatnonzero(labels == label)) for label in range(labels.max() + 1)]
    counts = np.bincount(labels[long_tailed_indices(labels, recipe["imbalance_factor"])])
    test = np.concatenate([rows[: base.held_out] for rows in classes])
    train = np.concatenate(
        [rows[base.held_out :][:count] for rows, count in zip(classes, counts, strict=True)]  # a head class has fewer
    )
    return DatasetDict(train=pool.select(train), test=pool.select(test))


def prepare(options: argparse.Namespace) -> Place:
    """Make the held-out split where it is not there yet."""
    base = BASES[options.base]
    directory = options.output_dir / options.base / options.split
    if options.split == "test":
        return Place(directory, base, ["--data_dir", options.data_dir] if options.data_dir else [])
    data = directory / "data"
    if not data.is_dir():
        held_out(base, load_recipe(base.student), options.data_dir).save_to_disk(data)
    return Place(directory, base, ["--data", str(data), "--imbalance_factor", "none"])


def train(name: str, seed: int, place: Place, budget: float = 1) -> None:
    """Run `deitlt` for a method, after the methods that it needs, unless its result is there."""
    method, directory = METHODS[name], place.of(name, seed, budget)
    if read_run(directory) is not None:
        return
    for needed in (method.teacher, method.start):
        if needed is not None:
            train(needed, seed, place)
    recipe = place.base.teacher if method.kind == "cnn" else place.base.student
    epochs = round(budget * load_recipe(recipe)["num_train_epochs"])
    flags = method.flags.replace("LATE", str(round(LATE * epochs))).replace("HALF", str(round(HALF * epochs)))
    command = ["teacher" if method.kind == "cnn" else "train", "--recipe", recipe, "--seed", str(seed)]
    command += [*flags.split(), *place.data, "--num_train_epochs", str(epochs), "--output_dir", str(directory)]
    if method.teacher is not None:
        command += ["--teacher", str(place.of(method.teacher, seed))]
    if method.start is not None:
        command += ["--init_from", str(place.of(method.start, seed))]
    if directory.is_dir():
        command.append("--resume" if get_last_checkpoint(directory) else "--overwrite")
    print(f"deitlt {' '.join(command)}", flush=True)
    if status := deitlt(command):
        raise SystemExit(status)


def runs_of(name: str, place: Place, budget: float = 1) -> list[Run]:
    """The finished runs of a method, one for each seed."""
    found = (read_run(directory) for directory in sorted(place.directory.glob(place.of(name, "*", budget).name)))
    return [run for run in found if run is not None]


def rows_of(name: str, place: Place) -> Iterator[list[str]]:
    """The rows of a method: one of its own prediction, for a student also those of its experts."""
    runs, method = runs_of(name, place), METHODS[name]
    if not runs:
        return
    minutes = [60 * run.took["hours"] for run in runs if run.took.get("hours_of") == WHOLE_RUN]
    took = f"{statistics.fmean(minutes):.1f}" if minutes else "-"
    if method.kind == "cnn":
        yield [method.title, *_cells(run.metrics["accuracy"] for run in runs), took, str(len(runs))]
        return
    yield [method.title, *_cells(run.metrics["experts"][run.expert] for run in runs), took, str(len(runs))]
    if method.kind == "student":
        for expert in ("cls", "distillation"):
            yield [f"- {EXPERT_LABELS[expert]}", *_cells(run.metrics["experts"][expert] for run in runs), "", ""]


def _cells(accuracies: Iterable[Mapping[str, float]]) -> list[str]:
    """Mean and deviation of each column over the seeds."""
    accuracies = list(accuracies)
    return [spread([of[column] for of in accuracies]) for column in COLUMNS]


def table(place: Place) -> str:
    head = ["method", *COLUMNS, "minutes", "seeds"]
    return markdown_table([head, *(row for name in METHODS for row in rows_of(name, place))])


def parser_of_runs(description: str) -> argparse.ArgumentParser:
    """The options that say which runs there are, and where."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--base", choices=list(BASES), default="digits-lt", help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--data_dir", help="Parquet files of CIFAR-10; left out, the hub's")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/methods"), help="default: %(default)s")
    parser.add_argument("--report_only", action="store_true", help="train nothing, report what is trained")
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of_runs(__doc__.splitlines()[0])
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help="what is measured on; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), metavar="NAME", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--page", type=Path, help="put the table between this Markdown page's markers")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    part = f"{options.base}, {options.split}"
    if options.page is not None:
        check_markers(options.page, [part])
    quiet_libraries()
    try:
        place = prepare(options)
        if not options.report_only:
            for seed in options.seeds:  # one seed after the other, so that what is there is always a comparison
                for name in options.only or METHODS:
                    train(name, seed, place)
    except DeiTLTError as error:  # such as data that are not there
        raise SystemExit(str(error)) from error
    print(table(place))
    if options.page is not None:
        write_parts(options.page, {part: table(place)})


if __name__ == "__main__":
    main()
