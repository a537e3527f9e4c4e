"""Class folders of images, each with noise of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, counts: dict[str, int], first: int = 0) -> None:
    """Images of 8 pixels in class folders, each with noise of its own."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            pixels = np.random.RandomState(index * 7 + ord(name[0])).randint(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:04}.png")
