"""Maps of where the class token and the distillation token look, and how they are drawn over the picture."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

from deitlt_hf.data.images import upright_rgb
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.evaluate import evaluation_mode
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification, DeiTLTImageClassifierOutput

TOKENS = ("cls", "distillation")
WHAT_TO_PASS = "pass a Vision Transformer of transformers: DeiT-LT, DeiT, DeiT with teacher, or ViT"
LARGEST_DRAWING = 1024  # pixels; more would show no more of a few hundred patches
OPACITY = 0.6
WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)

Region = tuple[float, float, float, float]


@torch.inference_mode()
def token_attention(model: DeiTLTForImageClassification, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """How much each patch is attended to by the class token and the distillation token in the last layer.

    The weights are means over the heads. What a token gives to the two tokens themselves is left out, so that a map
    sums to the token's attention to patches, at most 1. The model runs in evaluation mode, and keeps its own mode and
    attention implementation.

    Args:
        model: a student.
        pixel_values: `(batch, channels, height, width)`, normalised, of the model's image size.

    Returns:
        `{"cls": ..., "distillation": ...}`, float32 tensors `(batch, rows, cols)` of patches, on the model's device.

    Raises:
        ValueError: another image size than the model's.

    Example:
        >>> from deitlt_hf import DeiTLTConfig
        >>> config = DeiTLTConfig(
        ...     image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_labels=10
        ... )
        >>> maps = token_attention(DeiTLTForImageClassification(config), torch.zeros(1, 3, 32, 32))
        >>> maps["cls"].shape, bool(maps["cls"].sum() < 1)
        (torch.Size([1, 4, 4]), True)
    """
    with evaluation_mode(model):
        _, weights = run_with_attention(model, pixel_values.to(model.device))
    return attention_maps(weights, model.config)


def gives_attention(config: PreTrainedConfig) -> bool:
    """Whether a student's attention weights can be had; timm's models keep theirs to themselves."""
    return (getattr(config, "backbone_config", None) or {}).get("model_type") != "timm_wrapper"


def run_with_attention(
    model: DeiTLTForImageClassification, pixel_values: torch.Tensor
) -> tuple[DeiTLTImageClassifierOutput, torch.Tensor]:
    """The model's outputs, and its last layer's attention weights from both tokens `(batch, heads, 2, 2 + patches)`.

    The weights are computed from the layer's queries and keys, so that every attention implementation has them.
    """
    if model.config.backbone_config is not None:
        return _run_backbone_with_attention(model, pixel_values)
    attention = model.deit.layers[-1].attention
    projected: dict[str, torch.Tensor] = {}

    def keep(name: str, _module: torch.nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        projected[name] = output.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    names = ("q_proj", "k_proj")
    hooks = [getattr(attention, name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        outputs = model(pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    queries, keys = projected["q_proj"][:, :, :2], projected["k_proj"]
    return outputs, (queries @ keys.transpose(2, 3) * attention.scaling).softmax(-1, dtype=torch.float32)


def _run_backbone_with_attention(
    model: DeiTLTForImageClassification, pixel_values: torch.Tensor
) -> tuple[DeiTLTImageClassifierOutput, torch.Tensor]:
    """`run_with_attention` for the layers of another model, whose eager attention gives the weights of all tokens."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        outputs = model(pixel_values, output_attentions=True)
    finally:
        model.set_attn_implementation(before)
    return outputs, outputs.attentions[-1][:, :, :2].float()


def attention_maps(weights: torch.Tensor, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """The maps of `token_attention` from attention weights `(batch, heads, 2, 2 + patches)`."""
    maps = on_patches(weights.float().mean(1), patches_of(config))
    return {token: maps[:, index] for index, token in enumerate(TOKENS)}


def on_patches(weights: torch.Tensor, patches: Patches) -> torch.Tensor:
    """Weights on all tokens `(..., special tokens + patches)` as maps of the patches alone `(..., rows, cols)`."""
    rows, columns = patches.grid
    return weights[..., -rows * columns :].unflatten(-1, (rows, columns))


class Patches(NamedTuple):
    """The patches of a model's images: sides in pixels, `(height, width)`."""

    image_size: tuple[int, int]
    patch_size: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


def patches_of(config: PreTrainedConfig) -> Patches:
    """The patches of a Vision Transformer; a `DeiTLTError` for another kind of network."""
    image_size, patch_size = (getattr(config, name, None) for name in ("image_size", "patch_size"))
    if image_size is None or patch_size is None:
        raise DeiTLTError(f"a {config.model_type} model has no patches whose attention could be shown; {WHAT_TO_PASS}")
    return Patches(sides(image_size), sides(patch_size))


def sides(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """`(height, width)` of a size as configurations have it."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def seen_region(processor: BaseImageProcessor, width: int, height: int) -> Region:
    """The part of a picture that the model sees after the image processor's resize and centre crop.

    `width` and `height` of the upright picture are in pixels. Gives `(left, top, right, bottom)` as fractions of it,
    beyond 0 and 1 where the crop is larger than the picture and the processor pads it.

    Example:
        >>> from deitlt_hf.data.views import image_processor
        >>> seen_region(image_processor(224), width=512, height=256)
        (0.28125, 0.0625, 0.71875, 0.9375)
    """
    if not processor.do_center_crop:
        return WHOLE_PICTURE
    resized_width, resized_height = width, height
    if processor.do_resize and processor.size.shortest_edge:
        edge, shortest = processor.size.shortest_edge, min(width, height)
        resized_width, resized_height = edge * width // shortest, edge * height // shortest
    elif processor.do_resize:
        resized_width, resized_height = processor.size.width, processor.size.height
    across = processor.crop_size.width / resized_width
    down = processor.crop_size.height / resized_height
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def draw_attention(image: Image.Image, weights: np.ndarray, region: Region | None = None) -> Image.Image:
    """Draw a token's attention over a picture.

    The picture is drawn in grey, and over it one rectangle per patch, from dark violet (no attention) to yellow (the
    largest weight of this map), in a colour map that colour-blind readers can order. What the model did not see is left
    grey, outside a white frame.

    Args:
        image: a picture of any mode; it is brought upright first.
        weights: `(rows, cols)` of patches, at least 0.
        region: `(left, top, right, bottom)` of the part that the model saw, as fractions of the picture, as
            `seen_region` and `ImageResult.region` give it; by default the whole picture.

    Returns:
        An RGB picture of the same size, or shrunk to 1024 pixels on its longer side.

    Raises:
        DeiTLTError: weights that are not two-dimensional, negative or not finite.

    Example:
        >>> draw_attention(Image.new("L", (40, 30)), np.eye(4)).size
        (40, 30)
    """
    from matplotlib import colormaps  # here, because it takes a tenth of a second, which only drawings need

    weights = np.asarray(weights, dtype=np.float32)
    if weights.ndim != 2 or not weights.size or not np.isfinite(weights).all() or weights.min() < 0:
        raise DeiTLTError(
            f"weights of shape {weights.shape} are no attention map; pass one (rows, cols) array of numbers from 0 up"
        )
    picture = shrink(upright_rgb(image), LARGEST_DRAWING)
    grey = picture.convert("L").convert("RGB")
    left, top, right, bottom = pixel_box(region or WHOLE_PICTURE, picture.size)
    colours = colormaps["viridis"](weights / (float(weights.max()) or 1.0), bytes=True)[..., :3].copy()
    patches = Image.fromarray(colours).resize((right - left, bottom - top), Image.Resampling.NEAREST)
    seen = Image.blend(grey.crop((left, top, right, bottom)), patches, OPACITY)
    grey.paste(seen, (left, top))
    if region is not None and region != WHOLE_PICTURE:
        ImageDraw.Draw(grey).rectangle((left, top, right - 1, bottom - 1), outline="white")
    return grey


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image, shrunk so that no side has more than `side` pixels."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    size = tuple(max(1, round(length * scale)) for length in image.size)
    return image.resize(size, Image.Resampling.BOX)


def pixel_box(region: Region, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A region of fractions in pixels of a picture of `(width, height)`, at least one pixel wide and high."""
    left, top, right, bottom = (round(part * size[index % 2]) for index, part in enumerate(region))
    return left, top, max(right, left + 1), max(bottom, top + 1)
