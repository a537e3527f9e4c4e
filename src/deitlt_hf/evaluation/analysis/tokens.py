"""Measures of the tokens in each layer: distance of attention, rollout, rank of the features, similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.attention import TOKENS, sides

VARIANCE = 0.99  # the paper's share


def mean_attention_distance(
    attention: torch.Tensor | Sequence[torch.Tensor],
    patch_size: int | tuple[int, int],
    image_size: int | tuple[int, int] | None = None,
    num_special_tokens: int = 2,
    token: str = "all",
) -> torch.Tensor:
    """Mean distance in pixels over which each head attends (Dosovitskiy et al., 2021, figure 7; the paper's analysis).

    Distances are between the patches' centres. Attention to the class and distillation tokens, which have no place, is
    left out, and a token's weights on the patches are scaled to sum to 1; a token that attends to no patch has distance
    0.

    For `token="all"` it is the distance from each patch to the patches that it attends to, weighted by attention, and
    the mean over patches and images. For the class and distillation tokens, which have no place, it is the mean
    distance between two patches drawn by the token's weights: 0 if the token looks at a single patch, and for uniform
    weights the same as for `"all"`.

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
        if len(attention) == 0:  # with their fast attention, transformers' models give none
            raise DeiTLTError("there are no layers: load the model with attn_implementation='eager', which gives them")
        sizes = (patch_size, image_size, num_special_tokens, token)
        return torch.stack([mean_attention_distance(layer, *sizes) for layer in attention])
    reader = _reader(token, num_special_tokens)
    if attention.ndim != 4 or attention.shape[-1] != attention.shape[-2]:
        raise DeiTLTError(
            f"attention has shape {tuple(attention.shape)}; pass weights of shape (batch, heads, tokens, tokens)"
        )
    attention = attention if attention.dtype == torch.float64 else attention.float()
    distances = _distances(attention.shape[-1] - num_special_tokens, sides(patch_size), image_size).to(attention)
    on_patches = attention[:, :, reader, num_special_tokens:]
    total = on_patches.sum(-1, keepdim=True)
    weights = on_patches / torch.where(total > 0, total, 1.0)
    if token == "all":
        return torch.einsum("bhqk,qk->bhq", weights, distances).mean((0, 2))
    return torch.einsum("bhi,ij,bhj->bh", weights, distances, weights).mean(0)


def _reader(token: str, num_special_tokens: int) -> slice | int:
    if token == "all":
        return slice(num_special_tokens, None)
    if token not in TOKENS:
        raise DeiTLTError(f"unknown token {token!r}; pass one of all, {', '.join(TOKENS)}")
    if TOKENS.index(token) >= num_special_tokens:
        raise DeiTLTError(f"num_special_tokens is {num_special_tokens}, which leaves no {token} token; pass all or cls")
    return TOKENS.index(token)


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
    # Not `torch.cdist`: from 25 patches on it computes differences of squares, which are less exact.
    return torch.linalg.vector_norm(places[:, None] - places[None], dim=-1)


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


def feature_rank(features: torch.Tensor, variance: float = VARIANCE) -> int:
    """Number of principal components that hold a share of the features' variance (the paper's analysis).

    The components are singular vectors of the centred features, a component's variance the square of its singular
    value; the largest come first.

    Args:
        features: floats `(N, D)`, a row per image.
        variance: the share, above 0 up to 1. Default 0.99, the paper's.

    Returns:
        0 to `min(N - 1, D)`; 0 where all rows are the same.

    Raises:
        DeiTLTError: features of another shape, without rows, or not finite; a share out of range.

    Example:
        >>> line = torch.arange(6.0)[:, None] * torch.tensor([1.0, 2.0, 3.0]) + 5
        >>> feature_rank(line), feature_rank(torch.eye(3))
        (1, 2)
    """
    if features.ndim != 2 or 0 in features.shape:
        raise DeiTLTError(f"features have shape {tuple(features.shape)}; pass one row of features per image, (N, D)")
    spectrum = FeatureSpectrum()
    spectrum.add(features)
    return count_components(spectrum.shares(), variance).item()


def count_components(shares: torch.Tensor, variance: float = VARIANCE) -> torch.Tensor:
    """How many of the largest components hold a share of the variance, ints `(...)`; see `FeatureSpectrum.shares`."""
    if not 0 < variance <= 1:
        raise DeiTLTError(f"variance is {variance}; pass a share above 0, up to 1, such as {VARIANCE}")
    short = shares.cumsum(-1) < variance - 1e-12  # a sum of 1 may be rounded down
    return torch.minimum(short.sum(-1) + 1, (shares > 0).sum(-1))


class FeatureSpectrum:
    """Variances of features along their principal components, from batches, in memory for `D x D` numbers.

    It keeps the mean and the Gram matrix of the centred features in float64, where squares of singular values are exact
    to about 1e-16 of the largest, and merges batches as Chan, Golub and LeVeque (1979) do.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: torch.Tensor | None = None
        self._gram: torch.Tensor | None = None

    def add(self, features: torch.Tensor) -> None:
        """Add a batch `(..., N, D)`; leading dimensions, such as layers, have spectra of their own."""
        features = features.detach()
        # Apple's devices know no float64.
        features = (features.cpu() if features.device.type == "mps" else features).double()
        mean = features.mean(-2)
        centred = features - mean[..., None, :]
        gram = centred.mT @ centred
        added = features.shape[-2]
        if self._gram is None:
            self._count, self._mean, self._gram = added, mean, gram
            return
        count = self._count + added
        shift = mean - self._mean
        self._gram += gram + (self._count * added / count) * shift[..., :, None] * shift[..., None, :]
        self._mean += shift * (added / count)
        self._count = count

    def shares(self) -> torch.Tensor:
        """Each component's share of the variance, `(..., D)` float64 on the CPU, falling; 0 where nothing varies."""
        gram = self._gram.cpu()
        if not gram.isfinite().all():
            raise DeiTLTError("features are not finite; pass those of a model whose weights are")
        squares = torch.linalg.eigvalsh(gram).flip(-1)
        # What rounding leaves in a component that has no variance.
        noise = squares[..., :1] * gram.shape[-1] * torch.finfo(gram.dtype).eps
        noise = torch.maximum(noise, (self._mean.cpu().abs().amax(-1, keepdim=True) * 1e-15) ** 2 * self._count)
        squares = torch.where(squares > noise, squares, 0.0)
        total = squares.sum(-1, keepdim=True)
        return squares / torch.where(total > 0, total, 1.0)
