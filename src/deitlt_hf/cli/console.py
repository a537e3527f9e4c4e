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


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line; as in transformers' parser, `--batch_size` may be written `--batch-size`."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        dashed = (name.replace("_", "-") for name in names if name.startswith("--"))
        return super().add_argument(*dict.fromkeys([*names, *dashed]), **options)

    def error(self, message: str) -> NoReturn:
        print(printable(f"{self.prog}: {message}; see {self.prog} --help"), file=sys.stderr)
        sys.exit(2)


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
