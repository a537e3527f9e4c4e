"""How the image processor of a model resizes pictures, for students that start from it, and for saved students."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL.Image import Resampling
from timm.data import resolve_data_config
from transformers.image_processing_utils import BaseImageProcessor

from deitlt_hf.data.views import Resizing, reference_resizing
from deitlt_hf.errors import DeiTLTError, notice
from deitlt_hf.foreign.configurations import find_file
from deitlt_hf.inference.loading import load_any_config, load_image_processor

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_INTERPOLATIONS = {Resampling.BICUBIC: "bicubic", Resampling.BILINEAR: "bilinear"}
# What else image processors may do to the shape of a picture has other names, such as do_pad.
_KNOWN_STEPS = ("do_resize", "do_center_crop", "do_convert_rgb", "do_rescale", "do_normalize")
_OTHER_CROPS = ("crop_pct", "size_divisor")


def load_resizing(source: str, revision: str | None = None) -> Resizing | None:
    """How the image processor in a directory or hub repository resizes; see `resizing_of`.

    None too where there is no image processor.

    Raises:
        DeiTLTError: an image processor that cannot be read.
    """
    of_timm = getattr(load_any_config(source, revision), "pretrained_cfg", None)
    if of_timm:
        return _unless_reference(_of_timm(resolve_data_config(of_timm)), source)
    try:
        processor = load_image_processor(source, revision)
    except DeiTLTError:
        if any(find_file(source, name, revision) for name in PROCESSOR_FILES):
            raise
        return None
    return resizing_of(processor, source)


def resizing_of(processor: BaseImageProcessor, source: str) -> Resizing | None:
    """How an image processor resizes.

    None, which stands for the reference's resizing at any image size, where it resizes so at its own size, and, with a
    notice, where it does what a `Resizing` cannot tell.
    """
    return _unless_reference(_of_transformers(processor), source)


def _unless_reference(found: tuple[Resizing, int] | None, source: str) -> Resizing | None:
    if found is None:
        notice(
            f"the image processor of {source} is not followed, because it does not just resize (bicubic or bilinear) "
            "and crop the middle; pictures are resized as for a student from scratch"
        )
        return None
    (resizing, side), reference = found, reference_resizing(found[1])
    same_edge = resizing.edge(side) == reference.edge(side)
    return None if same_edge and replace(resizing, crop_ratio=reference.crop_ratio) == reference else resizing


def _of_timm(data: Mapping[str, Any]) -> tuple[Resizing, int] | None:
    """The resizing in timm's settings, and the side in pixels; None where it is of another kind."""
    (height, width), ratio, mode = data["input_size"][1:], data["crop_pct"], data["crop_mode"]
    is_known = data["interpolation"] in _INTERPOLATIONS.values() and mode in ("center", "squash")
    if not is_known or height != width or not 0 < ratio <= 1:
        return None
    return Resizing(data["interpolation"], ratio, keeps_shape=mode == "center"), height


def _of_transformers(processor: BaseImageProcessor) -> tuple[Resizing, int] | None:
    """The resizing of one of transformers' image processors, and the side in pixels; None for one of another kind."""
    steps = [name for name, value in processor.to_dict().items() if value and name.startswith("do_")]
    other_crops = any(getattr(processor, name, None) for name in _OTHER_CROPS)
    interpolation = _INTERPOLATIONS.get(getattr(processor, "resample", None))
    if "do_resize" not in steps or {*steps} - {*_KNOWN_STEPS} or other_crops or interpolation is None:
        return None
    size = dict(processor.size)
    keeps_shape = [*size] == ["shortest_edge"]
    crop = dict(processor.crop_size) if "do_center_crop" in steps else {} if keeps_shape else size
    if not (keeps_shape or {*size} == {"height", "width"}) or {*crop} != {"height", "width"}:
        return None
    edges, sides = {*size.values()}, {*crop.values()}
    if len(edges) > 1 or len(sides) > 1 or min(sides) > min(edges):
        return None
    return Resizing(interpolation, min(sides) / min(edges), keeps_shape), min(sides)
