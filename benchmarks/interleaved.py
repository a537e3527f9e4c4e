"""Times alternatives against each other in the same run, in turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import transformers

# A line of the table of ratios: what is compared, both sides' figures, what the comparison gives, in the median and the
# middle half of the rounds, and what it should give.
HEAD = ["", "ours", "peer", "ratio or difference", "middle half", "aim"]


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


def compare(
    what: str,
    ours: Sequence[float],
    peers: Sequence[float],
    show: Callable[[float], str],
    aim: str = "",
    overhead: bool = False,
) -> list[str]:
    """A line of the table from the seconds of both sides; `show` turns the median of one side into its figure.

    Rounds are compared one by one, since a slow moment hits both sides of a round. The ratio is the peer's seconds over
    ours, so that above 1 ours is the faster one; with `overhead`, what ours takes longer, in percent.
    """
    pairs = zip(ours, peers, strict=True)
    results = [100 * (our - peer) / peer if overhead else peer / our for our, peer in pairs]
    unit = " %" if overhead else ""
    result, lower, upper = (f"{value:.2f}{unit}" for value in median_and_quartiles(results))
    sides = [show(median_and_quartiles(seconds)[0]) for seconds in (ours, peers)]
    return [what, *sides, result, f"{lower} to {upper}", aim]


def machine(device: torch.device) -> str:
    """What the numbers depend on, in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {device.type}: {name}"
    )


def processor() -> str:
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
