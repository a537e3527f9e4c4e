"""What the paper claims, and whether the runs show it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from study.saved_runs import Run, Runs

HOLDS, FAILS, UNDECIDED = "holds", "does not hold at this scale", "not decided by this budget"

Quantity = Callable[[Run], float | None]  # None where it is not measured yet


class Claim(NamedTuple):
    """That a quantity of one student is above that of another (or of the same), in the runs of the same seed."""

    text: str
    unit: str
    upper: tuple[str, Quantity]
    lower: tuple[str, Quantity]


def accuracy(group: str, expert: str | None = None) -> Quantity:
    return lambda run: run.accuracy(group, expert)


def first_blocks_distance(run: Run) -> float | None:
    """Attention distance in pixels, mean over the first third of the blocks."""
    distances = run.attention_distance()
    return distances and statistics.fmean(distances[: max(1, len(distances) // 3)])


def mean_rank(run: Run) -> float | None:
    """Rank of DIST's features, mean over the blocks."""
    rank = run.distillation_rank()
    return rank and statistics.fmean(rank)


def _of_experts(text: str, group: str, upper: str, lower: str) -> Claim:
    return Claim(text, "points", ("deit-lt", accuracy(group, upper)), ("deit-lt", accuracy(group, lower)))


def _of_students(text: str, group: str, upper: str, lower: str) -> Claim:
    return Claim(text, "points", (upper, accuracy(group)), (lower, accuracy(group)))


CLAIMS = (
    _of_experts("DIST is better than CLS on the tail", "tail", "distillation", "cls"),
    _of_experts("CLS is better than DIST on the head", "head", "cls", "distillation"),
    _of_experts("The average is better than CLS overall", "overall", "average", "cls"),
    _of_experts("The average is better than DIST overall", "overall", "average", "distillation"),
    _of_students("DeiT-LT is above ViT overall", "overall", "deit-lt", "vit"),
    _of_students("DeiT-LT is above ViT on the tail", "tail", "deit-lt", "vit"),
    _of_students("DeiT-LT is above DeiT overall", "overall", "deit-lt", "deit"),
    _of_students("DeiT-LT is above DeiT on the tail", "tail", "deit-lt", "deit"),
    _of_students("DRW raises the tail", "tail", "deit-lt", "no-drw"),
    _of_students("SAM in the teacher raises the student overall", "overall", "deit-lt", "no-sam"),
    Claim(
        "DeiT-LT attends nearer than ViT in its first blocks",
        "pixels",
        ("vit", first_blocks_distance),
        ("deit-lt", first_blocks_distance),
    ),
    Claim(
        "SAM in the teacher lowers the rank of DIST's features",
        "components",
        ("no-sam", mean_rank),
        ("deit-lt", mean_rank),
    ),
)


def differences(claim: Claim, runs: Runs) -> dict[int, float]:
    """By seed, how far the claim holds, for the seeds of which both sides are measured."""
    (upper, of_upper), (lower, of_lower) = claim.upper, claim.lower
    seeds = sorted(runs[upper].keys() & runs[lower].keys())
    pairs = {seed: (of_upper(runs[upper][seed]), of_lower(runs[lower][seed])) for seed in seeds}
    return {seed: above - below for seed, (above, below) in pairs.items() if None not in (above, below)}


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean over seeds; None for fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def verdict(differences: Sequence[float]) -> str:
    """What differences of two or more seeds decide: all of one sign, and their mean above twice its standard error.

    Example:
        >>> verdict([3.0, 4.0, 5.0]), verdict([-3.0, -4.0, -5.0]), verdict([-1.0, 4.0, 5.0])
        ('holds', 'does not hold at this scale', 'not decided by this budget')
    """
    error = standard_error(differences)
    if error is None:
        return UNDECIDED
    mean = statistics.fmean(differences)
    of_one_sign = all(value * mean > 0 for value in differences)
    if not of_one_sign or abs(mean) <= 2 * error:
        return UNDECIDED
    return HOLDS if mean > 0 else FAILS
