"""Runs an image classifier and reads its logits; of a Vision Transformer also its attention and its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.attention import TOKENS, WHAT_TO_PASS, gives_attention, patches_of
from deitlt_hf.evaluation.evaluate import has_two_heads, logits_by_row

_WITH_TOKENS = ("deit_lt", "deit", "vit")  # types of the models that `WHAT_TO_PASS` names


class ViTPass(NamedTuple):
    """What a model makes of a batch; one with a single head has the CLS expert and token, or no token at all."""

    logits: dict[str, torch.Tensor]  # float32 `(batch, classes)` by expert
    tokens: dict[str, torch.Tensor]  # `(layers, batch, hidden_size)` after each layer, before the final normalisation
    attentions: tuple[torch.Tensor, ...]  # `(batch, heads, tokens, tokens)` per layer


def has_tokens(config: PreTrainedConfig) -> bool:
    """Whether the tokens and the attention of a model can be analyzed; of any other classifier, predictions alone."""
    return config.model_type in _WITH_TOKENS and gives_attention(config)


def run_classifier(model: PreTrainedModel, pixel_values: torch.Tensor, dist_is_trained: bool = True) -> ViTPass:
    """`run_vit` for a model whose tokens can be read; of any other image classifier the logits alone."""
    if has_tokens(model.config):
        return run_vit(model, pixel_values, dist_is_trained)
    return ViTPass(logits_by_row(model(pixel_values=pixel_values), model.config), {}, ())


def run_vit(model: PreTrainedModel, pixel_values: torch.Tensor, dist_is_trained: bool = True) -> ViTPass:
    """Run a DeiT-LT, DeiT, DeiT with teacher or ViT classifier, in evaluation mode and `eager_attention`.

    `pixel_values` are `(batch, channels, height, width)`, normalised, of the model's image size. With
    `dist_is_trained=False` only the CLS expert of a model with two heads is read.
    """
    output = model(pixel_values=pixel_values, output_hidden_states=True, output_attentions=True)
    layers = getattr(output, "attentions", None)
    rows, columns = patches_of(model.config).grid
    # A Swin Transformer has attention within windows, and no class token.
    if not layers or layers[0] is None or layers[0].shape[-1] <= rows * columns:
        raise DeiTLTError(
            f"{type(model).__name__} gives no attention weights of a class token and all patches; {WHAT_TO_PASS}"
        )
    if not has_two_heads(output):
        logits = {"cls": output.logits.float()}
    elif not dist_is_trained:
        logits = {"cls": output.cls_logits.float()}
    else:
        logits = logits_by_row(output, model.config)
    after_layers = output.hidden_states[1:]  # the first are the embeddings
    tokens = {
        token: torch.stack([states[:, index] for states in after_layers])
        for index, token in enumerate(TOKENS)
        if token in logits
    }
    return ViTPass(logits, tokens, tuple(layers))


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a model with tokens computes attention weights as a matrix, which faster implementations do not give."""
    if not has_tokens(model.config):
        yield
        return
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
