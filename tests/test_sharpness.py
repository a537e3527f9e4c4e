"""Sharpness of models whose loss and gradient are known by hand."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_optimizer import SAM
from torch import nn

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification
from deitlt_hf.errors import DeiTLTError

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    sharpness = importlib.import_module("sharpness").sharpness


class Linear(nn.Module):
    """Logits of images `(N, features)`; `frozen` takes part but must not move."""

    def __init__(self, weight: list[list[float]]):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.frozen * pixel_values @ self.weight.T)


def _mean_of_first_logit(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits[:, 0].mean()


def _batches(pixel_values: list, size: int, labels: list | None = None) -> list[dict[str, torch.Tensor]]:
    images, labels = torch.tensor(pixel_values), torch.tensor(labels or [0] * len(pixel_values))
    starts = range(0, len(images), size)
    return [{"pixel_values": images[i : i + size], "labels": labels[i : i + size]} for i in starts]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("rho", [0.0, 0.5, 2.0])
def test_a_linear_loss_rises_by_rho_times_the_length_of_its_gradient(size: int, rho: float) -> None:
    # The loss is w @ the mean image, whose gradient is the mean image: (9, 12) / 3 = (3, 4), of length 5.
    model = Linear([[1.0, 2.0], [7.0, 7.0]])
    result = sharpness(model, _batches([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], size), rho, _mean_of_first_logit)
    assert result.loss == pytest.approx(1 * 3 + 2 * 4)
    assert result.increase == pytest.approx(5 * rho)


def test_cross_entropy_by_hand() -> None:
    # Both weights are 0 and every image is 1: both classes have probability 1/2, and with class 0 twice and class 1
    # once the gradient is (-1, 1) / 6. Moved by rho along it, the logits differ by sqrt(2) rho, in favour of class 1.
    model, rho = Linear([[0.0], [0.0]]), 0.3
    gap = math.sqrt(2) * rho
    expected = (2 * math.log(1 + math.exp(gap)) + math.log(1 + math.exp(-gap))) / 3
    result = sharpness(model, _batches([[1.0], [1.0], [1.0]], size=2, labels=[0, 0, 1]), rho)
    assert result.loss == pytest.approx(math.log(2))
    assert result.perturbed_loss == pytest.approx(expected)


def test_the_perturbation_is_that_of_sam_itself() -> None:
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=3)).eval()
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 0])
    batches = [{"pixel_values": images[i : i + 2], "labels": labels[i : i + 2]} for i in (0, 2, 4)]
    result = sharpness(model, batches, rho=0.05)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1)
    loss = model(images, labels).loss
    loss.backward()
    optimizer.first_step()
    assert result.loss == pytest.approx(loss.item(), rel=1e-4)
    assert result.perturbed_loss == pytest.approx(model(images, labels).loss.item(), rel=1e-4)


def test_no_gradient_no_move() -> None:
    assert sharpness(Linear([[1.0, 2.0]]), _batches([[0.0, 0.0]], size=1), rho=1.0).increase == 0


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=3)).train()
    model.layer3.eval()
    model.conv1.weight.grad = torch.full_like(model.conv1.weight, 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    losses = []

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses.append(nn.functional.cross_entropy(logits, labels))
        if fails and len(losses) == 3:  # two batches are read twice, so the weights are moved by now
            raise RuntimeError("out of memory")
        return losses[-1]

    batches = [{"pixel_values": torch.randn(4, 3, 8, 8), "labels": torch.tensor([0, 1, 2, 0])} for _ in range(2)]
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            sharpness(model, batches, rho=0.1, loss=loss)
    else:
        assert sharpness(model, batches, rho=0.1, loss=loss).increase > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.conv1.weight.grad, torch.full_like(model.conv1.weight, 0.5))
    assert model.conv1.weight.requires_grad
    assert model.classifier.weight.grad is None


@pytest.mark.parametrize(
    ("batches", "rho", "message"),
    [
        (_batches([[1.0]], 1), -0.1, "rho is -0.1"),
        (_batches([[1.0]], 1), math.nan, "rho is nan"),
        ([], 0.1, "no images"),
        (iter(_batches([[1.0]], 1)), 0.1, "none the second time"),
    ],
)
def test_what_cannot_be_measured_is_refused(batches, rho: float, message: str) -> None:
    model = Linear([[1.0], [2.0]])
    with pytest.raises(DeiTLTError, match=message):
        sharpness(model, batches, rho)
    assert model.weight.tolist() == [[1.0], [2.0]]


def test_a_frozen_model_is_refused() -> None:
    with pytest.raises(DeiTLTError, match="no weight"):
        sharpness(Linear([[1.0]]).requires_grad_(False), _batches([[1.0]], 1), rho=0.1)
