"""Runs killed with SIGKILL and resumed; `python tests/training/killed_runs.py` does it twenty times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_killed_runs_end_as_the_undisturbed_one() -> None:
    script = Path(__file__).with_name("killed_runs.py")
    done = subprocess.run(
        [sys.executable, script, "--runs", "2", "--seed", "1"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all ended with the weights of the undisturbed run\n")
