"""A page about a data set: what `inspect_dataset` found, and a table of its classes with pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from deitlt_hf.data.columns import labels_of
from deitlt_hf.data.images import BadImage
from deitlt_hf.data.inspection import Inspection, class_summary, split_summary
from deitlt_hf.data.readable import undecoded
from deitlt_hf.errors import counted
from deitlt_hf.evaluation.figures.hover import Strip
from deitlt_hf.evaluation.lookup import lookup_script
from deitlt_hf.evaluation.small_pictures import small_picture
from deitlt_hf.evaluation.templates import render

_MOST_PICTURES, _OF_A_CLASS = 300, 3
_SIDE = 96  # pixels of the longer side of a picture
_TRIED = 5  # images of a class before it is left without a picture


def inspection_page(
    name: str, inspection: Inspection, train: Dataset, figure: Path, strips: list[Strip], folder: str | None = None
) -> str:
    """One page of HTML that needs no other file.

    Args:
        name: of the data on the page.
        inspection: what `inspect_dataset` found.
        train: the training images, of which some are shown: three of each class, fewer if there are over 100 classes,
            none if there are over 300.
        figure: the PNG file of `inspection_figure`.
        strips: what it says where the mouse is.
        folder: of the data; it is left out of the names of files, because a page may be sent around.
    """
    splits = split_summary(inspection)
    duplicates = inspection.duplicates
    return render(
        "inspection.html.jinja",
        title=f"Data set {name}",
        summary=class_summary(inspection),
        warnings=[_without(folder, warning) for warning in inspection.warnings()],
        figure=base64.b64encode(figure.read_bytes()).decode(),
        strips=strips,
        splits=(["split", *splits.columns], splits.reset_index().to_numpy().tolist()),
        classes=_class_table(inspection, train),
        num_unreadable=counted(inspection.unreadable, "image"),
        some_unreadable=inspection.unreadable > len(inspection.first_unreadable),
        unreadable=[_without(folder, text) for text in inspection.first_unreadable],
        duplicates=duplicates,
        num_duplicates=counted(duplicates.groups, "image"),
        copies=[[_without(folder, text) for text in group] for group in duplicates.examples],
        script=lookup_script(),
    )


def _without(folder: str | None, text: str) -> str:
    return text.replace(folder.rstrip("/\\") + "/", "") if folder else text


def _class_table(inspection: Inspection, train: Dataset) -> tuple[list[str], list[dict[str, Any]]]:
    """Heading and rows of the classes, from most to fewest training images, each with its pictures."""
    names = list(inspection.splits)
    pictures = dict(_pictures(train, len(inspection.class_names)))
    group_of = {class_id: group for group, class_ids in inspection.class_groups.items() for class_id in class_ids}
    rows = [
        {
            "cells": [
                inspection.class_names[class_id],
                group_of[class_id],
                *(inspection.splits[name].class_counts[class_id] for name in names),
                f"{inspection.drw_weights[class_id]:.3g}",
            ],
            "pictures": pictures.get(class_id, []),
        }
        for class_id in sorted(group_of, key=lambda class_id: (-inspection.class_counts[class_id], class_id))
    ]
    heading = ["class", "group", *(f"{name} images" for name in names), "DRW's weight"]
    return [*heading, *["examples"] * bool(pictures)], rows


def _pictures(train: Dataset, num_classes: int) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """Small pictures of each class: the first, the last and one between of those that can be read."""
    number = min(_OF_A_CLASS, _MOST_PICTURES // num_classes)
    labels, images = labels_of(train), undecoded(train)
    for class_id in range(num_classes if number else 0):
        indices = np.flatnonzero(labels == class_id)
        spread = indices[np.unique(np.linspace(0, len(indices) - 1, min(number, len(indices))).astype(int))]
        shown: list[Mapping[str, Any]] = []
        for index in [*spread, *np.setdiff1d(indices, spread)[:_TRIED]]:
            if len(shown) == len(spread):
                break
            try:
                shown.append(small_picture(images[int(index)]["image"], _SIDE))
            except BadImage:
                continue
        yield class_id, shown
