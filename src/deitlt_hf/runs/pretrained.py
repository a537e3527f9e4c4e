"""Students that keep the layers of a pretrained Vision Transformer of transformers or timm."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, ViTConfig
from transformers.utils import logging

from deitlt_hf.errors import DeiTLTError, notice, some
from deitlt_hf.files import read_json
from deitlt_hf.inference.loading import load_image_processor, load_model, loading
from deitlt_hf.models.deit_lt.configuration_deit_lt import BACKBONES, DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification
from deitlt_hf.teachers.pixels import OwnPixels, pixels_of, read_own_pixels

FAMILIES = "DeiT-LT, DeiT, ViT (also of MAE and DINO), DINOv2, DINOv3 ViT, CLIP, or a Vision Transformer of timm"
SMALL_IMAGES = 32  # pixels of a side, up to which a training from scratch is usual
_TIMM = "timm_wrapper"
# Models whose layers are ViT's, with something for their own training around them.
_LIKE_VIT = ("vit_mae", "vit_msn")
# Weights of pretraining heads that a student has no use for, and what a file without them may lack.
_NOT_NEEDED = ("pooler.", "embeddings.mask_token")


def say_pretrained_start() -> None:
    """Say that there is a better start than random weights, with the models that are in the cache of the hub."""
    found = some(backbones_in_cache(), quoted=False)
    which = f"in the cache: {found}" if found else "such as google/vit-base-patch16-224-in21k"
    notice(
        "training from scratch is for large data sets and small images; for others pass a pretrained Vision "
        f"Transformer to --init_from ({which})"
    )


def backbones_in_cache() -> list[str]:
    """The hub ids of pretrained models in the local cache that a student can start from."""
    found = []
    for file in sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots/*/config.json")):
        with suppress(DeiTLTError):  # a file that is not sound is no suggestion
            config = read_json(file) or {}
            if config.get("model_type") in (*BACKBONES, *_LIKE_VIT, "clip", "deit", DeiTLTConfig.model_type):
                _, owner, *name = file.parents[2].name.split("--")
                found.append("/".join([owner, *name]))
    return list(dict.fromkeys(found))


def is_backbone(config: PreTrainedConfig) -> bool:
    """Whether a student can have the layers of a model with this configuration."""
    return config.model_type in (*BACKBONES, *_LIKE_VIT, "clip")


def backbone_image_size(config: PreTrainedConfig) -> int:
    """Pixels of a side of the images that a model with this configuration was trained on."""
    config = _backbone_config(config)
    if config.model_type == _TIMM:
        of_timm = (config.model_args or {}).get("img_size") or (config.pretrained_cfg or {}).get("input_size", (0, 224))
        return of_timm if isinstance(of_timm, int) else of_timm[1]
    return config.image_size if isinstance(config.image_size, int) else config.image_size[0]


def take_square_sides(source: str, config: PreTrainedConfig) -> None:
    """Put the number in place of a list such as [8, 8] as a configuration's sides; refuse what is not square."""
    for name in ("patch_size", "image_size"):
        size = getattr(config, name, None)
        if isinstance(size, tuple | list):
            if [*size] not in ([size[0]], [size[0]] * 2):
                raise DeiTLTError(f"{source} has {name} {[*size]}, which is not square; pass a model for square ones")
            setattr(config, name, size[0])


def student_of_backbone(
    source: str, config: PreTrainedConfig, image_size: int, expert: str, classes: Mapping[str, Any]
) -> DeiTLTForImageClassification:
    """A student with the layers of the model in a directory or hub repository, for images of `image_size`.

    Its distillation token and both heads are new and random, see `copy_class_token`. Position
    embeddings are interpolated as the model itself does for images of another size. The model's normalisation of pixels
    becomes part of its patch projection, so the student takes the pixels of all students.

    Args:
        source: directory or hub id.
        config: of the model there.
        image_size: pixels of a side.
        expert: what the student answers with.
        classes: names, counts and groups for the student's configuration.

    Raises:
        DeiTLTError: a model that is not whole, has no class token or takes other images than of three channels, or an
            image size that its patches do not divide.
    """
    of_backbone = _backbone_config(config)
    take_square_sides(source, of_backbone)
    backbone = _load(source, of_backbone)
    channels, patch_size, trained_at = _sides(source, backbone)
    if channels != 3:
        raise DeiTLTError(f"{source} takes images of {channels} channels; pass a model for RGB images")
    if image_size % patch_size:
        lower = max(image_size // patch_size, 1) * patch_size
        raise DeiTLTError(
            f"image_size {image_size} is not divisible by the patch_size {patch_size} of {source}; pass one that is, "
            f"such as {lower} or {lower + patch_size}"
        )
    resized = _at_size(of_backbone, image_size)
    with loading(source):
        student_config = DeiTLTConfig(
            **_shape(backbone),
            image_size=image_size,
            patch_size=patch_size,
            drop_path_rate=getattr(of_backbone, "drop_path_rate", 0.0),
            expert=expert,
            backbone_config=_settings(resized),
            **classes,
        )
        student = DeiTLTForImageClassification(student_config)
    state = {name: value for name, value in backbone.state_dict().items() if not name.startswith("pooler.")}
    if image_size != trained_at:
        positions = _positions(backbone, image_size)
        what = "its position embeddings are interpolated" if positions else "its rotary positions fit any size"
        notice(f"init_from {source} was trained on images of {trained_at} pixels, these have {image_size}: {what}")
        state |= positions
    student.deit.backbone.load_state_dict(state)
    take_students_pixels(student.deit.backbone, pixels_of_files(source, backbone))
    return student.eval()


def _backbone_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the part of a model that the student has."""
    if config.model_type == "clip":
        return config.vision_config
    if config.model_type in _LIKE_VIT:
        known = ViTConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
        return ViTConfig(**{name: value for name, value in config.to_dict().items() if name in known})
    return config


def _load(source: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The model without its heads; a `DeiTLTError` if it is not whole, or has no class token."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report lists heads that are not needed as lost and new weights
    try:
        backbone, report = load_model(AutoModel, config, source)
    finally:
        logging.set_verbosity(verbosity)
    lost = [name for name in report["missing_keys"] if not name.startswith(_NOT_NEEDED)]
    lost += [key for key, *_ in report["mismatched_keys"]]
    if lost:
        raise DeiTLTError(f"{source} lacks {len(lost)} weights of a {config.model_type} model, first {sorted(lost)[0]}")
    if config.model_type == _TIMM:
        model = backbone.timm_model
        if getattr(model, "cls_token", None) is None:
            raise DeiTLTError(f"{source} is {config.architecture} of timm, which has no class token; pass {FAMILIES}")
        if not isinstance(getattr(model, "patch_drop", None), nn.Module):  # where the new token is put in
            raise DeiTLTError(
                f"{source} is {config.architecture} of timm, which is no VisionTransformer there; pass {FAMILIES}"
            )
    return backbone


def _sides(source: str, backbone: PreTrainedModel) -> tuple[int, int, int]:
    """Channels, and the sides of patches and of the images that a model was trained on, which have to be square."""
    config = backbone.config
    if config.model_type == _TIMM:
        embedding = backbone.timm_model.patch_embed
        channels, patch, image = embedding.proj.in_channels, embedding.patch_size, embedding.img_size
    else:
        channels, patch, image = config.num_channels, config.patch_size, config.image_size
    (patch, *others), (image, *more) = (of if isinstance(of, tuple | list) else (of,) for of in (patch, image))
    if others not in ([], [patch]) or more not in ([], [image]):
        raise DeiTLTError(f"{source} has patches or images that are not square; pass a model for square ones")
    return channels, patch, image


def _shape(backbone: PreTrainedModel) -> dict[str, int]:
    """The fields of a student's configuration that tell how large it is."""
    if backbone.config.model_type != _TIMM:
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        return {name: getattr(backbone.config, name) for name in names}
    model = backbone.timm_model
    heads = model.blocks[0].attn.num_heads
    return {"hidden_size": model.embed_dim, "num_hidden_layers": len(model.blocks), "num_attention_heads": heads}


def _at_size(config: PreTrainedConfig, image_size: int) -> PreTrainedConfig:
    resized = copy.deepcopy(config)
    if config.model_type == _TIMM:
        resized.model_args = {**(config.model_args or {}), "img_size": image_size}
    else:
        resized.image_size = image_size
    return resized


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    """What makes a model with this configuration; not where it was, nor what its own classes are called."""
    about = ("_name_or_path", "architectures", "transformers_version", "dtype", "auto_map", "problem_type")
    of_classes = ("id2label", "label2id", "label_names", "num_classes", "pretrained_cfg")
    return {name: value for name, value in config.to_dict().items() if name not in (*about, *of_classes)}


@torch.no_grad()
def _positions(backbone: PreTrainedModel, image_size: int) -> dict[str, torch.Tensor]:
    """Position embeddings for another image size, interpolated as the model does it, by name; none of rotary ones."""
    if backbone.config.model_type == "dinov3_vit":
        return {}
    if backbone.config.model_type == _TIMM:
        from timm.layers import resample_abs_pos_embed

        model = backbone.timm_model
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        side = image_size // model.patch_embed.patch_size[0]
        old = model.patch_embed.grid_size
        positions = resample_abs_pos_embed(model.pos_embed, [side, side], list(old), num_prefix_tokens=prefix)
        return {"timm_model.pos_embed": positions}
    embeddings, config = backbone.embeddings, backbone.config
    patches = (image_size // config.patch_size) ** 2
    like = torch.empty(1, patches + 1, config.hidden_size)  # of which only the shape counts
    positions = embeddings.interpolate_pos_encoding(like, image_size, image_size)
    if isinstance(getattr(embeddings, "position_embedding", None), nn.Embedding):  # CLIP's
        return {"embeddings.position_embedding.weight": positions[0]}
    return {"embeddings.position_embeddings": positions}


def pixels_of_files(source: str, backbone: PreTrainedModel) -> OwnPixels:
    """How the image processor of a model normalises; ImageNet's mean and deviation, with a notice, without one."""
    if getattr(backbone.config, "pretrained_cfg", None):  # of timm
        return read_own_pixels(backbone)
    try:
        return pixels_of(load_image_processor(source))
    except DeiTLTError:
        notice(
            f"init_from {source} has no image processor: its pixels are taken with ImageNet's mean and deviation, and "
            "resized as for a student from scratch"
        )
        return OwnPixels(list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD), None)


@torch.no_grad()
def take_students_pixels(backbone: PreTrainedModel, pixels: OwnPixels) -> None:
    """Let a model's patch projection take pixels as all students get them; what it computes stays the same.

    Its own pixels are a factor times the student's and a summand, and a projection of patches is linear in them. Where
    it has no bias, what the summand gives goes into the positions of the patches.
    """
    projection = next(part for part in backbone.modules() if isinstance(part, nn.Conv2d))
    factor, summand = (of.to(projection.weight) for of in pixels.from_students())
    shift = (projection.weight * summand).sum((1, 2, 3))
    projection.weight.mul_(factor)
    if projection.bias is not None:
        projection.bias.add_(shift)
    elif backbone.config.model_type == _TIMM:
        model = backbone.timm_model
        model.pos_embed[:, 0 if model.no_embed_class else model.num_prefix_tokens :].add_(shift)
    else:
        backbone.embeddings.position_embedding.weight[1:].add_(shift)


@torch.no_grad()
def copy_class_token(student: DeiTLTForImageClassification) -> None:
    """Let a student's new distillation token begin as its class token is after the embeddings, with its position."""
    config, seen = student.config, []
    module = student.deit.backbone.get_submodule(BACKBONES[config.backbone_config["model_type"]])
    hook = module.register_forward_hook(lambda _module, _inputs, tokens: seen.append(tokens))
    student.eval()(torch.zeros(1, config.num_channels, config.image_size, config.image_size))
    hook.remove()
    student.deit.distillation_token.token.copy_(seen[0][:, :1])
