"""Builds students: from scratch in any shape, or from the weights of another DeiT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from deitlt_hf.data.suggestion import STUDENT_SIZES, student_shape
from deitlt_hf.errors import DeiTLTError, notice
from deitlt_hf.evaluation.measures import expert_named
from deitlt_hf.inference.loading import load_any_config, load_model, loading
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification
from deitlt_hf.ranges import check_ranges, one_of
from deitlt_hf.runs.pretrained import (
    FAMILIES,
    backbone_image_size,
    copy_class_token,
    is_backbone,
    pixels_of_files,
    student_of_backbone,
    take_square_sides,
    take_students_pixels,
)
from deitlt_hf.teachers.class_means import KINDS

ADAPT = ("full", "lora", "head")
HEAD_STARTS = (*KINDS, "random")
TOKEN_STARTS = ("class_token", "random")

# Settings that only a student from scratch has.
_SHAPE = ("student_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")


@dataclass
class StudentArguments:
    """Which student is trained, by which teacher, and from which weights. Every field's help says what it is.

    Raises:
        DeiTLTError: an unknown size or expert, or a number out of its range.

    Example:
        >>> from deitlt_hf import StudentArguments
        >>> StudentArguments("runs/teacher", student_size="tiny", patch_size=8).expert
        'average'
    """

    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Directory or hub id of the teacher; or class_means, for the nearest class mean of init_from's own "
            "features."
        },
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Start from a pretrained DeiT-LT, DeiT, ViT, DINOv2, DINOv3, CLIP or timm Vision Transformer, such "
            "as google/vit-base-patch16-224-in21k; its positions are interpolated to another image_size."
        },
    )
    adapt: str = field(
        default="full",
        metadata={
            "help": "How a model of init_from is adapted: full (all weights learn), lora (low-rank adapters), or "
            "head (heads alone, on features that are computed once)."
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapters of adapt lora."})
    head_start: str | None = field(
        default=None,
        metadata={
            "help": "What the heads on a model of init_from begin with: class_means (the nearest mean of a class's "
            "features), cosine (the same by cosine), or random; left out, class_means where the heads are new."
        },
    )
    token_start: str = field(
        default="class_token",
        metadata={
            "help": "What the new distillation token in the layers of init_from begins as: class_token (its copy) or "
            "random."
        },
    )
    student_size: str | None = field(default=None, metadata={"help": "tiny, small or base; left out, base."})
    hidden_size: int | None = field(default=None, metadata={"help": "Overrides that of student_size."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Overrides that of student_size."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Overrides that of student_size."})
    patch_size: int | None = field(default=None, metadata={"help": "Pixels of a patch's side; left out, 16."})
    drop_path_rate: float = field(default=0.1, metadata={"help": "Stochastic depth of the last layer."})
    expert: str = field(default="average", metadata={"help": "What the model's logits are by default."})

    def __post_init__(self):
        check_ranges(self)
        self.expert = expert_named(self.expert)
        one_of("adapt", self.adapt, ADAPT)
        one_of("token_start", self.token_start, TOKEN_STARTS)
        if self.head_start is not None:
            one_of("head_start", self.head_start, HEAD_STARTS)
        if self.student_size is not None:
            one_of("student size", self.student_size, tuple(STUDENT_SIZES))


def student_config(student: StudentArguments, image_size: int, **classes: Any) -> DeiTLTConfig:
    """The configuration of a student from scratch."""
    shape = student_shape(
        student.student_size, student.hidden_size, student.num_hidden_layers, student.num_attention_heads
    )
    return DeiTLTConfig(
        image_size=image_size,
        patch_size=student.patch_size or 16,
        drop_path_rate=student.drop_path_rate,
        expert=student.expert,
        **shape,
        **classes,
    )


def check_shape(student: StudentArguments, image_size: int | None) -> None:
    """Refuse a shape that is impossible for any data."""
    if image_size is None:
        # Every size has a multiple of the tiny one's heads, and patches of a pixel fit any image.
        student = replace(student, student_size=student.student_size or "tiny", patch_size=1)
        image_size = 1
    student_config(student, image_size)


def load_start(student: StudentArguments, image_size: int, classes: Mapping[str, Any]) -> DeiTLTForImageClassification:
    """A student that starts from the weights of `init_from`, for images of `image_size`."""
    source = student.init_from
    found = load_any_config(source)
    unused = [f"{name} {value}" for name in _SHAPE if (value := getattr(student, name)) is not None]
    if unused:
        notice(f"init_from {source} has a shape of its own; not used: {', '.join(unused)}")
    if is_backbone(found):
        new = student_of_backbone(source, found, image_size, student.expert, classes)
        if student.token_start == "class_token":
            copy_class_token(new)
        return new
    if found.model_type not in ("deit", DeiTLTConfig.model_type):
        raise DeiTLTError(f"{source} is a {found.model_type} model, which has no class token here; pass {FAMILIES}")
    # A fusion was fitted to the logits of those weights.
    settings = {"drop_path_rate": student.drop_path_rate, "expert": student.expert, "fusion": None}
    with loading(source):
        config = DeiTLTConfig.from_pretrained(source, **settings, **classes)
    take_square_sides(source, config)
    if config.num_channels != 3:
        raise DeiTLTError(f"{source} takes images of {config.num_channels} channels; pass a model for RGB images")
    model, _ = load_model(DeiTLTForImageClassification, config, source)
    if found.model_type == "deit":
        take_students_pixels(model.deit, pixels_of_files(source, model))
    if model.config.image_size != image_size:
        notice(
            f"init_from {source} was trained on images of {model.config.image_size} pixels: its position embeddings "
            f"are interpolated to those of {image_size}"
        )
        resize_positions(model, image_size)
    return model


def image_size_of(source: str) -> int:
    """Pixels of a side of the images that the model in a directory or hub repository was trained on."""
    config = load_any_config(source)
    if is_backbone(config):
        return backbone_image_size(config)
    take_square_sides(source, config)
    size = getattr(config, "image_size", None)
    if not isinstance(size, int):
        raise DeiTLTError(f"{source} is a {config.model_type} model; pass {FAMILIES}")
    return size


def resize_positions(model: DeiTLTForImageClassification, image_size: int) -> None:
    """Adapt a student to another image size: its position embeddings are interpolated (bicubic), as DeiT's are."""
    embeddings, patch_size = model.deit.embeddings, model.config.patch_size
    if image_size % patch_size:
        raise DeiTLTError(
            f"image_size {image_size} is not divisible by the model's patch_size {patch_size}; pass one that is"
        )
    patches = (image_size // patch_size) ** 2
    like = torch.empty(1, patches + 2, model.config.hidden_size)
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(like, image_size, image_size)
    embeddings.position_embeddings = nn.Parameter(positions.clone())
    model.config.image_size = image_size
    embeddings.image_size = embeddings.patch_embeddings.image_size = (image_size, image_size)
    embeddings.patch_embeddings.num_patches = patches
