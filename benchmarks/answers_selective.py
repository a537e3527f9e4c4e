"""How well the answers of `--precision` and the sets of `--coverage` keep what they were asked for, on fresh images.

    python benchmarks/answers_selective.py digits-lt runs/digits-lt-seed0 runs/digits-lt-seed1

Test images, which no student was trained on, are split at random 100 times: thresholds are found on one part, as on
validation images, and measured on the other. The tables have means over the students.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from interleaved import markdown_table

from deitlt_hf import DeiTLTError, ExpertClassifier, load_long_tailed_dataset
from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.evaluation.selective import (
    Validation,
    coverage_thresholds,
    measure_sets,
    precision_thresholds,
    prediction_sets,
)
from deitlt_hf.long_tail_accuracy.scores import GROUPS

# Small, so that what is measured on the fresh images is known better than what validation images said.
SHARE = 0.25


class TestImages(NamedTuple):
    """Probabilities `(N, classes)` of test images, their true class ids `(N,)`, and the groups of classes."""

    probabilities: np.ndarray
    labels: np.ndarray
    groups: Mapping[str, Sequence[int]]

    def validation(self, images: np.ndarray) -> Validation:
        """Some of the images as validation images."""
        probabilities, labels = self.probabilities[images], self.labels[images]
        return Validation(
            labels,
            probabilities.argmax(-1),
            probabilities.max(-1),
            probabilities[np.arange(len(labels)), labels],
            probabilities.shape[1],
            self.groups,
        )


def splits_of(images: TestImages, share: float, splits: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random pairs of validation images, that share of each class, and fresh ones, which are the others."""
    generator, pairs = np.random.default_rng(seed), []
    for _ in range(splits):
        order = generator.permutation(len(images.labels))
        of_class = [order[images.labels[order] == label] for label in range(images.probabilities.shape[1])]
        cuts = [round(share * len(ids)) for ids in of_class]
        parts = zip(of_class, cuts, strict=True)
        validation, fresh = zip(*((ids[:cut], ids[cut:]) for ids, cut in parts), strict=True)
        pairs.append((np.concatenate(validation), np.concatenate(fresh)))
    return pairs


def measure_coverage(images: TestImages, coverage: float, share: float = SHARE, splits: int = 100) -> dict[str, dict]:
    """Means over splits, overall and by group: `coverage` and `size` of sets, and `without_top`, their coverage where
    the most probable class is not added, which is what conformal prediction promises; in percent and classes."""
    found = []
    for validation, fresh in splits_of(images, share, splits):
        thresholds = coverage_thresholds(images.validation(validation), coverage).values
        probabilities, labels = images.probabilities[fresh], images.labels[fresh]
        rows = np.arange(len(labels))
        sets = prediction_sets(probabilities, thresholds)
        measured = measure_sets(sets[rows, labels], sets.sum(-1), labels, images.groups)
        alone = measure_sets((probabilities >= thresholds)[rows, labels], sets.sum(-1), labels, images.groups)
        found.append({name: of | {"without_top": alone[name]["coverage"]} for name, of in measured.items()})
    return {
        name: {key: float(np.mean([each[name][key] for each in found])) for key in of}
        for name, of in found[0].items()
        if of["images"]
    }


def measure_precision(
    images: TestImages, precision: float, share: float = SHARE, splits: int = 100
) -> dict[str, float]:
    """How answers do on fresh images, in percent.

    `reached` are the splits with a threshold; `answered` and `precision` are means over these: fresh images that are
    answered, and answers that are right. Of the thresholds of all splits, `kept` are those whose answers have at least
    the precision that was asked, and `within` those whose precision is in the interval from validation images. A
    threshold that is not found promises nothing, and counts as kept; `found` are those that are.
    """
    answered, right, found, kept, within = [], [], [], [], []
    for validation, fresh in splits_of(images, share, splits):
        try:
            thresholds = precision_thresholds(images.validation(validation), precision)
        except DeiTLTError:
            for promises, holds in ((found, False), (kept, True), (within, True)):
                promises.append(holds)
            continue
        of_fresh = images.validation(fresh)
        answers = of_fresh.confidence >= thresholds.values[of_fresh.predicted]
        correct = of_fresh.predicted == of_fresh.labels
        answered.append(answers.mean())
        right.append(correct[answers].mean() if answers.any() else np.nan)
        for row in thresholds.rows:
            served = answers & np.isin(of_fresh.predicted, row["classes"])
            found.append(row["answered"] > 0)
            measured = 100 * correct[served].mean() if served.any() else None
            kept.append(measured is None or measured >= 100 * precision)
            within.append(measured is None or row["interval"][0] <= measured <= row["interval"][1])
    numbers = {"answered": answered, "precision": right, "found": found, "kept": kept, "within": within}
    means = {key: 100 * float(np.nanmean(values)) if values else np.nan for key, values in numbers.items()}
    return {"reached": 100 * len(answered) / splits} | means


def test_images(student: str, data: str, data_dir: str | None, expert: str | None) -> TestImages:
    """What a student says of the test images."""
    test = load_long_tailed_dataset(data, data_dir=data_dir)["test"]
    classifier = ExpertClassifier.from_pretrained(student)
    names = classifier.class_names
    place, expert = {name: index for index, name in enumerate(names)}, expert or classifier.config.expert
    probabilities = np.zeros((len(test), len(names)))
    for index, result in enumerate(classifier.stream(test["image"][:], top=len(names), batch_size=100)):
        for row in result.rows:
            probabilities[index, place[row.name]] = row.probability[expert]
    labels = [place[test.features["label"].int2str(label)] for label in test["label"]]
    return TestImages(probabilities, np.array(labels), classifier.config.class_groups)


def report(
    students: Sequence[TestImages], coverages: Sequence[float], precisions: Sequence[float], share: float
) -> str:
    """Two tables, of means over students."""
    columns = ["overall", *GROUPS]
    sets = []
    for coverage in coverages:
        measured = [measure_coverage(images, coverage, share) for images in students]
        for label, key, digits in (
            ("thresholds alone: coverage, %", "without_top", 1),
            ("sets: coverage, %", "coverage", 1),
            ("sets: classes", "size", 2),
        ):
            values = [np.mean([each[column][key] for each in measured if column in each]) for column in columns]
            sets.append([f"{coverage:g}", label, *(f"{value:.{digits}f}" for value in values)])
    headings = {
        "reached": "splits with a threshold, %",
        "found": "thresholds found, %",
        "answered": "images answered, %",
        "precision": "answers right, %",
        "kept": "thresholds that keep it, %",
        "within": "in its interval, %",
    }
    answers = []
    for precision in precisions:
        measured = [measure_precision(images, precision, share) for images in students]
        answers.append([f"{precision:g}", *(f"{np.mean([each[key] for each in measured]):.1f}" for key in headings)])
    heading = ["precision", *headings.values()]
    tables = (["coverage", "", *columns], sets), (heading, answers)
    return "\n\n".join(markdown_table([head, *rows]) for head, rows in tables)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="name of a data set, of whose test split the images are")
    parser.add_argument("students", nargs="+")
    parser.add_argument("--data_dir")
    parser.add_argument("--expert", help="default: the student's own")
    parser.add_argument("--coverage", nargs="+", type=float, default=[0.8, 0.9, 0.95])
    parser.add_argument("--precision", nargs="+", type=float, default=[0.9, 0.95])
    parser.add_argument("--share", type=float, default=SHARE, help="of the test images on which thresholds are found")
    options = parser.parse_args(argv)
    quiet_libraries()
    students = [test_images(student, options.data, options.data_dir, options.expert) for student in options.students]
    print(report(students, options.coverage, options.precision, options.share))


if __name__ == "__main__":
    main()
