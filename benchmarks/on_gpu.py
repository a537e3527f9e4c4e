"""Times training on a GPU: images per second, model FLOPs utilisation, the reference's settings, hours of the recipes.

    python benchmarks/on_gpu.py                   # about six minutes on a GPU; prints nothing elsewhere but why
    python benchmarks/on_gpu.py --device cpu --sizes tiny --image-size 32 --batch-size 4 --steps 2 --no-compile

- Steps alone, on a batch that the GPU holds already: images per second and model FLOPs utilisation (forward and
  backward pass of the student, nothing for its teacher), with and without `torch.compile`.
- Whole training, as `deitlt train` does it from CIFAR-10's images at 224 pixels, with the share of waiting for data.
- The reference's settings: timm's PIL pipeline, timm's DeiT, fp16 autocast, no compilation, a synchronisation per step.
- The hours of the paper's recipes at these speeds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, Features, Image
from interleaved import machine, markdown_table, now, processor
from PIL import Image as Pictures
from timm.data import create_transform
from timm.data.mixup import Mixup
from timm.optim import create_optimizer_v2
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from training_step import CLASS_COUNTS, CLASSES, TEACHER_SIZE, build_models, build_trainer, dropping, timms_student

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTTrainingArguments,
    TrainingDataArguments,
    class_balanced_weights,
    load_images,
)
from deitlt_hf.data.suggestion import STUDENT_SIZES
from deitlt_hf.runs.profiling import PREFETCH_FACTOR, WARM_UP_STEPS, profile_training
from deitlt_hf.runs.training import StudentArguments, make_student_trainer

REFERENCE_WORKERS = 10
# Dense bfloat16 or float16 operations per second of the data sheets, by words of the device's name.
PEAK_FLOPS = {
    "H200 NVL": 836e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}
# Epochs and training images of the paper's recipes.
RECIPES = {"CIFAR-10-LT, imbalance factor 100": (1200, 12_406), "ImageNet-LT": (1400, 115_846)}


def peak_flops(device: torch.device) -> tuple[float, str]:
    """Operations per second that the device could do, and where the number is from."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    words = name.replace("-", " ").split()
    for part, flops in PEAK_FLOPS.items():
        if device.type == "cuda" and all(word in words for word in part.split()):
            return flops, "its data sheet"
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    matrix @ matrix
    start = now()
    for _ in range(10):
        matrix @ matrix
    return 10 * 2 * size**3 / (now() - start), f"products of {size} x {size} matrices"


def training_flops(model: nn.Module, image_size: int) -> int:
    """Operations of an image's forward and backward pass, the backward pass being twice the forward pass."""
    model.set_attn_implementation("eager")  # torch's counter misses the CPU's fused attention
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, image_size, image_size))
    return 3 * counter.get_total_flops()


def images_per_second(step: Callable[[], object], options: argparse.Namespace, warm_up: int = WARM_UP_STEPS) -> float:
    for _ in range(warm_up):
        step()
    start = now()
    for _ in range(options.steps):
        step()
    return options.steps * options.batch_size / (now() - start)


def time_steps(size: str, compiled: bool, options: argparse.Namespace, teacher: nn.Module | None = None) -> float:
    """Images per second of the trainer's step on a batch that is where the model is."""
    options.size = size
    student, small_teacher = build_models(options)
    batch = {
        "pixel_values": torch.randn(options.batch_size, 3, options.image_size, options.image_size),
        "labels": torch.randint(CLASSES, (options.batch_size,)),
    }
    batch = {name: tensor.to(options.device) for name, tensor in batch.items()}
    with tempfile.TemporaryDirectory() as options.scratch:
        model = dropping(student, options)
        trainer = build_trainer(model, teacher or small_teacher, [batch], options, torch_compile=compiled)
        prepared, optimizer = trainer.accelerator.prepare(trainer.model, trainer.create_optimizer())

        def step() -> None:
            trainer.training_step(prepared, dict(batch))
            optimizer.step()
            prepared.zero_grad()

        speed = images_per_second(step, options)
    torch.compiler.reset()
    return speed


def write_cifar(folder: Path, count: int) -> Path:
    """Random images in CIFAR's size, whose reading and augmentation cost what CIFAR's do."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(number) for number in range(CLASSES)])})
    labels = [index % CLASSES for index in range(count)]
    Dataset.from_dict({"image": list(pixels), "label": labels}, features=features).to_parquet(folder / "train.parquet")
    return folder / "train.parquet"


def time_training(size: str, compiled: bool, options: argparse.Namespace) -> tuple[float, float]:
    """Images per second of a whole training on CIFAR's images, and the share of the time that waits for them."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        teacher = CifarResNetForImageClassification(
            CifarResNetConfig(depth=options.teacher_depth, id2label={i: str(i) for i in range(CLASSES)})
        )
        teacher.save_pretrained(folder / "teacher")
        data = TrainingDataArguments(
            data=str(write_cifar(folder, max(4096, 8 * options.batch_size) if options.device.type == "cuda" else 256)),
            image_size=options.image_size,
        )
        args = DeiTLTTrainingArguments(
            str(folder / "student"),
            use_cpu=options.device.type == "cpu",
            per_device_train_batch_size=options.batch_size,
            torch_compile=compiled,
            dataloader_num_workers=options.workers,
            dataloader_persistent_workers=True,
            disable_tqdm=True,
            report_to="none",
        )
        student = StudentArguments(teacher=str(folder / "teacher"), student_size=size, patch_size=options.patch_size)
        trainer = make_student_trainer(data, student, args, load_images(data))
        profile = profile_training(trainer, options.steps)
    torch.compiler.reset()
    return 1000 * profile.images / profile.step, profile.milliseconds["data"] / profile.step


class Cifar(torch.utils.data.Dataset):
    """PIL images in memory, as torchvision's CIFAR gives them, under timm's strong augmentation."""

    def __init__(self, image_size: int, length: int):
        pixels = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
        self.images = [Pictures.fromarray(image) for image in pixels]
        self.length = length
        self.transform = create_transform(
            image_size,
            is_training=True,
            color_jitter=0.3,
            auto_augment="rand-m9-mstd0.5-inc1",
            interpolation="bicubic",
            re_prob=0.25,
            re_mode="pixel",
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index % len(self.images)]), index % CLASSES


def time_reference(size: str, options: argparse.Namespace) -> float:
    """Images per second with the reference's settings."""
    options.size = size
    device, is_cuda = options.device, options.device.type == "cuda"
    model = timms_student(options).to(device).train()
    teacher = build_models(options)[1].to(device).eval()
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=CLASSES)
    weights = class_balanced_weights(CLASS_COUNTS).to(device)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05)
    scaler = torch.amp.GradScaler(device.type, enabled=is_cuda)
    workers = min(REFERENCE_WORKERS, options.workers)
    warm_up = WARM_UP_STEPS + workers * PREFETCH_FACTOR
    data = Cifar(options.image_size, (warm_up + options.steps) * options.batch_size)
    loader = DataLoader(data, options.batch_size, shuffle=True, num_workers=workers, pin_memory=is_cuda, drop_last=True)

    def steps() -> Iterator[float]:
        for pixel_values, labels in loader:
            pixel_values, labels = (it.to(device, non_blocking=True) for it in (pixel_values, labels))
            pixel_values, targets = mixup(pixel_values, labels)
            with torch.autocast(device.type, torch.float16, enabled=is_cuda):
                cls_logits, distillation_logits = model(pixel_values)
                with torch.no_grad():
                    seen = F.interpolate(pixel_values, (TEACHER_SIZE, TEACHER_SIZE), mode="bicubic")
                    classes = teacher(seen).logits.argmax(-1)
                loss = 0.5 * F.cross_entropy(cls_logits, targets)
                loss = loss + 0.5 * F.cross_entropy(distillation_logits, classes, weight=weights)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            yield loss.item()  # the reference looks at the loss of every step

    taken = steps()
    return images_per_second(lambda: next(taken), options, warm_up)


HEAD = ["", "images/s, steps alone", "of the peak", "images/s, whole training", "of it waiting for data"]


def measure(options: argparse.Namespace) -> None:
    """Print the tables, in Markdown, line by line: a run that is cut short keeps what it measured."""
    flops, source = peak_flops(options.device)
    say(
        f"{options.image_size} pixels, batches of {options.batch_size}, {options.workers} workers; the peak, "
        f"{flops / 1e12:.1f} TFLOP/s, is from {source}\n"
    )
    say(*markdown_table([HEAD]).splitlines())
    compilations = (False, True) if options.compile else (False,)
    for size in options.sizes:
        options.size = size
        needed = training_flops(build_models(options)[0], options.image_size)
        for compiled in compilations:
            steps = time_steps(size, compiled, options)
            whole, waiting = time_training(size, compiled, options)
            name = f"DeiT {size}, {'compiled' if compiled else 'not compiled'}"
            share = f"{100 * steps * needed / flops:.1f} %"
            say_row(name, f"{steps:,.0f}", share, f"{whole:,.0f}", f"{100 * waiting:.1f} %")
    largest = options.sizes[-1]
    reference = time_reference(largest, options)
    say_row(f"DeiT {largest}, reference's settings", "", "", f"{reference:,.0f}", "")
    say(f"\nwhole training of DeiT {largest} against the reference's settings: {whole / reference:.2f} (aim: >= 1.5)\n")
    with_resnet50 = time_steps(largest, compilations[-1], options, teacher=resnet50(options))
    speeds = dict(zip(RECIPES, (whole, with_resnet50), strict=True))
    hours = [
        [name, f"{epochs:,}", f"{images:,}", f"{speeds[name]:,.0f}", f"{epochs * images / speeds[name] / 3600:,.1f}"]
        for name, (epochs, images) in RECIPES.items()
    ]
    say(
        markdown_table([["recipe", "epochs", "images", "images/s", "hours on this device"], *hours]),
        f"\nDeiT {largest}; ImageNet-LT with a ResNet-50 teacher, provided that the images arrive in time",
    )


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


def say_row(name: str, *cells: str) -> None:
    """A line of the table, as wide as its head."""
    widths = map(len, HEAD[1:])
    say(f"| {' | '.join([name, *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])} |")


def resnet50(options: argparse.Namespace) -> nn.Module:
    from deitlt_hf.teachers.build import make_classifier

    id2label = build_models(options)[0].config.id2label
    label_maps = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    name = "resnet50" if options.device.type == "cuda" else "resnet18"  # elsewhere only to see that it runs
    return make_classifier(
        architecture=name, image_size=options.image_size, label_maps=label_maps, classifier="linear", depth=32
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="default: %(default)s")
    parser.add_argument("--sizes", nargs="+", choices=list(STUDENT_SIZES), default=list(STUDENT_SIZES))
    parser.add_argument("--image-size", type=int, default=224, help="pixels (default: %(default)s)")
    parser.add_argument("--patch-size", type=int, default=16, help="pixels (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step (default: %(default)s)")
    parser.add_argument("--teacher-depth", type=int, default=32, help="of the CIFAR ResNet (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="that are timed (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=cores, help="that read images (default: %(default)s)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU here, so that there are no figures of one")
        return
    say(f"{machine(options.device)}\n")
    measure(options)


if __name__ == "__main__":
    main()
