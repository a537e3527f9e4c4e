"""Signals that end a process: a training finishes its step and saves first, everything else ends at once.

Signals are handled inside `signals_end_runs` only, which the command line uses.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A terminal sends Ctrl-C to all processes of a launch, and the launcher passes it on once more.
_SAME_SIGNAL = 1.0  # seconds
_HANGUP = getattr(signal, "SIGHUP", None)  # a closed terminal or connection; Windows has none


class Stopped(SystemExit):
    """A signal ended the process, after a training saved `checkpoint` at `step`; its exit status is 128 + `signum`."""

    def __init__(self, signum: int, checkpoint: str | None = None, step: int | None = None):
        super().__init__(128 + signum)
        self.signum = signum
        self.checkpoint = checkpoint
        self.step = step

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name
        return f"stopped by {name}" + (f" after step {self.step}" if self.step is not None else "")


class StopRequest:
    """The signal that a training received; `signum` is 0 until one comes."""

    def __init__(self) -> None:
        self.signum = 0
        self._process = os.getpid()
        self._since = 0.0

    def note(self, signum: int, frame: object) -> None:
        """The handler: the first signal is noted, the next ends the process at once."""
        if os.getpid() != self._process:  # in a worker of the loader; the training process ends the workers
            return
        now = time.monotonic()
        if not self.signum:
            self.signum, self._since = signum, now
            if signum == _HANGUP:
                _leave_closed_terminal()
            if os.environ.get("RANK", "0") == "0":  # printing is not safe here, writing is
                os.write(2, b"\nstopping: finishing the step and saving; a second signal leaves at once\n")
        elif now - self._since > _SAME_SIGNAL:
            raise Stopped(signum)


_enabled = False


@contextmanager
def signals_end_runs() -> Iterator[None]:
    """Inside this context, SIGTERM, Ctrl-C and SIGHUP let a training save a checkpoint and raise `Stopped`.

    Other work ends at once, and a training at a second signal. Afterwards the earlier handlers are back.
    """
    global _enabled
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield
        return
    before, _enabled = _enabled, True
    handler = signal.signal(signal.SIGTERM, _end_at_once)
    try:
        yield
    finally:
        _enabled = before
        signal.signal(signal.SIGTERM, handler)


def _end_at_once(signum: int, frame: object) -> None:
    raise Stopped(signum)


@contextmanager
def signals_noted() -> Iterator[StopRequest | None]:
    """Inside this context, signals are recorded in the request that it yields; None outside `signals_end_runs`."""
    if not _enabled or threading.current_thread() is not threading.main_thread():
        yield None
        return
    request = StopRequest()
    signals = [signum for signum in (signal.SIGINT, signal.SIGTERM, _HANGUP) if signum is not None]
    before = {signum: signal.getsignal(signum) for signum in signals}
    for signum, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup and the like
            signal.signal(signum, request.note)
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _leave_closed_terminal() -> None:
    """Send output that went to a terminal that is gone nowhere, or the next line of the log would be an error."""
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream)


def leave_signals_to_the_training(worker: int) -> None:
    """For a loader's worker: ignore signals to the whole process group while the training still needs images."""
    for signum in (signal.SIGINT, _HANGUP):
        if signum is not None:
            signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS and Windows lack it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_the_training_says_so, daemon=True).start()


def _end_when_the_training_says_so() -> None:
    # A Python handler cannot tell who sent the signal.
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != multiprocessing.parent_process().pid:
        pass
    os._exit(0)
