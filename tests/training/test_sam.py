"""SAM: the published implementation's steps, and that the teacher's trainer takes the same ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from deitlt_hf import TeacherTrainer
from deitlt_hf.training.sam import sam_over_sgd


def test_five_steps_are_the_published_ones(golden):
    numbers = load_file(golden / "sam.safetensors")
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model.load_state_dict({name: numbers[f"initial.{name}"] for name in model.state_dict()})
    optimizer = sam_over_sgd(model.parameters(), rho=0.05, lr=0.1, momentum=0.9, weight_decay=2e-4)
    losses = []
    for _ in range(5):
        for move in (lambda: optimizer.first_step(zero_grad=True), optimizer.step):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(numbers["inputs"]), numbers["labels"])
            losses.append(loss.detach())
            loss.backward()
            move()
    torch.testing.assert_close(torch.stack(losses[::2]), numbers["losses"], rtol=0, atol=1e-4)
    final = {name: numbers[f"final.{name}"] for name in model.state_dict()}
    torch.testing.assert_close(dict(model.state_dict()), final, rtol=0, atol=1e-5)


def sam_step_by_hand(weights, images, labels, rho, learning_rate):
    """One step without momentum from the definition: descend by the gradient at `rho` along the gradient."""
    weights = [weight.detach().clone().requires_grad_() for weight in weights]

    def gradient(at):
        loss = F.cross_entropy(F.linear(images.flatten(1), *at), labels)
        return torch.autograd.grad(loss, at)

    first = gradient(weights)
    norm = torch.cat([part.flatten() for part in first]).norm()
    there = [weight + rho * part / norm for weight, part in zip(weights, first, strict=True)]
    return [weight - learning_rate * part for weight, part in zip(weights, gradient(there), strict=True)]


@pytest.mark.parametrize(("batch", "accumulation"), [(16, 1), (8, 2), (4, 4)])
def test_a_step_over_accumulated_batches_is_the_step_on_all_of_them(
    tiny_teacher, images, teacher_arguments, batch, accumulation
):
    model, data = tiny_teacher(), images(16)
    layer = model.classifier
    expected = sam_step_by_hand([layer.weight, layer.bias], data.pixel_values, data.labels, rho=0.5, learning_rate=0.1)
    args = teacher_arguments(
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        sam_rho=0.5,
        weight_decay=0.0,
        momentum=0.0,
    )
    trainer = TeacherTrainer(model, args, train_dataset=data)
    trainer.train()
    assert trainer.state.global_step == 1
    torch.testing.assert_close([layer.weight.detach(), layer.bias.detach()], expected, rtol=1e-4, atol=1e-6)


def test_no_perturbation_is_left_in_the_weights_or_the_checkpoint(tiny_teacher, images, teacher_arguments):
    model = tiny_teacher()
    before = model.classifier.weight.detach().clone()
    args = teacher_arguments(num_train_epochs=1, sam_rho=5.0, learning_rate=1e-12, save_strategy="epoch")
    trainer = TeacherTrainer(model, args, train_dataset=images())
    trainer.train()
    torch.testing.assert_close(model.classifier.weight.detach(), before, rtol=0, atol=1e-6)
    state = torch.load(f"{args.output_dir}/checkpoint-4/optimizer.pt")["state"]
    assert {name for of_weight in state.values() for name in of_weight} == {"momentum_buffer"}


def test_the_log_shows_the_weights_as_they_are_not_the_perturbed_ones(tiny_teacher, images, teacher_arguments):
    model, data = tiny_teacher(), images(16)
    with torch.no_grad():
        logits = model(data.pixel_values).logits
    loss = F.cross_entropy(logits, data.labels).item()
    accuracy = 100 * (logits.argmax(-1) == data.labels).double().mean().item()
    args = teacher_arguments(num_train_epochs=1, gradient_accumulation_steps=4, sam_rho=20.0)
    trainer = TeacherTrainer(model, args, train_dataset=data)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert trainer.state.log_history[0]["train_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_ends_at_the_same_weights(tiny_teacher, images, teacher_arguments, accumulation):
    middle = 6 // accumulation  # in the second of three epochs

    def train(checkpoint=None):
        args = teacher_arguments(
            num_train_epochs=3,
            gradient_accumulation_steps=accumulation,
            sam_rho=0.1,
            drw_start_epoch=2,
            loss="ldam",
            save_strategy="steps",
            save_steps=middle,
        )
        trainer = TeacherTrainer(tiny_teacher(), args, class_counts=list(range(100, 0, -10)), train_dataset=images(16))
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    whole = train()
    resumed = train(f"{whole.args.output_dir}/checkpoint-{middle}")
    torch.testing.assert_close(dict(resumed.model.state_dict()), dict(whole.model.state_dict()), rtol=0, atol=0)
    initial = tiny_teacher().classifier.weight
    assert (whole.model.classifier.weight - initial).abs().max() > 1e-2
