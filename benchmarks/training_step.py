"""Times DeiTLTTrainer against what one would write without it, and prints the ratios.

- The training step: mixing, teacher, student, loss in the DRW phase, backward and optimiser, against the same step
  written by hand around transformers' `DeiTForImageClassificationWithTeacher`.
- The loop: that of `DeiTLTTrainer.train()`, with its schedule, progress bar, checks and log, against a bare loop that
  takes the handwritten step with our student. Starting `train()` is left out: it happens once per run.

    python benchmarks/training_step.py                                       # about three minutes on two cores
    python benchmarks/training_step.py --device cuda --size base --image-size 224 --patch-size 16 --batch-size 128

Before anything is timed, both sides have to compute the same losses on the same batches.
"""

from __future__ import annotations

import argparse
import copy
import io
import tempfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from interleaved import machine, markdown_table, median_and_quartiles, now, time_in_turns
from timm.data.mixup import Mixup
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher, TrainerCallback

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTConfig,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    class_balanced_weights,
    class_counts_for_imbalance,
)
from deitlt_hf.data.transforms import collate
from deitlt_hf.training.runs import STUDENT_SIZES

CLASSES = 10
CLASS_COUNTS = class_counts_for_imbalance(CLASSES, max_per_class=5000, imbalance_factor=100)
LEARNING_RATE = 5e-4
TEACHER_SIZE = 32  # also for a 224-pixel student, as in the paper on CIFAR
CHECKED_STEPS = 3
TOLERANCE = 1e-4

Batch = dict[str, torch.Tensor]
Step = Callable[[Batch], torch.Tensor]
Result = TypeVar("Result")


class ReadyImages(Dataset):
    """Random images that are tensors already, so that reading them costs next to nothing."""

    def __init__(self, length: int, image_size: int):
        self.length = length
        self.pixel_values = torch.randn(min(length, 256), 3, image_size, image_size)
        self.labels = torch.randint(CLASSES, (len(self.pixel_values),)).tolist()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        index %= len(self.labels)
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index]}


class LoopClock(TrainerCallback):
    """Seconds between the start and the end of the trainer's loop."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = now()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds = now() - self.start


def student_settings(options: argparse.Namespace) -> dict:
    hidden_size, layers, heads = STUDENT_SIZES[options.size]
    return {
        "image_size": options.image_size,
        "patch_size": options.patch_size,
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_labels": CLASSES,
        "layer_norm_eps": 1e-6,
    }


def build_trainer(
    student: DeiTLTForImageClassification, teacher: nn.Module, data: Dataset, options: argparse.Namespace
) -> DeiTLTTrainer:
    """A trainer in the DRW phase that keeps mixing, at a constant learning rate and without checkpoints."""
    args = DeiTLTTrainingArguments(
        output_dir=options.scratch,
        use_cpu=options.device.type == "cpu",
        per_device_train_batch_size=options.batch_size,
        num_train_epochs=1,
        drw_start_epoch=0,
        mixup_in_drw=True,
        learning_rate=LEARNING_RATE,
        min_learning_rate=LEARNING_RATE,
        scale_learning_rate=False,
        warmup_epochs=0,
        repeated_augmentation=1,
        train_sampling_strategy="sequential",
        logging_steps=10,
        save_strategy="no",
        report_to="none",
    )
    return DeiTLTTrainer(student, args, teacher=teacher, class_counts=CLASS_COUNTS, train_dataset=data)


def trainer_step(trainer: DeiTLTTrainer) -> Step:
    """One step of the trainer's own compute, as its loop calls it."""
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.create_optimizer())

    def step(batch: Batch) -> torch.Tensor:
        loss = trainer.training_step(model, batch)
        optimizer.step()
        model.zero_grad()
        return loss

    return step


def handwritten_step(model: nn.Module, teacher: nn.Module, options: argparse.Namespace) -> Step:
    """The same step without this package's trainer, for a model that returns `cls_logits` and `distillation_logits`."""
    device = options.device
    model.to(device).train()
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=CLASSES)
    weights = class_balanced_weights(CLASS_COUNTS).to(device)
    spared = ("cls_token", "distillation_token", "position_embeddings")
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim > 1 and not name.endswith(spared)].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": 0.05}, {"params": groups[False], "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        fused=True,
    )
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()

    def step(batch: Batch) -> torch.Tensor:
        pixel_values, labels = (batch[name].to(device, non_blocking=True) for name in ("pixel_values", "labels"))
        pixel_values, targets = mixup(pixel_values, labels)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                seen = pixel_values
                if seen.shape[-1] != TEACHER_SIZE:
                    seen = F.interpolate(seen, (TEACHER_SIZE, TEACHER_SIZE), mode="bicubic", align_corners=False)
                teacher_classes = teacher(seen).logits.argmax(-1)
            outputs = model(pixel_values)
            cls_loss = F.cross_entropy(outputs.cls_logits, targets)
            distillation_loss = F.cross_entropy(outputs.distillation_logits, teacher_classes, weight=weights)
            loss = 0.5 * cls_loss + 0.5 * distillation_loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def run_steps(step: Step, batches: Iterable[Batch]) -> list[float]:
    """Take a step per batch, on a copy, because the handwritten one mixes in place; returns the losses."""
    losses = [step({name: tensor.clone() for name, tensor in batch.items()}) for batch in batches]
    return torch.stack(losses).tolist()


def check_equal(what: str, ours: Iterable[float], peers: Iterable[float]) -> None:
    for number, (our, peer) in enumerate(zip(ours, peers, strict=True), start=1):
        if not abs(our - peer) <= TOLERANCE:
            raise SystemExit(
                f"{what} {number} differs: {our:.6f} here, {peer:.6f} by hand; the timing would mean nothing"
            )


def seeded(run: Callable[[], Result]) -> Result:
    """Run with the same draws of mixup and cutmix as every other seeded run."""
    np.random.seed(0)
    torch.manual_seed(0)
    return run()


def time_steps(
    student: DeiTLTForImageClassification, teacher: nn.Module, options: argparse.Namespace
) -> list[list[str]]:
    data = ReadyImages(options.batch_size * max(options.steps, CHECKED_STEPS), options.image_size)
    batches = list(DataLoader(data, options.batch_size, collate_fn=collate))
    peer = DeiTForImageClassificationWithTeacher(DeiTConfig(**student_settings(options)))
    peer.load_state_dict(student.state_dict())
    dropping_student = DeiTLTForImageClassification(DeiTLTConfig(**student_settings(options), drop_path_rate=0.1))
    dropping_student.load_state_dict(student.state_dict())
    steps = {
        "ours": trainer_step(build_trainer(copy.deepcopy(student), teacher, data, options)),
        "by hand": handwritten_step(peer, teacher, options),
        "ours, dropping": trainer_step(build_trainer(dropping_student, teacher, data, options)),
    }
    losses = {name: seeded(partial(run_steps, step, batches[:CHECKED_STEPS])) for name, step in steps.items()}
    check_equal("the loss of step", losses["ours"], losses["by hand"])

    def seconds(step: Step) -> float:
        start = now()
        run_steps(step, batches[: options.steps])
        return now() - start

    times = time_in_turns({name: partial(seconds, step) for name, step in steps.items()}, options.rounds)
    like_for_like = _row("training step", times["ours"], times["by hand"], options.steps, _ratio, ">= 1.00")
    # transformers' DeiT has no stochastic depth, so this line says what it costs.
    dropping = _row("with drop path 0.1", times["ours, dropping"], times["by hand"], options.steps, _ratio, "")
    return [like_for_like, dropping]


def time_loops(
    student: DeiTLTForImageClassification, teacher: nn.Module, options: argparse.Namespace
) -> list[list[str]]:
    data = ReadyImages(options.batch_size * options.loop_steps, options.image_size)
    # The same objects train on from round to round, so that only their first losses can be compared.
    clock = LoopClock()
    trainer = build_trainer(copy.deepcopy(student), teacher, data, options)
    trainer.add_callback(clock)
    step = handwritten_step(copy.deepcopy(student), teacher, options)

    def ours() -> tuple[float, float]:
        with redirect_stderr(io.StringIO()):  # the progress bar draws itself, unseen
            loss = trainer.train().training_loss
        return clock.seconds, loss

    def bare() -> tuple[float, float]:
        start = now()
        total = torch.zeros((), device=options.device)
        for batch in DataLoader(data, options.batch_size, collate_fn=collate, drop_last=True):
            total += step(batch)
        return now() - start, total.item() / options.loop_steps

    (_, our_loss), (_, bare_loss) = seeded(ours), seeded(bare)
    check_equal("the mean loss of loop", [our_loss], [bare_loss])
    times = time_in_turns({"ours": lambda: ours()[0], "bare": lambda: bare()[0]}, options.rounds)
    return [_row("loop overhead", times["ours"], times["bare"], options.loop_steps, _overhead, "< 3 %")]


def _ratio(ours: float, peers: float) -> float:
    return peers / ours


def _overhead(ours: float, peers: float) -> float:
    return 100 * (ours - peers) / peers


def _row(
    name: str, ours: list[float], peers: list[float], steps: int, compare: Callable[[float, float], float], aim: str
) -> list[str]:
    """One line of the table; rounds are compared one by one, since a slow moment hits both sides of a round."""
    unit = " %" if compare is _overhead else ""
    result, lower, upper = (f"{value:.2f}{unit}" for value in median_and_quartiles(list(map(compare, ours, peers))))
    times = [f"{1000 * median_and_quartiles(seconds)[0] / steps:.1f}" for seconds in (ours, peers)]
    return [name, *times, result, f"{lower} to {upper}", aim]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(STUDENT_SIZES), default="tiny", help="student (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=32, help="pixels (default: %(default)s)")
    parser.add_argument("--patch-size", type=int, default=4, help="pixels (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (default: %(default)s)")
    parser.add_argument("--teacher-depth", type=int, default=32, help="of the CIFAR ResNet (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns that each side gets (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="of a turn, comparing steps (default: %(default)s)")
    parser.add_argument("--loop-steps", type=int, default=10, help="of a turn, comparing loops (default: %(default)s)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    torch.manual_seed(0)
    student = DeiTLTForImageClassification(DeiTLTConfig(**student_settings(options), drop_path_rate=0.0))
    teacher = CifarResNetForImageClassification(
        CifarResNetConfig(depth=options.teacher_depth, image_size=TEACHER_SIZE, num_labels=CLASSES)
    )
    with tempfile.TemporaryDirectory() as options.scratch:
        rows = time_steps(student, teacher, options) + time_loops(student, teacher, options)
    print(machine(options.device))
    print(
        f"{options.size} student at {options.image_size} pixels, patches of {options.patch_size}, batches of "
        f"{options.batch_size}, ResNet-{options.teacher_depth} teacher; medians of {options.rounds} rounds\n"
    )
    head = ["", "ours, ms per step", "by hand, ms per step", "by hand / ours, or overhead", "middle half", "aim"]
    print(markdown_table([head, *rows]))


if __name__ == "__main__":
    main()
