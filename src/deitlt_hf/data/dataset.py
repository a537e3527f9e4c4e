"""Images on their way to a batch: decoded once where memory allows it, viewed, collated, and sent from the workers."""

from __future__ import annotations

import mmap
import operator
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import numpy as np
import psutil
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader, get_worker_info

from deitlt_hf.data.images import BadImage, decode_image
from deitlt_hf.data.readable import SKIP_HINT, image_name, undecoded
from deitlt_hf.data.sampling import Draw, follow, generators_untouched
from deitlt_hf.data.views import View
from deitlt_hf.errors import DeiTLTError, notice

# So many images are decoded before the first of them is viewed. Decoding and viewing one image at a time is slower for
# small images; after a whole batch, the first large images are no longer in the processor's caches.
DECODED_AT_ONCE = 8
MOST_KEPT = 1 << 30  # bytes of decoded pixels that are kept in memory

_SHARED_MEMORY = "/dev/shm"
_notified = False


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
        >>> from deitlt_hf.data.views import evaluation_view
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
    """A split as training and evaluation see it: views of each image, and an error that names an unreadable image.

    An example is a dict of a tensor `(3, image_size, image_size)` per view, and an int under `labels`. If the
    indices of a batch are `Draw`s, the random numbers of its views depend only on their seeds. Images are
    decoded once and kept if all images of the split fit into memory, see `keep_images`.

    Args:
        dataset: rows with an `image` and a `label` column.
        views: what is made of each image, by the name of the tensor.
        split: the split's name, for messages.

    Example:
        >>> from deitlt_hf import ViewedDataset, evaluation_view, load_long_tailed_dataset
        >>> views = {"pixel_values": evaluation_view(16)}
        >>> test = ViewedDataset(load_long_tailed_dataset("digits-lt")["test"], views, "test")
        >>> test[0]["pixel_values"].shape, test[0]["labels"]
        (torch.Size([3, 16, 16]), 0)
    """

    def __init__(self, dataset: Dataset, views: dict[str, View], split: str) -> None:
        self.rows = undecoded(dataset)
        self.views = views
        self.split = split
        try:
            first = decode_image(self.rows[0]["image"]) if len(self) else None
        except BadImage:  # reported when it is read for a view
            first = None
        self.kept = keep_images(self.rows.num_rows, first)
        self._images_alone = self.rows.select_columns("image")

    def __len__(self) -> int:
        return self.rows.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """A batch of examples in one read, which torch's `DataLoader` prefers."""
        plain = [int(index) for index in indices]
        missing = [index for index in dict.fromkeys(plain) if self.kept is None or not self.kept.has(index)]
        rows = dict(zip(missing, self._images_alone[missing]["image"], strict=True)) if missing else {}
        examples: list[dict[str, Any]] = []
        with generators_untouched() if any(isinstance(index, Draw) for index in indices) else nullcontext():
            for start in range(0, len(indices), DECODED_AT_ONCE):
                few = slice(start, start + DECODED_AT_ONCE)
                # With repeated augmentation neighbours are often the same image.
                images = {index: self._image(index, rows) for index in dict.fromkeys(plain[few])}
                # Not for each image: setting the three generators takes a twentieth of a small image's time.
                follow(indices[start])
                examples += [{name: view(images[index]) for name, view in self.views.items()} for index in plain[few]]
        if self.labels is not None:
            for index, example in zip(plain, examples, strict=True):
                example["labels"] = int(self.labels[index])
        return examples

    @cached_property
    def labels(self) -> np.ndarray | None:
        """The class of each image, int64 `(images,)`; None for a split without labels."""
        return np.asarray(self.rows["label"][:]) if "label" in self.rows.column_names else None

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
        DeiTLTError: examples that are no tensors, such as images, and labels that are no ints.

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
    # Not by torch's default_collate: in a worker it takes shared memory, which `collate_for_workers` avoids.
    batch = {name: torch.stack([example[name] for example in examples]) for name in examples[0] if name != "labels"}
    if "labels" in examples[0]:
        batch["labels"] = torch.tensor([_class_id(example["labels"]) for example in examples], dtype=torch.int64)
    return batch


def _class_id(label: Any) -> int:
    try:
        return operator.index(label)
    except TypeError as error:
        raise DeiTLTError(
            f"an example's labels are of type {type(label).__name__}; give a class id, an int, or for probabilities of "
            "classes pass a data_collator of your own"
        ) from error


class KeptImages:
    """The decoded pixels of a split whose images have one size, shared by all processes that are forked later.

    Nothing is decoded ahead. The memory is taken page by page as images come; /dev/shm, which is small in containers,
    is not used. Processes that are spawned get none of it and decode for themselves.
    """

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.size = size
        width, height = size
        self._pixels = _shared(count, height, width, 3)
        self._is_kept = _shared(count)

    def __reduce__(self) -> tuple:
        return type(None), ()  # unpickled in a spawned process it is None

    def has(self, index: int) -> bool:
        """Whether the image is kept already."""
        return bool(self._is_kept[index])

    def get(self, index: int) -> Image.Image:
        """A copy of an image that is kept."""
        return Image.fromarray(self._pixels[index])

    def keep(self, index: int, image: Image.Image) -> None:
        """Keep an RGB image for all processes, unless it has another size than the first one."""
        if image.size == self.size:
            self._pixels[index] = np.asarray(image)
            self._is_kept[index] = 1  # last, so that no process reads half an image


def keep_images(count: int, first: Image.Image | None) -> KeptImages | None:
    """A place for the images of a split; None if it takes more than `room_for_pixels`."""
    if first is None or count == 0:
        return None
    fits = count * first.width * first.height * 3 <= room_for_pixels()
    return KeptImages(count, first.size) if fits else None


def room_for_pixels(device: torch.device | None = None) -> int:
    """Bytes that a process may use for the images of a split: 1 GiB, or a quarter of the device's free memory."""
    if device is not None and device.type == "cuda":
        return min(MOST_KEPT, torch.cuda.mem_get_info(device)[0] // 4)
    return min(MOST_KEPT, psutil.virtual_memory().available // 4) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _shared(*shape: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), dtype=np.uint8).reshape(shape)


def collate_for_workers(loader: DataLoader, processes: int = 1) -> None:
    """Let a loader's workers send batches for which shared memory has no room through pipes instead.

    torch puts tensors into /dev/shm, whichever sharing strategy it has; where that is full (64 MB in a container unless
    it was started with another --shm-size) a worker dies or waits for ever. `processes` share the memory, each with
    workers of its own.
    """
    try:
        memory = os.statvfs(_SHARED_MEMORY)
    except OSError:  # a system that shares in another way
        return
    if loader.num_workers:
        # Each worker holds its prefetched batches and one more; half of the memory is left to others.
        batches = loader.num_workers * (loader.prefetch_factor + 1) * processes
        room = memory.f_bavail * memory.f_frsize // (2 * batches)
        loader.collate_fn = partial(_collate_for_worker, loader.collate_fn, room)


def _collate_for_worker(collate: Callable, room: int, examples: Sequence[Any]) -> dict[str, Any]:
    """Collate a batch, and make one of more than `room` bytes travel through the pipe to the main process."""
    batch = collate(examples)
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    if get_worker_info() is None or sum(tensor.nbytes for tensor in tensors.values()) <= room:
        return batch
    return batch | {name: _ByPipe(tensor) for name, tensor in tensors.items()}


class _ByPipe:
    """A tensor that is pickled with its values, where torch pickles a handle to shared memory."""

    def __init__(self, tensor: torch.Tensor):
        self._array = tensor.numpy()

    def __reduce__(self):
        return _received, (self._array,)


def _received(array: np.ndarray) -> torch.Tensor:
    global _notified
    if not _notified:
        _notified = True
        notice(
            f"{_SHARED_MEMORY} has too little room for the batches of the workers: they go through pipes, which "
            "is slower; a container has more with --shm-size, such as docker run --shm-size 8g"
        )
    return torch.from_numpy(array)
