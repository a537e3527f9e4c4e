"""Results of classified images as a JSON or CSV file, written one by one, and their summary."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

from deitlt_hf.data.tables import (
    BEST_CLASS,
    EXPERT_COLUMNS,
    IMAGE_COLUMNS,
    RANKED_COLUMNS,
)
from deitlt_hf.errors import DeiTLTError, counted, printable
from deitlt_hf.evaluation.measures import EXPERTS
from deitlt_hf.files import check_is_new, whole_file
from deitlt_hf.inference.classifier import ClassRow, ImageResult

SUFFIXES = (".json", ".csv")
UNCERTAIN = "uncertain"  # the class of an image whose most probable class is below the threshold


def check_prediction_file(path: Path) -> None:
    """Refuse, before the work starts, a file that could not be written at its end."""
    if path.suffix.lower() not in SUFFIXES:
        raise DeiTLTError(f"output is {path}; pass a name that ends in {' or '.join(SUFFIXES)}")
    check_is_new(path, "--output")


class Decisions:
    """Which class each image gets, and how often; results must have every class as a row.

    Args:
        expert: whose probability decides, a key of `ClassRow.probability`.
        experts: all keys of it: three or four for a student, one for a network with one head.
        threshold: below this probability in [0, 1] an image gets the class `uncertain`; None for no threshold.
    """

    def __init__(self, expert: str, experts: Sequence[str] = EXPERTS, threshold: float | None = None):
        self.expert, self.threshold = expert, threshold
        self.experts = tuple(experts)
        self.has_experts = set(EXPERTS) <= set(experts)
        self.images: Counter[str] = Counter()
        self.disagreements = 0

    @property
    def columns(self) -> list[str]:
        """The header of a CSV file with one row per image."""
        file, chosen, *others = IMAGE_COLUMNS
        best = [] if self.threshold is None else [BEST_CLASS]
        return [file, chosen, *best, *others, *(EXPERT_COLUMNS if self.has_experts else ())]

    def best(self, result: ImageResult) -> ClassRow:
        """The most probable class of an image."""
        return _top(result, self.expert)

    def chosen(self, result: ImageResult) -> str:
        """The class that an image gets."""
        best = self.best(result)
        is_below = self.threshold is not None and best.probability[self.expert] < self.threshold
        return UNCERTAIN if is_below else best.name

    def count(self, result: ImageResult) -> None:
        """Take an image into the summary."""
        self.images[self.chosen(result)] += 1
        if self.has_experts:
            self.disagreements += _top(result, "cls") is not _top(result, "distillation")

    def row(self, result: ImageResult) -> list[object]:
        """The image's row of a CSV file, in the order of `columns`."""
        best = self.best(result)
        values: list[object] = [result.file, self.chosen(result)]
        if self.threshold is not None:
            values.append(best.name)
        values.append(best.probability[self.expert])
        if self.has_experts:
            cls, distillation = _top(result, "cls"), _top(result, "distillation")
            values += [cls.name, cls.probability["cls"], distillation.name, distillation.probability["distillation"]]
            values.append("true" if cls is distillation else "false")
        return values

    def summary(self) -> str:
        """A table of images per class, most frequent first, and how many images are in doubt."""
        number = self.images.total()
        classes = {name: count for name, count in self.images.items() if self.threshold is None or name != UNCERTAIN}
        rows = [(printable(name), count) for name, count in sorted(classes.items(), key=lambda row: (-row[1], row[0]))]
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{counted(number, 'image')} in {counted(len(rows), 'predicted class')}:"]
        lines += [f"  {name:<{width}}{count:>8,}{100 * count / max(number, 1):>8.1f}%" for name, count in rows]
        if self.has_experts:
            lines.append(f"the experts disagree about {self.disagreements:,} of {counted(number, 'image')}")
        if self.threshold is not None:
            below = self.images[UNCERTAIN]
            lines.append(f"{UNCERTAIN}, below {self.threshold:g}: {below:,} of {counted(number, 'image')}")
        return "\n".join(lines)


def _top(result: ImageResult, expert: str) -> ClassRow:
    return max(result.rows, key=lambda row: row.probability[expert])


@contextmanager
def prediction_file(
    path: Path, decisions: Decisions, top: int, is_ranked: bool = False
) -> Iterator[Callable[[ImageResult], None]]:
    """Give a function that writes a result, to a list of objects (JSON) or a table (CSV).

    A CSV file has a row per image, or with `is_ranked` one for each of its `top` classes, which JSON always lists. The
    file appears at the end, complete, or not at all. Probabilities are in [0, 1].
    """
    # A file name that is not valid UTF-8 is written with its own bytes.
    encoding = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with whole_file(path, "pass another --output") as unfinished, unfinished.open("x", **encoding) as file:
        if path.suffix.lower() == ".csv":
            table = csv.writer(file)
            if not is_ranked:
                table.writerow(decisions.columns)
                yield lambda result: table.writerow(decisions.row(result))
                return
            table.writerow([*RANKED_COLUMNS, *(decisions.experts if decisions.has_experts else ["probability"])])

            def write_rows(result: ImageResult) -> None:
                for rank, row in enumerate(result.rows[:top], start=1):
                    table.writerow([result.file, rank, row.name, *row.probability.values()])

            yield write_rows
            return

        separators = chain([""], repeat(",\n"))

        def write_object(result: ImageResult) -> None:
            chosen = {} if decisions.threshold is None else {"class": decisions.chosen(result)}
            classes = [{"name": row.name} | row.probability for row in result.rows[:top]]
            file.write(next(separators) + json.dumps({"file": str(result.file)} | chosen | {"classes": classes}))

        file.write("[\n")
        yield write_object
        file.write("\n]\n")
