"""How far attention reaches, in pixels: small in layers that read their neighbourhood as a convolution does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.attention import TOKENS, sides

READERS = ("all", *TOKENS)


def mean_attention_distance(
    attention: torch.Tensor | Sequence[torch.Tensor],
    patch_size: int | tuple[int, int],
    image_size: int | tuple[int, int] | None = None,
    num_special_tokens: int = 2,
    token: str = "all",
) -> torch.Tensor:
    """Mean distance in pixels over which each head attends (Dosovitskiy et al., 2021, figure 7; the paper's analysis).

    Distances are those between the patches' centres. What is given to the class and distillation tokens, which lie
    nowhere, is left out, and a token's weights on the patches are scaled to sum to 1; a token that attends to no patch
    at all has distance 0.

    For `token="all"` each patch reads: the distance from it to the patches that it attends to, weighted by attention,
    and the mean over patches and images. The class and distillation tokens have no place to measure from. Theirs is the
    mean distance between two patches that are drawn by the token's weights: 0 where it looks at one patch, wherever
    that is, and for uniform weights the same as `"all"` gives for them.

    Args:
        attention: weights `(batch, heads, tokens, tokens)` of one layer, rows reading columns; or a sequence of
            layers. Class and distillation token come first, then the patches row by row.
        patch_size: side of a patch in pixels, or `(height, width)`.
        image_size: the same of the image; by default square.
        num_special_tokens: tokens before the patches: 2 for DeiT and DeiT-LT (default), 1 for ViT.
        token: who reads: `"all"` patches (default), `"cls"` or `"distillation"`.

    Returns:
        Floats `(heads,)` for one layer, `(layers, heads)` for a sequence, on the attention's device.

    Raises:
        DeiTLTError: attention of another shape; tokens that are no grid of patches of these sizes; an unknown `token`,
            or one that the model does not have.

    Example:
        >>> looking_at_itself = torch.eye(6).expand(1, 3, 6, 6)  # two tokens and 2 x 2 patches
        >>> mean_attention_distance(looking_at_itself, patch_size=8)
        tensor([0., 0., 0.])
        >>> everywhere = torch.full((1, 1, 6, 6), 1 / 6)
        >>> mean_attention_distance(everywhere, patch_size=8)  # (0 + 8 + 8 + 8 * sqrt(2)) / 4
        tensor([6.8284])
    """
    if not isinstance(attention, torch.Tensor) or attention.ndim == 5:
        if len(attention) == 0:  # what transformers' models give with their fast attention, and a warning
            raise DeiTLTError("there are no layers: load the model with attn_implementation='eager', which gives them")
        layers = [
            mean_attention_distance(layer, patch_size, image_size, num_special_tokens, token) for layer in attention
        ]
        return torch.stack(layers)
    reader = _reader(token, num_special_tokens)
    if attention.ndim != 4 or attention.shape[-1] != attention.shape[-2]:
        raise DeiTLTError(
            f"attention has shape {tuple(attention.shape)}; pass weights of shape (batch, heads, tokens, tokens)"
        )
    attention = attention if attention.dtype == torch.float64 else attention.float()
    distances = _distances(attention.shape[-1] - num_special_tokens, sides(patch_size), image_size).to(attention)
    weights = _shares(attention[:, :, reader, num_special_tokens:])
    if token == "all":
        return torch.einsum("bhqk,qk->bhq", weights, distances).mean((0, 2))
    return torch.einsum("bhi,ij,bhj->bh", weights, distances, weights).mean(0)


def _reader(token: str, num_special_tokens: int) -> slice | int:
    if token == "all":
        return slice(num_special_tokens, None)
    if token not in TOKENS:
        raise DeiTLTError(f"unknown token {token!r}; pass one of {', '.join(READERS)}")
    if TOKENS.index(token) >= num_special_tokens:
        raise DeiTLTError(f"num_special_tokens is {num_special_tokens}, which leaves no {token} token; pass all or cls")
    return TOKENS.index(token)


def _shares(weights: torch.Tensor) -> torch.Tensor:
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def _distances(patches: int, patch_size: tuple[int, int], image_size: int | tuple[int, int] | None) -> torch.Tensor:
    """Distances `(patches, patches)` in pixels between the centres of patches, which are in order of their rows."""
    if image_size is None:
        rows = columns = math.isqrt(max(patches, 0))
    else:
        rows, columns = (side // patch for side, patch in zip(sides(image_size), patch_size, strict=True))
    if patches < 1 or rows * columns != patches:
        grid = "no square grid" if image_size is None else f"no grid of {rows} x {columns}"
        raise DeiTLTError(
            f"{patches} tokens beside the special ones are {grid} of patches; pass the model's own image_size, "
            "patch_size and num_special_tokens"
        )
    height, width = patch_size
    places = torch.cartesian_prod(
        torch.arange(rows, dtype=torch.float64) * height, torch.arange(columns, dtype=torch.float64) * width
    )
    # Not `torch.cdist`, which takes differences of squares from 25 patches on.
    return torch.linalg.vector_norm(places[:, None] - places[None], dim=-1)
