"""The losses that `--loss` of a teacher and `--cls_loss` of a student select by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from deitlt_hf.losses.cross_entropy import CrossEntropyLoss, FocalLoss
from deitlt_hf.losses.ldam import LDAMLoss
from deitlt_hf.losses.paco import PaCoLoss
from deitlt_hf.losses.prior import BalancedBCELoss, BalancedSoftmaxLoss, LogitAdjustedLoss


class NamedLoss(NamedTuple):
    """A loss: its title in help and cards, and what makes it of the trainer's arguments and the class counts.

    It is called with logits, labels and class weights, as `LDAMLoss`. Arguments that begin with its name are its own.
    """

    title: str
    make: Callable[[Any, Callable[[], Sequence[int]]], nn.Module]


# They take classes, or probabilities of classes. A loss calls `counts()` only if it needs the class counts.
CLS_LOSSES = {
    "ce": NamedLoss("cross-entropy", lambda args, counts: CrossEntropyLoss()),
    "focal": NamedLoss("focal loss", lambda args, counts: FocalLoss(args.focal_gamma)),
    "balanced_softmax": NamedLoss("balanced softmax", lambda args, counts: BalancedSoftmaxLoss(counts())),
    "logit_adjusted": NamedLoss(
        "logit-adjusted cross-entropy", lambda args, counts: LogitAdjustedLoss(counts(), args.logit_adjusted_tau)
    ),
    "balanced_bce": NamedLoss(
        "balanced binary cross-entropy", lambda args, counts: BalancedBCELoss(counts(), args.balanced_bce_tau)
    ),
}
TEACHER_LOSSES = CLS_LOSSES | {
    # Takes classes alone: a teacher's images are not mixed.
    "ldam": NamedLoss("LDAM", lambda args, counts: LDAMLoss(counts(), args.ldam_max_margin, args.ldam_scale)),
    # Contrasts two views: `TeacherTrainer` calls it in its own way.
    "paco": NamedLoss(
        "PaCo",
        lambda args, counts: PaCoLoss(
            counts(), args.paco_alpha, args.paco_beta, args.paco_gamma, args.paco_temperature
        ),
    ),
}
