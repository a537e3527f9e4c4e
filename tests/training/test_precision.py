"""A run that trains in bfloat16 reports what its saved model predicts in float32."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification

from deitlt_hf import (
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    StudentArguments,
    TeacherArguments,
    TeacherTrainingArguments,
    TrainingDataArguments,
    train_student,
    train_teacher,
)
from deitlt_hf.data.arguments import load_images
from deitlt_hf.data.dataset import ViewedDataset, collate
from deitlt_hf.data.views import evaluation_view
from deitlt_hf.evaluation import evaluate

DATA = TrainingDataArguments("digits-lt", image_size=8, horizontal_flip=False, group_boundaries=[3, 7])
STUDENT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
COMMON = {
    "bf16": True,
    "num_train_epochs": 2,
    "warmup_epochs": 0,
    "per_device_train_batch_size": 128,
    "per_device_eval_batch_size": 64,
    "eval_strategy": "epoch",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture
def classifiers():
    """The types in which the last layers computed, and whether they were training, in order and without repeats."""
    seen = []

    def note(module, inputs, output) -> None:
        if isinstance(module, nn.Linear) and module.out_features == 10:
            now = (module.training, output.dtype)
            if seen[-1:] != [now]:
                seen.append(now)

    handle = register_module_forward_hook(note)
    yield seen
    handle.remove()


TRAINING, MIDDLE, FINAL = (True, torch.bfloat16), (False, torch.bfloat16), (False, torch.float32)


@pytest.mark.parametrize("averaged", [False, True])
def test_a_student(averaged, classifiers, tmp_path, monkeypatch) -> None:
    logits, own = [], evaluate.Predictions.add

    def noted(predictions: evaluate.Predictions, of_batch: dict[str, torch.Tensor], *others: object) -> None:
        logits.append(torch.stack(list(of_batch.values())))
        own(predictions, of_batch, *others)

    monkeypatch.setattr(evaluate.Predictions, "add", noted)
    average = {"ema_decay": 0.5, "evaluate_ema": True} if averaged else {}
    args = DeiTLTTrainingArguments(str(tmp_path), distillation_type="none", learning_rate=0.01, **COMMON | average)
    result = train_student(DATA, StudentArguments(**STUDENT), args)
    # Twice an epoch and its evaluation, which does not end the training in half precision, then what is reported.
    assert classifiers == [TRAINING, MIDDLE, TRAINING, MIDDLE, FINAL]
    reported, logits[:] = torch.cat(logits, dim=1), []
    directories = {".": result.metrics["experts"]} | ({"ema": result.metrics["averaged_weights"]} if averaged else {})
    for directory, experts in directories.items():
        model = AutoModelForImageClassification.from_pretrained(tmp_path / directory)
        again = evaluate.evaluate_images(model, load_images(DATA), evaluation_view(8), Accelerator(cpu=True)).metrics
        assert again["experts"] == experts
    assert torch.equal(torch.cat(logits, dim=1), reported)


def test_tf32_is_off_for_what_is_reported_alone(tiny_student, arguments, monkeypatch) -> None:
    trainer = DeiTLTTrainer(tiny_student(), arguments(distillation_type="none"))
    monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")  # as transformers does with --torch_compile
    with trainer.in_float32():
        assert torch.backends.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "none"
    assert torch.backends.fp32_precision == "tf32"


def test_a_teacher(classifiers, tmp_path) -> None:
    args = TeacherTrainingArguments(str(tmp_path), **COMMON)
    accuracies = train_teacher(DATA, TeacherArguments(depth=20), args)
    assert classifiers == [TRAINING, MIDDLE, TRAINING, MIDDLE, FINAL]
    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    test = ViewedDataset(load_images(DATA).test, {"pixel_values": evaluation_view(8)}, "test")
    batches = DataLoader(test, batch_size=64, collate_fn=collate)
    with torch.no_grad():
        right = torch.cat([model(batch["pixel_values"]).logits.argmax(-1) == batch["labels"] for batch in batches])
    assert accuracies["overall"] == pytest.approx(100 * right.double().mean().item())
