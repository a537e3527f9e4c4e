"""What the analysis reads of a Vision Transformer: its patches, its tokens after each layer, attention, and logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.attention import TOKENS, sides
from deitlt_hf.evaluation.evaluate import expert_logits
from deitlt_hf.evaluation.measures import EXPERTS

_WHAT_TO_PASS = "pass a Vision Transformer of transformers: DeiT-LT, DeiT, DeiT with teacher, or ViT"


class Patches(NamedTuple):
    """The patches of a model's images: sides in pixels, `(height, width)`."""

    image_size: tuple[int, int]
    patch_size: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns.

        Example:
            >>> Patches((32, 48), (8, 8)).grid
            (4, 6)
        """
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


class ViTPass(NamedTuple):
    """What a model makes of a batch.

    Fields:
        logits: float32 `(batch, classes)` of each expert that the model has: average, CLS and DIST of a model with two
            heads, `"cls"` alone of one with a single head.
        tokens: `(layers, batch, hidden_size)` after each layer, before the final normalisation, of each token that has
            a head.
        attentions: per layer, `(batch, heads, tokens, tokens)`.
    """

    logits: dict[str, torch.Tensor]
    tokens: dict[str, torch.Tensor]
    attentions: tuple[torch.Tensor, ...]


def patches_of(config: PreTrainedConfig) -> Patches:
    """The patches of a Vision Transformer with a configuration.

    Raises:
        DeiTLTError: the model is another kind of network.

    Example:
        >>> from transformers import ViTConfig
        >>> patches_of(ViTConfig(image_size=32, patch_size=8)).grid
        (4, 4)
    """
    image_size, patch_size = (getattr(config, name, None) for name in ("image_size", "patch_size"))
    if image_size is None or patch_size is None:
        raise DeiTLTError(f"a {config.model_type} model has no patches whose attention could be shown; {_WHAT_TO_PASS}")
    return Patches(sides(image_size), sides(patch_size))


def run_vit(model: PreTrainedModel, pixel_values: torch.Tensor, dist_is_trained: bool = True) -> ViTPass:
    """Run a Vision Transformer and read its layers; the caller puts it into evaluation mode and `eager_attention`.

    Args:
        model: `DeiTLTForImageClassification`, transformers' `DeiTForImageClassificationWithTeacher`,
            `DeiTForImageClassification` or `ViTForImageClassification`, or one with the same outputs.
        pixel_values: `(batch, channels, height, width)`, normalised, of the model's image size, on its device.
        dist_is_trained: False reads of a model with two heads the CLS expert alone. Default True.

    Raises:
        DeiTLTError: the model gives no attention weights, or has no class token.
        ValueError: another image size than the model's.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> config = ViTConfig(
        ...     image_size=32, patch_size=8, hidden_size=24, intermediate_size=48, num_hidden_layers=3,
        ...     num_attention_heads=2,
        ... )
        >>> model = ViTForImageClassification(config).eval()
        >>> with eager_attention(model):
        ...     output = run_vit(model, torch.zeros(5, 3, 32, 32))
        >>> list(output.logits), output.tokens["cls"].shape, output.attentions[0].shape
        (['cls'], torch.Size([3, 5, 24]), torch.Size([5, 2, 17, 17]))
    """
    output = model(pixel_values=pixel_values, output_hidden_states=True, output_attentions=True)
    layers = getattr(output, "attentions", None)
    rows, columns = patches_of(model.config).grid
    # A Swin Transformer's are those of windows, and it has no class token.
    if not layers or layers[0] is None or layers[0].shape[-1] <= rows * columns:
        raise DeiTLTError(
            f"{type(model).__name__} gives no attention weights of a class token and all patches; {_WHAT_TO_PASS}"
        )
    logits = _logits(output, dist_is_trained)
    after_layers = output.hidden_states[1:]  # the first are the embeddings
    tokens = {
        token: torch.stack([states[:, index] for states in after_layers])
        for index, token in enumerate(TOKENS)
        if token in logits
    }
    return ViTPass(logits, tokens, tuple(layers))


def _logits(output: object, dist_is_trained: bool) -> dict[str, torch.Tensor]:
    if getattr(output, "distillation_logits", None) is None:
        return {"cls": output.logits.float()}
    if not dist_is_trained:
        return {"cls": output.cls_logits.float()}
    return dict(zip(EXPERTS, expert_logits(output.cls_logits, output.distillation_logits), strict=True))


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model computes attention weights as a matrix, which faster implementations do not give.

    Example:
        >>> with eager_attention(model):  # doctest: +SKIP
        ...     attentions = model(pixel_values, output_attentions=True).attentions
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
