"""The image processor that travels with a checkpoint."""

from __future__ import annotations

from PIL.Image import Resampling
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import DeiTImageProcessor

from deitlt_hf.data.transforms import evaluation_resize


def image_processor(image_size: int) -> DeiTImageProcessor:
    """A DeiT image processor that makes the pixel values of `evaluation_view(image_size)`.

    The two resize with different libraries and so differ by rounding. And where the resized image is wider than the
    crop by an odd number of pixels, the processor's crop may lie one pixel further left than torchvision's (or higher).

    Args:
        image_size: side of the square output in pixels.

    Returns:
        A processor whose call returns `pixel_values` `(N, 3, image_size, image_size)` float32; it takes images of any
        mode.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> image_processor(224).size.shortest_edge
        256
    """
    shortest_edge = evaluation_resize(image_size)
    square = {"height": image_size, "width": image_size}
    return DeiTImageProcessor(
        do_convert_rgb=True,
        size=square if shortest_edge is None else {"shortest_edge": shortest_edge},
        resample=Resampling.BICUBIC,
        do_center_crop=shortest_edge is not None,
        crop_size=square,
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
    )
