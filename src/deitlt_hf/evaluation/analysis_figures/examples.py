"""Example pictures: what each token attends to in the last block, and by rollout what reaches it through all blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from deitlt_hf.evaluation.analysis_figures.style import WIDTH, shortened
from deitlt_hf.evaluation.attention import draw_attention
from deitlt_hf.evaluation.figures import FONT_SIZE

if TYPE_CHECKING:
    from deitlt_hf.evaluation.analysis.analyze import Analysis

_SHORT_LABELS = {"average": "average", "cls": "CLS", "distillation": "DIST"}
_SMALLEST = 224  # pixels of a drawing: so few that patches of a small picture have sharp edges in print


def examples_figure(analysis: Analysis) -> Figure | None:
    """A row for each example: the picture with what is said of it, then the attention and the rollout of each token.

    Colours of a map go from 0 to its own largest weight, see `draw_attention`.

    Args:
        analysis: what `analyze_model` returned; None is given back where it has no examples.

    Example:
        >>> save_figure(examples_figure(analysis), "examples.png")  # doctest: +SKIP
    """
    if not analysis.examples:
        return None
    names = analysis.record["class_names"]
    tokens = [token for token in ("cls", "distillation") if token in analysis.examples[0].attention]
    kinds = [(kind, token) for kind in ("attention", "rollout") for token in tokens]
    figure = Figure(figsize=(WIDTH, 1.95 * len(analysis.examples) + 0.4), layout="constrained")
    rows = figure.subplots(len(analysis.examples), 2 + len(kinds), squeeze=False)
    for example, (said, picture, *maps) in zip(analysis.examples, rows, strict=True):
        lines = [f"true: {shortened(names[example.label], 18)}"]
        for expert, label in example.predicted.items():
            mark = "✓" if label == example.label else "✗"
            lines.append(f"{_SHORT_LABELS[expert]}: {shortened(names[label], 14)} {mark}")
        said.text(0, 0.5, "\n".join(lines), va="center", fontsize=FONT_SIZE + 1, linespacing=1.5, parse_math=False)
        image = _enlarged(example.image)
        picture.imshow(image)
        for axes, (kind, token) in zip(maps, kinds, strict=True):
            axes.imshow(draw_attention(image, getattr(example, kind)[token]))
    for axes, (kind, token) in zip(rows[0, 2:], kinds, strict=True):
        axes.set_title(f"{_SHORT_LABELS[token]} {kind}", fontsize=FONT_SIZE + 1)
    for axes in rows.flat:
        axes.axis("off")
    return figure


def _enlarged(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    times = -(-_SMALLEST // max(image.size))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
