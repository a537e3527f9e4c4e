"""Learning rates: the reference's numbers, and that the trainers follow them step by step."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import TrainerCallback

from deitlt_hf import DeiTLTError, DeiTLTTrainer, DeiTLTTrainingArguments, TeacherTrainer
from deitlt_hf.training.schedule import cosine_with_warmup, sam_radius, steps_with_warmup


def test_the_cosine_is_the_references(golden_json):
    cases = golden_json["learning_rates"]
    assert len(cases) == 2
    for name, rates in cases.items():
        epochs, peak = re.search(r"epochs=(\d+), lr=(\S+)", name).groups()
        for epoch, expected in rates.items():
            rate = cosine_with_warmup(float(epoch), epochs=int(epochs), learning_rate=float(peak))
            assert rate == pytest.approx(expected, rel=1e-6), (name, epoch)


def test_the_cosine_ends_at_its_floor():
    assert cosine_with_warmup(10, epochs=10, learning_rate=1.0, min_learning_rate=0.25) == 0.25


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 0.2), (1, 0.4), (3, 0.8), (3.9, 0.8), (4, 1), (5, 1), (159.9, 1), (160, 1e-2), (179, 1e-2), (180, 1e-4)],
)
def test_the_teachers_steps_are_the_published_ones(epoch, factor):
    # Published for epochs counted from 1: 0.1 * epoch / 5 up to epoch 5, then 0.1, 0.001 from 160, 0.00001 from 180.
    assert steps_with_warmup(epoch, learning_rate=0.1) == pytest.approx(0.1 * factor)


def test_the_teachers_warmup_may_be_off():
    assert steps_with_warmup(0, learning_rate=0.1, warmup_epochs=0) == 0.1


@pytest.mark.parametrize(
    ("batch", "processes", "scale", "expected"),
    [(128, 1, True, 1.25e-4), (128, 2, True, 2.5e-4), (128, 4, True, 5e-4), (128, 2, False, 5e-4)],
)
def test_the_learning_rate_is_for_512_images(monkeypatch, tmp_path, batch, processes, scale, expected):
    monkeypatch.setattr(DeiTLTTrainingArguments, "world_size", property(lambda self: processes))
    args = DeiTLTTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=batch, scale_learning_rate=scale, use_cpu=True
    )
    assert args.scaled_learning_rate == pytest.approx(expected)


class Rates(TrainerCallback):
    def __init__(self):
        self.used = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        self.used.append(rate)


def test_the_student_follows_the_cosine_within_epochs(tiny_student, tiny_teacher, images, arguments):
    rates = Rates()
    args = arguments(num_train_epochs=3, gradient_accumulation_steps=2, warmup_epochs=1, learning_rate=0.01)
    trainer = DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=images(24), callbacks=[rates])
    trainer.train()
    steps = [
        cosine_with_warmup(step / 3, epochs=3, learning_rate=0.01, warmup_epochs=1) for step in range(9)
    ]  # six batches, three steps an epoch
    assert rates.used == pytest.approx(steps, rel=1e-12)
    assert [entry["learning_rate"] for entry in trainer.state.log_history[:-1]] == pytest.approx(steps)


def test_max_steps_end_the_cosine(tiny_student, tiny_teacher, images, arguments):
    rates = Rates()
    args = arguments(max_steps=8, warmup_epochs=0, learning_rate=0.01)
    DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=images(16), callbacks=[rates]).train()
    expected = [cosine_with_warmup(step / 4, epochs=2, learning_rate=0.01, warmup_epochs=0) for step in range(8)]
    assert rates.used == pytest.approx(expected)


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 7, 97])
def test_the_teachers_rate_changes_at_the_first_step_of_an_epoch(tiny_teacher, teacher_arguments, steps_per_epoch):
    # 7 / 200 * 200 is above 7, and others are below: at some of these sizes a quotient first would be a step late.
    args = teacher_arguments(num_train_epochs=200, warmup_epochs=200, decay_epochs=[])
    trainer = TeacherTrainer(tiny_teacher(), args)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=args.learning_rate)
    rate = trainer.create_scheduler(200 * steps_per_epoch).lr_lambdas[0]
    for epoch in range(200):
        assert rate(epoch * steps_per_epoch) == pytest.approx((epoch + 1) / 200), epoch
        assert rate((epoch + 1) * steps_per_epoch - 1) == pytest.approx((epoch + 1) / 200), epoch


def test_the_teacher_follows_its_steps(tiny_teacher, images, teacher_arguments):
    rates = Rates()
    args = teacher_arguments(warmup_epochs=2, decay_epochs=[2, 3], learning_rate=0.1, decay_factor=0.1)
    TeacherTrainer(tiny_teacher(), args, train_dataset=images(8), callbacks=[rates]).train()
    by_hand = [0.05, 0.05, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert rates.used == pytest.approx(by_hand)


def test_another_schedule_is_transformers_own(tiny_student, images, arguments):
    trainer = DeiTLTTrainer(
        tiny_student(), arguments(lr_scheduler_type="linear", distillation_type="none"), train_dataset=images()
    )
    trainer.create_optimizer()
    scheduler = trainer.create_scheduler(10)
    peak = trainer.args.scaled_learning_rate
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([peak * (10 - step) / 10 for step in range(10)])


def test_warm_up_steps_beside_the_references_schedule_are_refused(arguments):
    with pytest.raises(DeiTLTError, match="warmup_epochs"):
        arguments(warmup_steps=10)


@pytest.mark.parametrize(
    ("epoch", "radius"), [(0, 0.05), (4.99, 0.05), (5, 0.1), (59.9, 0.1), (60, 0.5), (74, 0.5), (75, 0.6), (89, 0.6)]
)
def test_the_radius_steps_where_the_published_one_does(epoch, radius):
    # Published for epochs counted from 1: the first up to 5, the second up to 60, the third up to 75, then the fourth.
    assert sam_radius(epoch, epochs=90, radii=[0.05, 0.1, 0.5, 0.6], change_epochs=[5, 60, 75]) == radius


@pytest.mark.parametrize(("epoch", "radius"), [(0, 0.05), (0.9, 0.05), (99.5, 0.05 + 0.75 * 99 / 199), (199, 0.8)])
def test_a_linear_radius_goes_from_the_first_epoch_to_the_last(epoch, radius):
    # Published: the straight line through the minimum at epoch 1 and the maximum at the last epoch, here 200.
    assert sam_radius(epoch, epochs=200, radii=[0.05, 0.8]) == pytest.approx(radius)


def test_a_linear_radius_of_one_epoch_is_the_first():
    assert sam_radius(0.5, epochs=1, radii=[0.1, 0.9]) == 0.1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sam_rho": 0.2}, [0.2] * 4),
        ({"sam_rho": [0.1, 0.4]}, [0.1, 0.2, 0.3, 0.4]),
        ({"sam_rho": [0.1, 0.0, 0.3], "sam_rho_epochs": [1, 3]}, [0.1, 0.0, 0.0, 0.3]),
    ],
)
def test_the_optimiser_climbs_by_the_radius_of_its_epoch(tiny_teacher, images, teacher_arguments, settings, expected):
    args = teacher_arguments(learning_rate=0.01, **settings)  # four epochs of two steps
    trainer = TeacherTrainer(tiny_teacher(), args, train_dataset=images(8))
    distances, weights = [], trainer.model.classifier

    def parameters():
        return torch.cat([part.detach().flatten() for part in (weights.weight, weights.bias)])

    class Watch(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.before = parameters()

    watch = Watch()
    trainer.add_callback(watch)
    compute_loss = trainer.compute_loss

    def compare(*args, **kwargs):
        if trainer._weights_are_perturbed:
            distances.append((parameters() - watch.before).norm().item())
        return compute_loss(*args, **kwargs)

    trainer.compute_loss = compare
    trainer.train()
    assert distances == pytest.approx([radius for radius in expected for _ in range(2)], abs=1e-5)
