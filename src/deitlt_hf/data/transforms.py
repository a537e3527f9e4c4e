"""Views of an image: strong for the student, weak for the teacher, and the one for evaluation.

Every view takes a PIL image of any mode and orientation and returns a float32 tensor `(3, image_size, image_size)` with
ImageNet's mean and standard deviation. Views are picklable, so loader workers can have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from deitlt_hf.data.draws import Draw, follow, generators_untouched
from deitlt_hf.data.images import BadImage, decode_image, upright_rgb
from deitlt_hf.data.in_memory import keep_images
from deitlt_hf.data.readable import SKIP_HINT, image_name, undecoded
from deitlt_hf.errors import DeiTLTError

View = Callable[[Image.Image], torch.Tensor]

# Up to this size the reference trains on padded random crops instead of random resized ones.
LARGEST_PADDED_SIZE = 32

# Images that are decoded before the first of them is viewed. One by one, the two kinds of work slow each other down for
# small images; all of a batch, large ones leave the processor's caches before they are viewed.
DECODED_AT_ONCE = 8


def evaluation_resize(image_size: int) -> int | None:
    """The shortest edge before the centre crop: 256/224 of the image size as in the reference, or None for no margin.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> evaluation_resize(224)
        256
    """
    check_image_size(image_size)
    return None if image_size <= LARGEST_PADDED_SIZE else int(256 / 224 * image_size)


def strong_view(image_size: int, horizontal_flip: bool = True) -> View:
    """The student's training view: the reference's crop, flip, RandAugment, and random erasing.

    Above 32 pixels a bicubic random resized crop; up to 32 pixels a random crop of the image (resized first where its
    size is another) with zero padding of `image_size // 8`, which is the reference's 4 at 32. RandAugment is
    `rand-m9-mstd0.5-inc1`, erasing has probability 0.25 and fills with noise.

    Args:
        image_size: side of the square output in pixels.
        horizontal_flip: mirror half of the images (default); False for digits, text and the like.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> strong_view(32)(Image.new("RGB", (32, 32))).shape
        torch.Size([3, 32, 32])
    """
    check_image_size(image_size)
    # color_jitter is the reference's setting too; timm leaves it out as soon as RandAugment is on.
    crop, *rest = create_transform(
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
    crops = padded_crop(image_size) if image_size <= LARGEST_PADDED_SIZE else [crop]
    return transforms.Compose([upright_rgb, *crops, *rest])


def weak_view(image_size: int, horizontal_flip: bool = True) -> View:
    """The teacher's training view: crop and flip.

    Crops as `strong_view` does.

    Args:
        image_size: side of the square output in pixels.
        horizontal_flip: mirror half of the images (default).

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> weak_view(32, horizontal_flip=False)(Image.new("L", (28, 28))).shape
        torch.Size([3, 32, 32])
    """
    check_image_size(image_size)
    crops = (
        padded_crop(image_size)
        if image_size <= LARGEST_PADDED_SIZE
        else [transforms.RandomResizedCrop(image_size, interpolation=InterpolationMode.BICUBIC)]
    )
    flip = [transforms.RandomHorizontalFlip()] if horizontal_flip else []
    return transforms.Compose([upright_rgb, *crops, *flip, *to_normalized_tensor()])


def evaluation_view(image_size: int) -> View:
    """The view for evaluation and prediction, the reference's.

    Above 32 pixels the shortest edge is resized to 256/224 of the image size (bicubic) and the centre cropped; up to 32
    pixels the image is resized to the image size where its size is another, with no margin.

    Args:
        image_size: side of the square output in pixels.

    Raises:
        DeiTLTError: for an image size below 1.

    Example:
        >>> evaluation_view(224)(Image.new("RGB", (640, 480))).shape
        torch.Size([3, 224, 224])
    """
    shortest_edge = evaluation_resize(image_size)
    if shortest_edge is None:
        resized = [resize_to_square(image_size)]
    else:
        resized = [
            transforms.Resize(shortest_edge, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(image_size),
        ]
    return transforms.Compose([upright_rgb, *resized, *to_normalized_tensor()])


class ViewTransform:
    """Turns rows with `image` and `label` into views of the image, for `datasets.Dataset.with_transform`.

    Args:
        views: the view for each output column, such as `{"pixel_values": strong_view(32)}`; in-distribution
            distillation adds `"weak_pixel_values"`.

    Calling it takes `{"image": [...], "label": [ints]}` with PIL images, or with `{"bytes": ..., "path": ...}` of a
    column that is not decoded, and returns one list of tensors per view, and `labels` where there is a `label`.

    Raises:
        DeiTLTError: for an image that cannot be read; `ViewedDataset` says which one it was.

    Example:
        >>> transform = ViewTransform({"pixel_values": evaluation_view(8)})
        >>> list(transform({"image": [Image.new("RGB", (8, 8))], "label": [3]}))
        ['pixel_values', 'labels']
    """

    def __init__(self, views: dict[str, View]) -> None:
        self.views = views

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        images = [_decoded(value, "an image") for value in batch["image"]]
        output: dict[str, list] = {name: [view(image) for image in images] for name, view in self.views.items()}
        if "label" in batch:
            output["labels"] = batch["label"]
        return output


class ViewedDataset(torch.utils.data.Dataset):
    """A split as training and evaluation see it: views of each image, and an error that names the image.

    Args:
        dataset: rows with `image` (`datasets.Image`) and, except for prediction, `label`.
        views: the view for each output, as for `ViewTransform`.
        split: the split's name, for messages.

    An example is a dict of a tensor `(3, image_size, image_size)` per view, and an int under `labels`. Where the
    indices of a batch are `Draw`s, what its views draw follows from their seeds alone. Images are decoded once and kept
    where all of the split's fit into memory, see `in_memory`.

    Raises:
        DeiTLTError: on reading an image that cannot be read, with its index, its file if it has one, and the reason.

    Example:
        >>> rows = Dataset.from_dict({"image": [Image.new("L", (9, 8))], "label": [3]})
        >>> list(ViewedDataset(rows, {"pixel_values": evaluation_view(8)}, "test")[0])
        ['pixel_values', 'labels']
    """

    def __init__(self, dataset: Dataset, views: dict[str, View], split: str) -> None:
        self.rows = undecoded(dataset)
        self.views = views
        self.split = split
        self.kept = keep_images(self.rows.num_rows, self._first_image())
        self._images_alone = self.rows.select_columns("image")

    def __len__(self) -> int:
        return self.rows.num_rows

    def _first_image(self) -> Image.Image | None:
        try:
            return decode_image(self.rows[0]["image"]) if len(self) else None
        except BadImage:  # to be reported when somebody reads it
            return None

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """A batch of examples in one read, which torch's `DataLoader` prefers."""
        if not any(isinstance(index, Draw) for index in indices):
            return self._examples(indices)
        with generators_untouched():
            return self._examples(indices)

    def _examples(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        plain = [int(index) for index in indices]
        rows = self._undecoded_rows(plain)
        examples: list[dict[str, Any]] = []
        for start in range(0, len(indices), DECODED_AT_ONCE):
            few = slice(start, start + DECODED_AT_ONCE)
            # With repeated augmentation neighbours are often the same image.
            images = {index: self._image(index, rows) for index in dict.fromkeys(plain[few])}
            # Not for each image: three generators set and refilled take a twentieth of a small image's view.
            follow(indices[start])
            examples += [{name: view(images[index]) for name, view in self.views.items()} for index in plain[few]]
        if self._labels is not None:
            for index, example in zip(plain, examples, strict=True):
                example["labels"] = int(self._labels[index])
        return examples

    @cached_property
    def _labels(self) -> np.ndarray | None:
        return np.asarray(self.rows["label"][:]) if "label" in self.rows.column_names else None

    def _undecoded_rows(self, indices: list[int]) -> dict[int, Any]:
        """What the data set holds for those of the images that are not kept decoded."""
        missing = [index for index in dict.fromkeys(indices) if self.kept is None or not self.kept.has(index)]
        return dict(zip(missing, self._images_alone[missing]["image"], strict=True)) if missing else {}

    def _image(self, index: int, rows: dict[int, Any]) -> Image.Image:
        if index not in rows:
            return self.kept.get(index)
        value = rows[index]
        image = _decoded(value, image_name(index, self.split, value and value["path"]))
        if self.kept is not None:
            self.kept.keep(index, image)
        return image


def _decoded(value: Any, name: str) -> Image.Image:
    try:
        return decode_image(value)
    except BadImage as error:
        raise DeiTLTError(f"{name} cannot be read: {error}; {SKIP_HINT}") from error


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack the examples of a `ViewTransform` into a batch.

    Args:
        examples: dicts of `(3, H, W)` tensors and, for training and evaluation, an int under `labels`.

    Returns:
        `(N, 3, H, W)` tensors under the same names, and `labels` `(N,)` int64.

    Raises:
        DeiTLTError: examples that are no tensors, such as images.

    Example:
        >>> collate([{"pixel_values": torch.zeros(3, 8, 8), "labels": 1}])["labels"]
        tensor([1])
    """
    other = next((name for name, value in examples[0].items() if name != "labels" and not torch.is_tensor(value)), None)
    if other is not None:
        raise DeiTLTError(
            f"examples hold {other!r} of type {type(examples[0][other]).__name__}, where a batch is made of tensors: "
            "give the data set the transform ViewTransform, which makes pixel_values of images"
        )
    batch = {name: torch.stack([example[name] for example in examples]) for name in examples[0] if name != "labels"}
    if "labels" in examples[0]:
        batch["labels"] = torch.tensor([example["labels"] for example in examples], dtype=torch.int64)
    return batch


def check_image_size(image_size: int) -> None:
    """Raise `DeiTLTError` for an image size below 1."""
    if image_size < 1:
        raise DeiTLTError(f"image_size is {image_size}: pass a size in pixels of at least 1")


def resize_to_square(image_size: int) -> transforms.Resize:
    """Bicubic resizing of a PIL image to a square."""
    return transforms.Resize((image_size, image_size), interpolation=InterpolationMode.BICUBIC)


def padded_crop(image_size: int) -> list[Callable]:
    """Steps: resize to a square, and crop a square of that size after zero padding of an eighth of it."""
    return [resize_to_square(image_size), transforms.RandomCrop(image_size, padding=image_size // 8)]


def to_normalized_tensor() -> list[Callable]:
    """Two steps: to a tensor in [0, 1], and to ImageNet's mean and standard deviation."""
    return [transforms.ToTensor(), transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
