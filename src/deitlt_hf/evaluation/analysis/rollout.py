"""Which patches a token depends on through all layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deitlt_hf.errors import DeiTLTError


def attention_rollout(attentions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attention through all layers (Abnar & Zuidema, 2020).

    In each layer the mean over the heads stands for what tokens take from each other, and the identity for the residual
    connection; rows are scaled to sum to 1, and the layers are multiplied, the last one leftmost.

    Args:
        attentions: per layer, from the first, weights `(batch, heads, tokens, tokens)`.

    Returns:
        Floats `(batch, tokens, tokens)`: row `i` holds the shares of the input tokens in token `i` of the last layer,
        and sums to 1.

    Raises:
        DeiTLTError: no layer, or weights of another shape.

    Example:
        >>> uniform = torch.full((1, 2, 2, 2), 0.5)
        >>> attention_rollout([uniform])
        tensor([[[0.7500, 0.2500],
                 [0.2500, 0.7500]]])
        >>> attention_rollout([uniform, uniform])
        tensor([[[0.6250, 0.3750],
                 [0.3750, 0.6250]]])
    """
    rollout = None
    for attention in attentions:
        if attention.ndim != 4 or attention.shape[-1] != attention.shape[-2]:
            raise DeiTLTError(
                f"a layer's attention has shape {tuple(attention.shape)}; pass weights of shape "
                "(batch, heads, tokens, tokens)"
            )
        mixed = attention.float().mean(1)
        mixed = mixed + torch.eye(mixed.shape[-1], device=mixed.device)
        mixed = mixed / mixed.sum(-1, keepdim=True)
        rollout = mixed if rollout is None else mixed @ rollout
    if rollout is None:
        raise DeiTLTError(
            "there are no layers: load the model with attn_implementation='eager', and pass output_attentions=True"
        )
    return rollout
