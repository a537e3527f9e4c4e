"""Label-distribution-aware margin loss (Cao et al., 2019), for teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from deitlt_hf.losses.counts import checked_counts

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LDAM_SCALE = 30.0  # the published factor on cosines


def has_cosine_classifier(config: PreTrainedConfig) -> bool:
    """Whether a model's classifier is the cosine of features and class vectors, as LDAM needs it."""
    return config.model_type == "timm_cosine" or getattr(config, "classifier", None) == "cosine"


def logit_scale(config: PreTrainedConfig) -> float:
    """The factor that makes logits of what a model gives: LDAM's for a cosine classifier, otherwise 1.

    Cosines lie in [-1, 1], and LDAM's loss learns 30 times them: their own softmax would be almost uniform.
    `TeacherTrainer` writes the factor that it trained with into the configuration, as `logit_scale`.
    """
    return getattr(config, "logit_scale", LDAM_SCALE) if has_cosine_classifier(config) else 1.0


class LDAMLoss(nn.Module):
    """Cross-entropy with a margin per class that grows as the class gets rarer: proportional to `n ** -1/4`.

    Args:
        class_counts: training images per class, in label order; each at least 1.
        max_margin: margin of the rarest class.
        scale: factor on the logits, which a cosine classifier confines to [-1, 1].

    Raises:
        DeiTLTError: a class without training images.

    Example:
        >>> import torch
        >>> from deitlt_hf import LDAMLoss
        >>> loss = LDAMLoss([16, 1], max_margin=0.5)
        >>> loss.margins
        tensor([0.2500, 0.5000])
    """

    margins: torch.Tensor

    def __init__(self, class_counts: Sequence[int], max_margin: float = 0.5, scale: float = LDAM_SCALE):
        super().__init__()
        margins = checked_counts(class_counts) ** -0.25
        self.register_buffer("margins", (margins * (max_margin / margins.max())).float())
        self.scale = scale

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean loss of a batch: `logits` `(N, C)`, `labels` `(N,)` int64, `class_weights` `(C,)` in the DRW phase."""
        margins = F.one_hot(labels, logits.shape[-1]) * self.margins
        return F.cross_entropy(self.scale * (logits - margins), labels, weight=class_weights)
