"""Writes an analysis: `analysis.json`, figures as PNG and SVG, and a page that shows everything without other files."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.analysis.wrong_images import MOST_SHOWN
from deitlt_hf.evaluation.compare import ComparedTable, compare_models, compared_tables, difference_cells
from deitlt_hf.evaluation.figures.classes import (
    agreement_figure,
    class_confusion_figure,
    class_frequency_figure,
    confusion_figure,
    reliability_figure,
)
from deitlt_hf.evaluation.figures.examples import examples_figure
from deitlt_hf.evaluation.figures.hover import Strip, strips_of
from deitlt_hf.evaluation.figures.layers import (
    attention_distance_figure,
    feature_rank_figure,
    token_similarity_figure,
)
from deitlt_hf.evaluation.figures.style import WIDTH, Records, save_figure
from deitlt_hf.evaluation.lookup import lookup_script
from deitlt_hf.evaluation.measures import (
    EXPERT_LABELS,
    GROUPS,
    MARK_READING,
    accuracies_by_class,
    class_rows,
    describe_group,
    describe_intervals,
    measured_rows,
    shown_tables,
)
from deitlt_hf.evaluation.templates import render
from deitlt_hf.files import new_directory

if TYPE_CHECKING:
    from deitlt_hf.evaluation.analysis.analyze import Analysis

ANALYSIS_FILE, PAGE_FILE, FIGURES_DIRECTORY = "analysis.json", "index.html", "figures"
MOST_CLASSES = 10_000  # in the table of classes; more are only in the JSON file


class Section(NamedTuple):
    """A figure of the page."""

    name: str  # of its file
    title: str
    reading: str  # how to read it
    draw: Callable[[Records], Figure | None] | None = None


SECTIONS = (
    Section(
        "class_frequency",
        "Accuracy by class frequency",
        "On rare classes the DIST expert should lead (above 0 in the right panel) and on frequent ones the CLS expert, "
        "which is what DeiT-LT trains for (Rangwani et al. 2024); vertical mark: where the fitted line crosses 0. "
        "With the mouse over it, the figure names the nearest class and its numbers.",
        class_frequency_figure,
    ),
    Section(
        "agreement",
        "Agreement",
        "A low bar: the two give different answers, so that their average can be better than either. DeiT-LT wants CLS "
        "and DIST to differ, which is why the teacher labels out-of-distribution views (Rangwani et al. 2024).",
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
        "1: both tokens carry the same feature. 0: they share nothing. The lower the last blocks, the more the two are "
        "experts of their own (Rangwani et al. 2024).",
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
        "Of the images in a row's group, the share that is predicted as the column's. A model that forgets its tail, "
        "the problem that DeiT-LT starts from (Rangwani et al. 2024), has a large lower left corner.",
        confusion_figure,
    ),
    Section(
        "class_confusion",
        "Confusion matrix",
        "Row: true class. Column: what its test images are predicted as, in percent of the row. Of over 30 classes, "
        "those with the most errors. A column that is bright beside the diagonal is a class that others are "
        "taken for, after long-tailed training often one of the head (Rangwani et al. 2024).",
        class_confusion_figure,
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
        for number, (name, analysis) in enumerate(analyses.items(), start=1):
            several = len(analyses) > 1
            file, title = (f"examples_{number}", f"Examples: {name}") if several else ("examples", "Examples")
            sections.append((Section(file, title, EXAMPLES_READING), examples_figure(analysis)))
        shown = []
        for section, figure in sections:
            if figure is not None:
                for suffix in ("svg", "png"):
                    file = unfinished / FIGURES_DIRECTORY / f"{section.name}.{suffix}"
                    save_figure(figure, file)
                picture = base64.b64encode(file.read_bytes()).decode()
                shown.append((section, picture, figure.get_figwidth() / WIDTH, strips_of(figure)))
        (unfinished / PAGE_FILE).write_text(_page(analyses, comparison, shown), encoding="utf-8")


def _page(
    analyses: Mapping[str, Analysis],
    comparison: Mapping[str, Any] | None,
    sections: Sequence[tuple[Section, str, float, list[Strip]]],
) -> str:
    """The page as HTML; `sections` have their picture in base64, its width as a share of the widest, and its strips."""
    records = {name: analysis.record for name, analysis in analyses.items()}
    first = next(iter(records.values()))
    classes = _class_table(records)
    tables = _single_tables(first) if comparison is None else compared_tables(comparison)
    pairs = [  # of head and tail, which each model's own prediction confuses most
        [name, *(record["class_names"][pair[key]] for key in ("true", "predicted")), pair["count"]]
        for name, record in records.items()
        for pair in record["confusion"][record["model"]["prediction"]]["pairs"]
    ]
    return render(
        "page.html.jinja",
        title=f"Analysis of {next(iter(records))}" if comparison is None else "Models compared",
        first=first,
        records=records,
        models=_model_table(records),
        groups=", ".join(f"{name}: {describe_group(first, name)}" for name in GROUPS),
        tables=tables,
        row_title="prediction" if comparison is None else "model",
        intervals=describe_intervals((comparison or first).get("test_counts", ())),
        sections=sections,
        classes=classes,
        script=lookup_script() if classes else None,
        mark=MARK_READING,
        pairs=pairs,
        galleries={name: _gallery(analysis, len(analyses)) for name, analysis in analyses.items() if analysis.errors},
    )


def _single_tables(record: Mapping[str, Any]) -> list[ComparedTable]:
    """The tables of one model's rows, and how far each of them is from the teacher."""
    rows, against = measured_rows(record), record.get("against_teacher", {})
    return [
        ComparedTable(
            [measure.label for measure in measures],
            [
                [EXPERT_LABELS.get(row, row), *(measure.text(scores.get(measure.key)) for measure in measures)]
                for row, scores in rows.items()
            ],
            {"the teacher": [[EXPERT_LABELS[row], *difference_cells(of, measures)] for row, of in against.items()]}
            if against
            else {},
        )
        for measures in shown_tables(rows.values())
    ]


def _model_table(records: Records) -> tuple[list[str], list[list[Any]]]:
    """What the models are; columns that no model has a value for are left out."""
    rows = []
    for name, record in records.items():
        model = record["model"]
        pairs = {"image / patch (pixels)": ("image_size", "patch_size"), "blocks / heads": ("layers", "heads")}
        rows.append(
            {"model": name, "from": model["source"], "type": model["model_type"]}
            | {title: " / ".join(str(model[key]) for key in of if key in model) for title, of in pairs.items()}
            | {"parameters": f"{model['parameters'] / 1e6:.1f} M"}
            | {"predicts by": EXPERT_LABELS.get(model["prediction"], "")}
        )
    heading = [title for title in rows[0] if any(row[title] for row in rows)]
    return heading, [[row[title] or "-" for title in heading] for row in rows]


def _gallery(analysis: Analysis, models: int) -> list[dict[str, Any]]:
    """The most confident errors of a model, fewer of each where several are compared."""
    names = analysis.record["class_names"]
    shown = []
    for error in analysis.errors[: MOST_SHOWN if models == 1 else MOST_SHOWN // 2]:
        picture = io.BytesIO()
        Image.fromarray(error.image).save(picture, "PNG")
        shown.append(
            {
                "row": error.row,
                "true": names[error.label],
                "predicted": names[error.predicted],
                "probability": f"{100 * error.probability:.0f}",
                "picture": base64.b64encode(picture.getvalue()).decode(),
            }
        )
    return shown


def _class_table(records: Records) -> tuple[list[str], list[list[Any]]] | None:
    """Accuracy of every class: of one model by expert and of its teacher, of several by each one's own prediction."""
    first = next(iter(records.values()))
    if len(first["class_names"]) > MOST_CLASSES:
        return None
    if len(records) == 1:
        return class_rows(first, accuracies_by_class(first), first["experts"][first["model"]["prediction"]])
    of_models = {name: of["experts"][of["model"]["prediction"]]["per_class"] for name, of in records.items()}
    return class_rows(first, of_models)
