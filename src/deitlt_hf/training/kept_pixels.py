"""Pixels of all training images on the device, so that a batch is only numbers of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import TrainingArguments

from deitlt_hf.data.dataset import ViewedDataset, collate, collate_for_workers, room_for_pixels
from deitlt_hf.data.device_augmentation.device_views import BatchView, only_decodes

NUMBERS = "image_numbers"


class ImageNumbers(Dataset):
    """Stands for a data set whose pixels are kept: an example is the number of an image.

    Nothing of it needs another process, so its loader has no workers, and an epoch begins at once.
    """

    def __init__(self, images: ViewedDataset) -> None:
        self.labels: np.ndarray | None = images.labels
        self._length = len(images)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return int(index)

    def collate(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """The numbers `(N,)` and labels `(N,)` of a batch, int64."""
        batch = {NUMBERS: torch.tensor(numbers, dtype=torch.int64)}
        return batch if self.labels is None else batch | {"labels": torch.from_numpy(self.labels[list(numbers)])}


def keep_pixels(images: ViewedDataset, views: Mapping[str, BatchView], args: TrainingArguments) -> torch.Tensor | None:
    """The pixels of all images, uint8 `(N, 3, H, W)` on the run's device; None where the loader must send them.

    They are kept if the loader has no part in the views (`only_decodes`), and if they take no more than
    `room_for_pixels`. An image that cannot be read is an error before the first step.
    """
    if not views or images.views.keys() != views.keys() or not len(images):
        return None
    of_loader, *others = images.views.values()
    if not only_decodes(of_loader) or any(other is not of_loader for other in others):
        return None
    first = next(iter(images[0].values()))
    if len(images) * first.nbytes > room_for_pixels(args.device):
        return None
    images.kept = None  # the processor's memory need not hold them too
    kept = torch.empty(len(images), *first.shape, dtype=first.dtype, device=args.device)
    start = 0
    for pixels in read_pixels(images, args.train_batch_size, args, f"reading the images of {images.split}"):
        kept[start : start + len(pixels)] = pixels
        start += len(pixels)
    return kept


def read_pixels(
    images: ViewedDataset, batch_size: int, args: TrainingArguments, activity: str
) -> Iterator[torch.Tensor]:
    """The first view of all images in batches `(N, 3, H, W)` on the run's device, with a progress bar.

    The run's workers read them.
    """
    loader = DataLoader(
        images,
        batch_size,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        generator=torch.Generator(),  # or it would take a number from the global one, which the training draws from
    )
    collate_for_workers(loader, args.world_size)
    silent = args.disable_tqdm or not args.should_log
    for batch in tqdm(loader, desc=activity, unit="batch", disable=silent, leave=False):
        yield next(iter(batch.values())).to(args.device)
