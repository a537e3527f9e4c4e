"""The teacher's trainer: losses with and without re-weighting, its optimiser, its evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTError,
    TeacherTrainer,
    grouped_accuracy,
)

COUNTS = [100, 80, 60, 50, 40, 30, 20, 10, 5, 1]


def loss_by_hand(logits, labels, loss, weighted, beta=0.9):
    """Cross-entropy or LDAM of a batch, from the definitions, one image at a time."""
    effective = [(1 - beta**count) / (1 - beta) for count in COUNTS]
    scale = len(COUNTS) / sum(1 / number for number in effective)
    total, weights = 0.0, 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        if loss == "ldam":
            # Margins n^(-1/4), the rarest class's (one image) being 0.4; then logits times 20.
            row = [
                20 * (value - (0.4 * COUNTS[label] ** -0.25 if index == label else 0))
                for index, value in enumerate(row)
            ]
        weight = scale / effective[label] if weighted else 1.0
        total += weight * (math.log(sum(math.exp(value - max(row)) for value in row)) + max(row) - row[label])
        weights += weight
    return total / weights


@pytest.mark.parametrize("loss", ["ce", "ldam"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_losses_before_and_in_drw_are_those_by_hand(tiny_teacher, images, teacher_arguments, loss, accumulation):
    args = teacher_arguments(
        num_train_epochs=2,
        drw_start_epoch=1,
        class_balanced_beta=0.9,
        loss=loss,
        ldam_max_margin=0.4,
        ldam_scale=20,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.01,
    )
    trainer = TeacherTrainer(tiny_teacher(), args, class_counts=COUNTS, train_dataset=images())
    compute_loss, pairs = trainer.compute_loss, []

    def compare(model, inputs, *args, **kwargs):
        value = compute_loss(model, inputs, *args, **kwargs)
        with torch.no_grad():
            logits = model(inputs["pixel_values"]).logits
        pairs.append((value.item(), loss_by_hand(logits, inputs["labels"], loss, weighted=len(pairs) >= 4)))
        return value

    trainer.compute_loss = compare
    trainer.train()
    measured, expected = zip(*pairs, strict=True)
    assert len(pairs) == 8
    assert measured == pytest.approx(expected, rel=1e-4)


def test_weight_decay_is_on_all_weights_and_momentum_is_set(tiny_teacher, teacher_arguments):
    trainer = TeacherTrainer(tiny_teacher(), teacher_arguments(momentum=0.8, weight_decay=3e-4))
    (group,) = trainer.create_optimizer().param_groups
    assert (group["momentum"], group["weight_decay"], group["lr"]) == (0.8, 3e-4, 0.1)
    assert len(group["params"]) == len(list(trainer.model.parameters()))


@pytest.mark.parametrize("batch", [8, 64])
def test_every_test_image_counts_in_the_groups(images, teacher_arguments, batch):
    groups = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, image_size=8, num_labels=10))
    nn.init.normal_(model.classifier.weight)
    data = images(37)
    args = teacher_arguments(per_device_eval_batch_size=batch)
    metrics = TeacherTrainer(model, args, class_groups=groups, eval_dataset=data).evaluate()
    with torch.no_grad():
        expected = grouped_accuracy(model.eval()(data.pixel_values).logits, data.labels, groups)
    assert {group: metrics[f"eval_{group}"] for group in expected} == pytest.approx(expected)


def test_a_model_that_puts_out_more_than_logits_is_judged_by_them(tiny_student, images, teacher_arguments):
    model, data = tiny_student().eval(), images(20)
    groups = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    metrics = TeacherTrainer(model, teacher_arguments(), class_groups=groups, eval_dataset=data).evaluate()
    with torch.no_grad():
        right = model(data.pixel_values).logits.argmax(-1) == data.labels
    assert metrics["eval_overall"] == pytest.approx(100 * right.float().mean().item())


@pytest.mark.parametrize("settings", [{"loss": "ldam"}, {"drw_start_epoch": 1}])
def test_class_counts_are_asked_for_where_they_are_needed(tiny_teacher, teacher_arguments, settings):
    with pytest.raises(DeiTLTError, match="class_counts"):
        TeacherTrainer(tiny_teacher(), teacher_arguments(**settings))
