"""What is left for the data loader where views are made on the device: levels of decoded images, in tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms

from deitlt_hf.data.device_augmentation.views import BatchView
from deitlt_hf.data.images import BadImage, upright_rgb, upright_size
from deitlt_hf.data.readable import undecoded
from deitlt_hf.data.transforms import LARGEST_PADDED_SIZE, View, resize_to_square

# Larger images are cropped where they are decoded: they would fill the memory of the device for nothing.
LARGEST_SENT_WHOLE = 256


def device_views(
    strong: Mapping[str, bool], image_size: int, horizontal_flip: bool, dataset: Dataset
) -> tuple[dict[str, View], dict[str, BatchView]]:
    """The two halves of training views: one for the loader, one for the device.

    Small images of one size are sent to the device as they are, and cropped there. Others are cropped by the loader.

    Args:
        strong: the view for each output: strong (True) or weak (False).
        image_size: side of the square output in pixels.
        horizontal_flip: mirror half of the images.
        dataset: the rows with `image` that are trained on.

    Returns:
        Views for `ViewedDataset`, which give `(3, H, W)` uint8; and for the trainers' `batch_views`.

    Example:
        >>> rows = Dataset.from_dict({"image": [Image.new("L", (28, 28))]})
        >>> of_loader, of_batch = device_views({"pixel_values": True}, 64, True, rows)
        >>> of_loader["pixel_values"](Image.new("RGB", (28, 28))).shape
        torch.Size([3, 28, 28])
    """
    if image_size <= LARGEST_PADDED_SIZE:
        steps, crops = [resize_to_square(image_size)], True
    elif small_common_size(dataset) is not None:
        steps, crops = [], True
    else:
        steps, crops = [RandomResizedCropAndInterpolation(image_size, interpolation="bicubic")], False
    levels = transforms.Compose([upright_rgb, *steps, to_levels])
    return (
        dict.fromkeys(strong, levels),
        {name: BatchView(image_size, horizontal_flip, is_strong, crops) for name, is_strong in strong.items()},
    )


def small_common_size(dataset: Dataset) -> tuple[int, int] | None:
    """Width and height of the images, where all have the same and no side is above 256 pixels; else None.

    Only headers are read, and none after the first image of another size.

    Args:
        dataset: rows with `image` (`datasets.Image`).

    Example:
        >>> rows = Dataset.from_dict({"image": [Image.new("L", (28, 20)), Image.new("RGB", (28, 20))]})
        >>> small_common_size(rows)
        (28, 20)
    """
    common = None
    for batch in undecoded(dataset).select_columns("image").iter(batch_size=256):
        for value in batch["image"]:
            try:
                size = upright_size(value)
            except BadImage:  # to be reported when it is read for training
                continue
            common = common or size
            if size != common or max(size) > LARGEST_SENT_WHOLE:
                return None
    return common


def to_levels(image: Image.Image) -> torch.Tensor:
    """The levels of an RGB image, `(3, H, W)` uint8.

    Example:
        >>> to_levels(Image.new("RGB", (4, 2), "white")).float().mean()
        tensor(255.)
    """
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
