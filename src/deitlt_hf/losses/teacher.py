"""The losses that a teacher can be trained with, by the name that `--loss` takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from deitlt_hf.losses.ldam import LDAMLoss
from deitlt_hf.losses.paco import PaCoLoss


class CrossEntropyLoss(nn.Module):
    """Mean cross-entropy of `logits` `(N, C)` and `labels` `(N,)`, in the DRW phase with `class_weights` `(C,)`."""

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        return F.cross_entropy(logits, labels, weight=class_weights)


class TeacherLoss(NamedTuple):
    """A loss: its title in help and cards, and what makes it of the trainer's arguments and the class counts.

    It is called with logits, labels and class weights, as `LDAMLoss`. Arguments that begin with its name are its own.
    """

    title: str
    make: Callable[[Any, Callable[[], Sequence[int]]], nn.Module]


# A loss calls `counts()` only if it needs the class counts.
TEACHER_LOSSES = {
    "ce": TeacherLoss("cross-entropy", lambda args, counts: CrossEntropyLoss()),
    "ldam": TeacherLoss("LDAM", lambda args, counts: LDAMLoss(counts(), args.ldam_max_margin, args.ldam_scale)),
    # Contrasts two views: `TeacherTrainer` calls it in its own way.
    "paco": TeacherLoss(
        "PaCo",
        lambda args, counts: PaCoLoss(
            counts(), args.paco_alpha, args.paco_beta, args.paco_gamma, args.paco_temperature
        ),
    ),
}
