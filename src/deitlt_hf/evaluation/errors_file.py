"""A CSV file of the images that a model predicts wrongly, the most confident first."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from deitlt_hf.data.readable import image_paths
from deitlt_hf.evaluation.evaluate import Predictions
from deitlt_hf.evaluation.measures import TEACHER
from deitlt_hf.files import whole_file

_EXPERTS = ("cls", "distillation")


def write_errors(
    file: Path,
    test: Dataset,
    class_names: Sequence[str],
    predictions: Predictions,
    own: str = "average",
    rows: Sequence[int] | None = None,
) -> int:
    """Write a row for each image whose prediction by the row `own` is wrong, and return how many there are.

    Columns: the image's file, or `test image 12`; its row in the data, from 0; true and predicted class; the
    prediction's probability; the classes that both experts and the teacher predict, where there are such. A file that
    is there already is replaced. `rows` are the images' rows in the data where some of them are left out.
    """
    place = predictions.rows.index(own)
    predicted, probability = predictions.class_ids[:, place], predictions.confidences[:, place]
    wrong = np.flatnonzero(predicted != predictions.labels)
    wrong = wrong[np.argsort(-probability[wrong], kind="stable")]
    others = {row: ids for row, ids in zip(predictions.rows, predictions.class_ids.T, strict=True) if row in _EXPERTS}
    others |= {} if predictions.teacher is None else {TEACHER: predictions.teacher}
    paths = image_paths(test)
    # A file name that is not valid UTF-8 is written with its own bytes.
    encoding = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with whole_file(file, "pass another --errors") as unfinished, unfinished.open("x", **encoding) as text:
        table = csv.writer(text)
        table.writerow(["file", "row", "true_class", "predicted_class", "probability", *others])
        for row in wrong.tolist():
            classes = (class_names[ids[row]] for ids in (predictions.labels, predicted))
            of_others = (class_names[ids[row]] for ids in others.values())
            of_data = row if rows is None else int(rows[row])
            name = paths[row] or f"test image {of_data}"
            table.writerow([name, of_data, *classes, f"{probability[row]:.6f}", *of_others])
    return len(wrong)
