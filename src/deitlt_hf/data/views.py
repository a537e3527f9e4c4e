"""Views of an image: strong for the student, weak for the teacher, two for PaCo, and the one for evaluation.

Every view takes a PIL image of any mode and orientation and returns a float32 tensor `(3, image_size, image_size)` with
ImageNet's mean and standard deviation. Views are picklable, so that the workers of a loader can have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image, ImageFilter
from PIL.Image import Resampling
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode
from transformers import DeiTImageProcessor

from deitlt_hf.data.images import upright_rgb
from deitlt_hf.errors import DeiTLTError

View = Callable[[Image.Image], torch.Tensor]

# Up to this size the reference trains on padded random crops instead of random resized ones.
LARGEST_PADDED_SIZE = 32


@dataclass(frozen=True)
class Resizing:
    """How a picture of any shape becomes a square, without random numbers.

    Args:
        interpolation: `"bicubic"` or `"bilinear"`.
        crop_ratio: side of the square that is cut from the middle, as a share of the side that is resized to; 1 for no
            margin.
        keeps_shape: the shorter side is resized and the other one in proportion; False: both sides, to a square.

    Example:
        >>> Resizing("bilinear", crop_ratio=0.875).edge(224)
        256
        >>> evaluation_view(32, Resizing(crop_ratio=1.0))(Image.new("RGB", (40, 30))).shape
        torch.Size([3, 32, 32])
    """

    interpolation: str = "bicubic"
    crop_ratio: float = 224 / 256
    keeps_shape: bool = True

    def edge(self, image_size: int) -> int:
        """Pixels of the resized side before the crop to `image_size`."""
        # With a summand, so that a ratio of two whole numbers gives them again.
        return math.floor(image_size / self.crop_ratio + 1e-6)


def reference_resizing(image_size: int) -> Resizing:
    """The reference's: shorter side to 256/224 of the image size and crop; up to 32 pixels to a square, no margin."""
    check_image_size(image_size)
    return Resizing(crop_ratio=1.0, keeps_shape=False) if image_size <= LARGEST_PADDED_SIZE else Resizing()


def strong_view(image_size: int, horizontal_flip: bool = True, interpolation: str = "bicubic") -> View:
    """The student's training view: the reference's crop, flip, RandAugment, and random erasing.

    Above 32 pixels a random resized crop; up to 32 pixels a random crop of the image (resized first where its size is
    another) with zero padding of `image_size // 8`, which is the reference's 4 at 32. RandAugment is
    `rand-m9-mstd0.5-inc1` (bicubic), erasing has probability 0.25 and fills with noise.

    Args:
        image_size: side of the square output in pixels.
        horizontal_flip: mirror half of the images (default); False for digits, text and the like.
        interpolation: of what is resized, `"bicubic"` (default) or `"bilinear"`.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> strong_view(32)(Image.new("RGB", (32, 32))).shape
        torch.Size([3, 32, 32])
    """
    check_image_size(image_size)
    # color_jitter is the reference's setting too; timm leaves it out as soon as RandAugment is on.
    _, *rest = create_transform(
        input_size=image_size,
        is_training=True,
        hflip=0.5 if horizontal_flip else 0.0,
        color_jitter=0.3,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    ).transforms
    if image_size <= LARGEST_PADDED_SIZE:
        crops = _padded_crop(image_size, interpolation)
    else:
        crops = [RandomResizedCropAndInterpolation(image_size, interpolation=interpolation)]
    return transforms.Compose([upright_rgb, *crops, *rest])


def weak_view(image_size: int, horizontal_flip: bool = True, interpolation: str = "bicubic") -> View:
    """The teacher's training view: crop and flip.

    Crops as `strong_view` does.

    Args:
        image_size: side of the square output in pixels.
        horizontal_flip: mirror half of the images (default).
        interpolation: as in `strong_view`.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> weak_view(32, horizontal_flip=False)(Image.new("L", (28, 28))).shape
        torch.Size([3, 32, 32])
    """
    check_image_size(image_size)
    if image_size <= LARGEST_PADDED_SIZE:
        crops = _padded_crop(image_size, interpolation)
    else:
        crops = [transforms.RandomResizedCrop(image_size, interpolation=InterpolationMode(interpolation))]
    return transforms.Compose([upright_rgb, *crops, *_flip(horizontal_flip), *_normalized_tensor()])


def evaluation_view(image_size: int, resizing: Resizing | None = None) -> View:
    """The view for evaluation and prediction.

    Args:
        image_size: side of the square output in pixels.
        resizing: by default the reference's: above 32 pixels the shortest edge is resized to 256/224 of the image size
            (bicubic) and the centre cropped; up to 32 pixels the image is resized to the image size where its size is
            another, with no margin.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> evaluation_view(224)(Image.new("RGB", (640, 480))).shape
        torch.Size([3, 224, 224])
    """
    check_image_size(image_size)
    resizing = resizing or reference_resizing(image_size)
    edge, mode = resizing.edge(image_size), InterpolationMode(resizing.interpolation)
    steps: list[Callable] = [transforms.Resize(edge if resizing.keeps_shape else (edge, edge), mode)]
    if resizing.keeps_shape or edge > image_size:
        steps.append(transforms.CenterCrop(image_size))
    return transforms.Compose([upright_rgb, *steps, *_normalized_tensor()])


def image_processor(image_size: int, resizing: Resizing | None = None) -> DeiTImageProcessor:
    """The image processor that travels with a checkpoint: it makes the pixel values of `evaluation_view`.

    The two resize with different libraries and so differ by rounding. And where the resized image is wider than the
    crop by an odd number of pixels, the processor's crop may lie one pixel further left than torchvision's (or higher).

    Args:
        image_size: side of the square output in pixels.
        resizing: as in `evaluation_view`.

    Returns:
        A processor whose call returns `pixel_values` `(N, 3, image_size, image_size)` float32; it takes images of any
        mode.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> image_processor(224).size.shortest_edge
        256
    """
    check_image_size(image_size)
    resizing = resizing or reference_resizing(image_size)
    edge = resizing.edge(image_size)
    return DeiTImageProcessor(
        do_convert_rgb=True,
        size={"shortest_edge": edge} if resizing.keeps_shape else {"height": edge, "width": edge},
        resample=Resampling[resizing.interpolation.upper()],
        do_center_crop=resizing.keeps_shape or edge > image_size,
        crop_size={"height": image_size, "width": image_size},
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
    )


def paco_query_view(image_size: int, horizontal_flip: bool = True) -> View:
    """The published view for PaCo's classifier and the encoder that learns (Cui et al., ICCV 2021).

    Up to 32 pixels a padded crop as in `weak_view`, flip, AutoAugment's policy for CIFAR-10, and a Cutout of half the
    side. Above, a random resized crop, flip, colour jitter, and RandAugment `rand-n2-m10-mstd0.5`. Random numbers come
    from torch, those of RandAugment from `random` and numpy.
    """
    check_image_size(image_size)
    flip = _flip(horizontal_flip)
    to_tensor, normalize = _normalized_tensor()
    if image_size <= LARGEST_PADDED_SIZE:
        # Grey is what the implementation of the policy that PaCo uses fills with; torchvision's default is black.
        auto_augment = transforms.AutoAugment(AutoAugmentPolicy.CIFAR10, fill=[128, 128, 128])
        # Zeros before normalisation are black, as published; after it they would be the mean colour.
        steps = [*_padded_crop(image_size), *flip, auto_augment, to_tensor, Cutout(image_size // 2)]
    else:
        crop = transforms.RandomResizedCrop(image_size, scale=(0.08, 1.0))
        mean_colour = tuple(int(255 * channel) for channel in IMAGENET_DEFAULT_MEAN)
        # Its translations go up to 0.45 of the side, timm's default too.
        rand_augment = rand_augment_transform("rand-n2-m10-mstd0.5", {"img_mean": mean_colour})
        steps = [crop, *flip, _large_jitter(), rand_augment, to_tensor]
    return transforms.Compose([upright_rgb, *steps, normalize])


def paco_key_view(image_size: int, horizontal_flip: bool = True) -> View:
    """The published view for PaCo's momentum encoder: that of MoCo v2 (Chen et al., 2020).

    Crop, flip, colour jitter, grey, and blur. Up to 32 pixels the jitter changes the hue too, and spares one image in
    five.
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
    return transforms.Compose([upright_rgb, *steps, *_normalized_tensor()])


class Cutout:
    """Sets one square of an image `(C, H, W)` to zero (DeVries and Taylor, 2017), in a copy.

    The square's centre is uniform over the pixels, so a part may lie outside, unlike in torchvision's `RandomErasing`.
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

    Pillow's filter, as published; torchvision's needs the size of a kernel.
    """

    def __init__(self, radius: tuple[float, float]) -> None:
        self.radius = radius

    def __call__(self, image: Image.Image) -> Image.Image:
        radius = torch.empty(()).uniform_(*self.radius).item()
        return image.filter(ImageFilter.GaussianBlur(radius))


def check_image_size(image_size: int) -> None:
    """Refuse an image size below 1."""
    if image_size < 1:
        raise DeiTLTError(f"image_size is {image_size}: pass a size in pixels of at least 1")


def resize_to_square(image_size: int, interpolation: str = "bicubic") -> transforms.Resize:
    """Resizing of a PIL image to a square."""
    return transforms.Resize((image_size, image_size), interpolation=InterpolationMode(interpolation))


def _padded_crop(image_size: int, interpolation: str = "bicubic") -> list[Callable]:
    """Resize to a square, and crop a square of that size after zero padding of an eighth of it."""
    return [resize_to_square(image_size, interpolation), transforms.RandomCrop(image_size, padding=image_size // 8)]


def _flip(horizontal_flip: bool) -> list[Callable]:
    return [transforms.RandomHorizontalFlip()] if horizontal_flip else []


def _large_jitter() -> Callable:
    return transforms.ColorJitter(0.4, 0.4, 0.4, 0.0)


def _normalized_tensor() -> list[Callable]:
    """To a tensor in [0, 1], then to ImageNet's mean and standard deviation."""
    return [transforms.ToTensor(), transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
