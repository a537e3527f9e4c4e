"""Names the stages of a training step, so that a profile can time them."""

from __future__ import annotations

import time
from itertools import pairwise

import torch
from torch.profiler import record_function

OTHER = "idle, other"


class Timeline:
    """Divides time between stages: each moment counts for the innermost open stage.

    On a GPU, moments are those at which it reaches what had been given to it by then, so that work that it does while
    the host goes on is counted where it belongs, and nothing waits.

    Args:
        device: of the model.

    Example:
        >>> timeline = Timeline(torch.device("cpu"))
        >>> timeline.enter("student")
        >>> timeline.enter("loss")
        >>> timeline.leave()
        >>> timeline.leave()
        >>> timeline.finish()
        >>> list(timeline.seconds())
        ['student', 'loss', 'idle, other']
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._open = [OTHER]
        self._marks: list[tuple[float | torch.cuda.Event, str]] = []
        self._mark()

    def enter(self, name: str) -> None:
        self._open.append(name)
        self._mark()

    def leave(self) -> None:
        self._open.pop()
        self._mark()

    def finish(self) -> None:
        self._mark()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _mark(self) -> None:
        if self._device.type == "cuda":
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = time.perf_counter()
        self._marks.append((moment, self._open[-1]))

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in order of appearance; time outside all stages comes last."""
        totals: dict[str, float] = {}
        for (start, name), (end, _) in pairwise(self._marks):
            seconds = end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
            totals[name] = totals.get(name, 0.0) + seconds
        return totals | {OTHER: totals.pop(OTHER, 0.0)}


class Ranges:
    """Shows the stages in a trace of torch's profiler."""

    def __init__(self):
        self._open: list[record_function] = []

    def enter(self, name: str) -> None:
        self._open.append(record_function(name))
        self._open[-1].__enter__()

    def leave(self) -> None:
        self._open.pop().__exit__(None, None, None)


_recorder: Timeline | Ranges | None = None


def record_with(recorder: Timeline | Ranges | None) -> None:
    """Report stages to `recorder` from now on; None switches off."""
    global _recorder
    _recorder = recorder


class stage:  # noqa: N801 (used as a function is)
    """A context that marks the stage `name` of a training step; it costs under a microsecond when nothing is profiled.

    Stages nest, and time is that of the innermost.

    Example:
        >>> with stage("loss"):
        ...     pass
    """

    __slots__ = ("_recorder", "name")

    def __init__(self, name: str):
        self.name = name
        self._recorder: Timeline | Ranges | None = None

    def __enter__(self) -> None:
        self._recorder = _recorder
        if self._recorder is not None:
            self._recorder.enter(self.name)

    def __exit__(self, *error: object) -> None:
        if self._recorder is not None:
            self._recorder.leave()
