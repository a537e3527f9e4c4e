"""What `--precision` and `--coverage` ask of a calibrated student, and how well it does on test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deitlt_hf.evaluation.evaluate import Predictions
from deitlt_hf.evaluation.measures import FUSED, aligned, number_or_dash
from deitlt_hf.evaluation.selective import (
    Thresholds,
    Validation,
    coverage_thresholds,
    measure_answers,
    measure_sets,
    precision_thresholds,
    prediction_sets,
    say_shared,
)


@dataclass(frozen=True)
class AnswerRules:
    """Which images are answered, and the set of classes that is named for each, by the fused prediction.

    Args:
        precision: what was asked of answers, in 0 to 1; None where all images are answered.
        coverage: what was asked of sets, in 0 to 1; None without sets.
        answers: thresholds of the confidence for each predicted class; None without a precision.
        sets: thresholds of the probability for each class; None without a coverage.
    """

    precision: float | None = None
    coverage: float | None = None
    answers: Thresholds | None = None
    sets: Thresholds | None = None

    @classmethod
    def found(cls, validation: Validation, precision: float | None, coverage: float | None) -> AnswerRules:
        """The rules from validation images, or `DeiTLTError` where these do not reach what is asked."""
        answers = None if precision is None else precision_thresholds(validation, precision)
        sets = None if coverage is None else coverage_thresholds(validation, coverage)
        return cls(precision, coverage, answers, sets)

    @property
    def set_thresholds(self) -> np.ndarray | None:
        """The thresholds of sets `(classes,)`; None without a coverage."""
        return None if self.sets is None else self.sets.values

    def say(self, class_names: Sequence[str]) -> None:
        """Name, in notices, the classes that are never answered, or whose sets are not sure."""
        if self.answers is not None:
            say_shared(f"precision {self.precision:g}", self.answers, class_names)
        if self.sets is not None:
            say_shared(f"coverage {self.coverage:g}", self.sets, class_names)

    def is_answered(self, probabilities: np.ndarray, best: int) -> bool | None:
        """Whether an image of these probabilities `(classes,)` is answered with the class `best`; None without rule."""
        return None if self.answers is None else bool(probabilities[best] >= self.answers.values[best])

    def set_of(self, probabilities: np.ndarray, can_occur: np.ndarray) -> list[int] | None:
        """The classes in an image's set, the most probable first, of those that can occur; None without a rule."""
        if self.sets is None:
            return None
        possible = np.where(can_occur, probabilities, -1.0)
        (inside,) = prediction_sets(possible[None], self.sets.values)
        return [index for index in np.argsort(-possible, kind="stable").tolist() if inside[index] and can_occur[index]]


def measure_rules(
    rules: AnswerRules, found: Predictions, groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """How well the rules do on images: `precision` as of `measure_answers`, `coverage` as of `measure_sets`.

    Each also has what was `asked`. `found` are predictions with a row `fused`, and set sizes where there are sets.
    """
    place, measured = found.rows.index(FUSED), {}
    labels, predicted = found.labels, found.class_ids[:, place]
    if rules.answers is not None:
        answered = found.confidences[:, place] >= rules.answers.values[predicted]
        measured["precision"] = {"asked": rules.precision, **measure_answers(labels, predicted, answered, groups)}
    if rules.sets is not None:
        covered = (found.label_probabilities[:, place] >= rules.sets.values[labels]) | (predicted == labels)
        measured["coverage"] = {"asked": rules.coverage, **measure_sets(covered, found.set_sizes, labels, groups)}
    return measured


def format_rules(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """What `measure_rules` gives, as aligned text."""
    lines = []
    for key, (title, columns) in _TABLES.items():
        if key not in measured:
            continue
        rows = {name: of for name, of in measured[key].items() if name != "asked"}
        cells = [[name, *(text(of) for text in columns.values())] for name, of in rows.items()]
        lines += [*([""] if lines else []), title.format(measured[key]["asked"]), *aligned([["", *columns], *cells])]
    return "\n".join(lines)


def _right(of: Mapping[str, Any]) -> str:
    if of["precision"] is None:
        return "-"
    low, high = of["interval"]
    return f"{of['precision']:.1f} [{low:.1f}, {high:.1f}]"


_TABLES = {
    "precision": (
        "Answers for a precision of {:g}; a group's images are of its classes, a group's answers name one of them:",
        {
            "images": lambda of: str(of["images"]),
            "answered, %": lambda of: number_or_dash(of["share"]),
            "answers": lambda of: str(of["answers"]),
            "right, %": _right,
        },
    ),
    "coverage": (
        "Sets of classes for a coverage of {:g}:",
        {
            "images": lambda of: str(of["images"]),
            "set holds the class, %": lambda of: number_or_dash(of["coverage"]),
            "classes in a set": lambda of: number_or_dash(of["size"], 2),
            "sets of one class, %": lambda of: number_or_dash(of["single"]),
        },
    ),
}
