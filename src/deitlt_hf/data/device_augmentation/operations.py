"""RandAugment's operations on batches of uint8 images, each image with its own argument, level for level as in Pillow.

Images are `(M, 3, H, W)` uint8, before and after.
"""

from __future__ import annotations

import numpy as np
import torch


def look_up(images: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Replace every level by what the table `(M, 3, 256)` uint8, or `(M, 1, 256)` for all channels, has for it."""
    tables = tables.expand(-1, images.shape[1], -1)
    return tables.gather(2, images.flatten(2).long()).view_as(images)


def histograms(images: torch.Tensor) -> torch.Tensor:
    """Pixels per level: `(M, 3, 256)` int32."""
    levels = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int32, device=images.device)
    return counts.scatter_add_(2, levels, torch.ones((), dtype=torch.int32, device=images.device).expand_as(levels))


def autocontrast_tables(counts: torch.Tensor) -> torch.Tensor:
    """Tables `(M, 3, 256)` that stretch the levels that occur over 0 to 255, from `histograms`."""
    levels = torch.arange(256, device=counts.device)
    occurs = counts > 0
    lowest = torch.where(occurs, levels, 256).amin(-1, keepdim=True)
    highest = torch.where(occurs, levels, -1).amax(-1, keepdim=True)
    width = (highest - lowest).clamp(min=1).double()
    scale = torch.full_like(width, 255) / width  # a number over a tensor would be rounded twice
    stretched = (levels * scale - lowest * scale).clamp(0, 255)
    return torch.where(highest > lowest, stretched, levels).to(torch.uint8)


def equalize_tables(counts: torch.Tensor) -> torch.Tensor:
    """Tables `(M, 3, 256)` that even the histogram out, from `histograms`."""
    levels = torch.arange(256, device=counts.device)
    counts = counts.long()
    highest = torch.where(counts > 0, levels, -1).amax(-1, keepdim=True)
    step = (counts.sum(-1, keepdim=True) - counts.gather(-1, highest)) // 255
    below = counts.cumsum(-1) - counts
    evened = (step // 2 + below) // step.clamp(min=1)
    return torch.where(step > 0, evened.clamp(max=255), levels).to(torch.uint8)


def grey(images: torch.Tensor) -> torch.Tensor:
    """Pillow's grey levels of RGB images, `(M, 1, H, W)` int32."""
    red, green, blue = images.int().split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def mean_grey(images: torch.Tensor) -> torch.Tensor:
    """One grey level per image, `(M, 1, 1, 1)` int32."""
    pixels = images.shape[2] * images.shape[3]
    return (grey(images).sum((1, 2, 3), keepdim=True).double() / pixels + 0.5).int()


def smoothed(images: torch.Tensor) -> torch.Tensor:
    """Pillow's SMOOTH filter, which leaves the border as it is: `(M, 3, H, W)` int32."""
    result = images.int()
    if min(images.shape[2:]) < 3:
        return result
    values = images.float()
    # 3 x 3 ones, as two sums of three, and four more of the centre.
    across = values[..., :-2] + values[..., 1:-1] + values[..., 2:]
    sums = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :] + 4 * values[..., 1:-1, 1:-1]
    result[..., 1:-1, 1:-1] = (sums / 13 + 0.5).int()
    return result


def blend(backgrounds: torch.Tensor, images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Backgrounds at factor 0, images at 1, and beyond 1 what lies on; factors are `(M,)` float32."""
    backgrounds = backgrounds.float()
    mixed = backgrounds + factors.view(-1, 1, 1, 1) * (images.float() - backgrounds)
    return mixed.clamp(0, 255).to(torch.uint8)


def affine(images: torch.Tensor, matrices: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Shear, translate or rotate: bicubic as in Pillow's `Image.transform`, `fill` where there is no image.

    Matrices `(M, 6)` are Pillow's `(a, b, c, d, e, f)`: the centre x, y of a pixel shows what was at a x + b y + c,
    d x + e y + f.
    """
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device).view(1, -1, 1) + 0.5
    x = torch.arange(width, device=images.device).view(1, 1, -1) + 0.5
    a, b, c, d, e, f = matrices.view(-1, 6, 1, 1).unbind(1)
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    is_inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    columns, column_weights = _taps(source_x, width)
    rows, row_weights = _taps(source_y, height)
    pixels = images.flatten(2).float()
    # Pillow cuts off what follows the point; the little more keeps whole numbers whole in float32.
    total = torch.full_like(images, 1e-3, dtype=torch.float32)
    for row, row_weight in zip(rows, row_weights, strict=True):
        line = torch.zeros_like(total)
        for column, weight in zip(columns, column_weights, strict=True):
            index = (row * width + column).flatten(1)[:, None].expand(-1, images.shape[1], -1)
            line.addcmul_(pixels.gather(2, index).view_as(images), weight[:, None])
        total.addcmul_(line, row_weight[:, None])
    levels = total.clamp_(0, 255).to(torch.uint8)
    return torch.where(is_inside[:, None], levels, fill.view(1, -1, 1, 1))


def _taps(source: torch.Tensor, length: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Indices and weights of the four neighbours of `source - 1/2`: Keys' cubic with a = -1, the border repeated."""
    position = source - 0.5
    first = position.floor()
    t = position - first
    weights = [((2 - t) * t - 1) * t, (t - 2) * t * t + 1, ((1 - t) * t + 1) * t, (t - 1) * t * t]
    indices = [(first.long() + offset).clamp(0, length - 1) for offset in (-1, 0, 1, 2)]
    return indices, weights


def level_tables(names: np.ndarray, arguments: np.ndarray) -> np.ndarray:
    """Tables `(M, 1, 256)` uint8 of the operations that look at nothing but a pixel's level.

    The argument is the bits kept (PosterizeIncreasing), the lowest level that is inverted (SolarizeIncreasing), or what
    is added to levels below 128 (SolarizeAdd).
    """
    levels, argument = np.arange(256), arguments.astype(np.int64)[:, None]
    choices = {
        "Invert": np.broadcast_to(255 - levels, (len(names), 256)),
        "PosterizeIncreasing": levels & -(1 << (8 - argument.clip(0, 8))),
        "SolarizeIncreasing": np.where(levels < argument, levels, 255 - levels),
        "SolarizeAdd": np.where(levels < 128, np.minimum(levels + argument, 255), levels),
    }
    tables = np.select([(names == name)[:, None] for name in choices], list(choices.values()))
    return tables.astype(np.uint8)[:, None]
