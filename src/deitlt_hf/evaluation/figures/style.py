"""What the figures have in common: colours, markers, axes, one legend for all panels, and how a figure is saved.

Everything is drawn with matplotlib's object API, so no global state (backend, current figure) changes. Colours are
Okabe and Ito's, which colour-blind readers can tell apart; hatches, markers and line styles tell the same in grey.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import ascii_letters, digits
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from deitlt_hf.errors import DeiTLTError, printable
from deitlt_hf.evaluation.measures import FUSED, GROUPS, MODEL
from deitlt_hf.files import whole_file

Records = Mapping[str, Mapping[str, Any]]  # name -> record of `analyze_model`

WIDTH = 12  # inches; figures stay legible when printed at half of it
FONT_SIZE = 11
MAX_NAMED_CLASSES = 30
LONGEST_NAME = 32
TOKEN_LABELS = {"all": "patches", "cls": "CLS token", "distillation": "DIST token"}
EXPERT_STYLES = {
    "average": {"color": "#000000", "linestyle": "-", "marker": "o"},
    "cls": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "distillation": {"color": "#D55E00", "linestyle": ":", "marker": "^"},
    FUSED: {"color": "#CC79A7", "linestyle": "-.", "marker": "v"},
    MODEL: {"color": "#000000", "linestyle": "-", "marker": "o"},
}
# With seven markers and five line styles no two of the first 35 models look the same in grey.
_COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "^", "s", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure at 150 dots per inch, whole or not at all; the suffix (`.png`, `.svg`, ...) is the format."""
    path = Path(path)
    file_format = path.suffix.lower().lstrip(".")
    if file_format not in figure.canvas.get_supported_filetypes():
        raise DeiTLTError(f"cannot write a figure to {path.name!r}: pass a name that ends in .png, .svg or .pdf")
    with whole_file(path) as unfinished, warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes; a user cannot change that.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(unfinished, format=file_format, dpi=150)


class Series(NamedTuple):
    """A line of a panel."""

    label: str | None  # None: not in the legend
    style: dict[str, Any]
    record: Mapping[str, Any]  # of a model
    key: str  # the token or expert of the record that is drawn


def model_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each model."""
    return {
        name: {
            "color": _COLORS[index % len(_COLORS)],
            "marker": _MARKERS[index % len(_MARKERS)],
            "linestyle": _LINES[index % len(_LINES)],
        }
        for index, name in enumerate(names)
    }


def panels_of_series(
    records: Records, labels: Mapping[str, str], part: str, styles: Mapping[str, dict[str, Any]] = EXPERT_STYLES
) -> dict[str, list[Series]]:
    """Title of each panel -> its lines: one panel for a single model, of several models one for each of `labels`.

    `labels` are by the keys (tokens, experts, pairs of them) of `record[part]`, which some records lack; `styles` are
    for a single model.
    """
    if len(records) == 1:
        (record,) = records.values()
        lines = [
            Series(label, styles[key], record, key) for key, label in labels.items() if key in record.get(part, ())
        ]
        return {"": lines} if lines else {}
    of_model = model_styles(records)
    panels = {
        title: [Series(name, of_model[name], of, key) for name, of in records.items() if key in of.get(part, ())]
        for key, title in labels.items()
    }
    return {title: lines for title, lines in panels.items() if lines}


def grid(panels: int, columns: int = 3, height: float = 4.2, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with this number of panels, at most `columns` side by side; `height` in inches is that of a row."""
    columns = min(panels, columns)
    rows = -(-panels // columns)
    width = WIDTH if columns > 1 else WIDTH * 2 / 3  # a single panel can be narrower
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).flatten()
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, list(axes[:panels])


def plot(axes: Axes, x: Iterable[float], y: Iterable[float | None], line: Series, **options: Any) -> None:
    """Draw a line with markers, which `legend_below` lists; it has gaps where a value is None."""
    values = np.array(list(y), dtype=float)
    look = {"linewidth": 1.8, "markersize": 6} | line.style | options
    axes.plot(list(x), values, **look)[0].shown_as = line.label


def legend_below(figure: Figure) -> None:
    """Draw one legend for all panels, with each label once, as it is drawn first."""
    # Not matplotlib's own labels: it leaves out those that begin with "_", as a model's name may.
    drawn: dict[str, Any] = {}
    for axes in figure.axes:
        for handle in [*axes.get_lines(), *axes.containers]:
            label = getattr(handle, "shown_as", None)
            if label is not None:
                drawn.setdefault(label, handle)
    if len(drawn) < 2:
        return
    labels = [shortened(label) for label in drawn]
    columns = max(1, min(len(labels), 110 // (max(map(len, labels)) + 6)))  # about 110 letters fit side by side
    legend = figure.legend(
        list(drawn.values()), labels, loc="outside lower center", ncols=columns, fontsize=FONT_SIZE, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def finish(axes: Axes, title: str, xlabel: str | None = None, ylabel: str | None = None) -> None:
    """Title, labels and sizes."""
    axes.set_title(title, fontsize=FONT_SIZE + 1, parse_math=False)  # a "$" in a model's name is a dollar sign
    axes.tick_params(labelsize=FONT_SIZE - 1)
    axes.spines[["top", "right"]].set_visible(False)
    for axis, label in ((axes.xaxis, xlabel), (axes.yaxis, ylabel)):
        if label is not None:
            axis.set_label_text(label, fontsize=FONT_SIZE)


def label_blocks(axes: Axes) -> None:
    """The axis of the layers, counted from 1."""
    axes.set_xlabel("transformer block", fontsize=FONT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))


def label_logarithmic(axis: Axis) -> None:
    """Plain numbers (1, 2, 5, 10, ...) on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def shortened(name: str, length: int = LONGEST_NAME, end: int | None = None) -> str:
    """A name for a figure; a long one is cut in the middle, since similar names often differ at their ends."""
    name = printable(name)
    end = length - length // 2 if end is None else end
    return name if len(name) <= length else f"{name[: length - end - 1]}…{name[-end:]}"


def shortened_names(names: Iterable[str], length: int = LONGEST_NAME, end: int | None = None) -> list[str]:
    """`shortened` names of classes; those that would look the same lose the words that all of them begin with.

    Example:
        >>> shortened_names(["scratch on the left side", "scratch on the right side"], 12)
        ['…left side', '…right side']
    """
    names = [printable(name) for name in names]
    texts = [shortened(name, length, end) for name in names]
    for text in {text for text in texts if texts.count(text) > 1}:
        places = [place for place, of in enumerate(texts) if of == text]
        first, last = (of(names[place] for place in places) for of in (min, max))
        common = next((place for place, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), 0)
        start = len(first[:common].rstrip(ascii_letters + digits)) or common
        for place in places:
            texts[place] = f"…{shortened(names[place][start:], length - 1, end)}"
    return texts


def head_to_tail(metrics: Mapping[str, Any]) -> np.ndarray:
    """Class ids, most frequent first; of equally frequent classes those of the group nearer to the head."""
    group_of = np.empty(len(metrics["class_counts"]), dtype=int)
    for index, name in enumerate(GROUPS):
        group_of[metrics["groups"][name]] = index
    return np.lexsort((-np.asarray(metrics["class_counts"]), group_of))


def neighbours(num_classes: int) -> int:
    """The number of neighbouring classes whose mean is drawn: 1 up to `MAX_NAMED_CLASSES`, else a fortieth, odd."""
    return max(3, 2 * (num_classes // 40) + 1) if num_classes > MAX_NAMED_CLASSES else 1


def over_neighbours(num_classes: int) -> str:
    """The end of a title that says over how many neighbouring classes the means are."""
    window = neighbours(num_classes)
    return f" (mean over {window} neighbours)" if window > 1 else ""


def running_mean(values: np.ndarray) -> np.ndarray:
    """Means over neighbouring classes, over fewer at the ends and without nan; nan where no neighbour has a value."""
    return pd.Series(values).rolling(neighbours(len(values)), center=True, min_periods=1).mean().to_numpy()


def floats(values: Any) -> np.ndarray:
    """Numbers of a record as an array, nan for None."""
    return np.array(values, dtype=float)
