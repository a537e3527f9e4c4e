"""What the tests of commands share."""

from __future__ import annotations

import pytest

from deitlt_hf.cli.main import main


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    """Runs a command; returns what it printed, notices and errors included."""

    def run(*argv: str, status: int = 0) -> str:
        capsys.readouterr()
        caplog.clear()
        assert main(list(argv)) == status
        printed = capsys.readouterr()
        return "\n".join([printed.out, printed.err, *caplog.messages])

    return run
