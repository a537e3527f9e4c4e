"""A picture of a run: its class counts, the experts' accuracy on each class, and the parts of the loss over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deitlt_hf.errors import counted
from deitlt_hf.evaluation.figures.style import (
    EXPERT_STYLES,
    FONT_SIZE,
    MAX_NAMED_CLASSES,
    WIDTH,
    finish,
    floats,
    head_to_tail,
    label_logarithmic,
    over_neighbours,
    running_mean,
    shortened_names,
)
from deitlt_hf.evaluation.measures import EXPERT_LABELS, GROUPS, TEACHER

_GROUP_STYLES = {
    "head": {"facecolor": "#0072B2", "hatch": None},
    "mid": {"facecolor": "#56B4E9", "hatch": "//"},
    "tail": {"facecolor": "#E69F00", "hatch": ".."},
}
_LOSS_STYLES = {
    "loss": ("loss (sum of both)", EXPERT_STYLES["average"]),
    "cls_loss": ("CLS part", EXPERT_STYLES["cls"]),
    "distillation_loss": ("DIST part", EXPERT_STYLES["distillation"]),
}


def report_figure(metrics: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]]) -> Figure:
    """Class counts and accuracy per class of `expert_metrics`; below, where the Trainer logged any, the losses."""
    with_losses = bool(_loss_entries(log_history))
    figure = Figure(figsize=(WIDTH, 8.5 if with_losses else 4.8), layout="constrained")
    grid = figure.add_gridspec(2 if with_losses else 1, 2, height_ratios=[3, 2] if with_losses else None)
    draw_class_counts(figure.add_subplot(grid[0, 0]), metrics)
    draw_class_accuracy(figure.add_subplot(grid[0, 1]), metrics)
    if with_losses:
        draw_losses(figure.add_subplot(grid[1, :]), log_history)
    return figure


def draw_class_counts(axes: Axes, metrics: Mapping[str, Any]) -> None:
    """Draw the training images per class as bars, most frequent class first, coloured by head, mid and tail."""
    order = head_to_tail(metrics)
    counts = np.asarray(metrics["class_counts"])[order]
    end = 0
    for name in GROUPS:
        size = len(metrics["groups"][name])
        start, end = end, end + size
        if size:
            style = _GROUP_STYLES[name] | {"edgecolor": "white", "linewidth": 0}  # the edge's colour is the hatch's
            style["label"] = f"{name} ({counted(size, 'class')})"
            if len(counts) <= MAX_NAMED_CLASSES:
                axes.bar(range(start, end), counts[start:end], width=0.85, **style)
            else:  # one shape per group: thousands of bars take many seconds
                axes.stairs(counts[start:end], np.arange(start, end + 1) - 0.5, fill=True, **style)
    if counts.max() > 10 * max(counts.min(), 1):
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=max(counts.min(), 1) / 2)
        label_logarithmic(axes.yaxis)
    _label_classes(axes, metrics, order)
    _finish(axes, "Training images per class", "training images")


def draw_class_accuracy(axes: Axes, metrics: Mapping[str, Any]) -> None:
    """Draw each class's accuracy by the average, by both experts and by the teacher, most frequent class first.

    Classes without test images leave a gap. Grey vertical lines separate head, mid and tail.
    """
    order = head_to_tail(metrics)
    many = len(order) > MAX_NAMED_CLASSES
    for expert, measured in metrics["experts"].items():
        values, label = floats(measured["per_class"])[order], EXPERT_LABELS[expert]
        style = EXPERT_STYLES[expert] | {"markersize": 6, "markevery": len(order) // 12 if many else 1}
        axes.plot(running_mean(values), label=label, linewidth=1.8, **style)
    if TEACHER in metrics:
        values = floats(metrics[TEACHER]["per_class"])[order]
        style = {"color": "0.45", "linestyle": ":", "linewidth": 1.8}
        axes.plot(running_mean(values), label=TEACHER, **style)
    for boundary in np.cumsum([len(metrics["groups"][name]) for name in GROUPS[:-1]]) - 0.5:
        if 0 < boundary < len(order) - 1:  # else a group beside it is empty
            axes.axvline(boundary, color="0.6", linewidth=1, zorder=0)
    axes.set_ylim(-3, 103)
    _label_classes(axes, metrics, order)
    _finish(axes, "Accuracy per class" + over_neighbours(len(order)), "accuracy (%)")


def draw_losses(axes: Axes, log_history: Sequence[Mapping[str, Any]]) -> None:
    """Draw the loss and its two parts over the epochs, with a vertical line where DRW begins."""
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
    _finish(axes, "Training loss", "loss")


def _loss_entries(log_history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries with parts of the loss, which evaluations and the final summary lack."""
    return [entry for entry in log_history if entry.keys() >= {"epoch", *_LOSS_STYLES}]


def _drw_start_epoch(entries: Sequence[Mapping[str, Any]]) -> int | None:
    """The first epoch of the DRW phase, None without one: the first whole epoch after the last entry without DRW."""
    before = 0.0  # an entry is about the steps before it
    for entry in entries:
        if entry.get("drw", 0):
            return math.ceil(before - 1e-6)  # `epoch` is a rounded quotient of steps
        before = entry["epoch"]
    return None


def _label_classes(axes: Axes, metrics: Mapping[str, Any], order: np.ndarray) -> None:
    axes.set_xlim(-0.75, len(order) - 0.25)
    if len(order) > MAX_NAMED_CLASSES:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(order)} classes, most frequent first", fontsize=FONT_SIZE)
        return
    names = shortened_names((metrics["class_names"][class_id] for class_id in order), length=20, end=8)
    # About sixty letters fit side by side under half of a 12 inch figure.
    rotation = 0 if len(names) * (max(map(len, names)) + 1) <= 60 else 45 if len(names) <= 12 else 90
    alignment = {"ha": "right", "rotation_mode": "anchor"} if rotation == 45 else {}
    # parse_math off: a "$" in a class name is a dollar sign.
    axes.set_xticks(range(len(names)), names, rotation=rotation, parse_math=False, **alignment)
    axes.set_xlabel("class, most frequent first", fontsize=FONT_SIZE)


def _finish(axes: Axes, title: str, ylabel: str) -> None:
    axes.legend(fontsize=FONT_SIZE - 1, frameon=True, framealpha=0.9)
    finish(axes, title, ylabel=ylabel)
