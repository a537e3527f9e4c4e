"""Cross-entropy of classes or of probabilities of classes, with class weights, and focal loss (Lin et al., 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from deitlt_hf.errors import DeiTLTError


class CrossEntropyLoss(nn.Module):
    """Cross-entropy whose class weights mean the same for classes and for probabilities: a weighted mean.

    torch divides by the sum of the weights for classes, but by the batch size for probabilities.

    Example:
        >>> import torch
        >>> from deitlt_hf import CrossEntropyLoss
        >>> logits, weights = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 3.0])
        >>> hard = CrossEntropyLoss()(logits, torch.tensor([0, 1]), weights)
        >>> soft = CrossEntropyLoss()(logits, torch.eye(2), weights)
        >>> torch.allclose(hard, soft)
        True
    """

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean loss of a batch.

        Args:
            logits: float `(N, C)`.
            targets: classes `(N,)` int64, or probabilities of classes `(N, C)` from mixing and label smoothing.
            class_weights: `(C,)`, in the DRW phase.
        """
        if class_weights is None or not targets.is_floating_point():
            return F.cross_entropy(logits, targets, weight=class_weights)
        summed = F.cross_entropy(logits, targets, weight=class_weights, reduction="sum")
        return summed / (targets @ class_weights).sum()


class FocalLoss(nn.Module):
    """Cross-entropy times `(1 - p) ** gamma`, where p is the probability of the true class (Lin et al., 2017, eq. 4).

    Take it where easy images drown the others. It does not look at class counts.

    Args:
        gamma: 0 is cross-entropy, 2 the paper's value.

    Raises:
        DeiTLTError: a negative gamma.

    Example:
        >>> import torch
        >>> from deitlt_hf import FocalLoss
        >>> loss = FocalLoss(gamma=1.0)(torch.zeros(1, 2), torch.tensor([0]))
        >>> round(loss.item(), 4)  # 0.5 * ln 2
        0.3466
    """

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        if gamma < 0:
            raise DeiTLTError(f"focal gamma is {gamma}; pass a number of at least 0")
        self.gamma = gamma

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean loss of a batch; shapes as in `CrossEntropyLoss`. Probabilities of classes weigh each class's term."""
        log_probabilities = logits.log_softmax(-1)
        targets = as_probabilities(targets, logits)
        weighted = targets if class_weights is None else targets * class_weights
        # A root, gamma below 1, has no finite slope at 0, where the model is sure of a class.
        others = (1 - log_probabilities.exp()).clamp(min=torch.finfo(logits.dtype).tiny)
        terms = weighted * others**self.gamma * log_probabilities
        return -terms.sum() / weighted.sum()


def as_probabilities(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Targets as probabilities of classes `(N, C)`: classes `(N,)` become 1 and 0."""
    return targets if targets.is_floating_point() else F.one_hot(targets, logits.shape[-1]).to(logits.dtype)
