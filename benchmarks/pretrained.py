"""Pretrains a small Vision Transformer of transformers on five of CIFAR-10's classes, all of their training images.

    python benchmarks/pretrained.py --data_dir cifar10 --output_dir runs/pretrained/vit    # 45 minutes on a core

It has nothing of this package but the images: `ViTForImageClassification`, trained by the `Trainer` of transformers.
A stopped run goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torchvision.transforms import v2
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from deitlt_hf import load_long_tailed_dataset
from deitlt_hf.data.columns import labels_of

PRETRAINED_ON = ["airplane", "automobile", "bird", "cat", "deer"]
EPOCHS = 12
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}  # of ViT's own image processor


def balanced_images(data_dir: str | None) -> dict[str, Dataset]:
    """The training and test images of the first five classes."""
    splits = load_long_tailed_dataset("cifar10-lt", imbalance_factor=1, data_dir=data_dir)
    names = splits["train"].features["label"].names
    wanted = [names.index(name) for name in PRETRAINED_ON]
    return {name: split.select(np.flatnonzero(np.isin(labels_of(split), wanted))) for name, split in splits.items()}


def pretrain(images: dict[str, Dataset], output_dir: Path, epochs: float) -> None:
    """Train, and save model and image processor."""
    set_seed(0)
    names = images["train"].features["label"].names
    label_of = {names.index(name): label for label, name in enumerate(PRETRAINED_ON)}
    weak = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3)]
    to_pixels = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**PIXELS)]
    views = {"train": v2.Compose([*weak, *to_pixels, v2.RandomErasing(0.25)]), "test": v2.Compose(to_pixels)}

    def collate(examples: list[dict], view: str = "train") -> dict[str, torch.Tensor]:
        pixel_values = torch.stack([views[view](example["image"].convert("RGB")) for example in examples])
        return {"pixel_values": pixel_values, "labels": torch.tensor([label_of[of["label"]] for of in examples])}

    config = ViTConfig(
        image_size=32, patch_size=4, hidden_size=128, num_hidden_layers=6, num_attention_heads=4,
        intermediate_size=512, id2label=dict(enumerate(PRETRAINED_ON)),
        label2id={name: label for label, name in enumerate(PRETRAINED_ON)},
    )  # fmt: skip
    args = TrainingArguments(
        str(output_dir), num_train_epochs=epochs, per_device_train_batch_size=128, learning_rate=1e-3,
        weight_decay=0.05, warmup_steps=200, lr_scheduler_type="cosine", label_smoothing_factor=0.1,
        remove_unused_columns=False, save_strategy="epoch", save_total_limit=1, logging_steps=50, report_to="none",
        use_cpu=not torch.accelerator.is_available(),
    )  # fmt: skip
    trainer = Trainer(ViTForImageClassification(config), args, collate, images["train"])
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output_dir) if output_dir.is_dir() else None)
    trainer.save_model()
    side = {"height": 32, "width": 32}
    ViTImageProcessor(size=side, image_mean=PIXELS["mean"], image_std=PIXELS["std"]).save_pretrained(output_dir)
    right = 0
    with torch.inference_mode():
        for start in range(0, len(images["test"]), 500):
            rows = range(start, min(start + 500, len(images["test"])))
            batch = collate([images["test"][row] for row in rows], "test")
            predicted = trainer.model.eval()(batch["pixel_values"]).logits.argmax(-1)
            right += int((predicted == batch["labels"]).sum())
    print(f"accuracy on {len(images['test']):,} test images of its classes: {100 * right / len(images['test']):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="of CIFAR's images, where they are not downloaded")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/pretrained/vit"))
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    options = parser.parse_args()
    pretrain(balanced_images(options.data_dir), options.output_dir, options.epochs)


if __name__ == "__main__":
    main()
