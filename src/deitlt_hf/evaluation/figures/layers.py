"""Figures over the transformer blocks: how far heads look, the rank of features, the similarity of the two tokens."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from deitlt_hf.evaluation.figures.style import (
    TOKEN_LABELS,
    Records,
    Series,
    finish,
    floats,
    grid,
    label_blocks,
    legend_below,
    model_styles,
    panels_of_series,
    plot,
)


def attention_distance_figure(records: Records) -> Figure | None:
    """Mean attention distance per block: a dot for each head, and the line of their mean; a panel per kind of token.

    None where no model has tokens.
    """
    styles = model_styles(records)
    shown = {name: record for name, record in records.items() if "attention_distance" in record}
    if not shown:
        return None
    tokens = [token for token in TOKEN_LABELS if any(token in of["attention_distance"] for of in shown.values())]
    figure, panels = grid(len(tokens), sharey=True)
    spread = 0.5 / len(shown)  # the models' dots are side by side, so that they do not hide each other
    for axes, token in zip(panels, tokens, strict=True):
        for index, (name, record) in enumerate(shown.items()):
            if token not in record["attention_distance"]:
                continue
            heads = floats(record["attention_distance"][token])
            blocks = np.arange(1, len(heads) + 1) + spread * (index - (len(shown) - 1) / 2)
            look = {"color": styles[name]["color"], "marker": styles[name]["marker"], "alpha": 0.4}
            axes.plot(blocks, heads, linestyle="", markersize=4, **look)
            plot(axes, blocks, heads.mean(axis=1), Series(name, styles[name], record, token))
        label_blocks(axes)
        finish(axes, TOKEN_LABELS[token], ylabel="attention distance (pixels)" if axes is panels[0] else None)
    panels[0].set_ylim(bottom=0)
    legend_below(figure)
    return figure


def feature_rank_figure(records: Records) -> Figure | None:
    """Rank of the tokens' features per block, and the components' cumulated variance after the last block.

    The rank is the number of components that hold 99 % of the variance over the test images (paper: "rank of the
    features of each token"); the grey line in the right panels is at that share. None
    where no model has tokens.
    """
    rows = panels_of_series(records, {token: TOKEN_LABELS[token] for token in ("cls", "distillation")}, "feature_rank")
    if not rows:
        return None
    figure, panels = grid(2 * len(rows), columns=2)
    for (title, lines), per_block, gathered in zip(rows.items(), panels[::2], panels[1::2], strict=True):
        furthest = 1
        for line in lines:
            ranks = line.record["feature_rank"][line.key]
            plot(per_block, range(1, len(ranks) + 1), ranks, line)
            shares = 100 * np.cumsum(line.record["spectrum"][line.key][-1])
            plot(gathered, range(1, len(shares) + 1), shares, line, markevery=max(1, ranks[-1] // 8))
            furthest = max(furthest, ranks[-1])
        variance = 100 * lines[0].record["feature_rank"]["variance"]
        gathered.axhline(variance, color="0.5", linewidth=1, zorder=0)
        gathered.set_xlim(0, 1.3 * furthest + 1)
        per_block.set_ylim(bottom=0)
        label_blocks(per_block)
        of_token = f"{title}: " * bool(title)
        finish(per_block, f"{of_token}feature rank", ylabel=f"components for {variance:g} % of variance")
        finish(gathered, f"{of_token}after the last block", "number of components", "share of variance (%)")
    for column in (panels[::2], panels[1::2]):  # the same scale, so that tokens can be compared
        for limits, change in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
            ends = [getattr(axes, limits)() for axes in column]
            for axes in column:
                getattr(axes, change)(min(low for low, _ in ends), max(high for _, high in ends))
    legend_below(figure)
    return figure


def token_similarity_figure(records: Records) -> Figure | None:
    """Mean cosine similarity of the CLS and the DIST token per block; None where no model has both."""
    styles = model_styles(records)
    shown = {name: record for name, record in records.items() if record.get("token_similarity") is not None}
    if not shown:
        return None
    figure, (axes,) = grid(1)
    for name, record in shown.items():
        values = record["token_similarity"]
        plot(axes, range(1, len(values) + 1), values, Series(name, styles[name], record, "cls"))
    axes.axhline(0, color="0.5", linewidth=1, zorder=0)
    low, _ = axes.get_ylim()
    axes.set_ylim(min(low, -0.05), 1.05)
    label_blocks(axes)
    finish(axes, "CLS and DIST token", ylabel="cosine similarity")
    legend_below(figure)
    return figure
