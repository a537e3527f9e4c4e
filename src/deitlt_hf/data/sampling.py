"""The order of training images, and random views that depend only on the seed, the epoch and the place in it.

With loader workers, prefetching, or a resumed run that skips batches, random numbers are drawn in another order than in
an undisturbed run. So a training sampler gives each index its own seed (`Draw`), which sets the generators before the
view is made.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import Sampler, get_worker_info

_64_BITS = (1 << 64) - 1


def repeated_augmentation_sampler(
    length: int, num_replicas: int = 1, rank: int = 0, repeats: int = 3
) -> RepeatAugSampler:
    """The reference's repeated-augmentation sampler (Hoffer et al. 2020) for a training set of `length` images.

    Each image drawn comes `repeats` times in a row, spread over the processes, and every view of it is augmented anew.
    Only `1 / repeats` of the images are drawn in an epoch, so the epoch keeps its length (rounded down to a multiple of
    256 images). Call `set_epoch(epoch)` before each epoch: the order depends only on the epoch.
    """
    # The sampler asks its data set for nothing but a length.
    return RepeatAugSampler(range(length), num_replicas=num_replicas, rank=rank, num_repeats=repeats)


class ShufflingSampler(Sampler[int]):
    """Every index once, in an order that depends only on the seed and the epoch, the same in all processes."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        # The order that accelerate's SeedableRandomSampler gives in one process.
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(self.length, generator=generator).tolist())

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class ClassBalancedSampler(Sampler[int]):
    """For each place in an epoch a class, all being equally likely, then any image of it (Kang et al., 2020, eq. 1).

    Images are drawn with replacement, and an epoch keeps its length. The order depends only on the seed and the epoch,
    the same in all processes. A class without images is never drawn.
    """

    def __init__(self, labels: np.ndarray, seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        self._by_class = np.argsort(labels, kind="stable")
        _, self._starts, self._counts = np.unique(
            np.asarray(labels)[self._by_class], return_index=True, return_counts=True
        )

    def __len__(self) -> int:
        return len(self._by_class)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng(draw_seed(self.seed, self.epoch, 0))
        classes = random.integers(len(self._counts), size=len(self))
        return iter(self._by_class[self._starts[classes] + random.integers(self._counts[classes])].tolist())

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Draw(int):
    """An index with a 64-bit seed for the random numbers of its view, and of the few views that are read with it."""

    seed: int

    def __new__(cls, index: int, seed: int) -> Draw:
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __reduce__(self) -> tuple:
        return Draw, (int(self), self.seed)


class DrawingSampler(Sampler[Draw]):
    """Gives the indices of another sampler as `Draw`s.

    The seeds depend on the run's seed, the epoch, and the place in the epoch's order over all processes, so that no two
    of them are equal. `num_replicas` processes share the order place by place, as with repeated augmentation; it is 1
    where `sampler` gives the order of all of them. Where `sampler` has a `set_epoch`, it is called too.
    """

    def __init__(self, sampler: Sampler[int], seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        self.sampler = sampler
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Draw]:
        for place, index in enumerate(self.sampler):
            yield Draw(index, draw_seed(self.seed, self.epoch, place * self.num_replicas + self.rank))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


def draw_seed(seed: int, epoch: int, place: int) -> int:
    """64 well-mixed bits for a run's seed, an epoch, and a place in it."""
    return _mixed(_mixed(_mixed(seed & _64_BITS) ^ epoch) ^ place)


def _mixed(bits: int) -> int:
    """One step of SplitMix64 (Steele et al., 2014); numpy's `SeedSequence` takes several times as long."""
    bits = (bits + 0x9E3779B97F4A7C15) & _64_BITS
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return bits ^ (bits >> 31)


def follow(index: int) -> None:
    """Set the generators that views draw from by the seed of a `Draw`; any other index leaves them as they are."""
    if isinstance(index, Draw):
        random.seed(index.seed)
        np.random.seed(index.seed & 0xFFFFFFFF)
        torch.default_generator.manual_seed(index.seed)  # torch.manual_seed would look for every kind of device too


@contextmanager
def generators_untouched() -> Iterator[None]:
    """Inside, views may set the generators; after it, those of a training process are where they were.

    Stochastic depth and mixing draw from them too. A loader's worker has its own, which nothing else needs.
    """
    if get_worker_info() is not None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
