"""The averaged weights, against arithmetic; test_trainer.py and test_two_processes.py have them in trainings."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import nn

from deitlt_hf.training.ema import AveragedWeights


def test_every_update_keeps_decay_of_the_average():
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    average = AveragedWeights(model, decay=0.9)
    for value in (2.0, 3.0):
        model.weight.data.fill_(value)
        average.update(model)
    expected = [[0.9 * (0.9 * start + 0.1 * 2) + 0.1 * 3 for start in (1.0, -1.0)]]
    torch.testing.assert_close(average.weights["weight"], torch.tensor(expected, dtype=torch.float64))


def test_half_precision_weights_have_an_average_that_moves():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    model.weight.data.fill_(1.0)
    average = AveragedWeights(model, decay=0.9999)
    model.weight.data.fill_(2.0)
    for _ in range(100):
        average.update(model)
    # In bfloat16 the next number after 1 is 1.0078, and 1.0001 would be 1 again.
    assert average.weights["weight"].item() == pytest.approx(2 - 0.9999**100, rel=1e-5)
    with average.lent_to(model):
        assert model.weight.dtype == torch.bfloat16
        assert model.weight.item() == pytest.approx(2 - 0.9999**100, abs=0.004)


def test_counters_of_batch_normalisation_are_the_models():
    model = nn.BatchNorm1d(1)
    average = AveragedWeights(model, decay=0.5)
    model(torch.tensor([[0.0], [2.0]]))
    average.update(model)
    assert average.weights["num_batches_tracked"].item() == 1
    assert average.weights["running_mean"].item() == pytest.approx(0.05)  # half of a tenth of 1


def test_the_model_has_its_own_weights_again_after_an_error():
    model = nn.Linear(1, 1)
    average = AveragedWeights(model, decay=0.5)
    model.weight.data.fill_(7.0)
    with suppress(KeyError), average.lent_to(model):
        assert model.weight.item() != 7.0
        raise KeyError
    assert model.weight.item() == 7.0
