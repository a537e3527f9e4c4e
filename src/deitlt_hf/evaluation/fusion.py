"""Fits how both experts are weighed together, on images that were neither trained on nor tested on.

Both experts' log probabilities are added with factors, and a term for the class is added: a multinomial logistic
regression with few unknowns, whose loss is convex. The factors stand for the share of each expert and for one
temperature; the term for the strength of an adjustment by the class frequencies (logit adjustment, Menon et al. 2021).
An adjustment per expert would be the same term: only their sum reaches the logits. Every class weighs the same in the
loss, so the probabilities are those of classes that are equally frequent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.models.deit_lt.modeling_deit_lt import fused_logits

AVERAGE = "average"  # of the logits, which nothing is fitted for
KINDS = ("shared", "by frequency", "per class")  # from few unknowns to many
MOST_FOLDS = 5
# The unknowns are drawn to those of the plain average as if by so many images more, or two experts that are always
# right would get endless factors, and a class with one image a term that is only noise.
_PULL = {"shared": 1.0, "by frequency": 1.0, "per class": 10.0}
_STEPS = 200


class Fold(NamedTuple):
    """Loss of a kind of fusion on images that it was not fitted to: its mean over them, and the error of that mean."""

    loss: float
    error: float


@dataclass(frozen=True)
class Fit:
    """A fitted fusion; `fusion` goes into `DeiTLTConfig.fusion`."""

    kind: str  # one of `KINDS`
    fusion: dict[str, Any]
    cross_validation: dict[str, Fold]  # by kind, and of the plain average; empty where all classes have one image
    folds: int  # 0 without cross-validation

    @property
    def shares(self) -> dict[str, float]:
        """The share of each expert, which add up to 1, as means over the classes."""
        cls, distillation = (float(np.mean(self.fusion[name])) for name in ("cls", "distillation"))
        return {"cls": cls / (cls + distillation), "distillation": distillation / (cls + distillation)}

    @property
    def temperature(self) -> float:
        """By what the weighed logits are divided, as a mean over the classes."""
        return float(1 / (np.mean(self.fusion["cls"]) + np.mean(self.fusion["distillation"])))


def fit_fusion(
    cls_logits: Any, distillation_logits: Any, labels: Any, class_counts: Sequence[int], kind: str | None = None
) -> Fit:
    """Fit a fusion of both experts.

    Args:
        cls_logits, distillation_logits: floats `(N, C)` for the same images; numpy arrays or torch tensors.
        labels: true class ids, integers `(N,)`, of the same kinds.
        class_counts: training images per class, in label order.
        kind: `"shared"`: one factor for each expert and one strength of the adjustment by class frequency, three
            numbers; `"by frequency"`: the factors also rise or fall with the logarithm of the class frequency;
            `"per class"`: `"shared"`, and a term for each class. By default the one that cross-validation chooses:
            the one with the fewest unknowns whose loss is within one standard error of the smallest.

    Returns:
        The fusion, and how the kinds compared.

    Raises:
        DeiTLTError: shapes that do not fit, no images, an unknown kind.

    Example:
        >>> import numpy as np
        >>> right = 4 * np.eye(2)[[0, 1] * 20]  # an expert that knows, and one that says nothing
        >>> fit = fit_fusion(right, np.zeros((40, 2)), [0, 1] * 20, [50, 50])
        >>> fit.kind, fit.fusion["cls"] > fit.fusion["distillation"]
        ('shared', True)
    """
    experts = torch.stack([torch.as_tensor(of).double().log_softmax(-1) for of in (cls_logits, distillation_logits)])
    labels = torch.as_tensor(labels)
    _check(experts, labels, class_counts, kind)
    frequencies = torch.tensor(class_counts, dtype=torch.float64).log()
    frequencies -= frequencies.mean()
    found, folds = {}, _folds(labels)
    if kind is None and len(folds) > 1:
        losses = {of: _cross_validated(of, experts, labels, frequencies, folds) for of in KINDS}
        found = {of: _fold(loss, labels) for of, loss in losses.items()}
        best = min(found.values())
        kind = next(of for of in KINDS if found[of].loss <= best.loss + best.error)
        with torch.no_grad():
            found = {AVERAGE: _fold(_Fusion(KINDS[0], frequencies).losses(experts, labels), labels)} | found
    kind = kind or KINDS[0]
    fusion = _plain(_Fusion.fitted(kind, experts, labels, frequencies))
    return Fit(kind, fusion, found, len(folds) if found else 0)


def _check(experts: Tensor, labels: Tensor, class_counts: Sequence[int], kind: str | None) -> None:
    _, images, classes = experts.shape
    if not images or labels.shape != (images,) or len(class_counts) != classes:
        raise DeiTLTError(
            f"logits of shape {(images, classes)}, {len(labels)} labels and {len(class_counts)} class counts do not "
            "fit together; pass at least one image, a label for each, and a count for each class"
        )
    if kind is not None and kind not in KINDS:
        raise DeiTLTError(f"kind is {kind!r}; pass one of {', '.join(KINDS)}, or None")


class _Fusion:
    """Factors of both experts `(2, C)` and a term `(C,)` for the class, made of the unknowns of a kind."""

    def __init__(self, kind: str, frequencies: Tensor):
        self.kind, self._frequencies = kind, frequencies
        num_slopes = 2 if kind == "by frequency" else 0
        num_terms = len(frequencies) if kind == "per class" else 0
        self._start = torch.cat([torch.full((2,), 0.5), torch.zeros(1 + num_slopes + num_terms)]).double()
        self.unknowns = self._start.clone().requires_grad_()

    @classmethod
    def fitted(cls, kind: str, experts: Tensor, labels: Tensor, frequencies: Tensor) -> _Fusion:
        fusion = cls(kind, frequencies)
        weights = _class_weights(labels)
        optimizer = torch.optim.LBFGS([fusion.unknowns], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (weights * fusion.losses(experts, labels)).sum() / len(labels) + fusion.pull() / len(labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        return fusion

    def parts(self) -> tuple[Tensor, Tensor]:
        factors = self.unknowns[:2, None].expand(2, len(self._frequencies))
        term = -self.unknowns[2] * self._frequencies
        if self.kind == "by frequency":
            factors = factors + self.unknowns[3:, None] * self._frequencies
        if self.kind == "per class":
            term = term + self.unknowns[3:]
        return factors, term

    def losses(self, experts: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each image."""
        factors, term = self.parts()
        logits = (factors[:, None] * experts).sum(0) + term
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    def pull(self) -> Tensor:
        return _PULL[self.kind] / 2 * (self.unknowns - self._start).square().sum()


def _class_weights(labels: Tensor) -> Tensor:
    """A weight of each image, with which every class that has images weighs the same; their sum is the images'."""
    images = torch.bincount(labels)[labels]
    return len(labels) / (labels.unique().numel() * images)


def _folds(labels: Tensor) -> list[Tensor]:
    """The images in up to five parts of about as many of each class; one part where no class has two images."""
    number = min(MOST_FOLDS, int(torch.bincount(labels).max()))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    order = order[labels[order].argsort(stable=True)]
    return [order[start::number] for start in range(number)]


def _cross_validated(
    kind: str, experts: Tensor, labels: Tensor, frequencies: Tensor, folds: Sequence[Tensor]
) -> Tensor:
    """The loss of each image by a fusion that was fitted to the images of the other folds."""
    losses = torch.zeros(len(labels), dtype=torch.float64)
    for fold in folds:
        others = torch.ones(len(labels), dtype=torch.bool)
        others[fold] = False
        fusion = _Fusion.fitted(kind, experts[:, others], labels[others], frequencies)
        with torch.no_grad():
            losses[fold] = fusion.losses(experts[:, fold], labels[fold])
    return losses


def _fold(losses: Tensor, labels: Tensor) -> Fold:
    weighted = _class_weights(labels) * losses
    return Fold(weighted.mean().item(), (weighted.std() / len(labels) ** 0.5).item())


def _plain(fusion: _Fusion) -> dict[str, Any]:
    """The numbers for a configuration: a factor that is the same for all classes is one number."""
    factors, term = (part.detach() for part in fusion.parts())
    of_experts = {
        name: values.tolist() if fusion.kind == "by frequency" else values[0].item()
        for name, values in zip(("cls", "distillation"), factors, strict=True)
    }
    return of_experts | {"bias": term.tolist()}


def fused_probabilities(fusion: Mapping[str, Any], cls_logits: Any, distillation_logits: Any) -> np.ndarray:
    """Probabilities float32 `(N, C)` of a fusion."""
    logits = fused_logits(fusion, torch.as_tensor(cls_logits), torch.as_tensor(distillation_logits))
    return logits.softmax(-1).numpy()
