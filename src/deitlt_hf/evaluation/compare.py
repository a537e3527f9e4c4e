"""Models side by side on the same images: their accuracies with intervals, and paired differences from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deitlt_hf.errors import DeiTLTError, printable
from deitlt_hf.evaluation.measures import (
    TEACHER,
    Measure,
    aligned,
    describe_intervals,
    paired_differences,
    shown_tables,
)
from deitlt_hf.long_tail_accuracy.intervals import Bootstrap
from deitlt_hf.long_tail_accuracy.scores import MEASURES, Counter, grouped_class_ids

if TYPE_CHECKING:
    from deitlt_hf.evaluation.analysis.analyze import Analysis


def compare_models(analyses: Mapping[str, Analysis]) -> dict[str, Any]:
    """Compare each model's own prediction with that of the first model and of its own teacher, image by image.

    Args:
        analyses: what `analyze_model` gave for each of at least two models, by name, all on the same images in the same
            order.

    Returns:
        A dict that `json.dump` writes as it is: `reference`, the first name; `test_counts`, test images per class;
        `accuracies`, for each model and each measure of `MEASURES` `{"value", "interval"}` in percent; `differences`,
        for each other model and each measure `{"value", "interval", "excludes_zero"}` in points, above 0 where it is
        better than the first. Intervals are `[low, high]`, 95 % over 1000 bootstrap resamples of the images; None
        without test images, or where a measure has none. For models that were analyzed with a teacher also `teachers`,
        accuracies of the same kind, where models with one teacher share a row, and `against_teachers`, by model the
        differences from its teacher, above 0 where the model is better.

    Raises:
        DeiTLTError: fewer than two models, or models that were not analyzed on the same images and classes.

    Example:
        >>> comparison = compare_models({"DeiT": deit, "DeiT-LT": deit_lt})  # doctest: +SKIP
        >>> comparison["differences"]["DeiT-LT"]["tail"]["excludes_zero"]  # doctest: +SKIP
        True
    """
    if len(analyses) < 2:
        raise DeiTLTError(f"{len(analyses)} model to compare; pass at least two")
    reference, *others = analyses
    first = analyses[reference]
    for name in others:
        if not np.array_equal(analyses[name].labels, first.labels):
            raise DeiTLTError(f"{name} was analyzed on other images than {reference}; pass analyses of the same images")
    check_same_classes({name: analysis.record for name, analysis in analyses.items()})
    groups = first.record["groups"]
    predictions = {name: _own_prediction(analysis) for name, analysis in analyses.items()}
    rows = {name: of.record["experts"][of.record["model"]["prediction"]] for name, of in analyses.items()}
    accuracies = {name: _measured(predictions[name], first.labels, groups, rows[name]) for name in analyses}
    return {
        "reference": reference,
        "test_counts": np.bincount(first.labels, minlength=len(first.record["class_counts"])).tolist(),
        "accuracies": accuracies,
        "differences": {
            name: _of_probabilities(accuracies[reference], accuracies[name])
            | paired_differences(predictions[reference], predictions[name], first.labels, groups)
            for name in others
        },
        **_beside_teachers(analyses),
    }


def _beside_teachers(analyses: Mapping[str, Analysis]) -> dict[str, Any]:
    """Accuracies of the teachers, one row for those that predict the same, and each model's difference from its own."""
    names_of: dict[bytes, list[str]] = {}
    for name, analysis in analyses.items():
        if analysis.teacher is not None:
            names_of.setdefault(analysis.teacher.tobytes(), []).append(name)
    if not names_of:
        return {}
    teachers = {}
    for names in names_of.values():
        of_all = len(names) == len(analyses) and TEACHER not in analyses
        row, one = TEACHER if of_all else f"{TEACHER} of {', '.join(names)}", analyses[names[0]]
        teachers[row] = _measured(one.teacher, one.labels, one.record["groups"], one.record.get(TEACHER, {}))
    records = {name: analysis.record for name, analysis in analyses.items() if analysis.teacher is not None}
    return {
        "teachers": teachers,
        "against_teachers": {
            name: record["against_teacher"][record["model"]["prediction"]] for name, record in records.items()
        },
    }


def check_same_classes(described: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse models, `class_names` and `groups` by name, that do not have the same classes in head, mid and tail."""
    reference, *others = described
    for name in others:
        for key in ("class_names", "groups"):
            if described[name][key] != described[reference][key]:
                raise DeiTLTError(
                    f"{name} has other {key} than {reference}; pass models of the same classes, and the same head, mid "
                    "and tail for all (--group_boundaries 3 7)"
                )


def _own_prediction(analysis: Analysis) -> np.ndarray:
    """Class ids `(N,)` by the model's own logits, usually the average of both experts."""
    return analysis.predictions[:, list(analysis.experts).index(analysis.record["model"]["prediction"])]


def _measured(
    predictions: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]], row: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """A model's measures with their intervals; those of probabilities are in the `row` of its record, without one."""
    predictions, labels, members, num_classes = grouped_class_ids(predictions, labels, groups)
    found = Bootstrap({"": Counter(predictions, labels, num_classes)}, labels, members)
    intervals = found.intervals("")  # those that `deitlt evaluate` gives
    of_probabilities = {one.key: row[one.key] for one in MEASURES if not one.of_class_ids and one.key in row}
    return {key: {"value": value, "interval": None} for key, value in of_probabilities.items()} | {
        key: {"value": None, "interval": None}
        if np.isnan(value)
        else {"value": float(value), "interval": intervals.get(key)}
        for key, value in found.values[""].items()
    }


def _of_probabilities(
    first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Differences of the measures that need probabilities, which are not paired and so have no interval."""
    values = {
        one.key: [of[one.key]["value"] for of in (first, second)]
        for one in MEASURES
        if not one.of_class_ids and one.key in first and one.key in second
    }
    return {
        key: {"value": None if None in of else of[1] - of[0], "interval": None, "excludes_zero": False}
        for key, of in values.items()
    }


class ComparedTable(NamedTuple):
    """The rows of one table of measures, as cells of text with the row's name first."""

    heading: list[str]
    accuracies: list[list[str]]  # models, then teachers
    differences: dict[str, list[list[str]]]  # from the first model, and of students from their teachers


def compared_tables(comparison: Mapping[str, Any]) -> list[ComparedTable]:
    """What `compare_models` found, as the tables of `MEASURES`: percentages, and below them differences in points.

    A star marks a difference whose interval excludes 0.
    """
    measured = [*comparison["accuracies"].items(), *comparison.get("teachers", {}).items()]
    differences = {comparison["reference"]: comparison["differences"]}
    differences |= {"its teacher": comparison.get("against_teachers", {})}
    values = [{key: found["value"] for key, found in of.items()} for _, of in measured]
    return [
        ComparedTable(
            [measure.label for measure in measures],
            [[name, *_value_cells(of, measures)] for name, of in measured],
            {
                other: [[name, *difference_cells(of, measures)] for name, of in rows.items()]
                for other, rows in differences.items()
                if rows
            },
        )
        for measures in shown_tables(values)
    ]


def _value_cells(of_model: Mapping[str, Mapping[str, Any]], measures: Sequence[Measure]) -> list[str]:
    return [measure.text(**of_model.get(measure.key, {"value": None})) for measure in measures]


def difference_cells(differences: Mapping[str, Mapping[str, Any]], measures: Sequence[Measure]) -> list[str]:
    """A model's differences in points, with signs, and a star where the interval excludes 0."""
    cells = []
    for measure in measures:
        of = differences.get(measure.key)
        if of is None:  # one of both models has no such measure
            cells.append("-")
            continue
        star = "" if of["value"] is None else " *" if of["excludes_zero"] else "  "
        cells.append(measure.text(of["value"], of["interval"], sign="+") + star)
    return cells


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """The result of `compare_models` as aligned text: accuracies in percent, teachers last, then differences in points.

    A star marks a difference whose interval excludes 0.
    """
    lines: list[str] = []
    for table in compared_tables(comparison):
        rows = [["", *table.heading], *([printable(name), *cells] for name, *cells in table.accuracies)]
        rows += [
            [printable(f"{name} - {other}"), *cells] for other, of in table.differences.items() for name, *cells in of
        ]
        table_lines = aligned(rows)
        table_lines.insert(1 + len(table.accuracies), "")
        lines += [*([""] if lines else []), *table_lines]
    lines.append(f"in brackets: {describe_intervals(comparison.get('test_counts', ()))}")
    lines.append("*: significant, the interval excludes 0")
    return "\n".join(lines)
