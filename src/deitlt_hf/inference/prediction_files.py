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
    SET_COLUMN,
)
from deitlt_hf.errors import DeiTLTError, counted, printable
from deitlt_hf.evaluation.answer_rules import AnswerRules
from deitlt_hf.evaluation.measures import EXPERTS
from deitlt_hf.files import check_is_new, whole_file
from deitlt_hf.inference.classifier import ClassRow, ImageResult

SUFFIXES = (".json", ".csv")
UNCERTAIN = "uncertain"  # the class of an image whose most probable class is below the threshold
BETWEEN_CLASSES = "; "  # of a set in a CSV file


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
        rules: of the classifier, for a precision that decides in place of a threshold and a coverage of sets.
    """

    def __init__(
        self,
        expert: str,
        experts: Sequence[str] = EXPERTS,
        threshold: float | None = None,
        rules: AnswerRules | None = None,
    ):
        self.expert, self.threshold = expert, threshold
        self.precision, self.coverage = (None, None) if rules is None else (rules.precision, rules.coverage)
        self.experts = tuple(experts)
        self.has_experts = set(EXPERTS) <= set(experts)
        self.images: Counter[str] = Counter()
        self.disagreements = 0
        self.sizes: Counter[int] = Counter()  # numbers of classes in a set

    @property
    def may_be_uncertain(self) -> bool:
        """Whether an image can get the class `uncertain`."""
        return self.threshold is not None or self.precision is not None

    @property
    def columns(self) -> list[str]:
        """The header of a CSV file with one row per image."""
        file, chosen, *others = IMAGE_COLUMNS
        best = [BEST_CLASS] if self.may_be_uncertain else []
        sets = [] if self.coverage is None else [SET_COLUMN]
        return [file, chosen, *best, *others, *(EXPERT_COLUMNS if self.has_experts else ()), *sets]

    def best(self, result: ImageResult) -> ClassRow:
        """The most probable class of an image."""
        return _top(result, self.expert)

    def chosen(self, result: ImageResult) -> str:
        """The class that an image gets."""
        best = self.best(result)
        is_below = self.threshold is not None and best.probability[self.expert] < self.threshold
        return UNCERTAIN if is_below or result.answered is False else best.name

    def count(self, result: ImageResult) -> None:
        """Take an image into the summary."""
        self.images[self.chosen(result)] += 1
        if self.has_experts:
            self.disagreements += _top(result, "cls") is not _top(result, "distillation")
        if result.prediction_set is not None:
            self.sizes[len(result.prediction_set)] += 1

    def row(self, result: ImageResult) -> list[object]:
        """The image's row of a CSV file, in the order of `columns`."""
        best = self.best(result)
        values: list[object] = [result.file, self.chosen(result)]
        if self.may_be_uncertain:
            values.append(best.name)
        values.append(best.probability[self.expert])
        if self.has_experts:
            cls, distillation = _top(result, "cls"), _top(result, "distillation")
            values += [cls.name, cls.probability["cls"], distillation.name, distillation.probability["distillation"]]
            values.append("true" if cls is distillation else "false")
        if self.coverage is not None:
            values.append(BETWEEN_CLASSES.join(result.prediction_set))
        return values

    def summary(self) -> str:
        """A table of images per class, most frequent first, and how many images are in doubt."""
        number = self.images.total()
        classes = {
            name: count for name, count in self.images.items() if not (self.may_be_uncertain and name == UNCERTAIN)
        }
        rows = [(printable(name), count) for name, count in sorted(classes.items(), key=lambda row: (-row[1], row[0]))]
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{counted(number, 'image')} in {counted(len(rows), 'predicted class')}:"]
        lines += [f"  {name:<{width}}{count:>8,}{100 * count / max(number, 1):>8.1f}%" for name, count in rows]
        if self.has_experts:
            lines.append(f"the experts disagree about {self.disagreements:,} of {counted(number, 'image')}")
        if self.may_be_uncertain:
            why = f"for a precision of {self.precision:g}" if self.threshold is None else f"below {self.threshold:g}"
            lines.append(f"{UNCERTAIN}, {why}: {self.images[UNCERTAIN]:,} of {counted(number, 'image')}")
        if self.coverage is not None:
            mean = sum(size * images for size, images in self.sizes.items()) / max(number, 1)
            of_one = f"{self.sizes[1]:,} of {counted(number, 'image')} with one"
            lines.append(f"sets for a coverage of {self.coverage:g}: {mean:.2f} classes on average, {of_one}")
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
            chosen = {"class": decisions.chosen(result)} if decisions.may_be_uncertain else {}
            chosen |= {} if decisions.coverage is None else {SET_COLUMN: result.prediction_set}
            classes = [{"name": row.name} | row.probability for row in result.rows[:top]]
            file.write(next(separators) + json.dumps({"file": str(result.file)} | chosen | {"classes": classes}))

        file.write("[\n")
        yield write_object
        file.write("\n]\n")
