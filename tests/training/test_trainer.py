from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTError,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    convert_reference_checkpoint,
)

COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def tiny_student(**config):
    settings = {
        "image_size": 16,
        "patch_size": 8,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "num_labels": 10,
        "class_counts": COUNTS,
    }
    torch.manual_seed(0)
    return DeiTLTForImageClassification(DeiTLTConfig(**settings | config))


def tiny_teacher(**config):
    torch.manual_seed(1)
    return CifarResNetForImageClassification(CifarResNetConfig(depth=20, image_size=16, num_labels=10, **config))


class Images(Dataset):
    """Random images whose item says which one it is, and a record of what was asked for."""

    def __init__(self, length=32, size=16):
        generator = torch.Generator().manual_seed(0)
        self.pixel_values = torch.randn(length, 3, size, size, generator=generator)
        self.labels = torch.arange(length) % 10
        self.seen = []

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.seen.append(int(index))
        return {"pixel_values": self.pixel_values[index], "labels": int(self.labels[index])}


def arguments(tmp_path, **settings):
    defaults = {
        "output_dir": str(tmp_path),
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "mixup": 0,
        "cutmix": 0,
        "repeated_augmentation": 1,
    }
    return DeiTLTTrainingArguments(**defaults | settings)


def test_seven_steps_follow_the_reference(golden, golden_json, tmp_path):
    steps = load_file(golden / "trajectory.safetensors")
    student = convert_reference_checkpoint(golden / "student.pth", num_attention_heads=3)
    for layer in student.deit.layers:
        layer.drop_path.rate = 0.0
    teacher = convert_reference_checkpoint(golden / "teacher_paco_resnet32.pth.tar")
    optimizer = golden_json["optimizer"]
    args = arguments(
        tmp_path,
        num_train_epochs=7,
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
    trainer.current_gradient_accumulation_steps = 1
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
