"""Whether the answers of `--precision` and the sets of `--coverage` keep what was asked, on fresh images.

    python benchmarks/answers_selective.py --students digits-lt runs/methods/digits-lt/test/chosen-seed* \
        --page docs/answers.md
    python benchmarks/answers_selective.py --students cifar10-lt-small runs/methods/cifar10-lt-small/test/chosen-seed* \
        --data_dir cifar10

The test images of each class, which no student was trained on, are split at random 100 times: on the smaller part, a
fusion is fitted and thresholds are found, as on validation images, and the other part is measured. The tables have
means over splits and students.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from answers import Logits, parse, read_logits
from interleaved import markdown_table
from study.page import write_parts

from deitlt_hf import DeiTLTError
from deitlt_hf.evaluation.fusion import KINDS, fit_fusion, fused_probabilities
from deitlt_hf.evaluation.selective import (
    Validation,
    coverage_thresholds,
    measure_sets,
    precision_thresholds,
    prediction_sets,
)
from deitlt_hf.long_tail_accuracy.scores import GROUPS

COVERAGES, PRECISIONS = (0.8, 0.9, 0.95), (0.9, 0.95)
SPLITS = 100
# Small, so that what is measured on the fresh images is known better than what validation images said.
SHARE = 0.25


class Split(NamedTuple):
    """Validation images, and what the same prediction says of fresh ones: probabilities `(N, C)`, labels `(N,)`."""

    validation: Validation
    probabilities: np.ndarray
    labels: np.ndarray


def split_images(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of validation images, that share of each class, and those of the others, at random."""
    draw = np.random.default_rng(seed)
    classes = [draw.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    first = np.concatenate([rows[: round(share * len(rows))] for rows in classes])
    return first, np.setdiff1d(np.arange(len(labels)), first)


def as_validation(probabilities: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]) -> Validation:
    """What a calibration keeps of images with these probabilities `(N, C)`."""
    confidence, of_label = probabilities.max(-1), probabilities[np.arange(len(labels)), labels]
    return Validation(labels, probabilities.argmax(-1), confidence, of_label, probabilities.shape[1], groups)


def splits_of(logits: Logits, share: float = SHARE, number: int = SPLITS) -> list[Split]:
    """Splits of the images, each with a fusion that was fitted to its validation images alone."""
    found = []
    for seed in range(number):
        fitted, fresh = split_images(logits.labels, share, seed)
        of_fit = (logits.cls[fitted], logits.distillation[fitted])
        fusion = fit_fusion(*of_fit, logits.labels[fitted], logits.class_counts, KINDS[0]).fusion
        validation = as_validation(fused_probabilities(fusion, *of_fit), logits.labels[fitted], logits.groups)
        probabilities = fused_probabilities(fusion, logits.cls[fresh], logits.distillation[fresh])
        found.append(Split(validation, probabilities, logits.labels[fresh]))
    return found


def measure_coverage(splits: Sequence[Split], coverage: float) -> dict[str, dict[str, float]]:
    """Means over splits, overall and by group, in percent and classes.

    `coverage` and `size` are of the sets; `alone` is the coverage of the classes above their thresholds alone, without
    the most probable class that each set gets: the one that conformal prediction promises.
    """
    found = []
    for validation, probabilities, labels in splits:
        thresholds = coverage_thresholds(validation, coverage).values
        sets, rows = prediction_sets(probabilities, thresholds), np.arange(len(labels))
        sizes, alone = sets.sum(-1), (probabilities >= thresholds)[rows, labels]
        measured = measure_sets(sets[rows, labels], sizes, labels, validation.groups)
        without_first = measure_sets(alone, sizes, labels, validation.groups)
        found.append({name: of | {"alone": without_first[name]["coverage"]} for name, of in measured.items()})
    keys = ("coverage", "size", "alone")
    return {name: {key: float(np.mean([each[name][key] for each in found])) for key in keys} for name in found[0]}


def measure_precision(splits: Sequence[Split], precision: float) -> dict[str, float]:
    """How answers do on fresh images, in percent.

    `reached` are the splits with a threshold; `answered` and `precision` are means over these: fresh images that are
    answered, and answers that are right. Of the thresholds of all splits, `kept` are those whose answers have at least
    the precision that was asked, and `within` those whose precision is in the interval from validation images. A
    threshold that is not found promises nothing, and counts as kept; `found` are those that are.
    """
    numbers = {name: [] for name in ("answered", "precision", "found", "kept", "within")}
    reached = 0
    for validation, probabilities, labels in splits:
        try:
            thresholds = precision_thresholds(validation, precision)
        except DeiTLTError:
            for name, holds in (("found", False), ("kept", True), ("within", True)):
                numbers[name].append(holds)
            continue
        reached += 1
        fresh = as_validation(probabilities, labels, validation.groups)
        answers = fresh.confidence >= thresholds.values[fresh.predicted]
        correct = fresh.predicted == fresh.labels
        numbers["answered"].append(answers.mean())
        numbers["precision"].append(correct[answers].mean() if answers.any() else np.nan)
        for row in thresholds.rows:
            served = answers & np.isin(fresh.predicted, row["classes"])
            measured = 100 * correct[served].mean() if served.any() else None
            numbers["found"].append(row["answered"] > 0)
            numbers["kept"].append(measured is None or measured >= 100 * precision)
            numbers["within"].append(measured is None or row["interval"][0] <= measured <= row["interval"][1])
    means = {name: 100 * float(np.nanmean(values)) if values else np.nan for name, values in numbers.items()}
    return {"reached": 100 * reached / len(splits)} | means


def coverage_table(students: Sequence[Sequence[Split]]) -> str:
    """A line for each coverage and measure: means over students, overall and by group."""
    columns = ["overall", *GROUPS]
    measures = {"thresholds alone, %": ("alone", 1), "sets, %": ("coverage", 1), "classes in a set": ("size", 2)}
    rows = []
    for coverage in COVERAGES:
        measured = [measure_coverage(splits, coverage) for splits in students]
        for label, (key, digits) in measures.items():
            means = [np.mean([each[column][key] for each in measured]) for column in columns]
            rows.append([f"{coverage:g}: {label}", *(f"{mean:.{digits}f}" for mean in means)])
    return markdown_table([["coverage", *columns], *rows])


def precision_table(students: Sequence[Sequence[Split]]) -> str:
    """A line for each precision: means over students."""
    columns = {
        "reached": "splits that reach it",
        "answered": "images answered",
        "precision": "answers right",
        "kept": "thresholds that keep it",
        "within": "thresholds within their interval",
    }
    rows = []
    for precision in PRECISIONS:
        measured = [measure_precision(splits, precision) for splits in students]
        means = {key: [each[key] for each in measured if not np.isnan(each[key])] for key in columns}
        rows.append([f"{precision:g}", *(f"{np.mean(of):.1f}" if of else "-" for of in means.values())])
    return markdown_table([["precision", *columns.values()], *rows])


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(__doc__, argv)
    parts = {}
    for name, *directories in options.students:
        students = [splits_of(read_logits(Path(directory), options.data_dir)) for directory in directories]
        tables = {f"{name}-sets": coverage_table(students), f"{name}-thresholds": precision_table(students)}
        print(f"{name}, {len(directories)} seeds", *tables.values(), sep="\n\n", end="\n\n", flush=True)
        parts |= tables
    if options.page is not None:
        write_parts(options.page, parts)


if __name__ == "__main__":
    main()
