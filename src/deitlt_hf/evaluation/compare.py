"""Models side by side on the same images: their accuracies with intervals, and paired differences from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deitlt_hf.errors import DeiTLTError, printable
from deitlt_hf.evaluation.measures import describe_intervals
from deitlt_hf.long_tail_accuracy.scores import (
    GROUPS,
    accuracies,
    bootstrap_intervals,
    group_members,
    grouped_tally,
    percentile_interval,
    resample_cells,
)

if TYPE_CHECKING:
    from deitlt_hf.evaluation.analysis.analyze import Analysis

MEASURES = ("overall", *GROUPS, "balanced_accuracy")
MEASURE_LABELS = {name: name for name in MEASURES} | {"balanced_accuracy": "balanced"}


def compare_models(analyses: Mapping[str, Analysis]) -> dict[str, Any]:
    """Compare each model's own prediction with that of the first model, image by image.

    Args:
        analyses: what `analyze_model` gave for each of at least two models, by name, all on the same images in the same
            order.

    Returns:
        A dict that `json.dump` writes as it is: `reference`, the first name; `test_counts`, test images per
        class; `accuracies`, for each model the
        percentages `overall`, `head`, `mid`, `tail` and `balanced_accuracy` as `{"value", "interval"}`; `differences`,
        for each other model `{"value", "interval", "excludes_zero"}` in points, above 0 where it is better than the
        first. Intervals are `[low, high]`, 95 % over 1000 bootstrap resamples of the images; None without test images.

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
    predictions = {name: own_prediction(analysis) for name, analysis in analyses.items()}
    return {
        "reference": reference,
        "test_counts": np.bincount(first.labels, minlength=len(first.record["class_counts"])).tolist(),
        "accuracies": {name: _measured(predictions[name], first.labels, groups) for name in analyses},
        "differences": {
            name: paired_differences(predictions[reference], predictions[name], first.labels, groups) for name in others
        },
    }


def check_same_classes(described: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse models whose accuracies on head, mid and tail would be of different classes.

    Args:
        described: model's name -> `class_names` and `groups`, as records have them.

    Raises:
        DeiTLTError: a model has others than the first.

    Example:
        >>> cats = {"class_names": ["cat", "lynx"], "groups": {"head": [0], "mid": [], "tail": [1]}}
        >>> check_same_classes({"DeiT": cats, "DeiT-LT": cats})
    """
    reference, *others = described
    for name in others:
        for key in ("class_names", "groups"):
            if described[name][key] != described[reference][key]:
                raise DeiTLTError(
                    f"{name} has other {key} than {reference}; pass models of the same classes, and the same head, mid "
                    "and tail for all (--group_boundaries 3 7)"
                )


def own_prediction(analysis: Analysis) -> np.ndarray:
    """Class ids `(N,)` of what the model's own logits say, usually the average of both experts."""
    return analysis.predictions[:, list(analysis.experts).index(analysis.record["model"]["prediction"])]


def paired_differences(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Accuracy of the second prediction minus that of the first, with 95 % bootstrap intervals over the same resamples.

    An image that is hard for one model is mostly hard for the other, so their accuracies rise and fall together over
    resamples and the difference is known better than either of them. Images are drawn as in
    `bootstrap_intervals`: for `overall` from all, for means over classes within the classes.

    Args:
        first, second: predicted class ids, ints `(N,)`.
        labels: true class ids, ints `(N,)`.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, lists of class ids that hold every label.
        num_resamples: at least 1; default 1000.
        seed: of numpy's generator; default 0.

    Returns:
        For `overall`, `head`, `mid`, `tail` and `balanced_accuracy`: `{"value", "interval", "excludes_zero"}`, in
        points; None for value and interval where there is no test image.

    Example:
        >>> labels = np.repeat([0, 1], 50)
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> paired_differences(np.zeros(100, int), labels, labels, groups)["tail"]
        {'value': 100.0, 'interval': [100.0, 100.0], 'excludes_zero': True}
    """
    members = group_members(groups)
    num_classes = 1 + max(int(ids.max()) for ids in members.values() if ids.size)
    # Four cells per class: neither is right, only the second, only the first, both.
    cell = 4 * labels + 2 * (first == labels) + (second == labels)
    cells = np.bincount(cell, minlength=4 * num_classes).reshape(num_classes, 4)
    images = cells.sum(-1)

    def difference(cells: np.ndarray) -> dict[str, np.ndarray]:
        _, only_second, only_first, both = np.moveaxis(cells, -1, 0)
        of_first, of_second = (accuracies(images, alone + both, members) for alone in (only_first, only_second))
        return {name: of_second[name] - of_first[name] for name in MEASURES}

    def overall_difference(cells: np.ndarray) -> np.ndarray:
        _, only_second, only_first, _ = np.moveaxis(cells, -1, 0)
        return 100 * (only_second - only_first)[:, 0] / images.sum()

    value = difference(cells)
    chunks = [difference(chunk) for chunk in resample_cells(cells, num_resamples, seed)]
    resampled = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in MEASURES}
    of_all = resample_cells(cells.sum(0)[None], num_resamples, seed)
    resampled["overall"] = np.concatenate([overall_difference(chunk) for chunk in of_all])
    intervals = {name: np.clip(percentile_interval(resampled[name]), -100, 100).tolist() for name in MEASURES}
    return {name: _difference(value[name], intervals[name]) for name in MEASURES}


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """The result of `compare_models` as aligned text: accuracies in percent, then differences in points.

    A star stands behind a difference whose interval excludes 0.

    Example:
        >>> value = {"value": 50.0, "interval": [45.0, 55.0]}
        >>> better = {"value": 2.0, "interval": [1.0, 3.0], "excludes_zero": True}
        >>> comparison = {
        ...     "reference": "A",
        ...     "accuracies": {name: dict.fromkeys(MEASURES, value) for name in "AB"},
        ...     "differences": {"B": dict.fromkeys(MEASURES, better)},
        ... }
        >>> format_comparison(comparison).splitlines()[4][:27]
        'B - A  +2.0 [+1.0, +3.0] * '
    """
    rows = [["", *MEASURE_LABELS.values()]]
    rows += [[printable(name), *map(format_accuracy, of.values())] for name, of in comparison["accuracies"].items()]
    titles = [printable(f"{name} - {comparison['reference']}") for name in comparison["differences"]]
    differences = [[*map(format_difference, of.values())] for of in comparison["differences"].values()]
    rows += [[title, *cells] for title, cells in zip(titles, differences, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.insert(1 + len(comparison["accuracies"]), "")
    lines.append(f"in brackets: {describe_intervals(comparison.get('test_counts', ()))}")
    lines.append("*: significant, the interval excludes 0")
    return "\n".join(line.rstrip() for line in lines)


def format_accuracy(measured: Mapping[str, Any]) -> str:
    """An accuracy and its interval in percent.

    Example:
        >>> format_accuracy({"value": 50.0, "interval": [45.04, 55.0]})
        '50.0 [45.0, 55.0]'
    """
    return (
        "-" if measured["value"] is None else "{:.1f} [{:.1f}, {:.1f}]".format(measured["value"], *measured["interval"])
    )


def format_difference(measured: Mapping[str, Any]) -> str:
    """A difference and its interval in points, with their signs, and a star where the interval excludes 0.

    Example:
        >>> format_difference({"value": -2.0, "interval": [-3.0, -1.0], "excludes_zero": True})
        '-2.0 [-3.0, -1.0] *'
    """
    if measured["value"] is None:
        return "-"
    text = "{:+.1f} [{:+.1f}, {:+.1f}]".format(measured["value"], *measured["interval"])
    return f"{text} {'*' if measured['excludes_zero'] else ' '}"


def _measured(
    predictions: np.ndarray, labels: np.ndarray, groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    images, correct, members = grouped_tally(predictions, labels, groups)
    values = accuracies(images, correct, members)
    intervals = bootstrap_intervals(images, correct, members)  # those that `deitlt evaluate` gives
    return {
        name: {"value": None, "interval": None}
        if np.isnan(values[name])
        else {"value": float(values[name]), "interval": intervals[name]}
        for name in MEASURES
    }


def _difference(value: np.ndarray, interval: list[float]) -> dict[str, Any]:
    if np.isnan(value):
        return {"value": None, "interval": None, "excludes_zero": False}
    return {"value": float(value), "interval": interval, "excludes_zero": interval[0] > 0 or interval[1] < 0}
