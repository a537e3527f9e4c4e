"""Training views in two halves: the loader decodes, and whole batches are augmented on their device.

The views have the distribution of `strong_view` and `weak_view` in `data.views`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms

from deitlt_hf.data.device_augmentation.crops import flipped, padded_crops, resized_crops
from deitlt_hf.data.device_augmentation.erasing import random_erasing
from deitlt_hf.data.device_augmentation.rand_augment import rand_augment
from deitlt_hf.data.device_augmentation.random_numbers import Draws
from deitlt_hf.data.images import BadImage, upright_rgb, upright_size
from deitlt_hf.data.readable import undecoded
from deitlt_hf.data.views import LARGEST_PADDED_SIZE, View, resize_to_square

# Larger images are cropped where they are decoded: they would fill the memory of the device for nothing.
LARGEST_SENT_WHOLE = 256


def device_views(
    strong: Mapping[str, bool],
    image_size: int,
    horizontal_flip: bool,
    dataset: Dataset,
    interpolation: str = "bicubic",
) -> tuple[dict[str, View], dict[str, BatchView]]:
    """The two halves of each output's view, `strong` or weak: one for `ViewedDataset`, one for `batch_views`.

    Small images of one size are sent to the device as they are, and cropped there. Others are cropped by the loader.

    Args:
        strong: for each output, whether its view is strong (True) or weak (False).
        image_size: side of the square output in pixels.
        horizontal_flip: mirror half of the images.
        dataset: the training rows, with an `image` column.
        interpolation: of what is resized, `"bicubic"` (default) or `"bilinear"`.

    Returns:
        Views for `ViewedDataset`, which give `(3, H, W)` uint8; and views for the trainers' `batch_views`.

    Example:
        >>> from PIL import Image
        >>> rows = Dataset.from_dict({"image": [Image.new("L", (28, 28))]})
        >>> of_loader, of_batch = device_views({"pixel_values": True}, 64, True, rows)
        >>> of_loader["pixel_values"](Image.new("RGB", (28, 28))).shape
        torch.Size([3, 28, 28])
    """
    if image_size <= LARGEST_PADDED_SIZE:
        steps, crops = [resize_to_square(image_size, interpolation)], True
    elif small_common_size(dataset) is not None:
        steps, crops = [], True
    else:
        steps, crops = [RandomResizedCropAndInterpolation(image_size, interpolation=interpolation)], False
    levels = transforms.Compose([upright_rgb, *steps, to_levels])
    make = partial(BatchView, image_size, horizontal_flip, crops=crops, interpolation=interpolation)
    return dict.fromkeys(strong, levels), {name: make(is_strong) for name, is_strong in strong.items()}


def only_decodes(view: View) -> bool:
    """Whether a loader's view draws nothing, as that of `device_views` for images that are cropped on the device."""
    steps = getattr(view, "transforms", ())
    fixed = (upright_rgb, to_levels)
    return bool(steps) and all(step in fixed or isinstance(step, transforms.Resize) for step in steps)


def small_common_size(dataset: Dataset) -> tuple[int, int] | None:
    """Width and height of the images where all have the same and no side is above 256 pixels; else None.

    Only headers are read, and none after the first image of another size.
    """
    common = None
    for batch in undecoded(dataset).select_columns("image").iter(batch_size=256):
        for value in batch["image"]:
            try:
                size = upright_size(value)
            except BadImage:  # reported when it is read for training
                continue
            common = common or size
            if size != common or max(size) > LARGEST_SENT_WHOLE:
                return None
    return common


def to_levels(image: Image.Image) -> torch.Tensor:
    """The levels of an RGB image, `(3, H, W)` uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class BatchView:
    """Makes views `(N, 3, S, S)` float32 of a batch of decoded images `(N, 3, H, W)` uint8, each image its own.

    A strong view has RandAugment and random erasing as in `strong_view`; without them it is `weak_view`. Up to 32
    pixels the images have the output's size already, and are cropped after padding; with `crops=False` the loader
    cropped them. Calling it takes the images and the batch's `Draws`, and never waits for the device.
    """

    image_size: int
    horizontal_flip: bool = True
    strong: bool = False
    crops: bool = True
    interpolation: str = "bicubic"

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        flip_probability = 0.5 if self.horizontal_flip else 0.0
        if not self.crops:
            images = flipped(images, flip_probability, draws)
        elif self.image_size <= LARGEST_PADDED_SIZE:
            images = padded_crops(images, flip_probability, draws)
        else:
            images = resized_crops(images, self.image_size, flip_probability, draws, self.interpolation)
        if not self.strong:
            return normalized(images)
        return random_erasing(normalized(rand_augment(images, draws)), draws)


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Float32 with ImageNet's mean and standard deviation, of images `(N, 3, H, W)` uint8."""
    scale, shift = _scale_and_shift(images.device)
    return images.float().mul_(scale).add_(shift)


@cache
def _scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)
