"""The class counts that losses and weights are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deitlt_hf.errors import DeiTLTError


def checked_counts(class_counts: Sequence[int]) -> torch.Tensor:
    """Training images per class, float64 `(C,)`; a class without any is refused."""
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    empty = torch.nonzero(counts < 1).flatten().tolist()
    if empty:
        raise DeiTLTError(f"class {empty[0]} has no training images; leave it out of the data or add images of it")
    return counts
