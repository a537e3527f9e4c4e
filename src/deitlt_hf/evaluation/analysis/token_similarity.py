"""How alike the class token and the distillation token are: less where they became different experts."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from deitlt_hf.errors import DeiTLTError


def token_similarity(cls_tokens: torch.Tensor, distillation_tokens: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of each image's class token and distillation token (the paper's analysis).

    Args:
        cls_tokens, distillation_tokens: floats `(..., D)` of the same shape, such as `(N, D)`, or `(layers, N, D)`.

    Returns:
        Floats `(...)` in -1 to 1, one for each pair of tokens; take their mean for a model's.

    Raises:
        DeiTLTError: tokens of different shapes.

    Example:
        >>> token_similarity(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        tensor([0., 1.])
    """
    if cls_tokens.shape != distillation_tokens.shape:
        raise DeiTLTError(
            f"class tokens have shape {tuple(cls_tokens.shape)} and distillation tokens "
            f"{tuple(distillation_tokens.shape)}; pass those of the same images and layers"
        )
    return F.cosine_similarity(cls_tokens.float(), distillation_tokens.float(), dim=-1)
