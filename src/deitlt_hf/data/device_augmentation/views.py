"""Strong and weak views of whole batches on their device, of the same distribution as those in `data.transforms`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from deitlt_hf.data.device_augmentation.crops import flipped, padded_crops, resized_crops
from deitlt_hf.data.device_augmentation.draws import Draws
from deitlt_hf.data.device_augmentation.erasing import random_erasing
from deitlt_hf.data.device_augmentation.rand_augment import rand_augment
from deitlt_hf.data.transforms import LARGEST_PADDED_SIZE


@dataclass(frozen=True)
class BatchView:
    """Makes views of a batch of decoded images, each image its own.

    Args:
        image_size: side S of the square output in pixels. Up to 32 the images have that size already, and are cropped
            after padding.
        horizontal_flip: mirror half of the images (default); False for digits, text and the like.
        strong: RandAugment and random erasing too, as in `strong_view`; without them it is `weak_view`.
        crops: crop the images (default); False where the loader cropped them already.

    Calling it takes images `(N, 3, H, W)` uint8 and the batch's `Draws`, and returns `(N, 3, S, S)` float32 with
    ImageNet's mean and standard deviation. It never waits for the device.

    Example:
        >>> view = BatchView(32, strong=True)
        >>> view(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), Draws(0, device="cpu")).shape
        torch.Size([4, 3, 32, 32])
    """

    image_size: int
    horizontal_flip: bool = True
    strong: bool = False
    crops: bool = True

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        flip_probability = 0.5 if self.horizontal_flip else 0.0
        if not self.crops:
            images = flipped(images, flip_probability, draws)
        elif self.image_size <= LARGEST_PADDED_SIZE:
            images = padded_crops(images, flip_probability, draws)
        else:
            images = resized_crops(images, self.image_size, flip_probability, draws)
        if not self.strong:
            return normalized(images)
        return random_erasing(normalized(rand_augment(images, draws)), draws)


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Float32 with ImageNet's mean and standard deviation, of images `(N, 3, H, W)` uint8.

    Example:
        >>> normalized(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten().round(decimals=2)
        tensor([2.2500, 2.4300, 2.6400])
    """
    scale, shift = _scale_and_shift(images.device)
    return images.float().mul_(scale).add_(shift)


@cache
def _scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return (1 / (255 * std)).float().to(device), (-mean / std).float().to(device)
