"""The order in which training images are drawn."""

from __future__ import annotations

from timm.data.distributed_sampler import RepeatAugSampler


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
