"""Crops of whole batches, each image its own, with the horizontal flip in the same pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from deitlt_hf.data.device_augmentation.random_numbers import Draws

# Share of the image's area and range of width / height, torchvision's and timm's defaults.
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


def flipped(images: torch.Tensor, flip_probability: float, draws: Draws) -> torch.Tensor:
    """Mirror some of the images `(N, 3, H, W)`, each with `flip_probability`."""
    flips = draws.send(draws.chance(flip_probability, len(images))).view(-1, 1, 1, 1)
    return torch.where(flips, images.flip(-1), images)


def padded_crops(images: torch.Tensor, flip_probability: float, draws: Draws) -> torch.Tensor:
    """Random crops `(N, 3, S, S)` of images of that size after zero padding of an eighth of it, and a flip; uint8."""
    count, channels, size = images.shape[:3]
    padding = size // 8
    tops, lefts = draws.up_to(np.full((2, count, 1), 2 * padding))
    columns = lefts + np.arange(size)
    columns = np.where(draws.chance(flip_probability, count)[:, None], columns[:, ::-1], columns)
    rows, columns = draws.send(tops + np.arange(size)), draws.send(columns)
    image = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    padded = F.pad(images, (padding,) * 4)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def resized_crops(
    images: torch.Tensor, image_size: int, flip_probability: float, draws: Draws, interpolation: str = "bicubic"
) -> torch.Tensor:
    """Random resized crops `(N, 3, S, S)` of images `(N, 3, H, W)`, uint8, and a flip.

    They are resized as Pillow does it, bicubic or bilinear with antialiasing.
    """
    kernel = {"bicubic": _cubic, "bilinear": _linear}[interpolation]
    count, _, height, width = images.shape
    boxes = draw_boxes(count, height, width, draws)
    flips = draws.chance(flip_probability, count)
    top, left, box_height, box_width = draws.send(boxes.astype(np.float32).T).unbind()
    along_width = _resampling(left, box_width, width, image_size, kernel)
    along_width = torch.where(draws.send(flips).view(-1, 1, 1), along_width.flip(1), along_width)
    along_height = _resampling(top, box_height, height, image_size, kernel)
    # Pillow resizes the width first, and rounds in between.
    lines = images.float().view(count, -1, width)
    narrowed = _rounded(lines @ along_width.transpose(1, 2)).view(count, -1, height, image_size)
    return torch.stack([_rounded(along_height @ channel).to(torch.uint8) for channel in narrowed.unbind(1)], dim=1)


def draw_boxes(count: int, height: int, width: int, draws: Draws) -> np.ndarray:
    """Top, left, height, width `(N, 4)` int64 of crops as torchvision's and timm's `RandomResizedCrop` draw them."""
    found, widths, heights = draws.first_fitting(
        count, height * width, SCALE, RATIO, lambda w, h: (w > 0) & (w <= width) & (h > 0) & (h <= height)
    )
    whole_height, whole_width = _central(height, width)
    heights, widths = np.where(found, heights, whole_height), np.where(found, widths, whole_width)
    tops = np.where(found, draws.up_to(height - heights), (height - whole_height) // 2)
    lefts = np.where(found, draws.up_to(width - widths), (width - whole_width) // 2)
    return np.stack([tops, lefts, heights, widths], axis=1)


def _central(height: int, width: int) -> tuple[int, int]:
    """The largest crop of a permitted shape, for images that are too long for the attempts."""
    if width / height < RATIO[0]:
        return round(width / RATIO[0]), width
    if width / height > RATIO[1]:
        return height, round(height * RATIO[1])
    return height, width


def _resampling(
    start: torch.Tensor, length: torch.Tensor, source: int, target: int, kernel: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Weights `(N, target, source)` of the source's pixels in each of the target's, as in Pillow's `Resample.c`."""
    start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
    scale = length / target
    pixel = torch.arange(source, device=start.device) + 0.5
    centre = start + (torch.arange(target, device=start.device).view(1, -1, 1) + 0.5) * scale
    distance = ((pixel - centre) / scale.clamp(min=1)).abs()
    weights = kernel(distance).masked_fill((pixel < start) | (pixel > start + length), 0.0)
    return weights / weights.sum(-1, keepdim=True)


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Keys' cubic with a = -1/2."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _linear(x: torch.Tensor) -> torch.Tensor:
    """A triangle, which is bilinear interpolation where nothing is made smaller."""
    return (1 - x).clamp(min=0)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)
