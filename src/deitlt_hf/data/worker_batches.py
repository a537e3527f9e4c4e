"""How a loader's workers hand over their batches: in shared memory, or through pipes where there is too little of it.

torch puts tensors into /dev/shm, whichever sharing strategy it has; where that is full (64 MB in a container, unless it
was started with another --shm-size) a worker dies or waits for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from deitlt_hf.errors import notice

_SHARED_MEMORY = "/dev/shm"
_said = False


def collate_for_workers(loader: DataLoader, processes: int = 1) -> None:
    """Let the workers of a loader send batches for which shared memory has no room through pipes instead.

    Args:
        loader: not iterated yet; its batches are dicts of tensors.
        processes: that share the memory, each with workers of its own.

    Example:
        >>> from deitlt_hf.data.transforms import collate
        >>> collate_for_workers(DataLoader([{"labels": 1}], collate_fn=collate, num_workers=2))
    """
    try:
        memory = os.statvfs(_SHARED_MEMORY)
    except OSError:  # a system that shares in another way
        return
    if loader.num_workers:
        # What each worker has in advance and at hand; a half is left to the other loaders and to other programs.
        batches = loader.num_workers * (loader.prefetch_factor + 1) * processes
        loader.collate_fn = _Collate(loader.collate_fn, memory.f_bavail * memory.f_frsize // (2 * batches))


class _Collate:
    """Collates a batch, and makes one of more than `room` bytes travel through the pipe to the main process."""

    def __init__(self, collate: Callable[[Sequence[Any]], dict[str, Any]], room: int):
        self._collate, self._room = collate, room

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        batch = self._collate(examples)
        tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        if get_worker_info() is None or sum(tensor.nbytes for tensor in tensors.values()) <= self._room:
            return batch
        return batch | {name: _ByPipe(tensor) for name, tensor in tensors.items()}


class _ByPipe:
    """A tensor that is pickled with its values, where torch pickles a handle to shared memory."""

    def __init__(self, tensor: torch.Tensor):
        self._array = tensor.numpy()

    def __reduce__(self):
        return _received, (self._array,)


def _received(array: np.ndarray) -> torch.Tensor:
    global _said
    if not _said:
        _said = True
        notice(
            f"{_SHARED_MEMORY} has too little room for the batches of the workers: they go through pipes, which "
            "is slower; a container has more with --shm-size, such as docker run --shm-size 8g"
        )
    return torch.from_numpy(array)
