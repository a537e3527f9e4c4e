"""Pictures: a run's class counts, per-class accuracy of the experts and loss parts over time; a data set's images.

Everything is drawn with matplotlib's object API, so no global state (backend, current figure) is touched. Colours are
Okabe and Ito's, which colour-blind readers tell apart; hatches, markers and line styles tell the same in grey.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from deitlt_hf.errors import DeiTLTError, printable
from deitlt_hf.evaluation.accuracy import EXPERT_LABELS, EXPERTS, GROUPS
from deitlt_hf.files import whole_file

if TYPE_CHECKING:
    from deitlt_hf.data.inspection import Inspection, SplitInspection

FONT_SIZE = 11  # still legible when a figure of 12 inches is printed 6 inches wide
MAX_NAMED_CLASSES = 30
MAX_NAME_LENGTH = 20

_GROUP_STYLES = {
    "head": {"facecolor": "#0072B2", "hatch": None},
    "mid": {"facecolor": "#56B4E9", "hatch": "//"},
    "tail": {"facecolor": "#E69F00", "hatch": ".."},
}
EXPERT_STYLES = {
    "average": {"color": "#000000", "linestyle": "-", "marker": "o"},
    "cls": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "distillation": {"color": "#D55E00", "linestyle": ":", "marker": "^"},
}
_LOSS_STYLES = {
    "loss": ("loss (sum of both)", EXPERT_STYLES["average"]),
    "cls_loss": ("CLS part", EXPERT_STYLES["cls"]),
    "distillation_loss": ("DIST part", EXPERT_STYLES["distillation"]),
}

_SIDE_STYLES = {
    "width": {"facecolor": "#0072B2"},
    "height": {"facecolor": "#E69F00", "hatch": "..", "edgecolor": "white", "linewidth": 0},
}


def report_figure(metrics: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]]) -> Figure:
    """One picture of a run: class counts and per-class accuracy side by side, loss parts over time below.

    Args:
        metrics: what `deitlt_hf.evaluation.accuracy.expert_metrics` returned, or the same read back from JSON.
        log_history: `trainer.state.log_history`; see `draw_losses`. Without losses in it (an evaluation of a finished
            model) the panel below is left out.

    Returns:
        A `matplotlib.figure.Figure`, 12 inches wide, for `save_figure`.

    Example:
        >>> save_figure(report_figure(metrics, trainer.state.log_history), "report.png")  # doctest: +SKIP
    """
    with_losses = bool(_loss_entries(log_history))
    figure = Figure(figsize=(12, 8.5 if with_losses else 4.8), layout="constrained")
    grid = figure.add_gridspec(2 if with_losses else 1, 2, height_ratios=[3, 2] if with_losses else None)
    draw_class_counts(figure.add_subplot(grid[0, 0]), metrics)
    draw_class_accuracy(figure.add_subplot(grid[0, 1]), metrics)
    if with_losses:
        draw_losses(figure.add_subplot(grid[1, :]), log_history)
    return figure


def inspection_figure(inspection: Inspection) -> Figure:
    """One picture of a data set: training images per class, and the sizes of the images.

    Args:
        inspection: what `deitlt_hf.data.inspection.inspect_dataset` found.

    Returns:
        A `matplotlib.figure.Figure`, 12 inches wide, for `save_figure`.

    Example:
        >>> save_figure(inspection_figure(inspection), "inspection.png")  # doctest: +SKIP
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    grid = figure.add_gridspec(1, 5)
    classes = {
        "class_counts": inspection.class_counts,
        "class_names": inspection.class_names,
        "groups": inspection.class_groups,
    }
    draw_class_counts(figure.add_subplot(grid[0, :3]), classes)
    draw_image_sizes(figure.add_subplot(grid[0, 3:]), inspection.splits)
    return figure


def draw_image_sizes(axes: Axes, splits: Mapping[str, SplitInspection]) -> None:
    """Draw the spread of the images' widths and heights, a row for each of every split.

    A line goes from the smallest to the largest, a bar holds the middle half, a mark is the median. The axis is
    logarithmic where the largest is above 10 times the smallest.

    Args:
        axes: where to draw.
        splits: as in an `Inspection`; those without a readable image are left out.

    Example:
        >>> draw_image_sizes(Figure().add_subplot(), inspection.splits)  # doctest: +SKIP
    """
    rows = [
        (f"{name}\n{side}", spread, _SIDE_STYLES[side])
        for name, split in splits.items()
        for side, spread in (("width", split.width), ("height", split.height))
        if spread
    ]
    for row, (_, spread, style) in enumerate(rows):
        axes.hlines(row, spread["min"], spread["max"], color="0.35", linewidth=1.5, zorder=1)
        axes.plot([spread["min"], spread["max"]], [row, row], "|", color="0.35", markersize=10, zorder=1)
        middle = spread["upper_quartile"] - spread["lower_quartile"]
        axes.barh(row, middle, left=spread["lower_quartile"], height=0.5, zorder=2, **style)
        axes.plot(spread["median"], row, "o", color="black", markersize=7, zorder=3)
        median = {"ha": "center", "va": "bottom", "fontsize": FONT_SIZE - 1}
        axes.text(spread["median"], row - 0.26, f"{spread['median']:g}", **median)
    finish_axes(axes, "Image sizes: range, middle half, median")
    axes.set_xlabel("pixels", fontsize=FONT_SIZE)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows], parse_math=False)
    if not rows:
        return
    axes.set_ylim(len(rows) - 0.5, -0.75)
    smallest, largest = (pick(spread[end] for _, spread, _ in rows) for pick, end in ((min, "min"), (max, "max")))
    if largest > 10 * smallest:
        axes.set_xscale("log")
        axes.set_xlim(smallest / 1.3, largest * 1.3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.1 * (largest - smallest) or 0.5 * largest
        axes.set_xlim(smallest - margin, largest + margin)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def draw_class_counts(axes: Axes, metrics: Mapping[str, Any]) -> None:
    """Draw the training images per class as bars, most frequent class first, coloured by head, mid and tail.

    The axis is logarithmic where the imbalance factor is above 10.

    Args:
        axes: where to draw.
        metrics: the result of `expert_metrics`.

    Example:
        >>> draw_class_counts(Figure().add_subplot(), metrics)  # doctest: +SKIP
    """
    order = head_to_tail(metrics)
    counts = np.asarray(metrics["class_counts"])[order]
    end = 0
    for name in GROUPS:
        size = len(metrics["groups"][name])
        start, end = end, end + size
        if size:
            style = _GROUP_STYLES[name] | {"edgecolor": "white", "linewidth": 0}  # the edge's colour is the hatch's
            style["label"] = f"{name} ({size} {'class' if size == 1 else 'classes'})"
            if len(counts) <= MAX_NAMED_CLASSES:
                axes.bar(range(start, end), counts[start:end], width=0.85, **style)
            else:  # one shape per group: thousands of bars take many seconds
                axes.stairs(counts[start:end], np.arange(start, end + 1) - 0.5, fill=True, **style)
    if counts.max() > 10 * max(counts.min(), 1):
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=max(counts.min(), 1) / 2)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    _label_classes(axes, metrics, order)
    _finish(axes, "Training images per class", ylabel="training images")


def draw_class_accuracy(axes: Axes, metrics: Mapping[str, Any]) -> None:
    """Draw each class's accuracy by the average and by both experts, most frequent class first.

    Above 30 classes the lines are running means over neighbouring classes, whose number stands in the title. Classes
    without test images leave a gap. Grey vertical lines part head, mid and tail.

    Args:
        axes: where to draw.
        metrics: the result of `expert_metrics`.

    Example:
        >>> draw_class_accuracy(Figure().add_subplot(), metrics)  # doctest: +SKIP
    """
    order = head_to_tail(metrics)
    many = len(order) > MAX_NAMED_CLASSES
    window = max(3, 2 * (len(order) // 40) + 1) if many else 1
    for expert in EXPERTS:
        values = np.array(metrics["experts"][expert]["per_class"], dtype=float)[order]
        style = EXPERT_STYLES[expert] | {"markersize": 6, "markevery": len(order) // 12 if many else 1}
        axes.plot(running_mean(values, window), label=EXPERT_LABELS[expert], linewidth=1.8, **style)
    for boundary in np.cumsum([len(metrics["groups"][name]) for name in GROUPS[:-1]]) - 0.5:
        if 0 < boundary < len(order) - 1:  # else the group before or behind it is empty
            axes.axvline(boundary, color="0.6", linewidth=1, zorder=0)
    axes.set_ylim(-3, 103)
    _label_classes(axes, metrics, order)
    _finish(axes, "Accuracy per class" + (f" (mean over {window} neighbours)" if many else ""), ylabel="accuracy (%)")


def draw_losses(axes: Axes, log_history: Sequence[Mapping[str, Any]]) -> None:
    """Draw the loss and its two parts over the epochs, with a vertical line where DRW begins.

    Args:
        axes: where to draw.
        log_history: the Trainer's. Used are the entries with `epoch`, `loss`, `cls_loss` and `distillation_loss` (the
            parts add up to the loss); `drw` in them is 1 in the DRW phase and 0 before.

    Example:
        >>> draw_losses(Figure().add_subplot(), trainer.state.log_history)  # doctest: +SKIP
    """
    entries = _loss_entries(log_history)
    epochs = [entry["epoch"] for entry in entries]
    for key, (label, style) in _LOSS_STYLES.items():
        marks = {"markersize": 5, "markevery": max(1, len(entries) // 20)}
        axes.plot(epochs, [entry[key] for entry in entries], label=label, linewidth=1.8, **marks, **style)
    drw_start = _drw_start_epoch(entries)
    if drw_start is not None:
        axes.axvline(drw_start, color="#009E73", linestyle="-.", linewidth=1.8, label=f"DRW begins (epoch {drw_start})")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch", fontsize=FONT_SIZE)
    _finish(axes, "Training loss", ylabel="loss")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure at 150 dots per inch; a reader of `path` sees the old file or the whole new one, never a part.

    Args:
        figure: what to write.
        path: where to, folders are made; the suffix chooses the format (`.png`, `.svg`, `.pdf`, ...).

    Raises:
        DeiTLTError: matplotlib does not know the suffix.

    Example:
        >>> save_figure(report_figure(metrics, log_history), "report.png")  # doctest: +SKIP
    """
    path = Path(path)
    file_format = path.suffix.lower().lstrip(".")
    if file_format not in figure.canvas.get_supported_filetypes():
        raise DeiTLTError(f"cannot write a figure to {path.name!r}: pass a name that ends in .png, .svg or .pdf")
    with whole_file(path) as unfinished, warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes; there is nothing to mend.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(unfinished, format=file_format, dpi=150)


def head_to_tail(metrics: Mapping[str, Any]) -> np.ndarray:
    """Class ids, most frequent first; of equally frequent classes those of the group nearer to the head."""
    group_of = np.empty(len(metrics["class_counts"]), dtype=int)
    for index, name in enumerate(GROUPS):
        group_of[metrics["groups"][name]] = index
    return np.lexsort((-np.asarray(metrics["class_counts"]), group_of))


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over `window` neighbours (odd), fewer at the ends and without nan; nan where no neighbour has a value."""
    kernel = np.ones(window)
    known = ~np.isnan(values)
    sums = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    numbers = np.convolve(known.astype(float), kernel, mode="same")
    return np.divide(sums, numbers, out=np.full(len(values), np.nan), where=numbers > 0)


def _loss_entries(log_history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries about training: evaluations and the summary at the end carry no loss parts."""
    return [entry for entry in log_history if entry.keys() >= {"epoch", *_LOSS_STYLES}]


def _drw_start_epoch(entries: Sequence[Mapping[str, Any]]) -> int | None:
    """The epoch from which on the entries are of the DRW phase; None if none is.

    DRW begins with an epoch and an entry tells of the steps behind it, so it is the first whole epoch at or after the
    last entry without DRW. The small number absorbs rounding of `epoch`, a step count over steps per epoch.
    """
    before = 0.0
    for entry in entries:
        if entry.get("drw", 0):
            return math.ceil(before - 1e-6)
        before = entry["epoch"]
    return None


def _label_classes(axes: Axes, metrics: Mapping[str, Any], order: np.ndarray) -> None:
    axes.set_xlim(-0.75, len(order) - 0.25)
    if len(order) > MAX_NAMED_CLASSES:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(order)} classes, most frequent first", fontsize=FONT_SIZE)
        return
    names = [printable(metrics["class_names"][class_id]) for class_id in order]
    # Cut in the middle: long names of neighbouring classes tend to differ at their ends.
    names = [name if len(name) <= MAX_NAME_LENGTH else f"{name[:11]}…{name[-8:]}" for name in names]
    # About sixty letters fit side by side under half of a 12 inch figure.
    rotation = 0 if len(names) * (max(map(len, names)) + 1) <= 60 else 45 if len(names) <= 12 else 90
    alignment = {"ha": "right", "rotation_mode": "anchor"} if rotation == 45 else {}
    # parse_math off: a "$" in a class name is a dollar sign.
    axes.set_xticks(range(len(names)), names, rotation=rotation, parse_math=False, **alignment)
    axes.set_xlabel("class, most frequent first", fontsize=FONT_SIZE)


def _finish(axes: Axes, title: str, ylabel: str) -> None:
    axes.set_ylabel(ylabel, fontsize=FONT_SIZE)
    axes.legend(fontsize=FONT_SIZE - 1, frameon=True, framealpha=0.9)
    finish_axes(axes, title)


def finish_axes(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=FONT_SIZE + 1)
    axes.tick_params(labelsize=FONT_SIZE - 1)
    axes.spines[["top", "right"]].set_visible(False)
