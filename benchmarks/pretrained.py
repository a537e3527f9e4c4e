"""Adapts a small Vision Transformer, pretrained on five of CIFAR-10's classes, to the other five, made long-tailed.

    python benchmarks/pretrained.py pretrain --data_dir cifar10                 # half an hour on a core
    python benchmarks/pretrained.py compare --data_dir cifar10 --held_out       # to choose learning rates
    python benchmarks/pretrained.py compare --data_dir cifar10                  # three seeds; an hour on a core

`pretrain` has nothing of this package but the images: `ViTForImageClassification`, trained by the `Trainer` of
transformers on all training images of its five classes. `compare` trains by the user's commands; and for comparison a
`ViTForImageClassification` from the same weights by a plain `Trainer` with class weights, and a student from scratch,
for as long as the slowest of the others. With `--held_out` the test images are training images that the long-tailed
train split leaves out. What is trained already is not trained again; a stopped pretraining goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from interleaved import markdown_table
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
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

from deitlt_hf import ViewTransform, evaluation_view, grouped_accuracy, load_long_tailed_dataset, weak_view
from deitlt_hf.cli.main import main as deitlt
from deitlt_hf.data.columns import labels_of
from deitlt_hf.data.dataset import collate
from deitlt_hf.data.long_tail import class_counts_for_imbalance, class_groups

PRETRAINED_ON = ["airplane", "automobile", "bird", "cat", "deer"]
ADAPTED_TO = ["dog", "frog", "horse", "ship", "truck"]
LARGEST, FACTOR = 2500, 100  # images of the most frequent class, and how many there are for one of the rarest
BOUNDARIES = (2, 3)  # two head classes, one between, two tail classes
HELD_OUT = 300  # of each class
EPOCHS = 8
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}  # of ViT's own image processor


def images_of(classes: list[str], data_dir: str | None) -> dict[str, Dataset]:
    """All training and test images of some classes, labelled in their order."""
    splits = load_long_tailed_dataset("cifar10-lt", imbalance_factor=1, data_dir=data_dir)
    names = splits["train"].features["label"].names
    label_of = {names.index(name): label for label, name in enumerate(classes)}
    chosen = {}
    for name, split in splits.items():
        labels = labels_of(split)
        split = split.select(np.flatnonzero(np.isin(labels, [*label_of])))
        new = [label_of[label] for label in labels_of(split)]
        chosen[name] = split.remove_columns("label").add_column("label", new, feature=ClassLabel(names=classes))
    return chosen


def pretrain(images: dict[str, Dataset], output_dir: Path, epochs: float) -> None:
    """Train, and save model and image processor."""
    set_seed(0)
    weak = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3)]
    to_pixels = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**PIXELS)]
    views = {"train": v2.Compose([*weak, *to_pixels, v2.RandomErasing(0.25)]), "test": v2.Compose(to_pixels)}

    def collate(examples: list[dict], view: str = "train") -> dict[str, torch.Tensor]:
        pixel_values = torch.stack([views[view](example["image"].convert("RGB")) for example in examples])
        return {"pixel_values": pixel_values, "labels": torch.tensor([of["label"] for of in examples])}

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


# What a run is, and the learning rates among which held-out images choose.
RUNS = {
    "full": ("--recipe finetune", ("3e-4", "1e-3")),
    "lora": ("--recipe finetune-lora", ("1e-3", "3e-3")),
    "head": (
        "--recipe finetune --adapt head --layer_decay 1 --num_train_epochs 30 --drw_start_epoch 20",
        ("1e-3", "1e-2"),
    ),
    "full-alone": ("--recipe finetune --distillation_type none --teacher none", ("1e-3",)),
    "plain": ("", ("1e-4", "3e-4", "1e-3")),
    "scratch": (
        "--recipe cifar10-lt-small --distillation_type none --teacher none --label_smoothing_factor 0",
        ("1e-3",),
    ),
}
TITLES = {
    "full": "all weights (`finetune`)",
    "lora": "adapters (`finetune-lora`)",
    "head": "heads alone, on features computed once",
    "full-alone": "all weights, without a teacher",
    "plain": "`Trainer` of transformers, class weights",
    "scratch": "from scratch, logit-adjusted, DRW",
}
CHOSEN = {"full": "1e-3", "lora": "3e-3", "head": "1e-2", "full-alone": "1e-3", "plain": "3e-4", "scratch": "1e-3"}
SHORT_EPOCHS = {"num_train_epochs": 4, "drw_start_epoch": 3}
FROM_SCRATCH = {"num_train_epochs": 6, "drw_start_epoch": 4}  # as long as the slowest of the others


def long_tailed(data_dir: str | None, held_out: bool) -> DatasetDict:
    """The other five classes: the first images of each, fewer from class to class, and images to measure on."""
    images = images_of(ADAPTED_TO, data_dir)
    by_class = [np.flatnonzero(labels_of(images["train"]) == label) for label in range(len(ADAPTED_TO))]
    counts = class_counts_for_imbalance(len(ADAPTED_TO), LARGEST, FACTOR)
    train = np.concatenate([rows[:count] for rows, count in zip(by_class, counts, strict=True)])
    left = np.concatenate([rows[-HELD_OUT:] for rows in by_class])
    test = images["train"].select(left) if held_out else images["test"]
    return DatasetDict(train=images["train"].select(train), test=test)


def run_plain(data: DatasetDict, start: Path, directory: Path, rate: str, seed: int) -> None:
    """Fine-tune by transformers alone, with the class weights N / (classes x images of the class)."""
    set_seed(seed)
    counts = np.bincount(labels_of(data["train"]))
    weights = torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)
    own = v2.Normalize(*_from_imagenets())
    views = {name: v2.Compose([view, own]) for name, view in (("train", weak_view(32)), ("test", evaluation_view(32)))}
    train, test = (data[name].with_transform(ViewTransform({"pixel_values": view})) for name, view in views.items())

    def loss(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits, labels, weights)

    model = ViTForImageClassification.from_pretrained(start, num_labels=len(counts))
    model.classifier.reset_parameters()
    args = TrainingArguments(
        str(directory), num_train_epochs=SHORT_EPOCHS["num_train_epochs"], per_device_train_batch_size=32,
        learning_rate=float(rate), weight_decay=0.05, warmup_steps=0.1, lr_scheduler_type="cosine", seed=seed,
        remove_unused_columns=False, save_strategy="no", report_to="none", disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
    )  # fmt: skip
    trainer = Trainer(model, args, collate, train, compute_loss_func=loss)
    trainer.train()
    predicted = trainer.predict(test)
    groups = class_groups(counts, boundaries=BOUNDARIES)
    metrics = grouped_accuracy(predicted.predictions, predicted.label_ids, groups)
    (directory / "metrics.json").write_text(json.dumps({"experts": {"average": metrics}}))


def _from_imagenets() -> tuple[list[float], list[float]]:
    """Mean and deviation that turn ImageNet's normalisation into the pretrained model's own."""
    pairs = zip(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PIXELS["mean"], PIXELS["std"], strict=True)
    mean, deviation = zip(*(((own - mean) / std, own_std / std) for mean, std, own, own_std in pairs), strict=True)
    return [*mean], [*deviation]


def run_one(kind: str, rate: str, seed: int, root: Path, start: Path, data: Path) -> dict[str, float]:
    """Train if that has not been done; returns the accuracies of the average, and the seconds it took."""
    directory = root / f"{kind}-{rate}-seed{seed}"
    if not (directory / "seconds.json").is_file():
        began = time.perf_counter()
        if kind == "plain":
            directory.mkdir(parents=True, exist_ok=True)
            run_plain(DatasetDict.load_from_disk(str(data)), start, directory, rate, seed)
        else:
            settings = {"head": {}, "scratch": FROM_SCRATCH}.get(kind, SHORT_EPOCHS)
            flags = [*RUNS[kind][0].split(), *(f"--{name}={value}" for name, value in settings.items())]
            if kind != "scratch":
                flags += ["--init_from", str(start), "--image_size", "32"]
            flags += ["--data", str(data), "--learning_rate", rate, "--seed", str(seed), "--save_strategy", "no"]
            flags += [
                "--group_boundaries",
                *map(str, BOUNDARIES),
                "--overwrite",
                "--report_to",
                "none",
                "--disable_tqdm",
                "true",
            ]
            if deitlt(["train", *flags, "--output_dir", str(directory)]):
                raise SystemExit(f"{directory} failed")
        (directory / "seconds.json").write_text(json.dumps(time.perf_counter() - began))
    row = json.loads((directory / "metrics.json").read_text())["experts"]["average"]
    return row | {"seconds": json.loads((directory / "seconds.json").read_text())}


def compare(options: argparse.Namespace) -> None:
    """Print a table of all runs: for each learning rate on held-out images, else the mean over seeds."""
    root = options.output_dir / ("held-out" if options.held_out else "test")
    data = root / "data"
    if not data.is_dir():
        long_tailed(options.data_dir, options.held_out).save_to_disk(str(data))
    rows = []
    for kind in options.only:
        for rate in RUNS[kind][1] if options.held_out else (CHOSEN[kind],):
            found = [run_one(kind, rate, seed, root, options.start, data) for seed in options.seeds]
            cells = [_spread([of[name] for of in found]) for name in ("overall", "head", "mid", "tail")]
            minutes = statistics.mean(of["seconds"] for of in found) / 60
            rows.append([TITLES[kind], rate, *cells, f"{minutes:.1f}"])
            print(rows[-1], flush=True)
    header = ["", "learning rate", "overall", "head", "mid", "tail", "minutes"]
    print(markdown_table([header, *rows]))


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["pretrain", "compare"])
    parser.add_argument("--data_dir", help="of CIFAR's images, where they are not downloaded")
    parser.add_argument("--start", type=Path, default=Path("runs/pretrained/vit"), help="the pretrained model")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/pretrained"))
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="of the pretraining")
    parser.add_argument("--held_out", action="store_true", help="measure on held-out training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=[*RUNS])
    options = parser.parse_args()
    if options.part == "pretrain":
        pretrain(images_of(PRETRAINED_ON, options.data_dir), options.start, options.epochs)
    else:
        compare(options)


if __name__ == "__main__":
    main()
