"""Shared fixtures: the golden numbers, and an environment in which no hub can be reached."""

from __future__ import annotations

import gc
import json
import os
import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background, where tests send Ctrl-C all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Take what the imports made out of the garbage collections that end every training: that halves the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers that were computed with the reference."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_json(golden: Path) -> dict:
    return json.loads((golden / "golden.json").read_text())
