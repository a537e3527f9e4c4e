"""The random numbers of one batch of views."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

Range = tuple[float, float]

ATTEMPTS = 10  # as in torchvision and timm


class Draws:
    """Random numbers that depend on a key of integers (seed, step, process, view) alone, not on earlier batches.

    What decides which image gets which operation is drawn on the host, so that the host never has to ask the device how
    many images an operation is for; noise, which is as large as the images, is drawn on the device.
    """

    def __init__(self, *key: int, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.host = np.random.default_rng(key)
        self._noise = torch.Generator(self.device).manual_seed(int(self.host.integers(2**63)))

    def chance(self, probability: float, count: int) -> np.ndarray:
        """`(count,)` bool, true with `probability`."""
        return self.host.random(count) < probability

    def up_to(self, largest: np.ndarray) -> np.ndarray:
        """An int64 from 0 to `largest` for each of its values, both included."""
        return self.host.integers(0, largest, endpoint=True)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal float32 noise on the device."""
        return torch.randn(shape, generator=self._noise, device=self.device)

    def first_fitting(
        self,
        count: int,
        pixels: int,
        shares: Range,
        ratios: Range,
        fits: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whether one of ten rectangles fits, `(count,)` bool, and the two sides of the first that does, int64.

        Each has a share of the pixels, and a ratio of its sides that is uniform on a logarithmic scale.
        """
        areas = self.host.uniform(*shares, (count, ATTEMPTS)) * pixels
        drawn = np.exp(self.host.uniform(*map(math.log, ratios), (count, ATTEMPTS)))
        sides = [np.rint(np.sqrt(product)).astype(np.int64) for product in (areas * drawn, areas / drawn)]
        is_fitting = fits(*sides)
        first = is_fitting.argmax(1)[:, None]
        one, other = (np.take_along_axis(side, first, 1)[:, 0] for side in sides)
        return is_fitting.any(1), one, other

    def send(self, array: np.ndarray) -> torch.Tensor:
        """A host array on the device, without waiting for it; on a CPU it is the array's own memory."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)
