"""Figures of what is predicted: accuracy against class frequency, agreement, calibration, and confused groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from deitlt_hf.evaluation.accuracy import EXPERT_LABELS, GROUPS, TABLE_COLUMNS
from deitlt_hf.evaluation.analysis_figures.style import (
    Series,
    finish,
    grid,
    legend_below,
    model_styles,
    panels_of_series,
    plot,
    shortened,
)
from deitlt_hf.evaluation.figures import FONT_SIZE, MAX_NAMED_CLASSES, head_to_tail, running_mean

Records = Mapping[str, Mapping[str, Any]]
PAIR_LABELS = {
    "cls-distillation": "CLS and DIST expert",
    "teacher-cls": "teacher and CLS expert",
    "teacher-distillation": "teacher and DIST expert",
}
_BIN = ("confidence", "accuracy", "count")
_BAR_HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++")
_PAIR_COLORS = dict(zip(PAIR_LABELS, ("#000000", "#0072B2", "#D55E00"), strict=True))


def class_frequency_figure(records: Records) -> Figure:
    """Accuracy of each class against its training images; beside it by how much DIST is better than CLS.

    A stroke in the right panel stands where the thin line, fitted to the differences, crosses 0. Above 30 classes,
    the others are means over neighbouring classes, whose number stands in the titles. Models with one token are in the
    left panel alone.

    Args:
        records: name -> record of `analyze_model`; of one model all experts are drawn, of several their own prediction.

    Example:
        >>> save_figure(class_frequency_figure({"DeiT-LT": analysis.record}), "classes.png")  # doctest: +SKIP
    """
    styles = model_styles(records)
    with_experts = {name: record for name, record in records.items() if "distillation" in record["experts"]}
    figure, panels = grid(2 if with_experts else 1, columns=2, height=4.8)
    for line in _own_or_experts(records):
        _plot_classes(panels[0], line, line.record["experts"][line.key]["per_class"])
    title = "accuracy of the experts" if len(records) == 1 else "accuracy of each model"
    finish(panels[0], title + _neighbours(records), "training images of the class", "accuracy (%)")
    panels[0].set_ylim(-3, 103)
    for place, (name, record) in enumerate(with_experts.items()):
        cls, distillation = (_floats(record["experts"][expert]["per_class"]) for expert in ("cls", "distillation"))
        style = styles[name] if len(records) > 1 else {"color": "#009E73", "marker": "D", "linestyle": "-"}
        _plot_classes(panels[1], Series(name, style, record, ""), distillation - cls, in_legend=len(records) > 1)
        # Strokes become shorter, so that those at the same place are all seen.
        _draw_crossing(panels[1], record, style["color"], 28 + 14 * (len(with_experts) - place))
    if with_experts:
        panels[1].axhline(0, color="0.5", linewidth=1, zorder=0)
        title = "DIST minus CLS expert, and a fitted line" + _neighbours(records)
        finish(panels[1], title, "training images of the class", "difference (points)")
    legend_below(figure)
    return figure


def agreement_figure(records: Records) -> Figure | None:
    """How often two of CLS, DIST and the teacher give an image the same class, by group; None where there are no pairs.

    Args:
        records: name -> record of `analyze_model`; of one model the pairs are side by side, of several the models, with
            a panel per pair.

    Example:
        >>> save_figure(agreement_figure({"DeiT-LT": analysis.record}), "agreement.png")  # doctest: +SKIP
    """
    pairs = [pair for pair in PAIR_LABELS if any(pair in record["agreement"] for record in records.values())]
    if not pairs:
        return None
    colors = {name: style["color"] for name, style in model_styles(records).items()}
    if len(records) == 1:
        (record,) = records.values()
        panels = {"": {PAIR_LABELS[pair]: (record["agreement"][pair], _PAIR_COLORS[pair]) for pair in pairs}}
    else:
        panels = {
            PAIR_LABELS[pair]: {
                name: (record["agreement"][pair], colors[name])
                for name, record in records.items()
                if pair in record["agreement"]
            }
            for pair in pairs
        }
    figure, axes = grid(len(panels), sharey=True)
    hatches = dict(zip(records if len(records) > 1 else panels[""], _BAR_HATCHES * len(records), strict=False))
    for panel, (title, bars) in zip(axes, panels.items(), strict=True):
        _draw_bars(panel, bars, hatches)
        finish(panel, title or "same class predicted", ylabel="images (%)" if panel is axes[0] else None)
    legend_below(figure)
    return figure


def reliability_figure(records: Records) -> Figure:
    """Accuracy against confidence, overall and by group, with the expected calibration error in the legends.

    Markers grow with the share of the images in their bin.

    Args:
        records: name -> record of `analyze_model`; of one model all experts are drawn, of several their own prediction.

    Example:
        >>> save_figure(reliability_figure({"DeiT-LT": analysis.record}), "reliability.png")  # doctest: +SKIP
    """
    figure, panels = grid(len(TABLE_COLUMNS), columns=2, height=4.6)
    for axes, group in zip(panels, TABLE_COLUMNS, strict=True):
        axes.plot([0, 100], [0, 100], color="0.6", linewidth=1, zorder=0)
        legend = []
        for line in _own_or_experts(records):
            calibration = line.record["calibration"][line.key][group]
            bins = [entry for entry in calibration["bins"] if entry["count"]]
            if not bins:
                continue
            confidence, accuracy, count = (_floats([entry[key] for entry in bins]) for key in _BIN)
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
    """Which group of classes the images of each group are said to be of, in percent of the images of a row.

    Args:
        records: name -> record of `analyze_model`; of one model a panel for each expert, of several one for each model.

    Example:
        >>> save_figure(confusion_figure({"DeiT-LT": analysis.record}), "confusion.png")  # doctest: +SKIP
    """
    lines = _own_or_experts(records)
    figure, panels = grid(len(lines))
    for axes, line in zip(panels, lines, strict=True):
        shares = _floats(line.record["confusion"][line.key]["groups"])
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


def _own_or_experts(records: Records) -> list[Series]:
    """Every expert of one model, or of several models each one's own prediction."""
    if len(records) == 1:
        return panels_of_series(records, EXPERT_LABELS, "experts")[""]
    styles = model_styles(records)
    return [Series(name, styles[name], record, record["model"]["prediction"]) for name, record in records.items()]


def _plot_classes(axes: Axes, line: Series, per_class: Any, in_legend: bool = True) -> None:
    order = head_to_tail(line.record)
    window = _window(line.record)
    counts = running_mean(_floats(line.record["class_counts"])[order], window)
    values = running_mean(_floats(per_class)[order], window)
    marks = {"markevery": max(1, len(order) // 15)}
    if in_legend:
        plot(axes, counts, values, line, **marks)
    else:
        axes.plot(counts, values, linewidth=1.8, markersize=6, **line.style, **marks)
    if counts.max() > 10 * max(counts.min(), 1):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_crossing(axes: Axes, record: Mapping[str, Any], color: str, length: int) -> None:
    """The line that was fitted to the differences, thin, and a stroke where it crosses 0."""
    crossing = record["crossing"]
    if crossing["slope"] is not None:
        per_class = record["experts"]["cls"]["per_class"]
        # It was fitted to the classes that have images in both splits, and ends with them.
        counts = [
            count
            for count, tested in zip(record["class_counts"], per_class, strict=True)
            if count and tested is not None
        ]
        heights = (crossing["at_fewest"], crossing["at_most"])
        axes.plot((min(counts), max(counts)), heights, color=color, linewidth=1, alpha=0.6)
    if crossing["class_count"] is not None:
        axes.plot(crossing["class_count"], 0, "|", color=color, markersize=length, markeredgewidth=2.5)


def _window(record: Mapping[str, Any]) -> int:
    classes = len(record["class_counts"])
    return max(3, 2 * (classes // 40) + 1) if classes > MAX_NAMED_CLASSES else 1


def _neighbours(records: Records) -> str:
    window = _window(next(iter(records.values())))
    return f" (mean over {window} neighbours)" if window > 1 else ""


def _draw_bars(axes: Axes, bars: Mapping[str, tuple[Mapping[str, Any], str]], hatches: Mapping[str, str]) -> None:
    width = 0.8 / len(bars)
    for index, (label, (shares, color)) in enumerate(bars.items()):
        places = np.arange(len(TABLE_COLUMNS)) + width * (index - (len(bars) - 1) / 2)
        values = _floats([shares[name] for name in TABLE_COLUMNS])
        look = {"color": color, "hatch": hatches[label], "edgecolor": "white", "linewidth": 0}
        drawn = axes.bar(places, values, width=0.92 * width, **look)
        drawn.shown_as = label
        if len(bars) <= 3:
            texts = ["" if np.isnan(value) else f"{value:.0f}" for value in values]
            axes.bar_label(drawn, texts, fontsize=FONT_SIZE - 1)
    axes.set_xticks(range(len(TABLE_COLUMNS)), TABLE_COLUMNS)
    axes.set(xlim=(-0.5, len(TABLE_COLUMNS) - 0.5), ylim=(0, 105))


def _floats(values: Any) -> np.ndarray:
    """Numbers of a record, in which None stands for nan."""
    return np.array(values, dtype=float)
