"""Layer-wise learning-rate decay (Clark et al., 2020, ELECTRA; Bao et al., 2022, BEiT): lower layers change less."""

from __future__ import annotations

import re

import torch
from torch import nn

# Of DeiT, ViT, DINOv2 and CLIP; of DINOv3; of timm.
_LAYER = re.compile(r"\.(?:layers?|blocks)\.(\d+)\.")
# Above the layers: both heads, the last normalisation, and a distillation token that is new in a backbone.
_ABOVE = re.compile(r"_classifier\.|\.(?:layernorm|post_layernorm|norm|fc_norm)\.|\.distillation_token\.")


def layer_of(name: str, layers: int) -> int:
    """Which layer a student's weight belongs to: 0 is the embedding, `layers + 1` what is above the last layer.

    Example:
        >>> layer_of("deit.layers.0.mlp.fc1.weight", 12), layer_of("cls_classifier.bias", 12)
        (1, 13)
    """
    found = _LAYER.search(name)
    if found:
        return int(found[1]) + 1
    return layers + 1 if _ABOVE.search(name) else 0


def decay_by_layer(optimizer: torch.optim.Optimizer, model: nn.Module, decay: float) -> None:
    """Split the optimiser's groups by layer: each layer's learning rate is `decay` times that of the one above it.

    Example:
        >>> from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
        >>> shape = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_attention_heads": 2}
        >>> student = DeiTLTForImageClassification(DeiTLTConfig(num_hidden_layers=2, **shape))
        >>> optimizer = torch.optim.AdamW(student.parameters(), lr=1.0)
        >>> decay_by_layer(optimizer, student, 0.5)
        >>> [group["lr"] for group in optimizer.param_groups]
        [1.0, 0.5, 0.25, 0.125]
    """
    layers = model.config.num_hidden_layers
    rates = {weight: decay ** (layers + 1 - layer_of(name, layers)) for name, weight in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        for rate in {rates[weight] for weight in group["params"]}:
            of_rate = [weight for weight in group["params"] if rates[weight] == rate]
            groups.append({**group, "params": of_rate, "lr": rate * group["lr"]})
    # The first group's rate is what the log shows.
    optimizer.param_groups[:] = sorted(groups, key=lambda group: -group["lr"])
