"""Parametric contrastive loss (PaCo: Cui et al., 2021, equation 5), for teachers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.losses.counts import checked_counts


class PaCoLoss(nn.Module):
    """Supervised contrastive loss in which the classifier's logits count as samples: the centres of the classes.

    Each query has one positive of weight `beta`, its class's logit adjusted by the class prior, and positives of weight
    `alpha`: the other queries, the keys and the queued keys of its class.

    Args:
        class_counts: training images per class, in label order; each at least 1. Their shares are the class prior.
        alpha: weight of a positive sample, 0 or more.
        beta: weight of the class's own logit, above 0.
        gamma: factor on the samples in the denominator, above 0.
        temperature: what cosines of samples are divided by, above 0; logits are not.

    Raises:
        DeiTLTError: a class without training images, or a number out of its range.

    Example:
        >>> import torch
        >>> from deitlt_hf import PaCoLoss
        >>> loss = PaCoLoss([3, 1], alpha=0.0)  # without positive samples
        >>> features = torch.eye(4)  # one query, its key, and a queue of two
        >>> value = loss(features, labels=torch.tensor([0, 0, 1, 1]), logits=torch.zeros(1, 2))
        >>> round(value.item(), 4)  # ln((0.75 + 0.25 + 3) / 0.75)
        1.674
    """

    log_prior: torch.Tensor

    def __init__(
        self,
        class_counts: Sequence[int],
        alpha: float = 0.05,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 0.2,
    ):
        super().__init__()
        counts = checked_counts(class_counts)
        if alpha < 0:
            raise DeiTLTError(f"PaCo's alpha is {alpha}; pass 0 or more")
        for name, value in {"beta": beta, "gamma": gamma, "temperature": temperature}.items():
            if value <= 0:
                raise DeiTLTError(f"PaCo's {name} is {value}; pass a number above 0")
        self.register_buffer("log_prior", (counts / counts.sum()).log().float())
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def forward(self, features: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch of N queries.

        Args:
            features: `(2 N + K, D)`, each of length 1: queries, their keys, the queue.
            labels: `(2 N + K,)` int64, the class of each.
            logits: `(N, C)`, the classifier's for the queries.
        """
        features, logits = features.float(), logits.float()
        batch_size, num_classes = logits.shape
        query_labels = labels[:batch_size]
        is_itself = torch.eye(batch_size, len(features), dtype=torch.bool, device=features.device)
        is_positive = (query_labels.unsqueeze(1) == labels) & ~is_itself
        weights = torch.cat([self.beta * F.one_hot(query_labels, num_classes), self.alpha * is_positive], dim=1)

        adjusted = logits + self.log_prior
        similarities = features[:batch_size] @ features.T / self.temperature
        # gamma scales exp(similarity); a query is no contrast to itself.
        contrasts = (similarities + math.log(self.gamma)).masked_fill(is_itself, -torch.inf)
        log_partition = torch.cat([adjusted, contrasts], dim=1).logsumexp(dim=1)
        positives = (weights * torch.cat([adjusted, similarities], dim=1)).sum(dim=1) / weights.sum(dim=1)
        return (log_partition - positives).mean()
