"""The order in which training images are drawn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import Sampler


def repeated_augmentation_sampler(
    length: int, num_replicas: int = 1, rank: int = 0, repeats: int = 3
) -> RepeatAugSampler:
    """The reference's repeated-augmentation sampler (Hoffer et al. 2020) for a training set of `length` images.

    Each image drawn comes `repeats` times in a row, spread over the processes, and every view of it is augmented anew.
    Only `1 / repeats` of the images are drawn in an epoch, so the epoch keeps its length (rounded down to a multiple of
    256 images). Call `set_epoch(epoch)` before each epoch: the order depends on the epoch alone.

    Args:
        length: number of training images.
        num_replicas: number of processes.
        rank: index of this process.
        repeats: views of one image in a row, 3 as in the paper.

    Returns:
        A torch sampler of ints in `range(length)`.

    Example:
        >>> sampler = repeated_augmentation_sampler(1000)
        >>> sampler.set_epoch(1)
        >>> len(list(sampler))
        768
    """
    # The sampler asks its data set for nothing but a length.
    return RepeatAugSampler(range(length), num_replicas=num_replicas, rank=rank, num_repeats=repeats)


class ShufflingSampler(Sampler[int]):
    """Every index once, in an order that follows from the seed and the epoch alone, the same in all processes.

    Args:
        length: number of training images.
        seed: of the run.

    Example:
        >>> sampler = ShufflingSampler(8, seed=0)
        >>> sampler.set_epoch(1)
        >>> sorted(sampler)
        [0, 1, 2, 3, 4, 5, 6, 7]
    """

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
