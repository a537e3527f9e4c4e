"""Resumed from any checkpoint, a run with random views ends with the very weights of the run that was not cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, DeiTLTTrainer, TeacherTrainer
from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.data.views import evaluation_view, paco_key_view, paco_query_view, strong_view, weak_view

STEPS = 5  # of an epoch with batches of four


def viewed(**views) -> ViewedDataset:
    random = np.random.default_rng(0)
    pixels = [Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(4 * STEPS)]
    rows = Dataset.from_dict({"image": pixels, "label": [number % 10 for number in range(len(pixels))]})
    return ViewedDataset(rows, views, "train")


@pytest.fixture
def train_student(tiny_student, tiny_teacher, arguments):
    def run(checkpoint=None, **settings):
        args = arguments(
            **{
                "num_train_epochs": 3,
                "drw_start_epoch": 2,
                "ema_decay": 0.9,
                "mixup": 0.8,
                "cutmix": 1.0,
                "repeated_augmentation": 3,
                "learning_rate": 0.01,
                "save_strategy": "steps",
                "save_steps": 1,
                "eval_strategy": "epoch",
            }
            | settings
        )
        trainer = DeiTLTTrainer(
            tiny_student(drop_path_rate=0.3, num_hidden_layers=2),
            args,
            teacher=tiny_teacher(),
            train_dataset=viewed(pixel_values=strong_view(8)),
            eval_dataset=viewed(pixel_values=evaluation_view(8)),
        )
        trainer.train(resume_from_checkpoint=checkpoint and f"{args.output_dir}/checkpoint-{checkpoint}")
        return trainer

    return run


@pytest.fixture
def train_teacher(teacher_arguments):
    def run(checkpoint=None, **settings):
        args = teacher_arguments(
            **{"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1, "learning_rate": 0.01} | settings
        )
        views = {"pixel_values": weak_view(8)}
        if args.loss == "paco":
            views = {"pixel_values": paco_query_view(8), "key_pixel_values": paco_key_view(8)}
        torch.manual_seed(0)
        model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10, image_size=8))
        trainer = TeacherTrainer(model, args, class_counts=[2] * 10, train_dataset=viewed(**views))
        trainer.train(resume_from_checkpoint=checkpoint and f"{args.output_dir}/checkpoint-{checkpoint}")
        return trainer

    return run


def end_workers(trainer) -> None:
    """Persistent workers otherwise wait for the garbage collector, and then for some seconds more."""
    iterator = trainer.callback_handler.train_dataloader.base_dataloader._iterator
    if iterator is not None:
        iterator._shutdown_workers()


def everything(trainer) -> dict[str, torch.Tensor]:
    end_workers(trainer)
    state = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    if getattr(trainer, "ema", None) is not None:
        state |= {f"ema.{name}": value for name, value in trainer.ema.weights.items()}
    if getattr(trainer, "contrast", None) is not None:
        state |= {f"paco.{name}": value for name, value in trainer.contrast.state_dict().items()}
    for index, values in trainer.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    return {name: value.clone() for name, value in state.items()}


def assert_exact(train, checkpoints, **settings) -> None:
    expected = everything(train(**settings))
    for checkpoint in checkpoints:
        torch.testing.assert_close(everything(train(checkpoint, **settings)), expected, rtol=0, atol=0)


def test_students_in_the_middle_and_at_the_end_of_an_epoch(train_student):
    assert_exact(train_student, [5, 8])


@pytest.mark.parametrize("persistent", [False, True])
def test_students_whose_images_come_from_workers(train_student, persistent):
    settings = {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent, "eval_strategy": "no"}
    assert_exact(train_student, [5, 8], **settings)


def test_students_with_accumulated_batches(train_student):
    # Three steps an epoch, the last of one batch.
    assert_exact(train_student, [3, 4], gradient_accumulation_steps=2)


@pytest.mark.parametrize("loss", ["ce", "paco"])
def test_teachers_with_sharpness_aware_minimisation(train_teacher, loss):
    settings = {"loss": loss, "sam_rho": 0.5}
    if loss == "paco":
        settings |= {"paco_dim": 4, "paco_queue": 12}
    assert_exact(train_teacher, [7], **settings)


def test_views_do_not_depend_on_who_makes_them(train_student):
    runs = [
        train_student(dataloader_num_workers=workers, max_steps=4, drw_start_epoch=None, save_strategy="no")
        for workers in (0, 1)
    ]
    torch.testing.assert_close(everything(runs[0]), everything(runs[1]), rtol=0, atol=0)


def test_a_run_resumed_at_its_last_step_takes_no_further_one(train_student):
    settings = {"max_steps": 8, "drw_start_epoch": None}
    assert_exact(train_student, [8], **settings)
    assert train_student(8, **settings).state.global_step == 8
