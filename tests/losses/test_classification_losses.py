"""Losses for long tails, against arithmetic done by hand and against torch's own."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from deitlt_hf import (
    BalancedBCELoss,
    BalancedSoftmaxLoss,
    CrossEntropyLoss,
    DeiTLTError,
    DistillationLoss,
    FocalLoss,
    LogitAdjustedLoss,
)
from deitlt_hf.losses.by_name import CLS_LOSSES

COUNTS = [90, 9, 1]
LOGITS = torch.tensor([[math.log(2), 0.0, 0.0], [0.0, 0.0, math.log(4)]])
LABELS = torch.tensor([0, 2])
# Softmax of the rows: (1/2, 1/4, 1/4) and (1/6, 1/6, 4/6).
BY_HAND = {
    "ce": -(math.log(1 / 2) + math.log(4 / 6)) / 2,
    # (1 - p)^2 times the terms of cross-entropy.
    "focal": -((1 / 2) ** 2 * math.log(1 / 2) + (2 / 6) ** 2 * math.log(4 / 6)) / 2,
    # 2 * 90 of 2 * 90 + 9 + 1, and 4 * 1 of 90 + 9 + 4 * 1.
    "balanced_softmax": -(math.log(180 / 190) + math.log(4 / 103)) / 2,
    "logit_adjusted": -(math.log(180 / 190) + math.log(4 / 103)) / 2,
    # The odds of a class are e^logit n / (100 - n): 18, 9/91, 1/99 for the first image; 9, 9/91, 4/99 for the second.
    "balanced_bce": -(
        math.log(18 / 19) + math.log(91 / 100) + math.log(99 / 100)
        + math.log(1 / 10) + math.log(91 / 100) + math.log(4 / 103)
    ) / 2,
}  # fmt: skip


def make(name: str):
    settings = SimpleNamespace(focal_gamma=2.0, logit_adjusted_tau=1.0, balanced_bce_tau=1.0)
    return CLS_LOSSES[name].make(settings, lambda: COUNTS)


@pytest.mark.parametrize("name", CLS_LOSSES)
def test_a_loss_is_what_a_hand_computes(name):
    assert make(name)(LOGITS, LABELS).item() == pytest.approx(BY_HAND[name], abs=1e-6)


@pytest.mark.parametrize("name", CLS_LOSSES)
def test_probabilities_of_one_class_are_that_class(name):
    weights, one_hot = torch.tensor([0.5, 1.0, 3.0]), F.one_hot(LABELS, 3).float()
    for class_weights in (None, weights):
        hard, soft = make(name)(LOGITS, LABELS, class_weights), make(name)(LOGITS, one_hot, class_weights)
        torch.testing.assert_close(hard, soft)


@pytest.mark.parametrize("name", CLS_LOSSES)
def test_weights_make_a_weighted_mean_of_the_images(name):
    weights = torch.tensor([0.5, 1.0, 3.0])
    first, second = (make(name)(LOGITS[[row]], LABELS[[row]]) for row in (0, 1))
    torch.testing.assert_close(make(name)(LOGITS, LABELS, weights), (0.5 * first + 3 * second) / 3.5)


def test_mixed_targets_give_the_mixture_of_the_losses():
    mixed = torch.tensor([[0.75, 0.25, 0.0]])
    loss = LogitAdjustedLoss(COUNTS, tau=0.5)
    parts = [loss(LOGITS[[0]], torch.tensor([label])) for label in (0, 1)]
    torch.testing.assert_close(loss(LOGITS[[0]], mixed), 0.75 * parts[0] + 0.25 * parts[1])


def test_no_strength_and_no_gamma_are_the_plain_losses():
    plain = F.cross_entropy(LOGITS, LABELS)
    torch.testing.assert_close(LogitAdjustedLoss(COUNTS, tau=0)(LOGITS, LABELS), plain)
    torch.testing.assert_close(FocalLoss(gamma=0)(LOGITS, LABELS), plain)
    torch.testing.assert_close(CrossEntropyLoss()(LOGITS, LABELS), plain)
    one_hot = F.one_hot(LABELS, 3).float()
    expected = F.binary_cross_entropy_with_logits(LOGITS, one_hot, reduction="sum") / 2
    torch.testing.assert_close(BalancedBCELoss(COUNTS, tau=0)(LOGITS, LABELS), expected)


@pytest.mark.parametrize(("label", "slope"), [(0, 0.0), (1, 1.0)])
def test_focal_loss_of_a_model_that_is_sure_has_a_gradient(label, slope):
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)  # probabilities 1 and 0, as float32 has them
    FocalLoss(gamma=0.5)(logits, torch.tensor([label])).backward()
    assert logits.grad.tolist() == [[slope, -slope]]


def test_the_student_takes_it_for_its_class_token_alone():
    teacher, plain = torch.eye(3)[LABELS], DistillationLoss()
    adjusted = DistillationLoss(cls_loss=BalancedSoftmaxLoss(COUNTS))
    before, after = (loss(LOGITS, LOGITS, LABELS, teacher) for loss in (plain, adjusted))
    torch.testing.assert_close(after.distillation_loss, before.distillation_loss)
    assert after.cls_loss.item() == pytest.approx(BY_HAND["balanced_softmax"] / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitAdjustedLoss([3, 0]), "class 1 has no training images"),
        (lambda: BalancedBCELoss([0, 2]), "class 0 has no training images"),
        (lambda: LogitAdjustedLoss(COUNTS, tau=-1), "tau is -1"),
        (lambda: BalancedBCELoss(COUNTS, tau=-1), "tau is -1"),
        (lambda: FocalLoss(-0.5), "gamma is -0.5"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(DeiTLTError, match=message):
        make()
