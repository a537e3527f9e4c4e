"""Results of classified images as a JSON or CSV file, written while they come."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from deitlt_hf.data.tables import PREDICTION_COLUMNS
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.measures import EXPERTS
from deitlt_hf.files import whole_file
from deitlt_hf.inference.classifying import ImageResult

SUFFIXES = (".json", ".csv")

Write = Callable[[ImageResult], None]


def check_prediction_file(path: Path) -> None:
    """Refuse before the work what would fail after it.

    Raises:
        DeiTLTError: another suffix than `.json` and `.csv`, a file that exists, or a folder that does not.

    Example:
        >>> check_prediction_file(Path("predictions.csv"))
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DeiTLTError(f"output is {path}; pass a name that ends in {' or '.join(SUFFIXES)}")
    if path.exists():
        raise DeiTLTError(f"{path} exists; pass another --output")
    if not path.parent.is_dir():
        raise DeiTLTError(f"{path.parent} is no directory; make it, or pass another --output")


@contextmanager
def prediction_file(path: Path) -> Iterator[Write]:
    """Give a function that writes a result; the file appears at the end, complete, or not at all.

    JSON is a list of `{"file": ..., "classes": [{"name", "average", "cls", "distillation"}, ...]}`, CSV has a row per
    file and class with the columns `file, rank, class, average, cls, distillation`. Probabilities are in [0, 1].

    Raises:
        DeiTLTError: what `check_prediction_file` refuses, or a file that cannot be written.

    Example:
        >>> with prediction_file(Path("predictions.csv")) as write:  # doctest: +SKIP
        ...     for result in classifier.stream(files):
        ...         write(result)
    """
    check_prediction_file(path)
    kind = _csv_rows if path.suffix.lower() == ".csv" else _json_list
    # A name that is no valid UTF-8 is written as the bytes that it is.
    encoding = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with (
        whole_file(path, "pass another --output") as unfinished,
        unfinished.open("x", **encoding) as file,
        kind(file) as write,
    ):
        yield write


@contextmanager
def _csv_rows(file: TextIO) -> Iterator[Write]:
    table = csv.writer(file)
    table.writerow(PREDICTION_COLUMNS)

    def write(result: ImageResult) -> None:
        for rank, row in enumerate(result.rows, start=1):
            table.writerow([result.file, rank, row.name, *(row.probability[expert] for expert in EXPERTS)])

    yield write


@contextmanager
def _json_list(file: TextIO) -> Iterator[Write]:
    separator = "[\n"

    def write(result: ImageResult) -> None:
        nonlocal separator
        classes = [{"name": row.name} | row.probability for row in result.rows]
        file.write(separator + json.dumps({"file": str(result.file), "classes": classes}))
        separator = ",\n"

    yield write
    file.write("[]\n" if separator == "[\n" else "\n]\n")
