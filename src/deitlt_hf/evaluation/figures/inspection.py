"""A picture of a data set: training images per class, and the sizes of the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deitlt_hf.errors import counted
from deitlt_hf.evaluation.figures.hover import say_at
from deitlt_hf.evaluation.figures.run import draw_class_counts
from deitlt_hf.evaluation.figures.style import FONT_SIZE, WIDTH, finish, head_to_tail, label_logarithmic

if TYPE_CHECKING:
    from deitlt_hf.data.inspection import Inspection, SplitInspection

_SIDE_STYLES = {
    "width": {"facecolor": "#0072B2"},
    "height": {"facecolor": "#E69F00", "hatch": "..", "edgecolor": "white", "linewidth": 0},
}


def inspection_figure(inspection: Inspection) -> Figure:
    """One picture of a data set, from what `inspect_dataset` found."""
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    grid = figure.add_gridspec(1, 5)
    classes = {
        "class_counts": inspection.class_counts,
        "class_names": inspection.class_names,
        "groups": inspection.class_groups,
    }
    axes, order = figure.add_subplot(grid[0, :3]), head_to_tail(classes)
    draw_class_counts(axes, classes)
    group_of = {class_id: group for group, class_ids in inspection.class_groups.items() for class_id in class_ids}
    named = [
        f"{inspection.class_names[class_id]}: {counted(inspection.class_counts[class_id], 'training image')}, "
        f"{group_of[class_id]}"
        for class_id in order
    ]
    say_at(axes, range(len(order)), named)
    draw_image_sizes(figure.add_subplot(grid[0, 3:]), inspection.splits)
    return figure


def draw_image_sizes(axes: Axes, splits: Mapping[str, SplitInspection]) -> None:
    """Draw the spread of the images' widths and heights in each split: range, middle half and median."""
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
    finish(axes, "Image sizes: range, middle half, median", xlabel="pixels")
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows], parse_math=False)
    if not rows:
        return
    axes.set_ylim(len(rows) - 0.5, -0.75)
    smallest, largest = (pick(spread[end] for _, spread, _ in rows) for pick, end in ((min, "min"), (max, "max")))
    if largest > 10 * smallest:
        axes.set_xscale("log")
        axes.set_xlim(smallest / 1.3, largest * 1.3)
        label_logarithmic(axes.xaxis)
    else:
        margin = 0.1 * (largest - smallest) or 0.5 * largest
        axes.set_xlim(smallest - margin, largest + margin)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
