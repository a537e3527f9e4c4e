"""The reference's DeiT-LT student as a `DeiTLTForImageClassification`."""

from __future__ import annotations

import math
import re

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification
from deitlt_hf.reference.checkpoint_file import ReferenceFile, State, count_numbers

# Attention heads of DeiT's sizes, by the part of the reference's model names that says the size; every head is 64 wide.
_HEADS_OF_SIZE = {"tiny": 3, "small": 6, "base": 12}
_HEAD_DIM = 64

_NAMES = {
    "cls_token": "deit.embeddings.cls_token",
    "dist_token": "deit.embeddings.distillation_token",
    "pos_embed": "deit.embeddings.position_embeddings",
    "patch_embed.proj.weight": "deit.embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "deit.embeddings.patch_embeddings.projection.bias",
    "norm.weight": "deit.layernorm.weight",
    "norm.bias": "deit.layernorm.bias",
    "head.weight": "cls_classifier.weight",
    "head.bias": "cls_classifier.bias",
    "head_dist.weight": "distillation_classifier.weight",
    "head_dist.bias": "distillation_classifier.bias",
}
_LAYER_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_LAYER = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


def convert_student(
    file: ReferenceFile, num_attention_heads: int | None = None
) -> tuple[DeiTLTForImageClassification, State, str]:
    """A student of the file's size with random weights, the file's tensors under its names, and a description."""
    hidden_size, num_channels, patch_size, _ = file.shape("patch_embed.proj.weight", 4)
    num_patches = file.shape("pos_embed", 3)[1] - 2  # the class and the distillation token have one each
    num_labels = file.shape("head.weight", 2)[0]
    config = DeiTLTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=count_numbers(file.state, r"blocks\.(\d+)\."),
        num_attention_heads=_num_heads(file, hidden_size, num_attention_heads),
        intermediate_size=file.shape("blocks.0.mlp.fc1.weight", 2)[0],
        num_channels=num_channels,
        patch_size=patch_size,
        image_size=math.isqrt(max(num_patches, 1)) * patch_size,
        num_labels=num_labels,
        class_counts=_class_counts(file, num_labels),
    )
    description = (
        f"DeiT-LT student, {config.num_hidden_layers} layers, hidden size {hidden_size}, "
        f"{config.num_attention_heads} heads, image size {config.image_size}, patch size {patch_size}, "
        f"{num_labels} classes"
    )
    return DeiTLTForImageClassification(config), _renamed(file.state), description


def _renamed(state: State) -> State:
    converted: State = {}
    for name, tensor in state.items():
        layer = _LAYER.fullmatch(name)
        if layer is None:
            converted[_NAMES.get(name, name)] = tensor
            continue
        number, part, kind = layer.groups()
        target = f"deit.layers.{number}"
        if part == "attn.qkv":  # stacked in this order along the output dimension
            for projection, rows in zip("qkv", tensor.tensor_split(3), strict=True):
                converted[f"{target}.attention.{projection}_proj.{kind}"] = rows
        else:
            converted[f"{target}.{_LAYER_NAMES.get(part, part)}.{kind}"] = tensor
    return converted


def _num_heads(file: ReferenceFile, hidden_size: int, num_attention_heads: int | None) -> int:
    if num_attention_heads is None:
        name = str(getattr(file.args, "model", "")).split("_")
        num_attention_heads = next((heads for size, heads in _HEADS_OF_SIZE.items() if size in name), None)
    if num_attention_heads is None:
        if hidden_size % _HEAD_DIM:
            raise DeiTLTError(
                f"{file.path}: the number of attention heads cannot be told from hidden size {hidden_size}, which is "
                f"no multiple of {_HEAD_DIM}; pass num_attention_heads (--num-attention-heads)"
            )
        return hidden_size // _HEAD_DIM
    if num_attention_heads < 1 or hidden_size % num_attention_heads:
        raise DeiTLTError(
            f"{file.path}: {num_attention_heads} attention heads do not divide hidden size {hidden_size}; "
            "pass the number that the model was trained with"
        )
    return num_attention_heads


def _class_counts(file: ReferenceFile, num_labels: int) -> list[int] | None:
    counts = getattr(file.args, "cls_num_list", None)
    if counts is None:
        return None
    try:
        counts = [int(count) for count in counts]
    except (TypeError, ValueError):
        raise DeiTLTError(f"{file.path}: its cls_num_list {counts!r:.60} is no list of numbers of images") from None
    if len(counts) != num_labels:
        raise DeiTLTError(f"{file.path}: its cls_num_list has {len(counts)} entries for {num_labels} classes")
    return counts
