"""Times DeiTLTTrainer against what one would write without it, and prints the ratios.

- The training step: mixing, teacher, student, loss in the DRW phase, backward and optimiser, against the same step
  written by hand around transformers' `DeiTForImageClassificationWithTeacher`, which has no stochastic depth, and
  around timm's distilled DeiT with the same stochastic depth, and around the paper's own model, which is timm's with an
  attention that is not fused; against timm's also with `--torch_compile`, which is an argument here.
- The loop: that of `DeiTLTTrainer.train()`, with its schedule, progress bar, checks and log, against a bare loop that
  takes the handwritten step with our student. Starting `train()` is left out: it happens once per run.

    python benchmarks/training_step.py                                       # about three minutes on two cores
    python benchmarks/training_step.py --device cuda --size base --image-size 224 --patch-size 16 --batch-size 128

Before anything is timed, ours and transformers' have to compute the same losses on the same batches; timm's, which
draws other paths to drop, has to have as many weights.
"""

from __future__ import annotations

import argparse
import copy
import io
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from functools import partial
from typing import TypeVar

import numpy as np
import timm
import torch
import torch.nn.functional as F
from interleaved import HEAD, compare, machine, markdown_table, now, time_in_turns
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
    collate,
)
from deitlt_hf.data.suggestion import STUDENT_SIZES

CLASSES = 10
CLASS_COUNTS = class_counts_for_imbalance(CLASSES, max_per_class=5000, imbalance_factor=100)
LEARNING_RATE = 5e-4
TEACHER_SIZE = 32  # also for a 224-pixel student, as in the paper on CIFAR
DROP_PATH_RATE = 0.1
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
    student: DeiTLTForImageClassification,
    teacher: nn.Module,
    data: Dataset | list,
    options: argparse.Namespace,
    torch_compile: bool = False,
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
        torch_compile=torch_compile,
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
    """The same step without this package's trainer, for a model of transformers, ours or timm's."""
    device = options.device
    model.to(device).train()
    teacher.to(device).eval()
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=CLASSES)
    weights = class_balanced_weights(CLASS_COUNTS).to(device)
    spared = ("cls_token", "distillation_token", "position_embeddings", "dist_token", "pos_embed")
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
            cls_logits, distillation_logits = both_heads(model(pixel_values))
            cls_loss = F.cross_entropy(cls_logits, targets)
            distillation_loss = F.cross_entropy(distillation_logits, teacher_classes, weight=weights)
            loss = 0.5 * cls_loss + 0.5 * distillation_loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def both_heads(outputs: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of both heads, as timm's DeiT returns them while it trains, and transformers' and ours always do."""
    return outputs if isinstance(outputs, tuple) else (outputs.cls_logits, outputs.distillation_logits)


def timms_student(options: argparse.Namespace) -> nn.Module:
    """timm's distilled DeiT of the same size, with stochastic depth."""
    model = timm.create_model(
        f"deit_{options.size}_distilled_patch16_224",
        img_size=options.image_size,
        patch_size=options.patch_size,
        num_classes=CLASSES,
        drop_path_rate=DROP_PATH_RATE,
    )
    model.set_distilled_training()
    return model


def papers_student(options: argparse.Namespace) -> nn.Module:
    """The paper's own model: timm's ViT with a second token, whose attention multiplies the matrices one by one."""
    model = timms_student(options)
    for block in model.blocks:
        block.attn.fused_attn = False  # timm had no other attention when the paper's code was written
    return model


def transformers_student(student: DeiTLTForImageClassification, options: argparse.Namespace) -> nn.Module:
    """transformers' distilled DeiT with the student's weights."""
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(**student_settings(options)))
    model.load_state_dict(student.state_dict())
    return model


def dropping(student: DeiTLTForImageClassification, options: argparse.Namespace) -> DeiTLTForImageClassification:
    """The student's copy with stochastic depth."""
    model = DeiTLTForImageClassification(DeiTLTConfig(**student_settings(options), drop_path_rate=DROP_PATH_RATE))
    model.load_state_dict(student.state_dict())
    return model


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
    theirs = timms_student(options)
    check_equal("the number of weights, model", *([sum(map(torch.numel, it.parameters()))] for it in (student, theirs)))
    plain_teacher = copy.deepcopy(teacher)  # the trainer changes the layout of its own
    steps = {
        "ours": trainer_step(build_trainer(copy.deepcopy(student), teacher, data, options)),
        "transformers": handwritten_step(transformers_student(student, options), plain_teacher, options),
        "ours, dropping": trainer_step(build_trainer(dropping(student, options), teacher, data, options)),
        "timm": handwritten_step(theirs, plain_teacher, options),
        "paper": handwritten_step(papers_student(options), plain_teacher, options),
    }
    if can_compile(options.device):
        # With a teacher of its own: the trainer compiles it in place, and the others' teacher is to stay as it is.
        own = copy.deepcopy(teacher)
        compiled = build_trainer(dropping(student, options), own, data, options, torch_compile=True)
        steps["ours, compiled"] = trainer_step(compiled)
    losses = {name: seeded(partial(run_steps, step, batches[:CHECKED_STEPS])) for name, step in steps.items()}
    check_equal("the loss of step", losses["ours"], losses["transformers"])

    def seconds(step: Step) -> float:
        start = now()
        run_steps(step, batches[: options.steps])
        return now() - start

    times = time_in_turns({name: partial(seconds, step) for name, step in steps.items()}, options.rounds)
    show = partial(milliseconds, steps=options.steps)
    rows = [
        compare("training step, transformers' DeiT", times["ours"], times["transformers"], show, ">= 1.08"),
        compare("training step, timm's DeiT, drop path", times["ours, dropping"], times["timm"], show, ">= 1.08"),
        compare("training step, the paper's model", times["ours, dropping"], times["paper"], show, ">= 1.08"),
    ]
    if "ours, compiled" in times:
        rows.append(
            compare("--torch_compile, timm's DeiT as it is", times["ours, compiled"], times["timm"], show, ">= 1.00")
        )
    return rows


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs; on a CPU that is a C++ compiler."""
    return device.type != "cpu" or any(map(shutil.which, ("g++", "clang++")))


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
    show = partial(milliseconds, steps=options.loop_steps)
    return [compare("overhead of the loop, a bare loop", times["ours"], times["bare"], show, "< 3 %", overhead=True)]


def milliseconds(seconds: float, steps: int) -> str:
    return f"{1000 * seconds / steps:.1f} ms"


def build_models(options: argparse.Namespace) -> tuple[DeiTLTForImageClassification, nn.Module]:
    """A student without stochastic depth and its teacher, with random weights."""
    torch.manual_seed(0)
    student = DeiTLTForImageClassification(DeiTLTConfig(**student_settings(options), drop_path_rate=0.0))
    config = CifarResNetConfig(depth=options.teacher_depth, image_size=TEACHER_SIZE, num_labels=CLASSES)
    return student, CifarResNetForImageClassification(config)


def measure(options: argparse.Namespace) -> list[list[str]]:
    """The lines of the table."""
    student, teacher = build_models(options)
    with tempfile.TemporaryDirectory() as options.scratch:
        return time_steps(student, teacher, options) + time_loops(student, teacher, options)


def describe(options: argparse.Namespace) -> str:
    return (
        f"{options.size} student at {options.image_size} pixels, patches of {options.patch_size}, batches of "
        f"{options.batch_size}, ResNet-{options.teacher_depth} teacher; medians of {options.rounds} rounds"
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(STUDENT_SIZES), default="tiny", help="student (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=32, help="pixels (default: %(default)s)")
    parser.add_argument("--patch-size", type=int, default=4, help="pixels (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (default: %(default)s)")
    parser.add_argument("--teacher-depth", type=int, default=32, help="of the CIFAR ResNet (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="turns that each side gets (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="of a turn, comparing steps (default: %(default)s)")
    parser.add_argument("--loop-steps", type=int, default=6, help="of a turn, comparing loops (default: %(default)s)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    rows = measure(options)
    print(machine(options.device))
    print(f"{describe(options)}\n")
    print(markdown_table([HEAD, *rows]))


if __name__ == "__main__":
    main()
