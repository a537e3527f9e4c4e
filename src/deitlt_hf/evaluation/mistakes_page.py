"""A page with the mistakes of a model that are worth a look, pictures included; it needs no other file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from deitlt_hf.data.readable import image_paths, undecoded
from deitlt_hf.errors import counted
from deitlt_hf.evaluation.evaluate import Predictions
from deitlt_hf.evaluation.measures import EXPERT_LABELS, GROUPS, TEACHER
from deitlt_hf.evaluation.mistakes import MOST_IN_ALL, MOST_OF_SECTION, Mistakes, choose_mistakes
from deitlt_hf.evaluation.small_pictures import small_picture
from deitlt_hf.evaluation.templates import render
from deitlt_hf.files import last_part, new_directory

PAGE_FILE = "index.html"
_SIDE = 240  # pixels of the longer side of a picture


def write_mistakes(
    directory: str | os.PathLike[str],
    model: str,
    test: Dataset,
    metrics: Mapping[str, Any],
    predictions: Predictions,
    own: str = "average",
    rows: Sequence[int] | None = None,
    prior: str | None = None,
) -> Mistakes:
    """Write `index.html` into a new directory: suspected wrong labels first, then the errors of each class.

    Args:
        directory: to make; it must be absent or empty.
        model: its name on the page.
        test: the images.
        metrics: of `expert_metrics`.
        predictions: for these images.
        own: the row of the model's own prediction.
        rows: the images' rows in the data where some of them are left out.
        prior: which classes can occur where the images are from, and how often, in words.

    Raises:
        DeiTLTError: the directory is not free or cannot be written.
    """
    chosen = choose_mistakes(predictions, own, metrics["class_counts"])
    shown = [*chosen.suspected, *(index for of_class in chosen.by_class.values() for index in of_class)]
    names = _names(image_paths(test), rows)
    said = _answers(predictions, own, metrics["class_names"])
    images = undecoded(test)
    with new_directory(directory) as unfinished:
        cards = {}
        for index in sorted(shown):
            cards[index] = {"name": names[index], **said(index), **small_picture(images[index]["image"], _SIDE)}
        page = render(
            "mistakes.html.jinja",
            title=f"Mistakes of {model}",
            own=EXPERT_LABELS.get(own, own),
            images=len(predictions),
            chosen=chosen,
            not_shown=chosen.num_wrong - len(shown),
            limits=f"at most {MOST_OF_SECTION} in a section and {MOST_IN_ALL} in all",
            prior=prior,
            has_experts="distillation" in predictions.rows,
            cards=cards,
            sections=_sections(metrics, predictions, own, chosen),
        )
        (unfinished / PAGE_FILE).write_text(page, encoding="utf-8")
    return chosen


def _names(paths: Sequence[str | None], rows: Sequence[int] | None) -> list[str]:
    """The name of each image: its file below the folder that holds all of them, or `test image 12`.

    The page may be sent around, so it names no place of this machine.
    """
    folders = {os.path.dirname(path) for path in paths if path}
    try:
        common = os.path.commonpath(folders) if folders else ""
    except ValueError:  # absolute and relative paths
        common = None

    def name(path: str) -> str:
        return last_part(path) if common is None else os.path.relpath(path, common or os.curdir)

    of_data = range(len(paths)) if rows is None else rows
    return [name(path) if path else f"test image {row}" for path, row in zip(paths, of_data, strict=True)]


def _answers(predictions: Predictions, own: str, class_names: Sequence[str]):
    """A function that gives what the data, the model, its experts and its teacher say of an image."""
    place = predictions.rows.index(own)
    class_ids, confidences, teacher = predictions.class_ids, predictions.confidences, predictions.teacher
    labels, label_probabilities = predictions.labels, predictions.label_probabilities[:, place]
    experts = [row for row in ("cls", "distillation") if row in predictions.rows and row != own]

    def said(index: int) -> dict[str, Any]:
        others = []
        for row in experts:
            column = predictions.rows.index(row)
            probability = f" ({_percent(confidences[index, column])})"
            others.append(
                (EXPERT_LABELS[row].removesuffix(" expert"), class_names[class_ids[index, column]], probability)
            )
        if teacher is not None:
            others.append((TEACHER, class_names[teacher[index]], ""))
        return {
            "label": class_names[labels[index]],
            "label_probability": _percent(label_probabilities[index]),
            "predicted": class_names[class_ids[index, place]],
            "probability": _percent(confidences[index, place]),
            "others": others,
        }

    return said


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f}\N{NO-BREAK SPACE}%"


def _sections(metrics: Mapping[str, Any], predictions: Predictions, own: str, chosen: Mistakes) -> list[dict[str, Any]]:
    """The title of each class, what there is to know of its images, and which are shown."""
    labels, names, counts = predictions.labels, metrics["class_names"], metrics["class_counts"]
    wrong = labels[predictions.class_ids[:, predictions.rows.index(own)] != labels]
    suspected = labels[chosen.suspected]
    sections = []
    for label, indices in chosen.by_class.items():
        group = next(group for group in GROUPS if label in metrics["groups"][group])
        number, above = int(np.sum(wrong == label)), int(np.sum(suspected == label))
        about = f"{number} of {counted(metrics['test_counts'][label], 'test image')} wrong: {len(indices)} here"
        about += f", {above} above" if above else ""
        about += f", {number - above - len(indices)} not shown" if number > above + len(indices) else ""
        title = f"{names[label]} ({group}, {counted(counts[label], 'training image')})"
        sections.append({"title": title, "about": f"{about}.", "of": indices})
    return sections
