"""An inspection as text, what matters first."""

from __future__ import annotations

import numpy as np

from deitlt_hf.data.inspection import Inspection, SplitInspection
from deitlt_hf.errors import printable

MAX_NAMES_LENGTH = 40


def format_inspection(inspection: Inspection) -> str:
    """The classes, then the images of each split, then what is worth a warning, as aligned text.

    Args:
        inspection: what `inspect_dataset` found.

    Returns:
        Lines joined by newlines, without one at the end.

    Example:
        >>> from deitlt_hf import load_long_tailed_dataset
        >>> from deitlt_hf.data.inspection import inspect_dataset
        >>> print(format_inspection(inspect_dataset(load_long_tailed_dataset("digits-lt"))))
        classes           10, from 134 images (0) down to 6 (9)
        imbalance factor  22.3; Gini coefficient 0.47
        head, mid, tail   1, 5 and 4 classes; 134, 273 and 46 images
        DRW's weights     0.141 (0) to 3.13 (9)
        duplicates        none
        <BLANKLINE>
                                          train           test
        images                              453            400
        unreadable                            0              0
        width: min, median, max         8, 8, 8        8, 8, 8
        height: min, median, max        8, 8, 8        8, 8, 8
        most common size          8 x 8 (100 %)  8 x 8 (100 %)
        modes                         RGB 100 %      RGB 100 %
        file formats                  PNG 100 %      PNG 100 %
    """
    rows = [*_class_rows(inspection), *_duplicates_rows(inspection)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}" for name, text in rows]
    lines += ["", *_split_table(inspection)]
    warnings = inspection.warnings()
    if warnings:
        lines += ["", *(f"warning: {printable(warning)}" for warning in warnings)]
    return "\n".join(lines)


def _class_rows(inspection: Inspection) -> list[tuple[str, str]]:
    counts = np.asarray(inspection.class_counts)
    weights = np.asarray(inspection.drw_weights)
    names = [_cut(printable(name)) for name in inspection.class_names]
    largest, smallest = counts.argmax(), counts.argmin()
    groups = [inspection.class_groups[name] for name in ("head", "mid", "tail")]
    sizes, images = [str(len(group)) for group in groups], [str(counts[group].sum()) for group in groups]
    return [
        ("classes", f"{len(counts)}, from {counts[largest]} images ({names[largest]}) down to {counts[smallest]} "
         f"({names[smallest]})"),
        ("imbalance factor", f"{inspection.imbalance_factor:.3g}; Gini coefficient {inspection.gini:.2f}"),
        ("head, mid, tail", f"{_listed(sizes)} classes; {_listed(images)} images"),
        ("DRW's weights", f"{weights.min():.3g} ({names[weights.argmin()]}) to {weights.max():.3g} "
         f"({names[weights.argmax()]})"),
    ]  # fmt: skip


def _duplicates_rows(inspection: Inspection) -> list[tuple[str, str]]:
    found = inspection.duplicates
    if not found.groups:
        return [("duplicates", "none")]
    places = [f"{number} within {split}" for split, number in found.within.items() if number]
    places += [f"{found.across} across splits"] if found.across else []
    images = "1 image" if found.groups == 1 else f"{found.groups} images"
    first, second = found.examples[0][:2]
    return [
        ("duplicates", f"{images} more than once ({', '.join(places)}), for instance"),
        ("", printable(first)),
        ("", printable(second)),
    ]


def _split_table(inspection: Inspection) -> list[str]:
    columns = [_split_column(split) for split in inspection.splits.values()]
    first = [*columns[0]]
    cells = [["", *inspection.splits], *([name, *(column[name] for column in columns)] for name in first)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [f"{row[0]:<{widths[0]}}" + _right(row[1:], widths[1:]) for row in cells]


def _right(cells: list[str], widths: list[int]) -> str:
    return "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _split_column(split: SplitInspection) -> dict[str, str]:
    sizes = "-"
    if split.common_sizes:
        width, height, images = split.common_sizes[0]
        sizes = f"{width} x {height} ({_percent(images, split.images - split.unreadable)})"
    return {
        "images": str(split.images),
        "unreadable": str(split.unreadable),
        "width: min, median, max": _spread(split.width),
        "height: min, median, max": _spread(split.height),
        "most common size": sizes,
        "modes": _shares(split.modes),
        "file formats": _shares(split.formats),
    }


def _spread(spread: dict[str, float]) -> str:
    return ", ".join(f"{spread[name]:g}" for name in ("min", "median", "max")) if spread else "-"


def _shares(numbers: dict[str, int]) -> str:
    total = sum(numbers.values())
    parts = [f"{name} {_percent(number, total)}" for name, number in list(numbers.items())[:4]]
    return ", ".join(parts + (["..."] if len(numbers) > 4 else [])) or "-"


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.0f} %" if share == round(share) or 1 <= share <= 99 else f"{share:.1f} %"


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAMES_LENGTH else f"{name[: MAX_NAMES_LENGTH - 1]}…"
