"""Random views as a function of the run's seed, the epoch, and the place in the epoch, wherever they are made.

Loader workers, their prefetching, and a resumed run that skips what it has seen all ask random number generators at
other moments than an undisturbed run does. So a training sampler gives each index its own seed, and whoever makes the
view sets the generators by it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.data import Sampler, get_worker_info

_64_BITS = (1 << 64) - 1


class Draw(int):
    """An index with a seed for the random numbers that its view, and a few of those read with it, take.

    Args:
        index: of an image.
        seed: 64 bits.

    Example:
        >>> Draw(3, seed=7) + 1, Draw(3, seed=7).seed
        (4, 7)
    """

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
    of them share one.

    Args:
        sampler: of ints; its `set_epoch`, if it has one, is called along.
        seed: of the run.
        num_replicas: number of processes that share the order place by place, as with repeated augmentation; 1 where
            `sampler` gives the order of all of them.
        rank: index of this process among them.

    Example:
        >>> sampler = DrawingSampler(range(2), seed=0)
        >>> sampler.set_epoch(1)
        >>> list(sampler)
        [0, 1]
        >>> list(sampler)[1].seed == draw_seed(0, epoch=1, place=1)
        True
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
        of_epoch = _epoch_seed(self.seed, self.epoch)
        for place, index in enumerate(self.sampler):
            yield Draw(index, _mixed(of_epoch ^ (place * self.num_replicas + self.rank)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


def draw_seed(seed: int, epoch: int, place: int) -> int:
    """64 well-mixed bits for a run's seed, an epoch, and a place in it.

    Example:
        >>> len({draw_seed(seed, epoch, place) for seed in range(9) for epoch in range(9) for place in range(9)})
        729
    """
    return _mixed(_epoch_seed(seed, epoch) ^ place)


def _epoch_seed(seed: int, epoch: int) -> int:
    return _mixed(_mixed(seed & _64_BITS) ^ epoch)


def _mixed(bits: int) -> int:
    """One step of SplitMix64 (Steele et al., 2014)."""
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
