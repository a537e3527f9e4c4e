"""Example pictures with each token's attention in the last block, and its rollout through all blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from PIL import Image

from deitlt_hf.evaluation.attention import draw_attention
from deitlt_hf.evaluation.figures.style import FONT_SIZE, WIDTH, shortened
from deitlt_hf.evaluation.measures import EXPERT_LABELS

if TYPE_CHECKING:
    from deitlt_hf.evaluation.analysis.analyze import Analysis

_SHORT_LABELS = {expert: label.removesuffix(" expert") for expert, label in EXPERT_LABELS.items()}


def examples_figure(analysis: Analysis) -> Figure | None:
    """A row per example: predicted classes, picture, attention and rollout of each token; None without examples."""
    if not analysis.examples:
        return None
    names = analysis.record["class_names"]
    maps_shown = [(kind, token) for kind in ("attention", "rollout") for token in analysis.examples[0].attention]
    figure = Figure(figsize=(WIDTH, 1.95 * len(analysis.examples) + 0.4), layout="constrained")
    rows = figure.subplots(len(analysis.examples), 2 + len(maps_shown), squeeze=False)
    for example, (words, picture, *maps) in zip(analysis.examples, rows, strict=True):
        lines = [f"true: {shortened(names[example.label], 18)}"]
        for expert, label in example.predicted.items():
            mark = "✓" if label == example.label else "✗"
            lines.append(f"{_SHORT_LABELS[expert]}: {shortened(names[label], 14)} {mark}")
        words.text(0, 0.5, "\n".join(lines), va="center", fontsize=FONT_SIZE + 1, linespacing=1.5, parse_math=False)
        image = _enlarged(Image.fromarray(example.image))
        picture.imshow(image)
        for axes, (kind, token) in zip(maps, maps_shown, strict=True):
            axes.imshow(draw_attention(image, getattr(example, kind)[token]))
    for axes, (kind, token) in zip(rows[0, 2:], maps_shown, strict=True):
        axes.set_title(f"{_SHORT_LABELS[token]} {kind}", fontsize=FONT_SIZE + 1)
    for axes in rows.flat:
        axes.axis("off")
    return figure


def _enlarged(image: Image.Image) -> Image.Image:
    """At least 224 pixels, so that patches of a small picture have sharp edges in print."""
    times = -(-224 // max(image.size))
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
