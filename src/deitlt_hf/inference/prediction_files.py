"""Results of classified images as a JSON or CSV file, written one by one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

from deitlt_hf.data.tables import PREDICTION_COLUMNS
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.measures import EXPERTS
from deitlt_hf.files import check_is_new, whole_file
from deitlt_hf.inference.classifier import ImageResult

SUFFIXES = (".json", ".csv")


def check_prediction_file(path: Path) -> None:
    """Refuse, before the work starts, a file that could not be written at its end."""
    if path.suffix.lower() not in SUFFIXES:
        raise DeiTLTError(f"output is {path}; pass a name that ends in {' or '.join(SUFFIXES)}")
    check_is_new(path, "--output")


@contextmanager
def prediction_file(path: Path) -> Iterator[Callable[[ImageResult], None]]:
    """Give a function that writes a result, to a list of objects (JSON) or a row per file and class (CSV).

    The file appears at the end, complete, or not at all. Probabilities are in [0, 1].
    """
    # A file name that is not valid UTF-8 is written with its own bytes.
    encoding = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with whole_file(path, "pass another --output") as unfinished, unfinished.open("x", **encoding) as file:
        if path.suffix.lower() == ".csv":
            table = csv.writer(file)
            table.writerow(PREDICTION_COLUMNS)

            def write_rows(result: ImageResult) -> None:
                for rank, row in enumerate(result.rows, start=1):
                    table.writerow([result.file, rank, row.name, *(row.probability[expert] for expert in EXPERTS)])

            yield write_rows
            return

        separators = chain([""], repeat(",\n"))

        def write_object(result: ImageResult) -> None:
            classes = [{"name": row.name} | row.probability for row in result.rows]
            file.write(next(separators) + json.dumps({"file": str(result.file), "classes": classes}))

        file.write("[\n")
        yield write_object
        file.write("\n]\n")
