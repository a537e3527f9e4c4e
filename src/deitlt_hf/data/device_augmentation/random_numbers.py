"""The random numbers of one batch of views."""

from __future__ import annotations

import numpy as np
import torch


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

    def send(self, array: np.ndarray) -> torch.Tensor:
        """A host array on the device, without waiting for it; on a CPU it is the array's own memory."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)
