"""Soft distillation from a biased teacher, rebalanced between head, mid and tail classes and within them (LTKD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from deitlt_hf.errors import DeiTLTError


def rebalanced_divergence(
    logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    groups: Sequence[Sequence[int] | torch.Tensor],
    temperature: float = 1.0,
) -> torch.Tensor:
    """LTKD's divergence between the teacher's and the student's prediction for each image (Kim, CVPR 2026).

    The paper is "Distilling Balanced Knowledge from a Biased Teacher", arXiv:2506.18496. A Kullback-Leibler divergence
    is that of the groups' probabilities, plus those within the groups, each weighted by the teacher's probability of
    its group. LTKD changes both parts:

    - The teacher's probabilities of the groups are multiplied by one factor per group and normalised again. The factors
      make the groups' sums over the batch equal, so that a teacher that prefers head classes does not teach that.
    - The divergences within groups get equal weights, so that the tail's are not drowned.

    The paper weighs both parts with hyper-parameters. Here the weights are 1, and 1 / number of groups within groups:
    where the teacher gives all groups the same probability, the result is the plain divergence.

    Args:
        logits, teacher_logits: float tensors `(N, C)`.
        groups: the class ids of each group, together all classes; empty groups are left out. Tensors on the logits'
            device spare the host from waiting for it.
        temperature: both distributions are softened by it, and the result is multiplied by its square.

    Returns:
        `(N,)`, at least 0.

    Raises:
        DeiTLTError: the groups do not hold as many class ids as there are classes.

    Example:
        >>> import torch
        >>> from deitlt_hf import rebalanced_divergence
        >>> biased = torch.tensor([[4.0, 0.0], [4.0, 0.0]])  # prefers the first class for every image
        >>> rebalanced_divergence(torch.zeros(2, 2), biased, [[0], [1]])  # rebalanced, it says the same as the student
        tensor([0., 0.])
    """
    groups = [group if isinstance(group, torch.Tensor) else list(group) for group in groups if len(group)]
    grouped = sum(len(group) for group in groups)
    if grouped != logits.shape[-1]:
        raise DeiTLTError(f"the groups hold {grouped} of {logits.shape[-1]} classes; pass each class in one group")
    student, teacher = (_by_groups(of / temperature, groups) for of in (logits, teacher_logits))
    # Equal sums of the groups over the batch; a factor that all groups share falls out by normalising.
    balanced = (teacher.between - torch.logsumexp(teacher.between, dim=0)).log_softmax(-1)
    between = _divergence(balanced, student.between)
    within = sum(_divergence(*pair) for pair in zip(teacher.within, student.within, strict=True))
    return temperature**2 * (between + within / len(groups))


class _ByGroups(NamedTuple):
    """Log-probabilities of the groups `(N, G)`, and within each group `(N, its classes)`."""

    between: torch.Tensor
    within: list[torch.Tensor]


def _by_groups(logits: torch.Tensor, groups: list[list[int] | torch.Tensor]) -> _ByGroups:
    of_groups = [logits[:, group] for group in groups]
    between = torch.stack([of_group.logsumexp(-1) for of_group in of_groups], dim=-1).log_softmax(-1)
    return _ByGroups(between, [of_group.log_softmax(-1) for of_group in of_groups])


def _divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of each row of log-probabilities."""
    return (teacher.exp() * (teacher - student)).sum(-1)
