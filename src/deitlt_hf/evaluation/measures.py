"""What is measured, for the average of the two heads and for each expert alone, and how it is printed.

`MEASURES` is the one list of measures, and a new measure is one entry: tables, `metrics.json`, cards, the Trainer's
logs, `metric_for_best_model`, comparisons, the analysis page and the metric of `evaluate` use the list. It is defined
in `long_tail_accuracy/scores.py`, which `evaluate` copies out of the package.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from deitlt_hf.errors import DeiTLTError, counted, printable
from deitlt_hf.long_tail_accuracy.intervals import Bootstrap
from deitlt_hf.long_tail_accuracy.scores import (
    ACCURACY,
    GROUPS,
    MEASURES,
    RANKED,
    TABLES,
    Counter,
    Tally,
    f1_of_classes,
    group_members,
    grouped_class_ids,
    measured,
    percent,
    precision_of_classes,
    to_numpy,
)
from deitlt_hf.long_tail_accuracy.scores import Measure as Measure
from deitlt_hf.ranges import one_of

# The values of `config.expert`. Not imported from the model's configuration, which would load torch and transformers.
EXPERTS = ("average", "cls", "distillation")  # of every student
FUSED = "fused"  # of one that `deitlt calibrate` has fitted
EXPERT_LABELS = {"average": "average", "cls": "CLS expert", "distillation": "DIST expert", FUSED: "fused"}
EXPERT_SYNONYMS = {"head": "cls", "tail": "distillation", "dist": "distillation"}  # as in the model's configuration
MODEL = "model"  # the row of a classifier that has one head and no token for it
TEACHER = "teacher"  # the row of the student's teacher, on the same images
MOST_LISTED_CLASSES = 30  # in the printed table of classes, unless all are asked for
FEW_TEST_IMAGES = 10
MARK_READING = "~ fewer than 10 test images: one image changes the accuracy by more than 10 points"


def expert_named(name: str) -> str:
    """The expert that a user's word means, or `DeiTLTError`: `dist` and `tail` are `distillation`, `head` is `cls`."""
    expert = EXPERT_SYNONYMS.get(name, name)
    one_of("expert", expert, tuple(EXPERT_LABELS))
    return expert


def experts_of(config: Any) -> tuple[str, ...]:
    """The rows of a student with this configuration: the average, both experts, and the fused where it has a fusion."""
    return EXPERTS if config.fusion is None else (*EXPERTS, FUSED)


def logged_measures(of_student: bool, averaged: bool = False) -> tuple[str, ...]:
    """The names of what an evaluation during a training logs beside the loss, with those of averaged weights if asked.

    Example:
        >>> logged_measures(of_student=False)[:2], logged_measures(of_student=True)[:2]
        (('overall', 'head'), ('average_overall', 'average_head'))
    """
    keys = tuple(measure.key for measure in MEASURES if measure.of_class_ids)
    names = tuple(f"{expert}_{key}" for expert in EXPERTS for key in keys) if of_student else keys
    return names + tuple(f"ema_{name}" for name in ("loss", *names) if averaged)


def check_best_measure(name: str, logged: Sequence[str]) -> None:
    """Refuse a `metric_for_best_model` that is neither the loss nor one of the logged measures."""
    name = name.removeprefix("eval_")
    if name.startswith("fused_"):
        raise DeiTLTError(
            f"metric_for_best_model is {name!r}, but the fusion is fitted after the training, by `deitlt calibrate`; "
            "pass a measure of average, cls or distillation, such as average_tail"
        )
    one_of("metric_for_best_model", name, ("loss", *logged))


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
    """Every measure of class ids by its key, floats in percent; nan for a group without classes or test images."""
    with _users_mistakes():
        class_ids, labels, members, num_classes = grouped_class_ids(predictions, labels, groups)
    means = measured(Counter(class_ids, labels, num_classes).count(), members)
    return {name: float(mean) for name, mean in means.items()}


def expert_metrics(
    predictions: Any,
    labels: Any,
    class_counts: Sequence[int],
    groups: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
    confidence_intervals: bool = False,
    experts: Sequence[str] = EXPERTS,
    teacher: Any = None,
    in_top: Mapping[str, Any] | None = None,
    ranked: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The result of an evaluation, from which the table, the figures and the model card are made.

    Args:
        predictions: class ids, integers `(N, 3)`, a column for each of `experts`, as `predict_experts` gives them.
        labels: true class ids `(N,)`.
        class_counts: training images per class, in label order.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, lists of class ids.
        class_names: names of the classes, in label order.
        confidence_intervals: add 95 % intervals, see `Bootstrap`. Default False.
        experts: what the columns are; default `EXPERTS` (average, cls, distillation).
        teacher: class ids `(N,)` that the teacher predicts for the same images; by default there is no teacher.
        in_top: for each of `experts`, and for `"teacher"`, whether the true class is among the five with the largest
            logits, bool `(N,)`; without it there is no `top_5`.
        ranked: by the same names, for each key of `RANKED` the percentages of the classes `(C,)`, as `class_ranking`
            gives them; without it there are none of these measures.

    Returns:
        A dict that `json.dump` writes as it is: `num_images`, `class_names`, `class_counts` (training images),
        `test_counts` (test images per class), `groups`, and `experts`, which holds for each of them the percentages of
        `MEASURES` by key; in label order the lists `per_class`, accuracies, which are also the recalls,
        `per_class_precision`, `per_class_f1`, those of `ranked` as `per_class_average_precision` and so on,
        `taken_for`, the class id that most of the class's wrong predictions are, and `taken_for_images`, how many; and
        on request `confidence_intervals`, lists `[low, high]` by the keys of the measures. None where there is no test
        image, or no wrong one, or for the precision of a class that is never predicted; its F1 is 0. With a teacher
        also `teacher`, its row of the same kind, and `against_teacher`, for each expert what `paired_differences` from
        the teacher gives.

    Raises:
        DeiTLTError: as for `grouped_accuracy`; `predictions` do not have a column for each of `experts`; `class_names`,
            `class_counts` and `groups` have different numbers of classes.

    Example:
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> metrics = expert_metrics([[0, 0, 0], [1, 0, 1]], [0, 1], [90, 3], groups, ["cat", "lynx"])
        >>> metrics["experts"]["cls"]["head"], metrics["experts"]["cls"]["per_class"]
        (100.0, [100.0, 0.0])
        >>> metrics["experts"]["cls"]["taken_for"]
        [None, 0]
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
    rows = dict(zip(experts, predictions.T, strict=True)) | ({} if teacher is None else {TEACHER: teacher})
    counters = {}
    for row, ids in rows.items():
        with _users_mistakes():
            rows[row], class_ids, of_groups, num_classes = grouped_class_ids(ids, labels, members)
        more = ((of or {}).get(row) for of in (in_top, ranked))
        counters[row] = Counter(rows[row], class_ids, num_classes, *more)
    tallies = {row: counter.count() for row, counter in counters.items()}
    described = {
        row: measured(tally, of_groups) | _of_classes(tally) | _taken_for(rows[row], class_ids, num_classes)
        for row, tally in tallies.items()
    }
    bootstrap = Bootstrap(counters, class_ids, of_groups) if confidence_intervals or teacher is not None else None
    if confidence_intervals:
        for row, values in described.items():
            values["confidence_intervals"] = bootstrap.intervals(row)
    metrics = {
        "num_images": len(predictions),
        "class_names": [str(name) for name in class_names],
        "class_counts": [int(count) for count in class_counts],
        "test_counts": tallies[experts[0]].images.tolist(),
        "groups": members,
        "experts": {expert: described[expert] for expert in experts},
    }
    if teacher is not None:
        metrics[TEACHER] = described[TEACHER]
        metrics["against_teacher"] = {expert: bootstrap.differences(TEACHER, expert) for expert in experts}
    return none_for_nan(metrics)


def _of_classes(tally: Tally) -> dict[str, np.ndarray]:
    """What is said of each class, in label order."""
    described = {
        "per_class": percent(tally.correct, tally.images),
        "per_class_precision": precision_of_classes(tally),
        "per_class_f1": f1_of_classes(tally),
    }
    return described | {f"per_class_{key}": of for key, of in (tally.ranked or {}).items()}


def _taken_for(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, list[int | None]]:
    """For each class the class that most of its wrong predictions are, of several the first, and how many they are."""
    wrong = (predictions != labels) & (predictions >= 0) & (predictions < num_classes)
    # Not a matrix of classes by classes, which would be large for thousands of them.
    pairs, counts = np.unique(num_classes * labels[wrong] + predictions[wrong], return_counts=True)
    commonest = np.lexsort((-pairs, counts))  # so that what comes last for a class is what stays
    of_class = dict(zip((pairs // num_classes)[commonest].tolist(), commonest.tolist(), strict=True))
    found = [of_class.get(class_id) for class_id in range(num_classes)]
    return {
        "taken_for": [None if index is None else int(pairs[index] % num_classes) for index in found],
        "taken_for_images": [None if index is None else int(counts[index]) for index in found],
    }


def paired_differences(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Measures of the second prediction minus those of the first, with 95 % intervals over the same resamples.

    Predictions and labels are class ids `(N,)`. The result is that of `Bootstrap.differences`; value and interval are
    None where there is no test image.
    """
    first, labels, members, num_classes = grouped_class_ids(first, labels, groups)
    counters = {name: Counter(ids, labels, num_classes) for name, ids in {"first": first, "second": second}.items()}
    return Bootstrap(counters, labels, members, num_resamples, seed).differences("first", "second")


def measured_rows(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was measured of each expert, and then of the teacher where there was one, by the row's name."""
    return metrics["experts"] | ({TEACHER: metrics[TEACHER]} if TEACHER in metrics else {})


def shown_tables(rows: Iterable[Mapping[str, Any]]) -> list[list[Measure]]:
    """The measures of each table that these rows of results fill; results of earlier versions lack some."""
    rows = list(rows)
    tables = [
        [one for one in MEASURES if one.table == table and any(one.key in row for row in rows)] for table in TABLES
    ]
    known = [[one for one in of if any(row.get(one.key) is not None for row in rows)] for of in tables[1:]]
    return [measures for measures in (tables[0], *known) if measures]


def format_table(metrics: Mapping[str, Any], own: str | None = None) -> str:
    """The result of `expert_metrics`, also one read back from JSON, as aligned text: a row per expert, in percent.

    "-" stands for a group without test images. If `metrics` has intervals, they follow in brackets; if it has a
    teacher, there are a row for it and a line of differences from the row `own`, by default the first. The last lines
    say what the intervals and groups are.

    Example:
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> print(format_table(expert_metrics([[0, 0, 0], [1, 0, 1]], [0, 1], [90, 3], groups, ["cat", "lynx"])))
                     overall    head     mid    tail balanced
        average        100.0   100.0       -   100.0    100.0
        CLS expert      50.0   100.0       -     0.0     50.0
        DIST expert    100.0   100.0       -   100.0    100.0
                     macro-F1   worst
        average         100.0   100.0
        CLS expert       33.3     0.0
        DIST expert     100.0   100.0
        head: 1 class with 90 training images, mid: no classes, tail: 1 class with 3 training images
    """
    rows = measured_rows(metrics)
    accuracies, *others = shown_tables(rows.values())
    lines = _table_lines(rows, accuracies)
    own = own or next(iter(metrics["experts"]))
    # A fused prediction may have been measured without a teacher that was there in training alone.
    lines += [format_difference(metrics, own)] if own in metrics.get("against_teacher", ()) else []
    if any(measured.get("confidence_intervals") for measured in rows.values()):
        lines.append(f"in brackets: {describe_intervals(metrics.get('test_counts', ()))}")
    for measures in others:
        lines += _table_lines(rows, measures)
    lines.append(", ".join(f"{name}: {describe_group(metrics, name)}" for name in GROUPS))
    return "\n".join(lines)


def _table_lines(rows: Mapping[str, Mapping[str, Any]], measures: Sequence[Measure]) -> list[str]:
    """A heading and a line for each row, with columns of one width."""
    cells = {
        EXPERT_LABELS.get(row, row): [
            measure.text(values.get(measure.key), values.get("confidence_intervals", {}).get(measure.key))
            for measure in measures
        ]
        for row, values in rows.items()
    }
    width = max(8, 2 + max(len(cell) for of_row in cells.values() for cell in of_row))
    widths = [max(width, 1 + len(measure.label)) for measure in measures]
    return [
        f"{name:<12}" + "".join(f"{cell:>{width}}" for cell, width in zip(of_row, widths, strict=True))
        for name, of_row in ({"": [measure.label for measure in measures]} | cells).items()
    ]


def class_rows(
    metrics: Mapping[str, Any],
    columns: Mapping[str, Sequence[float | None]],
    mistakes: Mapping[str, Sequence[int | None]] | None = None,
) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows of a table of classes, from most to fewest training images.

    `columns` are accuracies in label order by their heading. `mistakes`, a row of the metrics, has what the last column
    shows: the class that a class is most often taken for. Metrics of earlier versions have no such classes, and no
    numbers of test images.
    """
    names, counts, test_counts = metrics["class_names"], metrics["class_counts"], metrics.get("test_counts")
    taken_for, images = ((mistakes or {}).get(key) for key in ("taken_for", "taken_for_images"))
    group_of = {class_id: group for group in GROUPS for class_id in metrics["groups"][group]}
    rows = []
    for class_id in sorted(group_of, key=lambda class_id: (-counts[class_id], class_id)):
        row = [printable(names[class_id]), group_of[class_id], str(counts[class_id])]
        if test_counts is not None:
            row.append(f"{test_counts[class_id]}{' ~' if _are_few(test_counts[class_id]) else ''}")
        row += [number_or_dash(of[class_id]) for of in columns.values()]
        if taken_for is not None:
            other = taken_for[class_id]
            row.append("-" if other is None else f"{printable(names[other])} ({images[class_id]})")
        rows.append(row)
    heading = ["class", "group", "training images", *["test images"] * (test_counts is not None), *columns]
    return [*heading, *["most often taken for (images)"] * (taken_for is not None)], rows


def accuracies_by_class(metrics: Mapping[str, Any]) -> dict[str, Sequence[float | None]]:
    """The accuracies of every class by the label of each row of the metrics, the teacher last."""
    return {EXPERT_LABELS.get(row, row): measured["per_class"] for row, measured in measured_rows(metrics).items()}


def format_class_table(
    metrics: Mapping[str, Any], own: str | None = None, most: int | None = None, precision_and_f1: bool = False
) -> str:
    """The accuracy of each class as aligned text, in percent: a row per class, from most to fewest training images.

    Args:
        metrics: the result of `expert_metrics`.
        own: the row, such as `"average"`, of the model's own prediction: the last column is the class that it most
            often takes the images for where it is wrong. Default: the first row.
        most: for more classes, only a line that says so. Default: a row for every class.
        precision_and_f1: add columns for those of the model's own prediction, and for those of `RANKED`. Default False.

    Returns:
        The lines. A mark, which the last line explains, is beside numbers of test images below ten.

    Example:
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> metrics = expert_metrics([[0, 0, 0], [1, 0, 1]], [0, 1], [90, 3], groups, ["cat", "lynx"])
        >>> print(format_class_table(metrics, "cls"))
        class  group  training images  test images  average  CLS expert  DIST expert  most often taken for (images)
        cat    head                90          1 ~    100.0       100.0        100.0  -
        lynx   tail                 3          1 ~    100.0         0.0        100.0  cat (1)
        ~ fewer than 10 test images: one image changes the accuracy by more than 10 points
    """
    if most is not None and len(metrics["class_names"]) > most:
        return f"{len(metrics['class_names'])} classes: `deitlt evaluate MODEL --per_class true` lists them"
    experts, columns = metrics["experts"], accuracies_by_class(metrics)
    of_model = experts[own or next(iter(experts))]
    if precision_and_f1:
        columns |= {"precision": of_model["per_class_precision"], "F1": of_model["per_class_f1"]}
        for measure in RANKED:
            if (ranked := of_model.get(f"per_class_{measure.key}")) is not None:
                columns[measure.label.removeprefix("m")] = ranked  # mAP is the mean of AP
    heading, rows = class_rows(metrics, columns, of_model)
    marked = any(map(_are_few, metrics["test_counts"]))
    if marked:  # the numbers stand below each other, with their marks beside them
        rows = [[cell if index != 3 or "~" in cell else f"{cell}  " for index, cell in enumerate(row)] for row in rows]
    lines = aligned([heading, *rows], left=(0, 1, len(heading) - 1))
    return "\n".join([*lines, *([MARK_READING] if marked else [])])


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """A table's lines, with columns of one width; text in the columns `left` stands on the left, numbers on the right.

    Example:
        >>> aligned([["", "images"], ["cat", "9"]])
        ['     images', 'cat       9']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def number_or_dash(value: float | None, digits: int = 1) -> str:
    """A number in a table, and "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def _are_few(test_images: int) -> bool:
    return 0 < test_images < FEW_TEST_IMAGES


def format_difference(metrics: Mapping[str, Any], expert: str) -> str:
    """How far an expert is from its teacher, in points with 95 % intervals, as one line of text."""
    found = metrics["against_teacher"][expert]
    parts = [
        f"{measure.label} {measure.text(of['value'], of['interval'], sign='+')}{' *' if of['excludes_zero'] else ''}"
        for measure in MEASURES
        if measure.table == ACCURACY and (of := found.get(measure.key)) is not None
    ]
    label = EXPERT_LABELS.get(expert, expert)
    return f"{label} - teacher: {', '.join(parts)} (95 % intervals of paired differences; * it excludes 0)"


def describe_intervals(test_counts: Sequence[int]) -> str:
    """What the intervals are, and that they are too narrow where one class has a single test image."""
    text = "95 % intervals from bootstrap resamples of each class's test images"
    # Several classes with a single image tell how much these vary, one tells nothing; see `resample_cells`.
    return f"{text}; too narrow, for one class has a single one" if list(test_counts).count(1) == 1 else text


def describe_group(metrics: Mapping[str, Any], name: str) -> str:
    """A group in words: how many classes, how many training images they have, and how many of them were tested."""
    members = metrics["groups"][name]
    counts = [metrics["class_counts"][class_id] for class_id in members]
    if not counts:
        return "no classes"
    images = f"{max(counts)}" if max(counts) == min(counts) else f"{max(counts)}-{min(counts)}"
    test_counts = metrics.get("test_counts")  # results of earlier versions have none
    tested = len(counts) if test_counts is None else sum(test_counts[class_id] > 0 for class_id in members)
    untested = "" if tested == len(counts) else f" ({tested or 'none'} with test images)"
    return f"{counted(len(counts), 'class')} with {images} training images{untested}"


@contextmanager
def _users_mistakes() -> Iterator[None]:
    """Turn the `ValueError` of `scores`, which is used without this package too, into ours."""
    try:
        yield
    except ValueError as error:
        raise DeiTLTError(str(error)) from error


def none_for_nan(values: Any) -> Any:
    """Arrays, floats, and dicts and lists of them as JSON has them: arrays become lists, nan becomes None."""
    if isinstance(values, dict):
        return {name: none_for_nan(value) for name, value in values.items()}
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, list):
        return [none_for_nan(value) for value in values]
    return None if isinstance(values, float) and np.isnan(values) else values
