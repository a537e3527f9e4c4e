"""What a page says of a figure where the mouse is: upright strips over an axes, each with its lines of text.

A strip reaches halfway to its neighbours, so that every place in the axes belongs to the nearest class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_NARROWEST = 0.2  # percent of the figure's width; places that are closer share a strip
_MOST_LINES = 6


class Strip(NamedTuple):
    """A part of a figure, in percent of its width and height from the upper left corner, and what it says."""

    left: float
    top: float
    width: float
    height: float
    lines: list[str]


def say_at(axes: Axes, places: Sequence[float] | np.ndarray, texts: Sequence[str]) -> None:
    """Keep what is to be said at places of the x axis, which `strips_of` reads."""
    axes.said_at = (np.asarray(places, dtype=float), list(texts))


def strips_of(figure: Figure) -> list[Strip]:
    """The strips of all axes of a figure that was drawn or saved, which gave the axes their places."""
    return [strip for axes in figure.axes if hasattr(axes, "said_at") for strip in _strips(figure, axes)]


def _strips(figure: Figure, axes: Axes) -> list[Strip]:
    places, texts = axes.said_at
    to_percent = axes.transData + figure.transFigure.inverted()
    middles = 100 * to_percent.transform(np.column_stack([places, np.full(len(places), axes.get_ylim()[0])]))[:, 0]
    box = axes.get_position()
    left, right = 100 * box.x0, 100 * box.x1
    lines: dict[int, list[str]] = {}  # by the strip's number from the left of the figure
    for middle, text in zip(middles, texts, strict=True):
        if left <= middle <= right:  # a class without images has no place on a logarithmic axis
            lines.setdefault(round(middle / _NARROWEST), []).append(text)
    numbers = sorted(lines)
    centers = _NARROWEST * np.asarray(numbers, dtype=float)
    edges = [left, *((centers[1:] + centers[:-1]) / 2), right]
    return [
        Strip(start, 100 * (1 - box.y1), end - start, 100 * box.height, _first(lines[number]))
        for number, start, end in zip(numbers, edges[:-1], edges[1:], strict=True)
    ]


def _first(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MOST_LINES else [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more"]
