"""Models and data small enough that a whole training run takes a fraction of a second."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification, DeiTLTTrainingArguments, TeacherTrainingArguments

COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


class LinearConfig(PreTrainedConfig):
    model_type = "linear_for_tests"
    image_size: int = 8


class LinearClassifier(PreTrainedModel):
    """A classifier without batch statistics, and a record of the pixels that it was given."""

    config_class = LinearConfig
    main_input_name = "pixel_values"

    def __init__(self, config: LinearConfig):
        super().__init__(config)
        self.classifier = nn.Linear(3 * config.image_size**2, config.num_labels)
        self.seen: list[torch.Tensor] = []
        self.post_init()

    def forward(self, pixel_values, labels=None, **kwargs):
        self.seen.append(pixel_values)
        return ImageClassifierOutput(logits=self.classifier(pixel_values.flatten(1)))


class Images(Dataset):
    """Random images, the first value of which says which one it is."""

    def __init__(self, length: int = 16, size: int = 8, weak_view: bool = False):
        generator = torch.Generator().manual_seed(0)
        self.pixel_values = torch.randn(length, 3, size, size, generator=generator)
        self.pixel_values[:, 0, 0, 0] = torch.arange(length) / 100
        self.labels = torch.arange(length) % 10
        self.weak_view = weak_view

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        example = {"pixel_values": self.pixel_values[index], "labels": int(self.labels[index])}
        return example | ({"weak_pixel_values": -self.pixel_values[index]} if self.weak_view else {})

    @staticmethod
    def which(pixel_values: torch.Tensor) -> list[int]:
        return (pixel_values[:, 0, 0, 0] * 100).round().int().tolist()


@pytest.fixture
def images() -> type[Images]:
    return Images


@pytest.fixture
def tiny_student():
    """Makes students of 8-pixel images without stochastic depth, always with the same weights."""

    def make(**config) -> DeiTLTForImageClassification:
        settings = {
            "image_size": 8,
            "patch_size": 4,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "drop_path_rate": 0.0,
            "class_counts": COUNTS,
        }
        if "id2label" not in config:
            config["num_labels"] = 10
        torch.manual_seed(0)
        return DeiTLTForImageClassification(DeiTLTConfig(**settings | config))

    return make


@pytest.fixture
def tiny_teacher():
    """Makes linear classifiers of `size`-pixel images, always with the same weights."""

    def make(size: int = 8, **config) -> LinearClassifier:
        if "id2label" not in config:
            config["num_labels"] = 10
        torch.manual_seed(1)
        return LinearClassifier(LinearConfig(image_size=size, **config))

    return make


COMMON = {
    "per_device_train_batch_size": 4,
    "save_strategy": "no",
    "save_total_limit": None,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture
def arguments(tmp_path):
    """Makes a student's arguments: four epochs, constant images, nothing mixed."""

    def make(**settings) -> DeiTLTTrainingArguments:
        defaults = {
            "output_dir": str(tmp_path / "student"),
            "num_train_epochs": 4,
            "learning_rate": 1e-3,
            "scale_learning_rate": False,
            "warmup_epochs": 1,
            "mixup": 0,
            "cutmix": 0,
            "repeated_augmentation": 1,
        }
        return DeiTLTTrainingArguments(**COMMON | defaults | settings)

    return make


@pytest.fixture
def teacher_arguments(tmp_path):
    """Makes a teacher's arguments: four epochs."""

    def make(**settings) -> TeacherTrainingArguments:
        defaults = {"output_dir": str(tmp_path / "teacher"), "num_train_epochs": 4, "warmup_epochs": 0}
        return TeacherTrainingArguments(**COMMON | defaults | settings)

    return make


@pytest.fixture
def spy():
    """Records, for every batch that a trainer computes a loss of: images, phase, weights, targets, learning rate."""

    def watch(trainer) -> list[dict]:
        calls: list[dict] = []
        compute_loss, distillation_loss = trainer.compute_loss, trainer.distillation_loss

        def watched_compute_loss(model, inputs, *args, **kwargs):
            call = {"step": trainer.state.global_step, "drw": trainer.drw_active}
            if model.training:
                call |= {"images": Images.which(inputs["pixel_values"]), "rate": trainer.lr_scheduler.get_last_lr()[0]}
                calls.append(call)
            return compute_loss(model, inputs, *args, **kwargs)

        def watched_distillation_loss(cls_logits, distillation_logits, targets, teacher_logits, weights):
            calls[-1] |= {"weights": weights, "targets": targets}
            return distillation_loss(cls_logits, distillation_logits, targets, teacher_logits, weights)

        trainer.compute_loss, trainer.distillation_loss = watched_compute_loss, watched_distillation_loss
        return calls

    return watch
