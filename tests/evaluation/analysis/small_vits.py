"""Small Vision Transformers of each kind that the analysis knows, with random weights."""

from __future__ import annotations

import torch
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification

SIZES = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_labels": 5,
    "initializer_range": 0.3,  # attention that differs from token to token
}
KINDS = {
    "DeiT-LT": (DeiTLTForImageClassification, DeiTLTConfig),
    "DeiT with teacher": (DeiTForImageClassificationWithTeacher, DeiTConfig),
    "DeiT": (DeiTForImageClassification, DeiTConfig),
    "ViT": (ViTForImageClassification, ViTConfig),
}


def make_vit(kind: str, **changes) -> PreTrainedModel:
    model_class, config_class = KINDS[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**(SIZES | changes)))
    with torch.no_grad():  # transformers starts a DeiT's two tokens as the same zeros
        for name, weight in model.named_parameters():
            if name.endswith(("cls_token", "distillation_token", "position_embeddings")):
                weight.normal_()
    return model.eval()
