"""Mixup, cutmix and label smoothing, against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deitlt_hf.data.mixing import BatchMixing
from deitlt_hf.errors import DeiTLTError

LABELS = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_smoothing_spreads_its_share_over_all_classes() -> None:
    smoothing = BatchMixing(4, mixup=0, cutmix=0, label_smoothing=0.1)
    _, targets = smoothing(torch.zeros(2, 3, 8, 8), torch.tensor([3, 0]))
    expected = [[0.025, 0.025, 0.025, 0.925], [0.925, 0.025, 0.025, 0.025]]
    torch.testing.assert_close(targets, torch.tensor(expected))


def test_mixup_weighs_pixels_and_targets_alike(pixel_values: torch.Tensor) -> None:
    np.random.seed(3)
    before = pixel_values.clone()
    mixed, targets = BatchMixing(4, mixup=0.8, cutmix=0, label_smoothing=0)(pixel_values, LABELS)
    weight = targets[0, 0].item()
    assert 0 < weight < 1
    torch.testing.assert_close(mixed, weight * before + (1 - weight) * before.flip(0))
    torch.testing.assert_close(targets, weight * torch.eye(4) + (1 - weight) * torch.eye(4).flip(1))
    assert torch.equal(pixel_values, before)


@pytest.mark.parametrize("seed", [0, 2, 3, 4])
def test_cutmix_pastes_a_rectangle_of_the_targets_share(pixel_values: torch.Tensor, seed: int) -> None:
    np.random.seed(seed)
    before = pixel_values.clone()
    mixed, targets = BatchMixing(4, mixup=0, cutmix=1, label_smoothing=0)(pixel_values, LABELS)
    pasted = mixed != before
    assert torch.equal(mixed, torch.where(pasted, before.flip(0), before))
    rows, columns = (pasted[0, 0].any(dim).nonzero() for dim in (1, 0))
    area = len(rows) * len(columns)
    assert pasted[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    assert pasted[0, 0].sum() == area
    torch.testing.assert_close(targets[0], torch.tensor([1 - area / 256, 0, 0, area / 256]))
    assert torch.equal(pixel_values, before)


def test_smoothed_targets_are_mixed(pixel_values: torch.Tensor) -> None:
    np.random.seed(1)
    _, targets = BatchMixing(4, label_smoothing=0.1)(pixel_values, LABELS)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    # Images 0 and 3 mix, so classes 1 and 2 keep the smoothing alone.
    torch.testing.assert_close(targets[0, 1:3], torch.tensor([0.025, 0.025]))


def test_batches_are_mixed_in_either_way(pixel_values: torch.Tensor) -> None:
    def is_cutmix() -> bool:
        mixed, _ = BatchMixing(4)(pixel_values, LABELS)
        return bool(((mixed == pixel_values) | (mixed == pixel_values.flip(0))).all())

    np.random.seed(0)
    assert 5 < sum(is_cutmix() for _ in range(20)) < 15  # each with probability 1/2


def test_without_mixing_only_labels_change(pixel_values: torch.Tensor) -> None:
    mixed, targets = BatchMixing(4, mixup=0, cutmix=0)(pixel_values[:3], LABELS[:3])
    assert torch.equal(mixed, pixel_values[:3])
    torch.testing.assert_close(targets, torch.eye(4)[:3] * 0.9 + 0.025)


def test_an_odd_batch_is_refused(pixel_values: torch.Tensor) -> None:
    with pytest.raises(DeiTLTError, match="this one has 3: use an even batch size"):
        BatchMixing(4)(pixel_values[:3], LABELS[:3])
