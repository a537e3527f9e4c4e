"""timm's random erasing, mode `pixel`, for a batch on its device."""

from __future__ import annotations

import numpy as np
import torch

from deitlt_hf.data.device_augmentation.random_numbers import Draws

PROBABILITY = 0.25
AREA = (0.02, 1 / 3)  # share of the image
ASPECT = (0.3, 1 / 0.3)  # height / width


def random_erasing(pixel_values: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Fill a rectangle in a quarter of the images `(N, 3, H, W)` float32 with standard normal noise, in place."""
    count, channels, height, width = pixel_values.shape
    boxes = draw_rectangles(count, height, width, draws)
    chosen = np.flatnonzero(boxes[:, 2] > 0)
    if not len(chosen):
        return pixel_values
    index = draws.send(chosen)
    top, left, box_height, box_width = draws.send(boxes[chosen].T).view(4, -1, 1).unbind()
    row = torch.arange(height, device=pixel_values.device)
    column = torch.arange(width, device=pixel_values.device)
    in_rows, in_columns = (row >= top) & (row < top + box_height), (column >= left) & (column < left + box_width)
    is_erased = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    noise = draws.normal(len(chosen), channels, height, width).to(pixel_values.dtype)
    return pixel_values.index_copy_(0, index, torch.where(is_erased, noise, pixel_values[index]))


def draw_rectangles(count: int, height: int, width: int, draws: Draws) -> np.ndarray:
    """Top, left, height, width `(N, 4)` int64 of rectangles as timm's `RandomErasing` draws them.

    The height is 0 where nothing is erased.
    """
    found, heights, widths = draws.first_fitting(
        count, height * width, AREA, ASPECT, lambda h, w: (h < height) & (w < width)
    )
    erased = found & draws.chance(PROBABILITY, count)
    heights, widths = np.where(erased, heights, 0), np.where(erased, widths, 0)
    return np.stack([draws.up_to(height - heights), draws.up_to(width - widths), heights, widths], axis=1)
