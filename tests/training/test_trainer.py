"""The student's trainer, against the reference's steps and arithmetic by hand."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import TrainerCallback

from deitlt_hf import (
    DeiTLTError,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    convert_reference_checkpoint,
    grouped_accuracy,
)

def test_seven_steps_follow_the_reference(golden, golden_json, arguments):
    steps = load_file(golden / "trajectory.safetensors")
    student = convert_reference_checkpoint(golden / "student.pth", num_attention_heads=3)
    for layer in student.deit.layers:
        layer.drop_path.rate = 0.0
    teacher = convert_reference_checkpoint(golden / "teacher_paco_resnet32.pth.tar")
    optimizer = golden_json["optimizer"]
    args = arguments(
        num_train_epochs=7,
        per_device_train_batch_size=8,
        drw_start_epoch=4,
        learning_rate=optimizer["lr"],
        scale_learning_rate=False,
        weight_decay=optimizer["weight_decay"],
        adam_beta1=optimizer["betas"][0],
        adam_beta2=optimizer["betas"][1],
        adam_epsilon=optimizer["eps"],
    )
    trainer = DeiTLTTrainer(student, args, teacher=teacher)
    trainer.create_optimizer()
    for step in range(7):
        trainer.state.epoch = float(step)
        targets = steps["soft_targets"][step] if step < 4 else steps["labels"][step - 4]
        teacher_labels = trainer.teacher(steps["pixel_values"][step]).argmax(-1)
        assert teacher_labels.tolist() == steps["teacher_labels"][step].tolist()
        loss = trainer.training_step(student, {"pixel_values": steps["pixel_values"][step], "labels": targets})
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        parts = trainer._parts[:2]
        trainer._parts = None
        measured = torch.stack([loss, *parts]).double()
        torch.testing.assert_close(measured, steps["losses"][step], rtol=0, atol=1e-4)
    student.eval()
    outputs = student(steps["probe_pixel_values"])
    torch.testing.assert_close(outputs.cls_logits, steps["probe_cls_logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(outputs.distillation_logits, steps["probe_distillation_logits"], rtol=0, atol=1e-4)


def our_names(reference_name):
    """Names of the reference's parameter here; what was stacked there is three."""
    name, parameter = reference_name.rsplit(".", 1) if "." in reference_name else ("", reference_name)
    if not name:
        special = {"cls_token": "cls_token", "dist_token": "distillation_token", "pos_embed": "position_embeddings"}
        return [f"deit.embeddings.{special[parameter]}"]
    outside = {
        "head": "cls_classifier",
        "head_dist": "distillation_classifier",
        "norm": "deit.layernorm",
        "patch_embed.proj": "deit.embeddings.patch_embeddings.projection",
    }
    if name in outside:
        return [f"{outside[name]}.{parameter}"]
    layer, part = re.fullmatch(r"blocks\.(\d+)\.(.*)", name).groups()
    parts = {
        "attn.qkv": ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
        "attn.proj": ["attention.o_proj"],
        "mlp.fc1": ["mlp.fc1"],
        "mlp.fc2": ["mlp.fc2"],
        "norm1": ["layernorm_before"],
        "norm2": ["layernorm_after"],
    }
    return [f"deit.layers.{layer}.{ours}.{parameter}" for ours in parts[part]]


def test_the_optimizer_spares_what_the_reference_spares(golden_json, tiny_student, tiny_teacher, arguments):
    student = tiny_student(num_hidden_layers=golden_json["model"]["num_hidden_layers"])
    trainer = DeiTLTTrainer(student, arguments(weight_decay=0.05), teacher=tiny_teacher())
    names = {id(weight): name for name, weight in student.named_parameters()}
    groups = {
        group["weight_decay"]: {names[id(weight)] for weight in group["params"]}
        for group in trainer.create_optimizer().param_groups
    }
    spared = {ours for reference in golden_json["optimizer"]["no_weight_decay"] for ours in our_names(reference)}
    assert groups == {0.0: spared, 0.05: set(names.values()) - spared}


class Gradients(TrainerCallback):
    """The gradients at every optimiser step, before it."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: weight.grad.clone() for name, weight in model.named_parameters()})


@pytest.mark.parametrize("length", [32, 48], ids=["full", "last step with half of the batches"])
def test_accumulated_batches_give_the_gradient_of_one(tiny_student, tiny_teacher, images, arguments, length):
    steps = {}
    for batch, accumulation in ((8, 4), (32, 1)):
        gradients = Gradients()
        args = arguments(
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            dataloader_drop_last=False,
            learning_rate=0.0,
        )
        teacher = tiny_teacher()
        trainer = DeiTLTTrainer(
            tiny_student(), args, teacher=teacher, train_dataset=images(length), callbacks=[gradients]
        )
        trainer.peak_learning_rate = lambda: 1.0
        trainer.train()
        assert {len(seen) for seen in teacher.seen[: 32 // batch]} == {batch}
        steps[batch] = gradients.steps
    assert len(steps[8]) == len(steps[32]) == -(-length // 32)
    for accumulated, joined in zip(steps[8], steps[32], strict=True):
        assert max(gradient.abs().max() for gradient in joined.values()) > 1e-3
        torch.testing.assert_close(accumulated, joined, rtol=1e-5, atol=1e-7)
