"""Losses that take the class prior out of the logits: balanced softmax, logit adjustment and balanced BCE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.losses.counts import checked_counts
from deitlt_hf.losses.cross_entropy import CrossEntropyLoss, as_probabilities


class LogitAdjustedLoss(CrossEntropyLoss):
    """Cross-entropy of `logits + tau * log prior` (Menon et al., 2021, equation 10).

    The model learns logits without the prior, so that its plain predictions are for balanced classes.

    Args:
        class_counts: training images per class, in label order; each at least 1.
        tau: share of the prior that is taken out. 0 is cross-entropy; 1, the default, is consistent for balanced
            accuracy, and is balanced softmax.

    Raises:
        DeiTLTError: a class without training images, or a negative tau.

    Example:
        >>> import torch
        >>> from deitlt_hf import LogitAdjustedLoss
        >>> loss = LogitAdjustedLoss([3, 1])(torch.zeros(1, 2), torch.tensor([1]))
        >>> round(loss.item(), 4)  # -ln(1/4)
        1.3863
    """

    offsets: torch.Tensor

    def __init__(self, class_counts: Sequence[int], tau: float = 1.0):
        super().__init__()
        self.register_buffer("offsets", _checked(tau) * class_prior(class_counts).log())

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean loss of a batch; shapes as in `CrossEntropyLoss`."""
        return super().forward(logits + self.offsets, targets, class_weights)


class BalancedSoftmaxLoss(LogitAdjustedLoss):
    """Cross-entropy of a softmax that counts each class as often as it has images (Ren et al., 2020, equation 4).

    The same as `LogitAdjustedLoss` with tau 1, under the name that the field knows.

    Args:
        class_counts: training images per class, in label order; each at least 1.

    Raises:
        DeiTLTError: a class without training images.

    Example:
        >>> import torch
        >>> from deitlt_hf import BalancedSoftmaxLoss
        >>> loss = BalancedSoftmaxLoss([3, 1])(torch.zeros(1, 2), torch.tensor([0]))
        >>> round(loss.item(), 4)  # -ln(3/4)
        0.2877
    """

    def __init__(self, class_counts: Sequence[int]):
        super().__init__(class_counts, tau=1.0)


class BalancedBCELoss(nn.Module):
    """Binary cross-entropy of each class at `logits + tau * log(prior / (1 - prior))` (Xu et al., 2023, LiVT).

    Take it for Vision Transformers with many classes, which LiVT trains with it.

    Args:
        class_counts: training images per class, in label order; each at least 1.
        tau: share of the prior that is taken out; 1 is the paper's, 0 plain binary cross-entropy.

    Raises:
        DeiTLTError: a class without training images, or a negative tau.

    Example:
        >>> import torch
        >>> from deitlt_hf import BalancedBCELoss
        >>> loss = BalancedBCELoss([1, 1])(torch.zeros(1, 2), torch.tensor([0]))
        >>> round(loss.item(), 4)  # 2 ln 2: one term for each class
        1.3863
    """

    offsets: torch.Tensor

    def __init__(self, class_counts: Sequence[int], tau: float = 1.0):
        super().__init__()
        self.register_buffer("offsets", _checked(tau) * torch.logit(class_prior(class_counts)))

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean over images of the sum over classes; shapes as in `CrossEntropyLoss`."""
        targets = as_probabilities(targets, logits)
        of_images = F.binary_cross_entropy_with_logits(logits + self.offsets, targets, reduction="none").sum(-1)
        if class_weights is None:
            return of_images.mean()
        image_weights = targets @ class_weights
        return (image_weights * of_images).sum() / image_weights.sum()


def _checked(tau: float) -> float:
    """The strength of the prior, if it is one."""
    if tau < 0:
        raise DeiTLTError(f"the prior's strength tau is {tau}; pass a number of at least 0")
    return tau


def class_prior(class_counts: Sequence[int]) -> torch.Tensor:
    """The share of each class in the training images, float32 `(C,)`."""
    counts = checked_counts(class_counts)
    return (counts / counts.sum()).float()
