"""What only a GPU shows: steps that wait for it, and the paths that optimisers take there alone.

python -m pytest tests/test_on_gpu.py                     # half a minute on a GPU
DEITLT_TEST_DEVICE=cpu python -m pytest tests/test_on_gpu.py    # to see that it runs where there is none
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    TeacherTrainer,
    TeacherTrainingArguments,
)
from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.data.device_augmentation.device_views import BatchView, device_views
from deitlt_hf.training.callbacks import LogPrinter
from deitlt_hf.training.sam import sam_over_sgd

DEVICE = os.environ.get("DEITLT_TEST_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
pytestmark = pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a GPU with CUDA")

COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
BATCH = 64 if ON_GPU else 4
STEPS = 4  # of an epoch
COMMON = {
    "per_device_train_batch_size": BATCH,
    "num_train_epochs": 2,
    "warmup_epochs": 0,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": not ON_GPU,
}


class Levels(torch.utils.data.Dataset):
    """Decoded images, as the loader sends them where views are made on the device, and the views that PaCo needs."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.levels = torch.randint(0, 256, (STEPS * BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, index: int) -> dict:
        levels = self.levels[index]
        return {
            "pixel_values": levels,
            "weak_pixel_values": levels,
            "key_pixel_values": levels.float() / 255,
            "labels": index % 10,
        }


class NeverWait(TrainerCallback):
    """From the third step on, whatever makes the host wait for the GPU inside a step is an error."""

    def __init__(self):
        self.steps = 0

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= 2:
            self.steps += 1
            if ON_GPU:
                torch.cuda.set_sync_debug_mode("error")

    def on_step_end(self, args, state, control, **kwargs):
        if ON_GPU:
            torch.cuda.set_sync_debug_mode("default")


def student(layers: int = 2, drop_path_rate: float = 0.1) -> DeiTLTForImageClassification:
    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    return DeiTLTForImageClassification(
        DeiTLTConfig(**shape, num_hidden_layers=layers, num_labels=10, drop_path_rate=drop_path_rate)
    )


def teacher(classifier: str = "linear") -> CifarResNetForImageClassification:
    torch.manual_seed(1)
    return CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10, classifier=classifier))


def train_without_waiting(trainer: DeiTLTTrainer | TeacherTrainer) -> None:
    """Train, with an error at a step that waits, and see that all weights are finite in the end."""
    watcher = NeverWait()
    trainer.add_callback(watcher)
    try:
        trainer.train()
    finally:
        if ON_GPU:
            torch.cuda.set_sync_debug_mode("default")
    assert (trainer.state.global_step, watcher.steps) == (2 * STEPS, 2 * STEPS - 2)
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())


@pytest.mark.parametrize("view", ["strong", "weak"])
def test_a_students_step_never_waits(tmp_path: Path, view: str) -> None:
    mixing = {"mixup": 0.8, "cutmix": 1.0} if view == "strong" else {"mixup": 0.0, "cutmix": 0.0}
    settings = {"drw_start_epoch": 1, "ema_decay": 0.9, "distillation_view": view, "repeated_augmentation": 1}
    args = DeiTLTTrainingArguments(str(tmp_path), **settings, **mixing, **COMMON)
    assert args.bf16 is ON_GPU
    views = {"pixel_values": BatchView(32, strong=True)}
    if view == "weak":
        views["weak_pixel_values"] = BatchView(32)
    train_without_waiting(
        DeiTLTTrainer(
            student(), args, teacher=teacher(), class_counts=COUNTS, train_dataset=Levels(), batch_views=views
        )
    )


def test_a_step_whose_pixels_are_on_the_device_never_waits(tmp_path: Path) -> None:
    pictures = [Image.fromarray(levels.permute(1, 2, 0).numpy()) for levels in Levels().levels]
    rows = Dataset.from_dict({"image": pictures, "label": [number % 10 for number in range(len(pictures))]})
    of_loader, of_batch = device_views({"pixel_values": True}, 32, True, rows)
    args = DeiTLTTrainingArguments(str(tmp_path), distillation_type="none", repeated_augmentation=1, **COMMON)
    images = ViewedDataset(rows, of_loader, "train")
    trainer = DeiTLTTrainer(student(), args, class_counts=COUNTS, train_dataset=images, batch_views=of_batch)
    train_without_waiting(trainer)
    (batch,), _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, args.device)
    assert batch["pixel_values"].device.type == DEVICE


@pytest.mark.parametrize("loss", ["ce", "ldam", "paco"])
def test_a_teachers_step_never_waits(tmp_path: Path, loss: str) -> None:
    settings = {"paco_queue": 32, "paco_dim": 8} if loss == "paco" else {"drw_start_epoch": 1}
    args = TeacherTrainingArguments(str(tmp_path), loss=loss, sam_rho=[0.1], learning_rate=0.01, **settings, **COMMON)
    model = teacher("linear" if loss == "paco" else "cosine")
    views = {"pixel_values": BatchView(32)}
    train_without_waiting(TeacherTrainer(model, args, class_counts=COUNTS, train_dataset=Levels(), batch_views=views))


def test_sam_on_a_gpu_is_that_of_a_cpu() -> None:
    # pytorch_optimizer takes all weights at once on a GPU alone.
    generator = torch.Generator().manual_seed(3)
    batches = [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 10) for _ in range(3)]
    weights = {}
    for device in ("cpu", DEVICE):
        model = copy.deepcopy(teacher("cosine")).double().to(device, memory_format=torch.channels_last)
        optimizer = sam_over_sgd(model.parameters(), rho=0.1, lr=0.05, momentum=0.9, weight_decay=2e-4)
        for pixel_values, labels in batches:
            pixel_values, labels = pixel_values.double().to(device), labels.to(device)
            model.zero_grad()
            F.cross_entropy(10 * model(pixel_values=pixel_values).logits, labels).backward()
            optimizer.first_step(zero_grad=True)
            F.cross_entropy(10 * model(pixel_values=pixel_values).logits, labels).backward()
            optimizer.step()
        weights[device] = torch.cat([weight.detach().flatten().cpu() for weight in model.parameters()])
    difference = (weights[DEVICE] - weights["cpu"]).norm() / weights["cpu"].norm()
    print(f"\nSAM, {DEVICE} against CPU after 3 steps in float64: {difference:.1e}")
    assert difference < 1e-6


@pytest.mark.parametrize("distillation", ["none", "soft"])  # a hard label may turn with the last digit of two logits
@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 2e-3), (True, 3e-2)])
def test_losses_on_a_gpu_are_those_of_a_cpu(tmp_path: Path, bf16: bool, tolerance: float, distillation: str) -> None:
    on_cpu = losses_of_six_steps(tmp_path, "cpu", False, distillation)
    there = losses_of_six_steps(tmp_path, DEVICE, bf16 and ON_GPU, distillation)
    difference = ((there - on_cpu).abs() / on_cpu).max()
    print(f"\nlosses of 6 steps, distillation {distillation}, bf16 {bf16}: {difference:.1e} from float32 on the CPU")
    assert difference < tolerance


def losses_of_six_steps(directory: Path, device: str, bf16: bool, distillation: str) -> torch.Tensor:
    """Six epochs of one batch; without a teacher the second half under DRW."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator)
    settings = COMMON | {"logging_strategy": "steps", "logging_steps": 1, "num_train_epochs": 6}
    settings |= {"use_cpu": device == "cpu", "mixup": 0.0, "cutmix": 0.0, "repeated_augmentation": 1}
    args = DeiTLTTrainingArguments(
        str(directory),
        drw_start_epoch=3 if distillation == "none" else None,
        distillation_type=distillation,
        learning_rate=1e-3,
        scale_learning_rate=False,
        lr_scheduler_type="constant",
        bf16=bf16,
        **settings,
    )
    trainer = DeiTLTTrainer(
        student(drop_path_rate=0.0),
        args,
        teacher=None if distillation == "none" else teacher(),
        class_counts=COUNTS,
        train_dataset=[{"pixel_values": image, "labels": index % 10} for index, image in enumerate(images)],
    )
    trainer.remove_callback(LogPrinter)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 6
    return torch.tensor(losses)


def test_a_resumed_run_goes_on_as_the_undisturbed_one(tmp_path: Path) -> None:
    def train(**settings) -> torch.Tensor:
        args = DeiTLTTrainingArguments(
            str(tmp_path), repeated_augmentation=1, ema_decay=0.9, **COMMON | {"save_strategy": "epoch"}
        )
        trainer = DeiTLTTrainer(
            student(),
            args,
            teacher=teacher(),
            class_counts=COUNTS,
            train_dataset=Levels(),
            batch_views={"pixel_values": BatchView(32, strong=True)},
        )
        trainer.train(**settings)
        return torch.cat([weight.detach().flatten().float().cpu() for weight in trainer.model.parameters()])

    whole = train()
    resumed = train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS}"))
    difference = (resumed - whole).norm() / whole.norm()
    print(f"\nresumed against undisturbed: {difference:.1e}")
    # Sums whose order a GPU does not fix; on a CPU nothing differs.
    assert difference <= (1e-3 if ON_GPU else 0)


def test_a_run_reports_in_float32(tmp_path: Path) -> None:
    """The last evaluation of a run, for which accelerate's autocast is taken away, against the model by itself."""
    args = DeiTLTTrainingArguments(str(tmp_path), distillation_type="none", repeated_augmentation=1, **COMMON)
    trainer = DeiTLTTrainer(
        student(), args, train_dataset=Levels(), batch_views={"pixel_values": BatchView(32, strong=True)}
    )
    trainer.train()
    trainer.model.eval()
    pixel_values = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    alone = student().to(DEVICE).eval()
    alone.load_state_dict(trainer.model.state_dict())
    with torch.no_grad():
        in_training = trainer.model(pixel_values=pixel_values).logits
        with trainer.in_float32():
            reported = trainer.model(pixel_values=pixel_values).logits
        expected = alone(pixel_values=pixel_values).logits
    assert torch.equal(reported, expected)
    assert torch.equal(reported, in_training) is not ON_GPU  # there it trains in bfloat16
