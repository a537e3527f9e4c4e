"""Images of a small data set, kept decoded where all loader workers find them."""

from __future__ import annotations

import mmap
import os

import numpy as np
import psutil
from PIL import Image

LARGEST = 1 << 30  # bytes of pixels


class KeptImages:
    """The pixels of images that have one size, each from the moment on when somebody decoded it.

    Nothing is decoded ahead. The memory is shared with processes that are forked later, such as a loader's workers, and
    is taken page by page as images come; /dev/shm, which is small in containers, is not used. Processes that are
    spawned get none of it and decode.

    Args:
        count: number of images.
        size: their width and height in pixels; an image of another size is not kept.

    Example:
        >>> kept = KeptImages(3, (8, 6))
        >>> kept.keep(1, Image.new("RGB", (8, 6), "white"))
        >>> kept.has(0), kept.get(1).getpixel((0, 0))
        (False, (255, 255, 255))
    """

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.size = size
        width, height = size
        self._pixels = _shared(count, height, width, 3)
        self._is_kept = _shared(count)

    def __reduce__(self) -> tuple:
        return _nothing, ()

    def has(self, index: int) -> bool:
        """Whether somebody has decoded the image."""
        return bool(self._is_kept[index])

    def get(self, index: int) -> Image.Image:
        """A copy of an image that `has` is true for."""
        return Image.fromarray(self._pixels[index])

    def keep(self, index: int, image: Image.Image) -> None:
        """Keep an RGB image for all processes."""
        if image.size == self.size:
            self._pixels[index] = np.asarray(image)
            self._is_kept[index] = 1  # last, so that nobody meets half an image


def keep_images(count: int, first: Image.Image | None) -> KeptImages | None:
    """A place for the images of a split, or None where they would take too much of the memory.

    Too much is more than 1 GiB or a quarter of the free memory, for all processes of a launch on this machine together.

    Args:
        count: number of images in the split.
        first: one of them, which tells their size.

    Example:
        >>> keep_images(10**9, Image.new("RGB", (32, 32))) is None
        True
    """
    if first is None or count == 0:
        return None
    room = min(LARGEST, psutil.virtual_memory().available // 4) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return KeptImages(count, first.size) if count * first.width * first.height * 3 <= room else None


def _shared(*shape: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), dtype=np.uint8).reshape(shape)


def _nothing() -> None:
    """What a process that shares no memory with this one makes of the images that are kept here."""
