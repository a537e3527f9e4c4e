"""The student's loss: ground truth for the class token, the teacher's labels for the distillation token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.losses.cross_entropy import CrossEntropyLoss
from deitlt_hf.losses.ltkd import rebalanced_divergence

DISTILLATION_TYPES = ("hard", "soft", "ltkd", "none")


class DistillationLossParts(NamedTuple):
    """Scalars: `loss`, and its two parts, which add up to it."""

    loss: torch.Tensor
    cls_loss: torch.Tensor
    distillation_loss: torch.Tensor


class DistillationLoss(nn.Module):
    """`(1 - alpha) * CE(cls, targets) + alpha * L_DRW(distillation, teacher)` (paper, section 3, equations 1 and 4).

    Args:
        distillation_type: `"hard"`: the distillation token learns the teacher's class; `"soft"`: the teacher's
            distribution at `temperature`, as a Kullback-Leibler divergence; `"ltkd"`: the same, rebalanced between and
            within head, mid and tail, see `rebalanced_divergence`; `"none"`: the ground truth, for students without a
            teacher.
        alpha: share of the distillation token's part, in [0, 1].
        temperature: of soft distillation and LTKD, above 0.
        cls_loss: loss of the class token, called with logits and targets; cross-entropy by default, as in the paper.
        class_groups: `{"head": [...], "mid": [...], "tail": [...]}`, for LTKD.

    Raises:
        DeiTLTError: an unknown distillation type, alpha or temperature out of range, or LTKD without groups that hold
            each class once.

    Example:
        >>> import torch
        >>> from deitlt_hf import DistillationLoss
        >>> logits = torch.zeros(4, 10)
        >>> parts = DistillationLoss()(logits, logits, torch.tensor([0, 1, 2, 3]), teacher_logits=torch.eye(10)[:4])
        >>> round(parts.loss.item(), 4)  # ln 10
        2.3026
    """

    def __init__(
        self,
        distillation_type: str = "hard",
        alpha: float = 0.5,
        temperature: float = 1.0,
        cls_loss: nn.Module | None = None,
        class_groups: Mapping[str, Sequence[int]] | None = None,
    ):
        super().__init__()
        if distillation_type not in DISTILLATION_TYPES:
            raise DeiTLTError(
                f"unknown distillation type {distillation_type!r}; pass one of {', '.join(DISTILLATION_TYPES)}"
            )
        if not 0 <= alpha <= 1:
            raise DeiTLTError(f"distillation alpha is {alpha}; pass a number from 0 to 1")
        if temperature <= 0:
            raise DeiTLTError(f"distillation temperature is {temperature}; pass a number above 0")
        if distillation_type == "ltkd" and not class_groups:
            raise DeiTLTError("ltkd distillation needs the class ids of head, mid and tail; pass class_groups")
        grouped = sorted(class_id for class_ids in (class_groups or {}).values() for class_id in class_ids)
        if distillation_type == "ltkd" and grouped != list(range(len(grouped))):
            raise DeiTLTError("class_groups name a class twice or leave one out; pass each class in one group")
        # Buffers, so that they lie where the logits are: sending indices would make the host wait in every step.
        for place, class_ids in enumerate((class_groups or {}).values()):
            self.register_buffer(f"group_{place}", torch.tensor(class_ids, dtype=torch.long), persistent=False)
        self.distillation_type = distillation_type
        self.alpha = alpha
        self.temperature = temperature
        self.cross_entropy = CrossEntropyLoss()
        self.cls_loss = cls_loss or self.cross_entropy

    def forward(
        self,
        cls_logits: torch.Tensor,
        distillation_logits: torch.Tensor,
        targets: torch.Tensor,
        teacher_logits: torch.Tensor | None = None,
        class_weights: torch.Tensor | None = None,
    ) -> DistillationLossParts:
        """Compute the loss of one batch.

        Args:
            cls_logits, distillation_logits, teacher_logits: float tensors of shape `(N, C)`; `teacher_logits` may be
                left out with `"none"` only.
            targets: classes `(N,)`, or probabilities of classes `(N, C)` from mixing and label smoothing.
            class_weights: `(C,)`, the class-balanced weights of the DRW phase for the distillation token; a weighted
                mean divides by the sum of the weights in the batch, as the reference does. Soft distillation and LTKD
                weigh a sample by the teacher's class.
        """
        cls_loss = self.cls_loss(cls_logits, targets)
        if self.distillation_type == "none":
            distillation_loss = self.cross_entropy(distillation_logits, targets, class_weights)
        elif teacher_logits is None:
            raise DeiTLTError(f"{self.distillation_type} distillation needs teacher_logits; pass them, or type 'none'")
        elif self.distillation_type == "hard":
            distillation_loss = F.cross_entropy(distillation_logits, teacher_logits.argmax(-1), weight=class_weights)
        else:
            distillation_loss = self._soft(distillation_logits, teacher_logits, class_weights)
        cls_loss = (1 - self.alpha) * cls_loss
        distillation_loss = self.alpha * distillation_loss
        return DistillationLossParts(cls_loss + distillation_loss, cls_loss, distillation_loss)

    def _soft(self, logits: torch.Tensor, teacher_logits: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Mean divergence of the batch, in which `weights` weigh a sample by the teacher's class."""
        if self.distillation_type == "ltkd":
            groups = list(self.buffers(recurse=False))
            divergence = rebalanced_divergence(logits, teacher_logits, groups, self.temperature)
        else:
            student = F.log_softmax(logits / self.temperature, dim=-1)
            teacher = F.log_softmax(teacher_logits / self.temperature, dim=-1)
            # The reference divides by samples and classes both, hence a mean over classes as well.
            divergence = F.kl_div(student, teacher, reduction="none", log_target=True).mean(-1) * self.temperature**2
        if weights is None:
            return divergence.mean()
        sample_weights = weights[teacher_logits.argmax(-1)]
        return (sample_weights * divergence).sum() / sample_weights.sum()
