"""Times alternatives against each other in the same run, in turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import transformers


def time_in_turns(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Ask each contestant for its seconds, round by round; the order turns around, which cancels a steady drift."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        names = list(contestants) if turn % 2 == 0 else list(reversed(contestants))
        for name in names:
            seconds[name].append(contestants[name]())
    return seconds


def now() -> float:
    """Seconds on a clock that is read once the device has done its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def median_and_quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return median, lower, upper


def machine(device: torch.device) -> str:
    """What the numbers depend on, in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {device.type}: {name}"
    )


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in facts.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head, and every column but the first is right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(cells)]
        return f"| {' | '.join(aligned)} |"

    rule = [("-" * width if place == 0 else "-" * (width - 1) + ":", width) for place, width in enumerate(widths)]
    head, *body = [list(zip(row, widths, strict=True)) for row in rows]
    return "\n".join([line(head), line(rule), *map(line, body)])
