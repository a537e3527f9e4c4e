"""A new teacher's loss is a module and an entry of `TEACHER_LOSSES`, as CONTRIBUTING.md says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, TeacherTrainer, TeacherTrainingArguments
from deitlt_hf.cards.descriptions import describe_teacher_training
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.losses.by_name import TEACHER_LOSSES, NamedLoss


class BalancedSoftmax(nn.Module):
    """Cross-entropy of logits to which the log of the class counts is added (Ren et al., 2020, equation 3)."""

    def __init__(self, class_counts):
        super().__init__()
        self.register_buffer("log_counts", torch.tensor(class_counts).log())

    def forward(self, logits, labels, class_weights=None):
        return F.cross_entropy(logits + self.log_counts, labels, weight=class_weights)


@pytest.fixture(autouse=True)
def _one_more_loss(monkeypatch):
    loss = NamedLoss("balanced softmax", lambda args, counts: BalancedSoftmax(counts()))
    monkeypatch.setitem(TEACHER_LOSSES, "balanced", loss)


def trainer(tmp_path, class_counts):
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=2))
    args = TeacherTrainingArguments(str(tmp_path), loss="balanced", use_cpu=True, report_to="none")
    return TeacherTrainer(model, args, class_counts=class_counts)


def test_the_trainer_computes_it(tmp_path):
    of = trainer(tmp_path, [3, 1])
    nn.init.zeros_(of.model.classifier.weight)
    nn.init.zeros_(of.model.classifier.bias)
    loss = of.compute_loss(of.model, {"pixel_values": torch.zeros(1, 3, 32, 32), "labels": torch.tensor([1])})
    assert loss.item() == pytest.approx(1.3863, abs=1e-4)  # ln 4: the class has one of four images


def test_it_says_that_it_needs_class_counts(tmp_path):
    with pytest.raises(DeiTLTError, match="needs class_counts"):
        trainer(tmp_path, None)


def test_cards_call_it_by_its_title():
    assert describe_teacher_training({"loss": "balanced"}) == "balanced softmax"
