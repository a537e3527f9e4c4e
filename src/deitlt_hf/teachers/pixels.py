"""How a teacher's own image processor resizes and normalises, to convert the student's pixels for that teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_data_config
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.inference.loading import load_image_processor

TEACHER_PIXELS = ("reference", "own", "student")


@dataclass
class OwnPixels:
    """What a teacher's image processor makes of an image."""

    mean: list[float]  # per channel, of values in [0, 1]; one value stands for all channels
    std: list[float]
    size: tuple[int, int] | None  # height and width in pixels, None for any

    def from_students(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factor and summand `(1, C, 1, 1)` that turn the student's normalisation, ImageNet's, into this one."""
        mean, std, students_mean, students_std = (
            torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
            for values in (self.mean, self.std, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        return (students_std / std).float(), ((students_mean - mean) / std).float()


def read_own_pixels(teacher: PreTrainedModel) -> OwnPixels:
    """Read the image processor of a teacher of timm's, or of one that was loaded from a directory or the hub."""
    of_timm = getattr(teacher.config, "pretrained_cfg", None)
    if of_timm:
        data = resolve_data_config(of_timm)
        return OwnPixels(list(data["mean"]), list(data["std"]), tuple(data["input_size"][1:]))
    source = teacher.name_or_path
    if not source:
        raise DeiTLTError(
            "teacher_pixels 'own' needs the teacher's image processor, which is saved with a model's files, and "
            "this model was not loaded from files; pass the directory or hub id of a teacher that was saved with one"
        )
    try:
        processor = load_image_processor(source)
    except DeiTLTError as error:
        raise DeiTLTError(
            f"teacher_pixels 'own' needs the teacher's image processor: {error}, or pass teacher_pixels 'reference'"
        ) from error
    return pixels_of(processor)


def pixels_of(processor: BaseImageProcessor) -> OwnPixels:
    """Read an image processor's settings."""
    normalises = getattr(processor, "do_normalize", True)
    mean, std = (getattr(processor, name, None) if normalises else None for name in ("image_mean", "image_std"))
    size = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    if size is None and getattr(processor, "do_resize", True):
        size = getattr(processor, "size", None)
    if size is not None:  # a `SizeDict`, which transformers makes of every way to write a size
        edge = size.shortest_edge
        size = (edge and (edge, edge)) if size.height is None else (size.height, size.width)
    return OwnPixels(_per_channel(mean, 0.0), _per_channel(std, 1.0), size)


def _per_channel(values: float | list[float] | None, default: float) -> list[float]:
    values = default if values is None else values
    return [values] if isinstance(values, int | float) else list(values)
