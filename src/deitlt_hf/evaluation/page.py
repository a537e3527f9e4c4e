"""An analysis as files: `analysis.json`, figures as PNG and SVG, and a page with all of it that needs no other file."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.figure import Figure

from deitlt_hf.errors import DeiTLTError, printable
from deitlt_hf.evaluation.compare import accuracy_cells, compare_models, difference_cells
from deitlt_hf.evaluation.figures.classes import (
    agreement_figure,
    class_frequency_figure,
    confusion_figure,
    reliability_figure,
)
from deitlt_hf.evaluation.figures.examples import examples_figure
from deitlt_hf.evaluation.figures.layers import (
    attention_distance_figure,
    feature_rank_figure,
    token_similarity_figure,
)
from deitlt_hf.evaluation.figures.style import WIDTH, save_figure
from deitlt_hf.evaluation.measures import EXPERT_LABELS, GROUPS, MEASURES, describe_group, describe_intervals
from deitlt_hf.files import new_directory

if TYPE_CHECKING:
    from deitlt_hf.evaluation.analysis.analyze import Analysis

ANALYSIS_FILE, PAGE_FILE, FIGURES_DIRECTORY = "analysis.json", "index.html", "figures"
MOST_CLASSES = 200  # in the table of classes; more are only in the JSON file


class Section(NamedTuple):
    """A figure of the page: its file's name, its title, and how to read it."""

    name: str
    title: str
    reading: str
    draw: Callable[[Mapping[str, Mapping[str, Any]]], Figure | None]


SECTIONS = (
    Section(
        "class_frequency",
        "Accuracy by class frequency",
        "On rare classes the DIST expert should lead (above 0 in the right panel) and on frequent ones the CLS expert, "
        "which is what DeiT-LT trains for (Rangwani et al. 2024); the stroke is where a fitted line crosses 0.",
        class_frequency_figure,
    ),
    Section(
        "agreement",
        "Agreement",
        "A low bar says that the two give different answers and so have something to add to each other; DeiT-LT wants "
        "CLS and DIST to differ, which is why the teacher labels out-of-distribution views (Rangwani et al. 2024).",
        agreement_figure,
    ),
    Section(
        "attention_distance",
        "Mean attention distance",
        "Each dot is a head, the line is their mean; low means local, as in a convolution, and DeiT-LT's first blocks "
        "are reported to be more local than a ViT's (measure: Dosovitskiy et al. 2021; claim: Rangwani et al. 2024).",
        attention_distance_figure,
    ),
    Section(
        "feature_rank",
        "Rank of the tokens' features",
        "Fewer components that hold 99 % of the variance mean simpler features; a flat teacher, trained with SAM, is "
        "reported to lower the rank of the DIST token, which helps tail classes (Rangwani et al. 2024).",
        feature_rank_figure,
    ),
    Section(
        "token_similarity",
        "Similarity of the two tokens",
        "1 says that both tokens carry the same feature, 0 that they have nothing in common; the lower the last "
        "blocks, the more the two are experts of their own (Rangwani et al. 2024).",
        token_similarity_figure,
    ),
    Section(
        "reliability",
        "Calibration",
        "On the diagonal a confidence of 80 % is right 80 times in 100, below it the model is too sure of itself; ECE "
        "is the mean distance from it in points (Guo et al. 2017; the DeiT-LT paper reports none).",
        reliability_figure,
    ),
    Section(
        "confusion",
        "Confusion of head and tail",
        "Of the images in a row's group, the share that is said to be of the column's; a model that forgets its tail, "
        "the problem that DeiT-LT sets out from (Rangwani et al. 2024), has a large lower left corner.",
        confusion_figure,
    ),
)
EXAMPLES_READING = (
    "Yellow is what a token reads most: in the last block alone (attention, as the DeiT-LT paper shows it for both "
    "tokens) and through all blocks (rollout, Abnar and Zuidema 2020); both are hints, not reasons."
)


def write_analysis(analyses: Mapping[str, Analysis], directory: str | os.PathLike[str]) -> None:
    """Write an analysis of one model, or of several side by side, into a new directory, whole or not at all.

    It holds `analysis.json` (one model's record; of several `models`, their records by name, with what `compare_models`
    found), `figures/` with each figure as PNG and as SVG, and `index.html`, one page that has everything inside.

    Args:
        analyses: what `analyze_model` returned, by the names that are shown.
        directory: to make; it must be absent or empty.

    Raises:
        DeiTLTError: no analysis; the directory is not free or cannot be written; several models of other images or
            classes.

    Example:
        >>> write_analysis({"DeiT-LT": analyze_model(model, dataloader, **classes)}, "analysis")  # doctest: +SKIP
    """
    if not analyses:
        raise DeiTLTError("there is no analysis to write; pass at least one")
    records = {name: analysis.record for name, analysis in analyses.items()}
    comparison = compare_models(analyses) if len(analyses) > 1 else None
    content = {"models": records, **comparison} if comparison else next(iter(records.values()))
    with new_directory(directory) as unfinished:
        (unfinished / ANALYSIS_FILE).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        sections = [(section, section.draw(records)) for section in SECTIONS]
        sections += _example_sections(analyses)
        shown = []
        for section, figure in sections:
            if figure is not None:
                picture = _save(figure, unfinished / FIGURES_DIRECTORY, section.name)
                shown.append((section, picture, figure.get_figwidth() / WIDTH))
        (unfinished / PAGE_FILE).write_text(_page(records, comparison, shown), encoding="utf-8")


def _example_sections(analyses: Mapping[str, Analysis]) -> list[tuple[Section, Figure | None]]:
    sections = []
    for number, (name, analysis) in enumerate(analyses.items(), start=1):
        file, title = ("examples", "Examples") if len(analyses) == 1 else (f"examples_{number}", f"Examples: {name}")
        sections.append((Section(file, title, EXAMPLES_READING, examples_figure), examples_figure(analysis)))
    return sections


def _save(figure: Figure, directory: Path, name: str) -> bytes:
    """Write both files; returns the PNG."""
    for suffix in ("png", "svg"):
        save_figure(figure, directory / f"{name}.{suffix}")
    return (directory / f"{name}.png").read_bytes()


def _page(
    records: Mapping[str, Mapping[str, Any]],
    comparison: Mapping[str, Any] | None,
    sections: Sequence[tuple[Section, bytes, float]],
) -> str:
    title = f"Analysis of {next(iter(records))}" if comparison is None else "Models compared"
    parts = [f"<h1>{_text(title)}</h1>", _introduction(records), _accuracies(records, comparison)]
    tables = {"class_frequency": _class_table, "confusion": _pair_table}
    for section, picture, width in sections:
        parts.append(_section(section, picture, width))
        if section.name in tables:
            parts.append(tables[section.name](records))
    return _DOCUMENT.format(title=_text(title), style=_STYLE, body="\n".join(parts))


def _section(section: Section, picture: bytes, width: float) -> str:
    """A figure with its title and sentence; `width` is its share of the widest, for letters of one size."""
    data, title = base64.b64encode(picture).decode(), _text(section.title)
    size = f"width: {100 * width:.0f}%; min-width: {48 * width:.0f}rem"
    return (
        f'<h2 id="{section.name}">{title}</h2>\n<p>{_text(section.reading)}</p>\n'
        f'<div class="wide"><img alt="{title}" style="{size}" src="data:image/png;base64,{data}"></div>'
    )


def _text(value: object) -> str:
    """A text in HTML; a name stays one line without control characters, and no markup."""
    return html.escape(printable(value))


def _introduction(records: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(records.values()))
    groups = ", ".join(f"{name}: {describe_group(first, name)}" for name in GROUPS)
    rows = [
        [
            name,
            record["model"]["source"],
            record["model"]["model_type"],
            f"{record['model']['image_size']} / {record['model']['patch_size']}",
            f"{record['model']['layers']} / {record['model']['heads']}",
            f"{record['model']['parameters'] / 1e6:.1f} M",
            EXPERT_LABELS[record["model"]["prediction"]],
        ]
        for name, record in records.items()
    ]
    heading = ["model", "from", "type", "image / patch (pixels)", "blocks / heads", "parameters", "predicts by"]
    return f"<p>{first['num_images']} test images. Classes: {_text(groups)}.</p>\n{_table(heading, rows)}"


def _accuracies(records: Mapping[str, Mapping[str, Any]], comparison: Mapping[str, Any] | None) -> str:
    labels = [measure.label for measure in MEASURES]
    parts = ["<h2>Accuracy in percent</h2>"]
    if comparison is None:
        (record,) = records.values()
        rows = [
            [EXPERT_LABELS[expert], *(measure.text(scores.get(measure.key)) for measure in MEASURES)]
            for expert, scores in record["experts"].items()
        ]
        return "\n".join([*parts, _table(["prediction", *labels], rows), _crossings(records)])
    rows = [[name, *accuracy_cells(of)] for name, of in comparison["accuracies"].items()]
    parts.append(_table(["model", *labels], rows))
    rows = [[name, *difference_cells(of)] for name, of in comparison["differences"].items()]
    parts.append(_table([f"better than {comparison['reference']} by (points)", *labels], rows))
    parts.append(
        f"<p>In brackets: {_text(describe_intervals(comparison.get('test_counts', ())))}; of differences, the same "
        "resamples for both models. A star: significant, the interval excludes 0.</p>"
    )
    return "\n".join([*parts, _crossings(records)])


def _crossings(records: Mapping[str, Mapping[str, Any]]) -> str:
    sentences = []
    for name, record in records.items():
        if record["crossing"]["slope"] is not None:
            count = record["crossing"]["class_count"]
            where = "does not cross 0" if count is None else f"crosses 0 at {count:.0f} training images per class"
            sentences.append(f"{_text(name)}: the line fitted to the differences of the experts {where}.")
    return f"<p>{' '.join(sentences)}</p>" if sentences else ""


def _class_table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy of every class: of one model by expert, of several by each one's own prediction."""
    first = next(iter(records.values()))
    if len(first["class_names"]) > MOST_CLASSES:
        return ""
    if len(records) == 1:
        columns = {EXPERT_LABELS[expert]: scores["per_class"] for expert, scores in first["experts"].items()}
    else:
        columns = {name: of["experts"][of["model"]["prediction"]]["per_class"] for name, of in records.items()}
    group_of = {label: group for group in GROUPS for label in first["groups"][group]}
    rows = [
        [name, group_of[label], str(count), *(_percent(values[label]) for values in columns.values())]
        for label, (name, count) in enumerate(zip(first["class_names"], first["class_counts"], strict=True))
    ]
    rows.sort(key=lambda row: -int(row[2]))
    table = _table(["class", "group", "training images", *columns], rows)
    return f"<details><summary>Accuracy of every class, in percent</summary>{table}</details>"


def _pair_table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The classes of head and tail that each model's own prediction confuses most."""
    rows = []
    for name, record in records.items():
        for pair in record["confusion"][record["model"]["prediction"]]["pairs"]:
            classes = (record["class_names"][pair[key]] for key in ("true", "predicted"))
            rows.append([name, *classes, str(pair["count"])])
    if not rows:
        return ""
    table = _table(["model", "true class", "predicted class", "images"], rows)
    return f"<details><summary>Head and tail classes most often confused</summary>{table}</details>"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in heading)
    body = "\n".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


_STYLE = """
:root { color-scheme: light; }
body { max-width: 68rem; margin: 0 auto; padding: 1rem; color: #111; background: #fff;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, p { max-width: 46rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
img { display: block; height: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; border-bottom: 1px solid #ccc; white-space: nowrap; }
summary { cursor: pointer; }
"""

# The policy lets a browser ask for nothing: whatever a name holds, the page stays what it is.
_DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
