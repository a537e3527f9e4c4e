"""What is measured, for the average of the two heads and for each expert alone, and how it is printed.

`MEASURES` is the one list of measures. Tables, `metrics.json`, cards, the Trainer's logs, `metric_for_best_model`,
comparisons, the analysis page and the metric of `evaluate` all go by it: a new measure is one entry. It is defined in
`long_tail_accuracy/scores.py`, which `evaluate` copies out of the package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.long_tail_accuracy.scores import (
    GROUPS,
    MEASURES,
    accuracies,
    bootstrap_intervals,
    group_members,
    grouped_tally,
    percent,
    to_numpy,
)
from deitlt_hf.long_tail_accuracy.scores import Measure as Measure

# The values of `config.expert`. Not imported from the model's configuration, which would load torch and transformers.
EXPERT_LABELS = {"average": "average", "cls": "CLS expert", "distillation": "DIST expert"}
EXPERTS = tuple(EXPERT_LABELS)


def grouped_accuracy(predictions: Any, labels: Any, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Accuracy over all images and on each group of classes, in percent, as in the paper's tables.

    `overall` counts images. A group's accuracy is the mean of its classes' accuracies, as in the reference, so every
    class weighs the same even where the test set is not balanced; classes without test images are left out.

    Args:
        predictions: class ids, integers of shape `(N,)`, or logits of shape `(N, C)`, whose largest is taken; numpy
            array, torch tensor on any device, or list.
        labels: true class ids, integers of shape `(N,)`, of the same kinds.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, lists of class ids, as `class_groups` gives them.

    Returns:
        `{"overall", "head", "mid", "tail"}` as floats in 0 to 100; nan for a group without classes or without images.

    Raises:
        DeiTLTError: no images; predictions and labels of different lengths or of a wrong shape or type; a group is
            missing; a label is negative or in none of the groups.

    Example:
        >>> groups = {"head": [0], "mid": [1], "tail": [2]}
        >>> grouped_accuracy([0, 0, 1, 2], [0, 0, 1, 1], groups)
        {'overall': 75.0, 'head': 100.0, 'mid': 50.0, 'tail': nan}
    """
    means = mean_accuracies(predictions, labels, groups)
    return {name: means[name] for name in ("overall", *GROUPS)}


def mean_accuracies(predictions: Any, labels: Any, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Every measure of `MEASURES` by its key, floats in percent; nan for a group without classes or test images.

    Example:
        >>> mean_accuracies([0, 0, 1, 0], [0, 0, 1, 1], {"head": [0], "mid": [1], "tail": []})
        {'overall': 75.0, 'head': 100.0, 'mid': 50.0, 'tail': nan, 'balanced_accuracy': 75.0}
    """
    with _users_mistakes():
        means = accuracies(*grouped_tally(predictions, labels, groups))
    return {name: float(mean) for name, mean in means.items()}


def expert_metrics(
    predictions: Any,
    labels: Any,
    class_counts: Sequence[int],
    groups: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
    confidence_intervals: bool = False,
    experts: Sequence[str] = EXPERTS,
) -> dict[str, Any]:
    """The result of an evaluation, from which the table, the figures and the model card are made.

    Args:
        predictions: class ids, integers `(N, 3)`, a column for each of `experts`, as `predict_experts` gives them.
        labels: true class ids `(N,)`.
        class_counts: training images per class, in label order.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, lists of class ids.
        class_names: names of the classes, in label order.
        confidence_intervals: add 95 % intervals, see `bootstrap_intervals`. Default False.
        experts: what the columns are; default `EXPERTS` (average, cls, distillation).

    Returns:
        A dict that `json.dump` writes as it is: `num_images`, `class_names`, `class_counts` (training images),
        `test_counts` (test images per class), `groups`, and `experts`, which holds for each of them the percentages
        of `MEASURES` by key, the list `per_class`, and on request `confidence_intervals`, lists `[low, high]` by the
        same keys; None where there is no test image.

    Raises:
        DeiTLTError: as for `grouped_accuracy`; `predictions` have not a column for each of `experts`; `class_names`,
            `class_counts` and `groups` speak of different numbers of classes.

    Example:
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> metrics = expert_metrics([[0, 0, 0], [1, 0, 1]], [0, 1], [90, 3], groups, ["cat", "lynx"])
        >>> metrics["experts"]["cls"]["head"], metrics["experts"]["cls"]["per_class"]
        (100.0, [100.0, 0.0])
    """
    predictions = to_numpy(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != len(experts):
        raise DeiTLTError(
            f"predictions have shape {predictions.shape}: pass class ids of shape (N, {len(experts)}), columns "
            f"{', '.join(experts)}"
        )
    with _users_mistakes():
        members = {name: ids.tolist() for name, ids in group_members(groups).items()}
    grouped = sorted(class_id for group in members.values() for class_id in group)
    if len(class_names) != len(class_counts) or grouped != list(range(len(class_counts))):
        raise DeiTLTError(
            f"{len(class_names)} class names, {len(class_counts)} class counts and groups over {len(grouped)} classes "
            "do not fit together: pass one name and one count per class, and each class in exactly one group"
        )
    measured = {}
    for column, expert in enumerate(experts):
        with _users_mistakes():
            images, correct, ids = grouped_tally(predictions[:, column], labels, members)
        measured[expert] = accuracies(images, correct, ids) | {"per_class": percent(correct, images)}
        if confidence_intervals:
            measured[expert]["confidence_intervals"] = bootstrap_intervals(images, correct, ids)
    return {
        "num_images": len(predictions),
        "class_names": [str(name) for name in class_names],
        "class_counts": [int(count) for count in class_counts],
        "test_counts": images.tolist(),
        "groups": members,
        "experts": none_for_nan(measured),
    }


def format_table(metrics: Mapping[str, Any]) -> str:
    """The result of `expert_metrics`, also one read back from JSON, as aligned text: a row per expert, in percent.

    "-" stands for a group without test images. Intervals follow in brackets if `metrics` has them. The last lines say
    what the intervals and the groups are.

    Example:
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> print(format_table(expert_metrics([[0, 0, 0], [1, 0, 1]], [0, 1], [90, 3], groups, ["cat", "lynx"])))
                     overall    head     mid    tail balanced
        average        100.0   100.0       -   100.0    100.0
        CLS expert      50.0   100.0       -     0.0     50.0
        DIST expert    100.0   100.0       -   100.0    100.0
        head: 1 class with 90 training images, mid: no classes, tail: 1 class with 3 training images
    """
    rows = []
    for expert, measured in metrics["experts"].items():
        intervals = measured.get("confidence_intervals", {})
        cells = [measure.text(measured.get(measure.key), intervals.get(measure.key)) for measure in MEASURES]
        rows.append((EXPERT_LABELS[expert], cells))
    width = max(8, 2 + max(len(cell) for _, cells in rows for cell in cells))
    widths = [max(width, 1 + len(measure.label)) for measure in MEASURES]
    rows.insert(0, ("", [measure.label for measure in MEASURES]))
    lines = [
        f"{name:<12}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows
    ]
    if intervals:
        lines.append(f"in brackets: {describe_intervals(metrics.get('test_counts', ()))}")
    lines.append(", ".join(f"{name}: {describe_group(metrics, name)}" for name in GROUPS))
    return "\n".join(lines)


def describe_intervals(test_counts: Sequence[int]) -> str:
    """What the intervals are, and what they leave out, for test images per class."""
    text = "95 % intervals from bootstrap resamples of each class's test images"
    # Several classes with a single image tell how much these vary, one tells nothing; see `resample_cells`.
    return f"{text}; too narrow, for one class has a single one" if list(test_counts).count(1) == 1 else text


def describe_group(metrics: Mapping[str, Any], name: str) -> str:
    """A group in words: how many classes, how many training images they have, and how many of them were tested."""
    members = metrics["groups"][name]
    counts = [metrics["class_counts"][class_id] for class_id in members]
    if not counts:
        return "no classes"
    classes = "1 class" if len(counts) == 1 else f"{len(counts)} classes"
    images = f"{max(counts)}" if max(counts) == min(counts) else f"{max(counts)}-{min(counts)}"
    test_counts = metrics.get("test_counts")  # results of earlier versions have none
    tested = len(counts) if test_counts is None else sum(test_counts[class_id] > 0 for class_id in members)
    untested = "" if tested == len(counts) else f" ({tested or 'none'} with test images)"
    return f"{classes} with {images} training images{untested}"


@contextmanager
def _users_mistakes() -> Iterator[None]:
    """Turn the `ValueError` of `scores`, which is used without this package too, into ours."""
    try:
        yield
    except ValueError as error:
        raise DeiTLTError(str(error)) from error


def none_for_nan(values: Any) -> Any:
    """Arrays and floats, and dicts and lists of them, as JSON has them: lists, and None for nan."""
    if isinstance(values, dict):
        return {name: none_for_nan(value) for name, value in values.items()}
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [none_for_nan(value) for value in values]
    return None if isinstance(values, float) and np.isnan(values) else values
