"""The figures of the study, from what the runs saved: means over seeds, with their standard deviation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deitlt_hf import mean_attention_distance
from deitlt_hf.evaluation.figures.run import draw_class_accuracy
from deitlt_hf.evaluation.figures.style import EXPERT_STYLES, FONT_SIZE, finish, head_to_tail, save_figure
from deitlt_hf.evaluation.measures import EXPERTS, GROUPS
from study.saved_runs import STUDENTS, Run, Runs, mean_and_deviation

SIZE = (9, 4.8)  # inches; drawn at half of it the text is still read
# Okabe and Ito's colours; hatches, markers and lines say the same in grey.
_STYLES = {
    "vit": {"color": "#999999", "hatch": "", "marker": "o", "linestyle": "-."},
    "deit": {"color": "#56B4E9", "hatch": "//", "marker": "s", "linestyle": "--"},
    "no-drw": {"color": "#009E73", "hatch": "\\\\", "marker": "D", "linestyle": ":"},
    "no-sam": {"color": "#E69F00", "hatch": "..", "marker": "^", "linestyle": "--"},
    "deit-lt": {"color": "#D55E00", "hatch": "", "marker": "v", "linestyle": "-"},
}


def draw_all(runs: Runs, folder: Path) -> dict[str, Path | None]:
    """Draw what the runs suffice for; the files by what they show, None for what is not measured yet."""
    figures = {
        "accuracy": accuracy_figure(runs),
        "experts": experts_figure(runs),
        "attention distance": attention_distance_figure(runs),
        "rank": rank_figure(runs),
    }
    files = {name: folder / f"study-{name.replace(' ', '-')}.png" for name in figures}
    for name, figure in figures.items():
        if figure is not None:
            save_figure(figure, files[name])
    return {name: None if figure is None else files[name] for name, figure in figures.items()}


def accuracy_figure(runs: Runs) -> Figure | None:
    """Each student's own prediction: overall, head, mid and tail, side by side."""
    trained = [name for name in runs if runs[name]]
    if not trained:
        return None
    figure, axes = _figure()
    columns = ("overall", *GROUPS)
    width = 0.84 / len(trained)
    for place, name in enumerate(trained):
        spread = [mean_and_deviation(run.accuracy(group) for run in runs[name].values()) for group in columns]
        style = {"facecolor": _STYLES[name]["color"], "hatch": _STYLES[name]["hatch"]}
        axes.bar(
            np.arange(len(columns)) + (place - (len(trained) - 1) / 2) * width,
            [mean for mean, _ in spread],
            width,
            yerr=None if len(runs[name]) == 1 else [deviation for _, deviation in spread],
            label=_label(name, runs[name]),
            edgecolor="white",
            linewidth=0,
            error_kw={"elinewidth": 1.5, "capsize": 3},
            **style,
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])  # room for the legend
    _finish(axes, "Test accuracy of each student's own prediction", "accuracy (%)")
    return figure


def experts_figure(runs: Runs) -> Figure | None:
    """Accuracy of DeiT-LT's experts on each class, most frequent first, the mean over seeds."""
    found = [run.metrics for run in runs["deit-lt"].values()]
    if not found:
        return None
    figure, axes = _figure()
    per_class = {expert: np.array([run["experts"][expert]["per_class"] for run in found], float) for expert in EXPERTS}
    counts = found[0]["class_counts"]
    names = [f"{name} {count}" for name, count in zip(found[0]["class_names"], counts, strict=True)]
    experts = {expert: {"per_class": values.mean(0)} for expert, values in per_class.items()}
    draw_class_accuracy(axes, found[0] | {"class_names": names, "experts": experts})
    order = head_to_tail(found[0])
    for expert, values in per_class.items():
        _draw_band(axes, np.arange(len(order)), values[:, order], EXPERT_STYLES[expert]["color"])
    axes.set_title(f"Accuracy per class: {_label('deit-lt', found)}", fontsize=FONT_SIZE + 1)
    axes.set_xlabel("class and its training images", fontsize=FONT_SIZE)
    return figure


def attention_distance_figure(runs: Runs) -> Figure | None:
    """How far ViT and DeiT-LT attend in each block, beside attention that is the same everywhere."""
    distances = _of_blocks(runs, ("vit", "deit-lt"), Run.attention_distance)
    if not distances:
        return None
    figure, axes = _figure()
    _draw_blocks(axes, distances)
    analyses = (run.analysis for of_seeds in runs.values() for run in of_seeds.values() if run.analysis)
    uniform = uniform_distance(next(analyses)["model"])
    axes.axhline(uniform, color="0.5", linewidth=1.5, linestyle=(0, (1, 3)), label="uniform attention")
    _finish(axes, "Attention distance, mean over heads and patches", "pixels")
    return figure


def uniform_distance(model: Mapping[str, int]) -> float:
    """Attention distance in pixels where all patches get the same."""
    patches = (model["image_size"] // model["patch_size"]) ** 2
    uniform = torch.full((1, 1, patches, patches), 1 / patches)
    return mean_attention_distance(uniform, model["patch_size"], num_special_tokens=0).item()


def rank_figure(runs: Runs) -> Figure | None:
    """Rank of DIST's features in each block, with SAM in the teacher and without."""
    ranks = _of_blocks(runs, ("no-sam", "deit-lt"), Run.distillation_rank)
    if not ranks:
        return None
    figure, axes = _figure()
    _draw_blocks(axes, ranks)
    _finish(axes, "Components that hold 99 % of the variance of DIST's features", "components")
    return figure


def _of_blocks(runs: Runs, names: Sequence[str], measure: Callable[[Run], list[float] | None]) -> dict[str, np.ndarray]:
    """`(seeds, blocks)` of a measure, for the students of which some run is analysed."""
    measured = {name: [measure(run) for run in runs[name].values()] for name in names}
    measured = {name: [values for values in of_seeds if values] for name, of_seeds in measured.items()}
    return {name: np.array(of_seeds, dtype=float) for name, of_seeds in measured.items() if of_seeds}


def _draw_blocks(axes: Axes, measured: Mapping[str, np.ndarray]) -> None:
    for name, values in measured.items():
        blocks = np.arange(1, values.shape[1] + 1)
        style = {key: _STYLES[name][key] for key in ("color", "marker", "linestyle")}
        axes.plot(blocks, values.mean(0), label=_label(name, values), linewidth=2, **style)
        _draw_band(axes, blocks, values, style["color"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("block", fontsize=FONT_SIZE)


def _draw_band(axes: Axes, places: np.ndarray, values: np.ndarray, color: str) -> None:
    """One standard deviation over seeds to both sides of the mean, where there are several."""
    if len(values) > 1:
        mean, deviation = values.mean(0), values.std(0, ddof=1)
        axes.fill_between(places, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.add_subplot()


def _label(name: str, of_seeds: Sized) -> str:
    return f"{STUDENTS[name].title} ({'1 seed' if len(of_seeds) == 1 else f'{len(of_seeds)} seeds'})"


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_ylabel(unit, fontsize=FONT_SIZE)
    axes.legend(fontsize=FONT_SIZE - 1, framealpha=0.9)
    finish(axes, title)
