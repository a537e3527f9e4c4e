"""Sharpness-aware minimisation (Foret et al., 2021) over SGD, which makes teachers flat (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def sam_over_sgd(parameters: Iterable[torch.nn.Parameter], rho: float, **options: float) -> torch.optim.Optimizer:
    """An optimiser whose `first_step` climbs to the sharpest point within `rho` and whose `step` returns and descends.

    Between the two, compute the gradient again. pytorch_optimizer's SAM wants one closure for both, which a training
    loop that calls `step` itself cannot give. `rho` is a Euclidean norm over all weights.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = sam_over_sgd([weight], rho=1.0, lr=0.1)
        >>> (weight**2 / 2).sum().backward()  # the gradient is the weight itself, of norm 5
        >>> optimizer.first_step(zero_grad=True)
        >>> weight.data
        tensor([3.6000, 4.8000])
        >>> (weight**2 / 2).sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([2.6400, 3.5200])
    """
    from pytorch_optimizer import SAM  # takes over a second to import, and only SAM needs it

    class TwoStepSAM(SAM):
        def step(self, closure=None):
            self.second_step()

    return TwoStepSAM(parameters, torch.optim.SGD, rho=rho, **options)
