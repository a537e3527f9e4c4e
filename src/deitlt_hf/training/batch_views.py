"""Views that are made of whole batches in the training step, on the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from datasets import Dataset

from deitlt_hf.data.device_augmentation.device_views import BatchView, device_views, small_common_size
from deitlt_hf.data.device_augmentation.random_numbers import Draws
from deitlt_hf.data.views import LARGEST_PADDED_SIZE, Resizing, View, strong_view, weak_view
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.training.arguments import LongTailTrainingArguments


class BatchViews:
    """Turns a batch of decoded images into views, with random numbers of the step at hand.

    They follow from the seed, the step, the place of the batch among those that are accumulated for the step, and the
    process, so that a run that is resumed goes on with the views that it would have had.

    Args:
        views: the view for each of a batch's tensors of images.
        seed: of the run.
        process: index of this process.

    Example:
        >>> views = BatchViews({"pixel_values": BatchView(8)}, seed=0, process=0)
        >>> batch = {"pixel_values": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "labels": torch.tensor([1, 0])}
        >>> views(batch, step=0)["pixel_values"].dtype
        torch.float32
    """

    def __init__(self, views: Mapping[str, BatchView], seed: int, process: int) -> None:
        self.views = views
        self._seed = seed % (1 << 64)
        self._process = process
        self.forget_step()

    def forget_step(self) -> None:
        """Forget the last step, because a rewound training repeats steps."""
        self._step, self._batch = -1, 0

    def __call__(self, inputs: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """Replace images `(N, 3, H, W)` uint8 by views `(N, 3, S, S)` float32; a batch with views stays as it is."""
        decoded = [name for name in self.views if inputs[name].dtype == torch.uint8]
        if not decoded:
            return inputs
        self._batch = self._batch + 1 if step == self._step else 0
        self._step = step
        made = {}
        for place, name in enumerate(decoded):
            key = (self._seed, step, self._batch, self._process, place)
            made[name] = self.views[name](inputs[name], Draws(*key, device=inputs[name].device))
        return inputs | made


def training_views(
    args: LongTailTrainingArguments,
    dataset: Dataset,
    strong: Mapping[str, bool],
    image_size: int,
    horizontal_flip: bool,
    resizing: Resizing | None = None,
) -> tuple[dict[str, View], dict[str, BatchView]]:
    """The views that the loader makes, and those that the trainer makes on the device, see `augments_on_device`.

    They interpolate as `resizing` does where they resize.
    """
    interpolation = (resizing or Resizing()).interpolation
    if augments_on_device(args, dataset, image_size):
        return device_views(strong, image_size, horizontal_flip, dataset, interpolation)
    make = {True: strong_view, False: weak_view}
    return {name: make[is_strong](image_size, horizontal_flip, interpolation) for name, is_strong in strong.items()}, {}


def augments_on_device(args: LongTailTrainingArguments, dataset: Dataset, image_size: int) -> bool:
    """Whether `args.augmentation_device` puts the training views of a run on the device.

    `"auto"` does where images are trained on at up to 32 pixels, on a GPU or a CPU, because batched views are faster
    there than timm's (`docs/augmentation.md`). On a CUDA device it also does where images have one size up to 256.
    """
    if args.augmentation_device == "device" and args.device.type not in ("cpu", "cuda"):
        raise DeiTLTError(f"augmentation_device is 'device', which a {args.device.type} device lacks; pass auto or cpu")
    if args.augmentation_device != "auto":
        return args.augmentation_device == "device"
    if image_size <= LARGEST_PADDED_SIZE:
        return args.device.type in ("cpu", "cuda")
    return args.device.type == "cuda" and small_common_size(dataset) is not None
