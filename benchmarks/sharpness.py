"""How sharp the loss is around a model's weights, which sharpness-aware minimisation makes small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.evaluate import evaluation_mode

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Sharpness(NamedTuple):
    """Mean losses at a model's weights and at the perturbed ones."""

    loss: float
    perturbed_loss: float

    @property
    def increase(self) -> float:
        """What the perturbation adds to the loss."""
        return self.perturbed_loss - self.loss


def sharpness(
    model: nn.Module, batches: Iterable[Mapping[str, torch.Tensor]], rho: float, loss: Loss = F.cross_entropy
) -> Sharpness:
    """The increase of the mean loss when the weights move by `rho` along its gradient (Foret et al., 2021, eq. 2).

    Loss and gradient are those of all the images together, in evaluation mode; they are read twice, batch by batch. The
    model is left as it was, bit for bit, gradients and modes included.

    `batches` are dicts with `pixel_values` `(N, channels, height, width)` and `labels` `(N,)`, in a list or a
    `DataLoader` that gives the same images each time. `rho` is the length of the perturbation in the Euclidean norm
    over all weights that require a gradient. `loss` takes logits `(N, C)` and labels and returns their mean loss.
    """
    if not rho >= 0:
        raise DeiTLTError(f"rho is {rho}; pass 0 or a length above it")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise DeiTLTError("no weight of the model requires a gradient; pass it before it is frozen")
    with evaluation_mode(model):
        before, gradient = _loss_and_gradient(model, weights, batches, loss)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in gradient]))
        scale = rho / (norm + 1e-12)  # as SAM's implementations do, for a gradient of zero
        with _moved(weights, [scale * part for part in gradient]), torch.no_grad():
            after = _mean(_batch_losses(model, batches, loss))
    return Sharpness(before, after)


def _loss_and_gradient(
    model: nn.Module, weights: list[nn.Parameter], batches: Iterable[Mapping[str, torch.Tensor]], loss: Loss
) -> tuple[float, list[torch.Tensor]]:
    """The mean loss, and the gradient of the images' summed loss, which has the same direction."""
    total = [torch.zeros_like(weight) for weight in weights]
    losses = []
    with torch.enable_grad():
        for value, images in _batch_losses(model, batches, loss):
            parts = torch.autograd.grad(value * images, weights, materialize_grads=True)
            total = [whole + part for whole, part in zip(total, parts, strict=True)]
            losses.append((value.detach(), images))
    return _mean(losses), total


def _batch_losses(
    model: nn.Module, batches: Iterable[Mapping[str, torch.Tensor]], loss: Loss
) -> Iterator[tuple[torch.Tensor, int]]:
    """Mean loss and number of images of each batch."""
    device = next(model.parameters()).device
    for batch in batches:
        logits = model(pixel_values=batch["pixel_values"].to(device)).logits
        yield loss(logits, batch["labels"].to(device)), len(logits)


def _mean(losses: Iterable[tuple[torch.Tensor, int]]) -> float:
    total, images = 0.0, 0
    for value, count in losses:
        total, images = total + value.item() * count, images + count
    if images == 0:
        raise DeiTLTError("there are no images, or none the second time; pass a list of batches or a DataLoader")
    return total / images


@contextmanager
def _moved(weights: list[nn.Parameter], steps: list[torch.Tensor]) -> Iterator[None]:
    """The weights moved by `steps` inside, and exactly what they were after it: subtracting would round."""
    originals = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, step in zip(weights, steps, strict=True):
                weight.add_(step)
        yield
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)
