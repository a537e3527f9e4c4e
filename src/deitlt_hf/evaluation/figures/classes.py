"""Figures of what is predicted: accuracy against class frequency, agreement, calibration, and confused groups.

For one model every expert is drawn, for several models each model's own prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deitlt_hf.errors import counted
from deitlt_hf.evaluation.figures.hover import say_at
from deitlt_hf.evaluation.figures.style import (
    FONT_SIZE,
    WIDTH,
    Records,
    Series,
    finish,
    floats,
    grid,
    head_to_tail,
    label_logarithmic,
    legend_below,
    model_styles,
    over_neighbours,
    panels_of_series,
    plot,
    running_mean,
    shortened,
    shortened_names,
)
from deitlt_hf.evaluation.measures import EXPERT_LABELS, GROUPS, MODEL

PAIR_LABELS = {
    "cls-distillation": "CLS and DIST expert",
    "teacher-cls": "teacher and CLS expert",
    "teacher-distillation": "teacher and DIST expert",
    "teacher-model": "teacher and model",
}
_PAIR_STYLES = {
    pair: {"color": color}
    for pair, color in zip(PAIR_LABELS, ("#000000", "#0072B2", "#D55E00", "#000000"), strict=True)
}
_MOST_SIDE_BY_SIDE = 12  # classes of confusion matrices; more need the whole width
_CELL = 0.25  # inches, in which a number fits
_BAR_HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++")


def class_frequency_figure(records: Records) -> Figure:
    """Accuracy of each class against its training images; beside it DIST minus CLS, of models that have both experts.

    In the right panel a thin line is fitted to the differences, with a vertical mark where it crosses 0.
    """
    styles = model_styles(records)
    with_experts = {name: record for name, record in records.items() if "distillation" in record["experts"]}
    figure, panels = grid(2 if with_experts else 1, columns=2, height=4.8)
    first, accuracies, differences = next(iter(records.values())), {}, {}
    for line in _own_or_experts(records):
        accuracies[line.label] = line.record["experts"][line.key]["per_class"]
        _plot_classes(panels[0], line, accuracies[line.label])
    over = over_neighbours(len(first["class_counts"]))
    _say_classes(panels[0], first, accuracies, "{:.1f} %")
    title = "accuracy of the experts" if len(records) == 1 else "accuracy of each model"
    finish(panels[0], title + over, "training images of the class", "accuracy (%)")
    panels[0].set_ylim(-3, 103)
    for place, (name, record) in enumerate(with_experts.items()):
        cls, distillation = (floats(record["experts"][expert]["per_class"]) for expert in ("cls", "distillation"))
        line = Series(None, {"color": "#009E73", "marker": "D", "linestyle": "-"}, record, "")
        if len(records) > 1:
            line = line._replace(label=name, style=styles[name])
        differences[line.label or "DIST minus CLS"] = distillation - cls
        _plot_classes(panels[1], line, distillation - cls)
        # Marks become shorter, so that all marks at the same place can be seen.
        _draw_crossing(panels[1], record, line.style["color"], 28 + 14 * (len(with_experts) - place))
    if with_experts:
        _say_classes(panels[1], first, differences, "{:+.1f} points")
        panels[1].axhline(0, color="0.5", linewidth=1, zorder=0)
        title = "DIST minus CLS, and a fitted line"
        finish(panels[1], title + over, "training images of the class", "difference (points)")
    legend_below(figure)
    return figure


def agreement_figure(records: Records) -> Figure | None:
    """How often two of CLS, DIST and the teacher predict the same class, by group; None where there are no pairs."""
    panels = panels_of_series(records, PAIR_LABELS, "agreement", _PAIR_STYLES)
    if not panels:
        return None
    figure, axes = grid(len(panels), sharey=True)
    labels = records if len(records) > 1 else [bar.label for bar in panels[""]]
    hatches = dict(zip(labels, _BAR_HATCHES * len(records), strict=False))
    for panel, (title, bars) in zip(axes, panels.items(), strict=True):
        width = 0.8 / len(bars)
        for index, bar in enumerate(bars):
            shares = bar.record["agreement"][bar.key]
            places = np.arange(len(shares)) + width * (index - (len(bars) - 1) / 2)
            values = floats(list(shares.values()))
            look = {"color": bar.style["color"], "hatch": hatches[bar.label], "edgecolor": "white", "linewidth": 0}
            drawn = panel.bar(places, values, width=0.92 * width, **look)
            drawn.shown_as = bar.label
            if len(bars) <= 3:
                texts = ["" if np.isnan(value) else f"{value:.0f}" for value in values]
                panel.bar_label(drawn, texts, fontsize=FONT_SIZE - 1)
        panel.set_xticks(range(len(shares)), list(shares))
        panel.set(xlim=(-0.5, len(shares) - 0.5), ylim=(0, 105))
        finish(panel, title or "same class predicted", ylabel="images (%)" if panel is axes[0] else None)
    legend_below(figure)
    return figure


def reliability_figure(records: Records) -> Figure:
    """Accuracy against confidence, overall and by group; markers grow with the share of the images in their bin."""
    lines = _own_or_experts(records)
    groups = list(lines[0].record["calibration"][lines[0].key])
    figure, panels = grid(len(groups), columns=2, height=4.6)
    for axes, group in zip(panels, groups, strict=True):
        axes.plot([0, 100], [0, 100], color="0.6", linewidth=1, zorder=0)
        legend = []
        for line in lines:
            calibration = line.record["calibration"][line.key][group]
            bins = [entry for entry in calibration["bins"] if entry["count"]]
            if not bins:
                continue
            confidence, accuracy, count = (
                floats([entry[key] for entry in bins]) for key in ("confidence", "accuracy", "count")
            )
            plot(axes, confidence, accuracy, line, marker="", linewidth=1.2)
            look = {"color": line.style["color"], "marker": line.style["marker"], "alpha": 0.7}
            axes.scatter(confidence, accuracy, s=12 + 200 * count / count.sum(), **look)
            label = f"{shortened(line.label, 24)}: ECE {calibration['ece']:.1f}"
            legend.append(Line2D([], [], linewidth=1.8, label=label, **line.style))
        texts = axes.legend(legend, [line.get_label() for line in legend], fontsize=FONT_SIZE - 1, framealpha=0.8)
        for text in texts.get_texts():
            text.set_parse_math(False)
        axes.set(xlim=(0, 100), ylim=(-2, 102))
        finish(axes, group, "confidence (%)", "accuracy (%)")
    return figure


def confusion_figure(records: Records) -> Figure:
    """The groups that the images of each group are predicted as, in percent of a row's images."""
    lines = _own_or_experts(records)
    figure, panels = grid(len(lines))
    for axes, line in zip(panels, lines, strict=True):
        shares = floats(line.record["confusion"][line.key]["groups"])
        axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        for (row, column), share in np.ndenumerate(shares):
            text = "-" if np.isnan(share) else f"{share:.1f}"
            color = "black" if share > 55 or np.isnan(share) else "white"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=FONT_SIZE + 3)
        axes.set_xticks(range(3), GROUPS)
        axes.set_yticks(range(3), GROUPS)
        finish(axes, shortened(line.label), "predicted class is", "true class is")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def class_confusion_figure(records: Records) -> Figure:
    """The confusion matrix of each model's own prediction, in percent of a row's images."""
    most = max(len(record["class_confusion"]["labels"]) for record in records.values())
    columns = 2 if len(records) > 1 and most <= _MOST_SIDE_BY_SIDE else 1
    height = 2.2 + max(_CELL * most, 2)
    figure, panels = grid(len(records), columns, height)
    if most > _MOST_SIDE_BY_SIDE:
        figure.set_figwidth(WIDTH)
    for axes, (name, record) in zip(panels, records.items(), strict=True):
        confusion = record["class_confusion"]
        names = shortened_names((record["class_names"][label] for label in confusion["labels"]), 20)
        shares, predicted = floats(confusion["percent"]), names
        if confusion["others"] is not None:
            shares, predicted = np.column_stack([shares, floats(confusion["others"])]), [*names, "other classes"]
        axes.imshow(shares, cmap="cividis", vmin=0, vmax=100, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.5:  # the others are 0, or of a class without test images
                look = {"color": "black" if share > 55 else "white", "fontsize": FONT_SIZE - 1}
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", **look)
        axes.set_xticks(range(len(predicted)), predicted, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        finish(axes, shortened(name), "predicted class", "true class, most frequent first")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _own_or_experts(records: Records) -> list[Series]:
    """Every expert of one model, or each model's own prediction."""
    if len(records) == 1:
        return panels_of_series(records, EXPERT_LABELS | {MODEL: MODEL}, "experts")[""]
    styles = model_styles(records)
    return [Series(name, styles[name], record, record["model"]["prediction"]) for name, record in records.items()]


def _say_classes(axes: Axes, record: Mapping[str, Any], columns: Mapping[str, Any], form: str) -> None:
    """Keep the numbers of every class, where `_plot_classes` draws it."""
    group_of = {class_id: group for group in GROUPS for class_id in record["groups"][group]}
    values = {label: floats(of) for label, of in columns.items()}
    texts = []
    for class_id in head_to_tail(record):
        about = f"{group_of[class_id]}, {counted(record['class_counts'][class_id], 'training image')}"
        shown = (
            f"{label} " + ("-" if np.isnan(of[class_id]) else form.format(of[class_id])) for label, of in values.items()
        )
        texts.append(f"{record['class_names'][class_id]} ({about}): {', '.join(shown)}")
    say_at(axes, _sizes(record), texts)


def _sizes(record: Mapping[str, Any]) -> np.ndarray:
    """Where classes are drawn, in the order of `head_to_tail`: their training images, or the mean over neighbours."""
    return running_mean(floats(record["class_counts"])[head_to_tail(record)])


def _plot_classes(axes: Axes, line: Series, per_class: Any) -> None:
    order, counts = head_to_tail(line.record), _sizes(line.record)
    plot(axes, counts, running_mean(floats(per_class)[order]), line, markevery=max(1, len(order) // 15))
    if counts.max() > 10 * max(counts.min(), 1):
        axes.set_xscale("log")
        label_logarithmic(axes.xaxis)


def _draw_crossing(axes: Axes, record: Mapping[str, Any], color: str, length: int) -> None:
    """Draw the line that was fitted to the differences, and a vertical mark where it crosses 0."""
    crossing = record["crossing"]
    if crossing["slope"] is not None:
        per_class = record["experts"]["cls"]["per_class"]
        # It was fitted to the classes that have images in both splits, and ends with them.
        fitted = zip(record["class_counts"], per_class, strict=True)
        counts = [count for count, accuracy in fitted if count and accuracy is not None]
        heights = (crossing["at_fewest"], crossing["at_most"])
        axes.plot((min(counts), max(counts)), heights, color=color, linewidth=1, alpha=0.6)
    if crossing["class_count"] is not None:
        axes.plot(crossing["class_count"], 0, "|", color=color, markersize=length, markeredgewidth=2.5)
