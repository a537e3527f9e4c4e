"""Trains five teachers on CIFAR-10-LT at equal small budgets with the user's command, and compares them.

    python benchmarks/cifar10_lt_teachers.py --data_dir cifar10                       # hours on one core
    python benchmarks/cifar10_lt_teachers.py --data_dir cifar10 --only ce ldam        # some of them
    python benchmarks/cifar10_lt_teachers.py --data_dir cifar10 --measure_only --page docs/teachers.md

What is trained or measured already is not done again, and a training that was stopped goes on from its last
checkpoint. Measuring takes about three minutes per teacher. Numbers go to `teachers.json` in the output directory; the
table is printed and, with `--page`, replaces the one between the page's markers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from interleaved import markdown_table
from sharpness import sharpness
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification, set_seed
from transformers.trainer_utils import get_last_checkpoint

import deitlt_hf  # noqa: F401  (registers its models)
from deitlt_hf import ViewTransform, collate, grouped_accuracy
from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.data.arguments import DataArguments, Images, load_images
from deitlt_hf.data.views import View, evaluation_view, strong_view
from deitlt_hf.files import METRICS_FILE, write_json
from deitlt_hf.long_tail_accuracy.scores import Counter, percent
from deitlt_hf.recipes import load_recipe

RECIPE = "cifar10-lt-small-teacher"
PLAIN = "--classifier linear --drw_start_epoch none"
# What each changes of the recipe, which is LDAM, DRW and SAM with a cosine classifier.
TEACHERS = {
    "ce": f"--loss ce {PLAIN} --sam_rho 0",
    "ce-sam": f"--loss ce {PLAIN}",
    "ldam": "--sam_rho 0",
    "ldam-sam": "",
    "paco-sam": f"--loss paco {PLAIN} --paco_dim 32 --paco_queue 1024 --paco_temperature 0.05 --paco_alpha 0.01 "
    "--learning_rate 0.05 --weight_decay 5e-4",
}
TITLES = {
    "ce": "CE",
    "ce-sam": "CE + SAM",
    "ldam": "LDAM + DRW",
    "ldam-sam": "LDAM + DRW + SAM",
    "paco-sam": "PaCo + SAM",
}
RHOS = (0.05, 0.1)  # SAM's common default, and what the teachers here are trained with
COSINE_SCALE = 30.0  # LDAM's factor: a cosine classifier's logits lie in [-1, 1]
SEED = 0
BATCH_SIZE = 256
MEASURED_FILE = "teachers.json"
MARKERS = ("<!-- table of benchmarks/cifar10_lt_teachers.py -->", "<!-- end of the table -->")

Batches = list[dict[str, torch.Tensor]]


def train(name: str, directory: Path, data_dir: str | None) -> None:
    """Run `deitlt teacher` unless its result is there; a run without a checkpoint starts again."""
    if (directory / METRICS_FILE).is_file():
        return
    command = [sys.executable, "-m", "deitlt_hf", "teacher", "--recipe", RECIPE, "--output_dir", str(directory)]
    command += TEACHERS[name].split()
    if data_dir is not None:
        command += ["--data_dir", data_dir]
    if directory.is_dir():
        command.append("--resume" if get_last_checkpoint(directory) else "--overwrite")
    print(f"{TITLES[name]}: {' '.join(command[1:])}", flush=True)
    if subprocess.run(command).returncode != 0:
        raise SystemExit(f"training {name} failed; its message is above")


def read_views(images: Images, image_size: int) -> dict[str, Batches]:
    """Every view that is measured, made once, so that all teachers see the same strong views."""
    set_seed(SEED)
    return {
        "test": _batches(images.test, evaluation_view(image_size), "test images"),
        "train": _batches(images.train, evaluation_view(image_size), "training images"),
        "strong": _batches(images.train, strong_view(image_size), "their strong views"),
    }


def _batches(split, view: View, name: str) -> Batches:
    dataset = split.with_transform(ViewTransform({"pixel_values": view}))
    return list(tqdm(DataLoader(dataset, BATCH_SIZE, collate_fn=collate), desc=name, leave=False))


def measure(directory: Path, images: Images, views: dict[str, Batches], bar: tqdm) -> dict:
    """Accuracies in percent on each view, and the sharpness on the training images at each rho."""
    model = AutoModelForImageClassification.from_pretrained(directory).to(memory_format=torch.channels_last).eval()
    accuracy, per_class = {}, {}
    for name, batches in views.items():
        classes, labels = _class_ids(model, batches), torch.cat([batch["labels"] for batch in batches])
        accuracy[name] = grouped_accuracy(classes, labels, images.class_groups)
        tally = Counter(classes.numpy(), labels.numpy(), len(images.class_counts)).count()
        per_class[name] = percent(tally.correct, tally.images).tolist()
        bar.update()
    check_same(directory, accuracy["test"])
    loss = scaled_cross_entropy if getattr(model.config, "classifier", "linear") == "cosine" else F.cross_entropy
    flatness = {}
    for rho in RHOS:
        result = sharpness(model, views["train"], rho, loss)
        flatness[str(rho)] = result._asdict() | {"increase": result.increase}
        bar.update()
    return {"accuracy": accuracy, "per_class": per_class, "sharpness": flatness}


def scaled_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(COSINE_SCALE * logits, labels)


@torch.inference_mode()
def _class_ids(model: nn.Module, batches: Batches) -> torch.Tensor:
    return torch.cat([model(pixel_values=batch["pixel_values"]).logits.argmax(-1) for batch in batches])


def check_same(directory: Path, accuracy: dict[str, float]) -> None:
    """The command's own evaluation has to be what is measured here, save an image that rounding turns."""
    written = json.loads((directory / METRICS_FILE).read_text())["accuracy"]
    for group, value in written.items():
        if not abs(accuracy[group] - value) <= 0.05:
            raise SystemExit(
                f"{directory}: {group} is {accuracy[group]:.2f} % here and {value:.2f} % in {METRICS_FILE}"
            )


def table(measured: dict[str, dict]) -> str:
    head = ["teacher", "overall", "head", "mid", "tail", "training images", "strong views", "class mean"]
    rows = [[*head, *(f"sharpness, rho {rho}" for rho in RHOS)]]
    for name, result in measured.items():
        accuracy = result["accuracy"]
        values = [accuracy["test"][group] for group in ("overall", "head", "mid", "tail")]
        values += [accuracy["train"]["overall"], accuracy["strong"]["overall"], np.mean(result["per_class"]["strong"])]
        increases = [result["sharpness"][str(rho)]["increase"] for rho in RHOS]
        rows.append([TITLES[name], *(f"{value:.1f}" for value in values), *(f"{value:.3f}" for value in increases)])
    return markdown_table(rows)


def write_into(page: Path, text: str) -> None:
    begin, end = MARKERS
    before, found, rest = page.read_text().partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{page} lacks the lines {begin} and {end}, between which the table goes")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="Parquet files of CIFAR-10; left out, the hub's")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/teachers"), help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=list(TEACHERS), metavar="NAME", help=f"of {', '.join(TEACHERS)}")
    parser.add_argument("--measure_only", action="store_true", help="train nothing, measure what is trained")
    parser.add_argument("--again", action="store_true", help="measure again what is measured")
    parser.add_argument("--page", type=Path, help="put the table between this Markdown page's markers")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    quiet_libraries()
    names = [name for name in TEACHERS if options.only is None or name in options.only]
    if not options.measure_only:
        for name in names:
            train(name, options.output_dir / name, options.data_dir)
    file = options.output_dir / MEASURED_FILE
    measured = json.loads(file.read_text()) if file.is_file() else {}
    waiting = [
        name
        for name in names
        if (options.output_dir / name / METRICS_FILE).is_file() and (options.again or name not in measured)
    ]
    if waiting:
        recipe = load_recipe(RECIPE)
        of_data = {name: recipe[name] for name in ("data", "imbalance_factor", "group_boundaries")}
        images = load_images(DataArguments(**of_data, data_dir=options.data_dir))
        views = read_views(images, recipe["image_size"])
        with tqdm(total=len(waiting) * (len(views) + len(RHOS)), desc="measuring", leave=False) as bar:
            for name in waiting:
                bar.set_postfix_str(TITLES[name])
                measured[name] = measure(options.output_dir / name, images, views, bar)
                write_json(file, measured)
    ready = {name: measured[name] for name in names if name in measured}
    if not ready:
        raise SystemExit(f"no trained teacher in {options.output_dir}; leave --measure_only out to train them")
    print(table(ready))
    if options.page is not None:
        write_into(options.page, table(ready))


if __name__ == "__main__":
    main()
