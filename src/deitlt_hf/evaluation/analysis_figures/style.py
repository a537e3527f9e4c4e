"""What the figures of an analysis have in common: how models, experts and tokens look, panels, and one legend below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deitlt_hf.errors import printable
from deitlt_hf.evaluation.figures import EXPERT_STYLES, FONT_SIZE, finish_axes

TOKEN_LABELS = {"all": "patches", "cls": "CLS token", "distillation": "DIST token"}
WIDTH = 12  # inches, as of the other figures; legible at half of it
LONGEST_NAME = 32

# Okabe and Ito's colours, with seven markers and five line styles: no two of the first 35 models look the same in grey.
_COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "^", "s", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


class Series(NamedTuple):
    """A line of a panel: its label, its look, and the model's record and the key (a token or expert) that it shows."""

    label: str
    style: dict[str, Any]
    record: Mapping[str, Any]
    key: str


def model_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each model.

    Example:
        >>> model_styles(["ViT", "DeiT-LT"])["DeiT-LT"]
        {'color': '#D55E00', 'marker': '^', 'linestyle': '--'}
    """
    return {
        name: {
            "color": _COLORS[index % len(_COLORS)],
            "marker": _MARKERS[index % len(_MARKERS)],
            "linestyle": _LINES[index % len(_LINES)],
        }
        for index, name in enumerate(names)
    }


def panels_of_series(
    records: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str], part: str
) -> dict[str, list[Series]]:
    """What to draw where: one model's tokens (or experts) in one panel, or several models in a panel for each of these.

    Args:
        records: name -> record.
        labels: key -> label, of tokens or experts; those that no model has get no panel.
        part: the part of the record that has such keys.

    Returns:
        Title of a panel -> its lines.
    """
    if len(records) == 1:
        (record,) = records.values()
        lines = [Series(label, EXPERT_STYLES[key], record, key) for key, label in labels.items() if key in record[part]]
        return {"": lines} if lines else {}
    styles = model_styles(records)
    panels = {
        title: [Series(name, styles[name], record, key) for name, record in records.items() if key in record[part]]
        for key, title in labels.items()
    }
    return {title: lines for title, lines in panels.items() if lines}


def grid(panels: int, columns: int = 3, height: float = 4.2, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, at most `columns` side by side; `height` in inches is that of a row."""
    columns = min(panels, columns)
    rows = -(-panels // columns)
    width = WIDTH * (columns + 1) / (columns + 2) if columns < 2 else WIDTH  # a lone panel need not be as wide
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).flatten()
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, list(axes[:panels])


def legend_below(figure: Figure) -> None:
    """One legend for all panels: each label once, as it is first drawn."""
    drawn: dict[str, Any] = {}
    for axes in figure.axes:
        for handle in [*axes.get_lines(), *axes.containers]:
            label = getattr(handle, "shown_as", None)
            if label is not None:
                drawn.setdefault(label, handle)
    if len(drawn) < 2:
        return
    labels = [shortened(label) for label in drawn]
    columns = max(1, min(len(labels), 110 // (max(map(len, labels)) + 6)))  # so many letters fit side by side
    legend = figure.legend(
        list(drawn.values()), labels, loc="outside lower center", ncols=columns, fontsize=FONT_SIZE, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def plot(axes: Axes, x: Iterable[float], y: Iterable[float | None], line: Series, **options: Any) -> None:
    """A line with markers that `legend_below` knows; gaps where a value is None."""
    values = np.array(list(y), dtype=float)
    look = {"linewidth": 1.8, "markersize": 6} | line.style | options
    axes.plot(list(x), values, **look)[0].shown_as = line.label


def label_blocks(axes: Axes) -> None:
    """The axis of the layers, counted from 1."""
    axes.set_xlabel("transformer block", fontsize=FONT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))


def finish(axes: Axes, title: str, xlabel: str | None = None, ylabel: str | None = None) -> None:
    """Title, labels and sizes, as in the other figures."""
    finish_axes(axes, title)
    axes.title.set_parse_math(False)  # a "$" in a model's name is a dollar sign
    for axis, label in ((axes.xaxis, xlabel), (axes.yaxis, ylabel)):
        if label is not None:
            axis.set_label_text(label, fontsize=FONT_SIZE)


def shortened(name: str, length: int = LONGEST_NAME) -> str:
    """A name for a figure, a long one without its middle: neighbouring names tend to differ at their ends.

    Example:
        >>> shortened("cifar10-lt-small-teacher-seed-0", 16)
        'cifar10…r-seed-0'
    """
    name = printable(name)
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length - length // 2) :]}"
