"""Class counts in the tables of cards, of models and of data sets."""

from __future__ import annotations

from collections.abc import Sequence

MAX_LISTED_CLASSES = 100
SHOWN_ENDS = 10


def group_row(name: str, counts: Sequence[int]) -> tuple[str, str, str, str]:
    """Name, classes, their training images from most to fewest, and these together.

    Example:
        >>> group_row("tail", [9, 13, 6])
        ('tail', '3', '13 to 6', '28')
    """
    images = "none"
    if counts:
        images = f"{max(counts):,}" + (f" to {min(counts):,}" if min(counts) < max(counts) else "")
    return name, f"{len(counts):,}", images, f"{sum(counts):,}"


def labels_to_list(counts: Sequence[int]) -> tuple[list[int], str]:
    """Labels, the largest class first; of many classes those at both ends, and what a title says of that.

    Example:
        >>> labels_to_list([6, 134, 18])
        ([1, 2, 0], '')
    """
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    if len(order) <= MAX_LISTED_CLASSES:
        return order, ""
    which = f": the {SHOWN_ENDS} largest and the {SHOWN_ENDS} smallest of {len(order):,}"
    return order[:SHOWN_ENDS] + order[-SHOWN_ENDS:], which
