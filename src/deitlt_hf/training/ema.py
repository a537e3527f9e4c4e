"""The exponential moving average (EMA) of a model's weights, sharded weights included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback


class AveragedWeights:
    """At every update, keeps the share `decay` of itself (0.99996 in the reference) and adds the rest from the model.

    The average is in float32 or finer. Each process averages the part of the weights that it holds, so that under FSDP2
    the average is sharded as they are.
    """

    # torch's AveragedModel averages in the model's data type, which may be too coarse; see `_fine`.

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.start(model)

    def start(self, model: nn.Module) -> None:
        """Set the average to the model's current weights."""
        self.weights = {name: _fine(weight).detach().clone() for name, weight in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        averages, weights = [], []
        for average, weight in zip(self.weights.values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                averages.append(_local(average))
                weights.append(_fine(_local(weight)))
            else:
                average.copy_(weight)
        torch._foreach_lerp_(averages, weights, 1 - self.decay)

    @contextmanager
    def lent_to(self, model: nn.Module) -> Iterator[None]:
        """Inside this context the model has the averaged weights, after it its own again."""
        own = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)


class UpdateAverage(TrainerCallback):
    """Moves the averaged weights after every optimiser step."""

    def __init__(self, average: AveragedWeights):
        self.average = average

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        # Not before: only now all processes have the first one's weights, or under FSDP2 their shards of them.
        if state.global_step == 0:
            self.average.start(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.average.update(model)


def _local(weight: torch.Tensor) -> torch.Tensor:
    """The shard in this process, in the same memory."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _fine(weight: torch.Tensor) -> torch.Tensor:
    """In float32, because a decay near 1 changes the average by less than half precision can represent."""
    coarse = weight.dtype in (torch.float16, torch.bfloat16)
    return weight.float() if coarse else weight
