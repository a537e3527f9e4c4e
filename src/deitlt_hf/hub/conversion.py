"""Reads `.pth` files of the paper's published implementation and of the teachers that it uses."""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from deitlt_hf.models.cifar_resnet.modeling_cifar_resnet import STAGE_CHANNELS, CifarResNetForImageClassification
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

State = dict[str, torch.Tensor]

# What the reference pickles next to its tensors: its command line and accuracies. NumPy 1 and Python before 3.13 write
# other module names than NumPy 2 and Python 3.13. Paths become pure ones, which exist on every system.
_NUMPY_SCALARS = (np.bool_, np.int32, np.int64, np.float32, np.float64)
_SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(scalar)) for scalar in _NUMPY_SCALARS),
]

# Attention heads of DeiT's sizes, as the reference's model names call them, and the width of a head in all of them.
_HEADS_OF_SIZE = {"tiny": 3, "small": 6, "base": 12}
_HEAD_DIM = 64

_STUDENT_NAMES = {
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
_STUDENT_LAYER_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_STUDENT_LAYER = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")

# PaCo's momentum encoder, queue of keys and projection head serve its loss, not its predictions.
_PACO_TRAINING_ONLY = ("encoder_k.", "linear_k.", "encoder_q.fc.", "queue")


def convert_reference_checkpoint(
    path: str | os.PathLike[str],
    *,
    use_ema: bool = False,
    num_attention_heads: int | None = None,
    label_names: Sequence[str] | None = None,
) -> DeiTLTForImageClassification | CifarResNetForImageClassification:
    """Turn a checkpoint of the reference into a model of this package, in evaluation mode, in float32.

    The file may hold a DeiT-LT student, or a CIFAR ResNet teacher trained with PaCo, LDAM or cross-entropy. Sizes are
    read from the shapes of the tensors, and `class_counts` of a student from the training arguments kept in the file.
    Nothing that the file pickles is run: other than tensors it may hold a `Namespace`, paths and numbers.

    Args:
        path: The `.pth` or `.pth.tar` file.
        use_ema: Take the exponential moving average of a student's weights (`model_ema`) instead of the weights.
        num_attention_heads: Attention heads of a student, which no tensor's shape tells; by default those of the size
            (tiny, small, base) in the model's name in the file, or else its hidden size / 64.
        label_names: Names of the classes in the file's own order, which for the reference's students on ImageNet-LT and
            iNaturalist-2018 is by falling frequency. By default `LABEL_0`, `LABEL_1`, ...

    Raises:
        DeiTLTError: no such file, not a checkpoint or a truncated one, a pickled call in it, none of the three kinds,
            tensors that are left over, missing or of the wrong shape, no EMA weights, unknown number of heads, or label
            names that do not match the number of classes.

    Example:
        >>> from deitlt_hf import convert_reference_checkpoint
        >>> model = convert_reference_checkpoint("checkpoint.pth", use_ema=True)  # doctest: +SKIP
        >>> model.config.class_counts  # doctest: +SKIP
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    path = Path(path)
    checkpoint = _read_checkpoint(path)
    state = _state_of(checkpoint, use_ema, path)
    if "dist_token" in state:
        config = _student_config(state, checkpoint.get("args"), num_attention_heads, path)
        model, converted = DeiTLTForImageClassification(config), _student_state(state)
    elif "conv1.weight" in state or "encoder_q.conv1.weight" in state:
        state = _without_paco_training(state)
        model, converted = CifarResNetForImageClassification(_resnet_config(state, path)), _resnet_state(state)
    else:
        raise DeiTLTError(
            f"{path} holds neither a DeiT-LT student nor a CIFAR ResNet teacher of PaCo or LDAM (first tensor: "
            f"{next(iter(state), 'none')}); pass a checkpoint of one of these"
        )
    _load_all(model, converted, path)
    if label_names is not None:
        _set_label_names(model.config, list(label_names))
    return model.eval()


def save_model_and_processor(
    model: DeiTLTForImageClassification | CifarResNetForImageClassification, out_dir: str | os.PathLike[str]
) -> None:
    """Write a model and the image processor of its image size into a new directory, all of it or nothing.

    The files are written into a directory beside `out_dir`, which is renamed at the end.

    Args:
        model: A converted model.
        out_dir: Directory to make; it must be absent or empty.

    Raises:
        DeiTLTError: `out_dir` is a file or holds something, or cannot be written.

    Example:
        >>> from deitlt_hf import convert_reference_checkpoint
        >>> from deitlt_hf.hub.conversion import save_model_and_processor
        >>> save_model_and_processor(convert_reference_checkpoint("checkpoint.pth"), "student")  # doctest: +SKIP
    """
    from deitlt_hf.data.processing import image_processor

    out = Path(out_dir).absolute()
    if out.exists() and not out.is_dir():
        raise DeiTLTError(f"{out_dir} is a file; pass a directory that does not exist yet")
    if out.is_dir() and any(out.iterdir()):
        raise DeiTLTError(f"{out_dir} is not empty; pass a directory that does not exist yet")
    unfinished = out.with_name(f".{out.name}.unfinished-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        model.save_pretrained(unfinished)
        image_processor(model.config.image_size).save_pretrained(unfinished)
        if out.exists():
            out.rmdir()  # not every system renames onto an empty directory
        unfinished.rename(out)
    except OSError as error:
        raise DeiTLTError(f"cannot write {out_dir}: {error.strerror or error}; pass a directory that can be") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DeiTLTError(f"{path} does not exist or is not a file; pass a .pth checkpoint of the reference")
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the unpickler fail in almost any way
        raise DeiTLTError(_why_unreadable(path, error)) from error
    if not isinstance(checkpoint, dict):
        raise DeiTLTError(f"{path} holds a {type(checkpoint).__name__} where a checkpoint is a dict of weights")
    return checkpoint


def _why_unreadable(path: Path, error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return (
            f"{path} pickles {refused.group(1)}, which no checkpoint of the reference holds; nothing of it was run, "
            "pass a file from a source that you trust"
        )
    return f"{path} is not a readable checkpoint ({type(error).__name__}): it may be truncated, or no .pth file at all"


def _state_of(checkpoint: dict[str, Any], use_ema: bool, path: Path) -> State:
    """The tensors to convert, without the prefix that DataParallel gives to every name."""
    keys = ("model_ema",) if use_ema else ("model", "state_dict")
    state = next((checkpoint[key] for key in keys if isinstance(checkpoint.get(key), dict)), None)
    if state is None and use_ema:
        raise DeiTLTError(f"{path} holds no EMA weights (key model_ema); convert its plain weights instead")
    if state is None:
        raise DeiTLTError(
            f"{path} has neither the key model (a student) nor state_dict (a teacher), but "
            f"{', '.join(map(str, list(checkpoint)[:5])) or 'nothing'}; pass a checkpoint of the reference"
        )
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise DeiTLTError(f"{path}: the entry {name!r} of its weights is a {type(tensor).__name__}, not a tensor")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _shape(state: State, name: str, num_dims: int, path: Path) -> torch.Size:
    if name not in state or state[name].dim() != num_dims:
        raise DeiTLTError(f"{path} lacks a tensor {name} of {num_dims} dimensions, so the model's size is unknown")
    return state[name].shape


def _student_config(state: State, args: Any, num_attention_heads: int | None, path: Path) -> DeiTLTConfig:
    hidden_size, num_channels, patch_size, _ = _shape(state, "patch_embed.proj.weight", 4, path)
    num_patches = _shape(state, "pos_embed", 3, path)[1] - 2  # the class and the distillation token have one each
    num_labels = _shape(state, "head.weight", 2, path)[0]
    return DeiTLTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=_count(state, r"blocks\.(\d+)\."),
        num_attention_heads=_num_heads(hidden_size, num_attention_heads, args, path),
        intermediate_size=_shape(state, "blocks.0.mlp.fc1.weight", 2, path)[0],
        num_channels=num_channels,
        patch_size=patch_size,
        image_size=math.isqrt(max(num_patches, 1)) * patch_size,
        num_labels=num_labels,
        class_counts=_class_counts(args, num_labels, path),
    )


def _num_heads(hidden_size: int, num_attention_heads: int | None, args: Any, path: Path) -> int:
    if num_attention_heads is None:
        num_attention_heads = _heads_by_name(args)
    if num_attention_heads is None:
        if hidden_size % _HEAD_DIM:
            raise DeiTLTError(
                f"{path}: the number of attention heads cannot be told from hidden size {hidden_size}, which is no "
                f"multiple of {_HEAD_DIM}; pass num_attention_heads (--num-attention-heads)"
            )
        return hidden_size // _HEAD_DIM
    if num_attention_heads < 1 or hidden_size % num_attention_heads:
        raise DeiTLTError(
            f"{path}: {num_attention_heads} attention heads do not divide hidden size {hidden_size}; "
            "pass the number that the model was trained with"
        )
    return num_attention_heads


def _heads_by_name(args: Any) -> int | None:
    name = str(getattr(args, "model", ""))
    return next((heads for size, heads in _HEADS_OF_SIZE.items() if size in name.split("_")), None)


def _class_counts(args: Any, num_labels: int, path: Path) -> list[int] | None:
    counts = getattr(args, "cls_num_list", None)
    if counts is None:
        return None
    try:
        counts = [int(count) for count in counts]
    except (TypeError, ValueError):
        raise DeiTLTError(f"{path}: its cls_num_list {counts!r:.60} is no list of numbers of images") from None
    if len(counts) != num_labels:
        raise DeiTLTError(f"{path}: its cls_num_list has {len(counts)} entries for {num_labels} classes")
    return counts


def _student_state(state: State) -> State:
    converted: State = {}
    for name, tensor in state.items():
        layer = _STUDENT_LAYER.fullmatch(name)
        if layer is None:
            converted[_STUDENT_NAMES.get(name, name)] = tensor
            continue
        number, part, kind = layer.groups()
        target = f"deit.layers.{number}"
        if part == "attn.qkv":  # stacked in this order along the output dimension
            for projection, rows in zip("qkv", tensor.tensor_split(3), strict=True):
                converted[f"{target}.attention.{projection}_proj.{kind}"] = rows
        else:
            converted[f"{target}.{_STUDENT_LAYER_NAMES.get(part, part)}.{kind}"] = tensor
    return converted


def _without_paco_training(state: State) -> State:
    if "encoder_q.conv1.weight" not in state:
        return state
    return {
        name.removeprefix("encoder_q."): tensor
        for name, tensor in state.items()
        if not name.startswith(_PACO_TRAINING_ONLY)
    }


def _resnet_config(state: State, path: Path) -> CifarResNetConfig:
    channels, num_channels, *_ = _shape(state, "conv1.weight", 4, path)
    blocks = {_count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 4)}
    if channels != STAGE_CHANNELS[0] or len(blocks) > 1:
        raise DeiTLTError(
            f"{path} is a ResNet, but none of the CIFAR kind ({channels} channels after conv1, not "
            f"{STAGE_CHANNELS[0]}); pass a ResNet-20, 32, 44, 56 or 110"
        )
    class_vectors = _shape(state, "linear.weight", 2, path)
    cosine = _is_cosine(state)
    try:
        return CifarResNetConfig(
            depth=6 * blocks.pop() + 2,
            classifier="cosine" if cosine else "linear",
            num_channels=num_channels,
            num_labels=class_vectors[1] if cosine else class_vectors[0],
        )
    except ValueError as error:
        raise DeiTLTError(f"{path}: {error}") from error


def _is_cosine(state: State) -> bool:
    """LDAM's cosine classifier has no bias; its linear one and PaCo's have."""
    return "linear.bias" not in state


def _resnet_state(state: State) -> State:
    converted = {re.sub(r"^linear\.", "classifier.", name): tensor for name, tensor in state.items()}
    if _is_cosine(state):
        converted["classifier.weight"] = state["linear.weight"].T  # class vectors: columns there, rows here
    return converted


def _count(names: Iterable[str], pattern: str) -> int:
    return len({match.group(1) for match in (re.match(pattern, name) for name in names) if match})


def _load_all(model: torch.nn.Module, converted: State, path: Path) -> None:
    """Load with every tensor of the file used and every tensor of the model given."""
    wanted = model.state_dict()
    for problem, names in (
        ("left over", converted.keys() - wanted.keys()),
        ("missing", wanted.keys() - converted.keys()),
        ("of another shape", {n for n in wanted.keys() & converted.keys() if wanted[n].shape != converted[n].shape}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise DeiTLTError(
                f"{path}: {len(names)} tensors {problem} after conversion to {type(model).__name__}: {shown}; pass an "
                "unchanged checkpoint of the reference"
            )
    model.load_state_dict(converted, strict=True)


def _set_label_names(config: DeiTLTConfig | CifarResNetConfig, label_names: list[str]) -> None:
    if len(label_names) != config.num_labels:
        raise DeiTLTError(
            f"{len(label_names)} label names were given for {config.num_labels} classes; pass one for each"
        )
    twice = next((name for name in label_names if label_names.count(name) > 1), None)
    if twice is not None:
        raise DeiTLTError(f"the label name {twice!r} was given twice; pass a different name for each class")
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}
