"""The two views of parametric contrastive learning (PaCo, Cui et al., ICCV 2021), in their published settings.

Like the views in `transforms`, both take a PIL image of any mode and orientation, return a float32 tensor
`(3, image_size, image_size)` with ImageNet's mean and standard deviation, and are picklable. timm's RandAugment draws
from `random` and numpy, everything else from torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image, ImageFilter
from timm.data import IMAGENET_DEFAULT_MEAN
from timm.data.auto_augment import rand_augment_transform
from torchvision import transforms
from torchvision.transforms import AutoAugmentPolicy

from deitlt_hf.data.images import upright_rgb
from deitlt_hf.data.transforms import LARGEST_PADDED_SIZE, View, check_image_size, padded_crop, to_normalized_tensor


def paco_query_view(image_size: int, horizontal_flip: bool = True) -> View:
    """The view for the encoder that learns, and for the classifier.

    Up to 32 pixels a padded crop as in `weak_view`, flip, AutoAugment's policy for CIFAR-10, and a Cutout of half the
    side. Above, a random resized crop, flip, colour jitter, and RandAugment `rand-n2-m10-mstd0.5`.

    Args:
        image_size: side of the square output in pixels.
        horizontal_flip: mirror half of the images (default); False for digits, text and the like.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> paco_query_view(32)(Image.new("RGB", (32, 32))).shape
        torch.Size([3, 32, 32])
    """
    check_image_size(image_size)
    flip = _flip(horizontal_flip)
    to_tensor, normalize = to_normalized_tensor()
    if image_size <= LARGEST_PADDED_SIZE:
        # Grey is what the implementation of the policy that PaCo uses fills with; torchvision's default is black.
        auto_augment = transforms.AutoAugment(AutoAugmentPolicy.CIFAR10, fill=[128, 128, 128])
        # Zeros before normalisation are black, as published; after it they would be the mean colour.
        cutout = Cutout(image_size // 2)
        crop = padded_crop(image_size)
        return transforms.Compose([upright_rgb, *crop, *flip, auto_augment, to_tensor, cutout, normalize])
    crop = transforms.RandomResizedCrop(image_size, scale=(0.08, 1.0))
    mean_colour = tuple(int(255 * channel) for channel in IMAGENET_DEFAULT_MEAN)
    # Its translations go up to 0.45 of the side, timm's default too.
    rand_augment = rand_augment_transform("rand-n2-m10-mstd0.5", {"img_mean": mean_colour})
    return transforms.Compose([upright_rgb, crop, *flip, _large_jitter(), rand_augment, to_tensor, normalize])


def paco_key_view(image_size: int, horizontal_flip: bool = True) -> View:
    """The view for the momentum encoder: crop, flip, colour jitter, grey, and blur as in MoCo v2 (Chen et al., 2020).

    Up to 32 pixels the jitter changes the hue too, and one image in five is spared it.

    Args:
        image_size: side of the square output in pixels.
        horizontal_flip: mirror half of the images (default); False for digits, text and the like.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> paco_key_view(64, horizontal_flip=False)(Image.new("L", (80, 60))).shape
        torch.Size([3, 64, 64])
    """
    check_image_size(image_size)
    flip = _flip(horizontal_flip)
    grey_and_blur = [transforms.RandomGrayscale(p=0.2), transforms.RandomApply([GaussianBlur((0.1, 2.0))], p=0.5)]
    if image_size <= LARGEST_PADDED_SIZE:
        crop = transforms.RandomResizedCrop(image_size, scale=(0.2, 1.0))
        jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
        steps = [crop, *flip, jitter, *grey_and_blur]
    else:
        steps = [transforms.RandomResizedCrop(image_size), _large_jitter(), *grey_and_blur, *flip]
    return transforms.Compose([upright_rgb, *steps, *to_normalized_tensor()])


class Cutout:
    """Sets one square of an image to zero (DeVries and Taylor, 2017).

    The square's centre is uniform over the pixels, so that what lies beyond the border is cut off.

    Args:
        length: side of the square in pixels.

    Calling it takes a tensor `(C, H, W)` and returns a changed copy.

    Example:
        >>> int((Cutout(2)(torch.ones(3, 8, 8)) == 0).sum()) in (3 * 1, 3 * 2, 3 * 4)
        True
    """

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        top, left = (int(torch.randint(side, ())) - self.length // 2 for side in (height, width))
        image = image.clone()
        image[:, max(top, 0) : top + self.length, max(left, 0) : left + self.length] = 0
        return image


class GaussianBlur:
    """Blurs a PIL image with a radius that is uniform in a range, in pixels (Chen et al., 2020, SimCLR).

    Example:
        >>> GaussianBlur((0.1, 2.0))(Image.new("RGB", (8, 8))).size
        (8, 8)
    """

    def __init__(self, radius: tuple[float, float]) -> None:
        self.radius = radius

    def __call__(self, image: Image.Image) -> Image.Image:
        radius = torch.empty(()).uniform_(*self.radius).item()
        return image.filter(ImageFilter.GaussianBlur(radius))


def _flip(horizontal_flip: bool) -> list[Callable]:
    return [transforms.RandomHorizontalFlip()] if horizontal_flip else []


def _large_jitter() -> Callable:
    return transforms.ColorJitter(0.4, 0.4, 0.4, 0.0)
