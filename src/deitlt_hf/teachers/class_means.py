"""The classifier that the class means of features make: a start for heads, and a teacher where none is at hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from deitlt_hf.ranges import one_of

CLASS_MEANS = "class_means"  # what `--teacher` and `--head_start` call it
KINDS = (CLASS_MEANS, "cosine")

_SHARPNESS = torch.logspace(-2, 3, 51)  # tried factors; the distances that they multiply have a mean of 1


def class_mean_classifier(
    features: torch.Tensor, labels: torch.Tensor, classes: int, kind: str = CLASS_MEANS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the linear layer whose largest logit is that of the nearest class mean.

    The logits are minus half the squared distance to the means, or the cosine with them, up to what all classes share,
    times a factor: the one with the least cross-entropy on these features, in which all classes weigh the same. For the
    distances each image is then left out of the mean of its class.

    Args:
        features: float `(N, D)`, of training images.
        labels: int64 `(N,)`.
        classes: how many there are. One without images gets the mean of all features.
        kind: `"class_means"` (Euclidean distance) or `"cosine"` (Snell et al., 2017, and Shi et al., 2024, LIFT, have
            these two).

    Returns:
        `weight` `(classes, D)` and `bias` `(classes,)`, float32.

    Raises:
        DeiTLTError: an unknown kind.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
        >>> weight, bias = class_mean_classifier(features, torch.tensor([0, 0, 1]), classes=2)
        >>> (torch.tensor([[2.0, 1.0]]) @ weight.T + bias).argmax().item()
        0
    """
    one_of("kind of class means", kind, KINDS)
    features = features.float()
    counts = torch.bincount(labels, minlength=classes)
    means = torch.zeros(classes, features.shape[1]).index_add_(0, labels, features) / counts.clamp(min=1)[:, None]
    means[counts == 0] = features.mean(0)
    weight = F.normalize(means, dim=-1) if kind == "cosine" else means
    bias = torch.zeros(classes) if kind == "cosine" else -means.square().sum(-1) / 2
    # What all classes share changes no probability, and would make logits so large that rounding shows.
    shared = features @ weight.mean(0) + bias.mean()
    weight, bias = weight - weight.mean(0), bias - bias.mean()
    logits = F.linear(features, weight, bias)
    spread = (logits.max(-1).values - logits.mean(-1)).mean().clamp(min=1e-12)
    if kind == CLASS_MEANS:
        logits[torch.arange(len(labels)), labels] = _without_itself(features, labels, means, counts) - shared
        counts = torch.where(counts > 1, counts, 0)
    each_class_the_same = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0)
    if not each_class_the_same[labels].any():  # one image of each class says nothing of the others
        return weight / spread, bias / spread
    losses = [F.cross_entropy(logits * (of / spread), labels, each_class_the_same) for of in _SHARPNESS]
    factor = _SHARPNESS[torch.stack(losses).argmin()] / spread
    return factor * weight, factor * bias


def _without_itself(
    features: torch.Tensor, labels: torch.Tensor, means: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """The logit of each image's own class by the mean of its other images, `(N,)`.

    A mean lies near the images that it is made of: with few images of many dimensions all of them would be right,
    however large the factor, and probabilities would be 0 and 1.
    """
    own = counts[labels].unsqueeze(-1)
    others = (own * means[labels] - features) / (own - 1).clamp(min=1)
    return (features * others).sum(-1) - others.square().sum(-1) / 2
