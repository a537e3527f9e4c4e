"""Class-balanced weights by effective number of samples (Cui et al., 2019), which DRW switches on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.losses.counts import checked_counts


def class_balanced_weights(class_counts: Sequence[int], beta: float = 0.9999) -> torch.Tensor:
    """Inverse effective number of samples per class, scaled to sum to the number of classes (paper, section 3).

    Args:
        class_counts: training images per class, in label order; each at least 1.
        beta: in [0, 1); 0 weighs all classes alike, values near 1 approach the inverse class count.

    Returns:
        float32 tensor of shape `(num_classes,)`, whose mean is 1.

    Raises:
        DeiTLTError: a class without training images, or `beta` outside [0, 1).

    Example:
        >>> from deitlt_hf import class_balanced_weights
        >>> class_balanced_weights([5000, 50], beta=0.9999)
        tensor([0.0250, 1.9750])
    """
    if not 0 <= beta < 1:
        raise DeiTLTError(f"class-balanced beta is {beta}; pass a number from 0 up to, not including, 1")
    counts = checked_counts(class_counts)
    # expm1 and log1p keep the digits that 1 - beta**n loses where beta is near 1.
    effective_number = torch.expm1(counts * torch.log1p(counts.new_tensor(-(1 - beta)))) / -(1 - beta)
    weights = 1 / effective_number
    return (weights * len(counts) / weights.sum()).float()
