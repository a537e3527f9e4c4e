"""What the commands show: errors in one line, and of the libraries beneath them only what asks for something."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from deitlt_hf.errors import printable


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        print(printable(f"{self.prog}: {message}; see {self.prog} --help"), file=sys.stderr)
        sys.exit(2)


@contextmanager
def notices_once() -> Iterator[None]:
    """Inside, the same notice is printed once: a command may read its data twice, to choose settings and to train."""
    said = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message in said or said.add(message))

    logger = logging.getLogger("deitlt_hf")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def quiet_libraries() -> None:
    """Leave progress bars to training and prediction, and messages to warnings that ask for something."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)
