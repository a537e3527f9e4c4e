"""What the commands print: errors in one line, and from the libraries only messages that a user can act on."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from deitlt_hf.errors import printable

PRIOR_HELP = {
    "only": "File with the classes that can occur, one in each line.",
    "prior": "CSV file with the columns class and number: how often each class occurs; or training, as often as in the "
    "model's training images.",
}

RULES_HELP = {
    "precision": "Share of the answers that shall be right, such as 0.95: images whose class is not sure enough are "
    "'uncertain'. For students after `deitlt calibrate`.",
    "coverage": "Share of the images whose set of classes shall hold the right one, such as 0.9. For students after "
    "`deitlt calibrate`.",
}


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line; as in transformers' parser, `--batch_size` may be written `--batch-size`."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        dashed = (name.replace("_", "-") for name in names if name.startswith("--"))
        return super().add_argument(*dict.fromkeys([*names, *dashed]), **options)

    def error(self, message: str) -> NoReturn:
        print(printable(f"{self.prog}: {message}; see {self.prog} --help"), file=sys.stderr)
        sys.exit(2)


def add_class_prior(parser: argparse.ArgumentParser) -> None:
    """Add which classes can occur where the images are from, and how often."""
    for name, text in PRIOR_HELP.items():
        parser.add_argument(f"--{name}", metavar="FILE", help=text.replace("File", "file").rstrip("."))


def add_answer_rules(parser: argparse.ArgumentParser) -> None:
    """Add what is asked of a calibrated student's answers and sets of classes."""
    for (name, text), letter in zip(RULES_HELP.items(), "PC", strict=True):
        parser.add_argument(f"--{name}", metavar=letter, type=float, help=text[0].lower() + text[1:].rstrip("."))


@contextmanager
def notices_once() -> Iterator[None]:
    """Print each notice once inside: a command may read its data twice, to choose settings and to train."""
    printed = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message in printed or printed.add(message))

    logger = logging.getLogger("deitlt_hf")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def quiet_libraries() -> None:
    """Hide the libraries' progress bars, except in training and prediction, and their warnings about the future."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
