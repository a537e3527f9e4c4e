"""Times the evaluation of a student against a plain loop over the same batches, and prints the ratios.

    python benchmarks/evaluation.py        # half a minute on two cores

Ours reduce three predictions per image to class ids and count them by groups: `predict_experts` with `expert_metrics`,
as at the end of a run, and `DeiTLTTrainer.evaluate()`, as during it. The loop takes the largest of three logits.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

import torch
from interleaved import HEAD, compare, machine, markdown_table, now, time_in_turns
from torch import nn
from torch.utils.data import DataLoader
from training_step import CLASS_COUNTS, CLASSES, ReadyImages, build_models, parse

from deitlt_hf import DeiTLTTrainer, DeiTLTTrainingArguments, class_groups, collate, expert_metrics, predict_experts

GROUPS = class_groups(CLASS_COUNTS)
NAMES = [str(index) for index in range(CLASSES)]
BATCHES = 8


@torch.inference_mode()
def plain_loop(student: nn.Module, loader: DataLoader, device: torch.device) -> float:
    """The accuracy of the average in percent."""
    student.eval().to(device)
    right = torch.zeros((), device=device)
    predictions = []
    for batch in loader:
        outputs = student(batch["pixel_values"].to(device, non_blocking=True))
        logits = (outputs.logits, outputs.cls_logits, outputs.distillation_logits)
        predictions.append(torch.stack([each.argmax(-1) for each in logits], dim=-1))
        right += (predictions[-1][:, 0] == batch["labels"].to(device)).sum()
    torch.cat(predictions).cpu()
    return 100 * right.item() / len(loader.dataset)


def contestants(student: nn.Module, data: ReadyImages, options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Functions that evaluate, each of which returns the accuracy of the average in percent."""
    args = DeiTLTTrainingArguments(
        options.scratch,
        use_cpu=options.device.type == "cpu",
        bf16=False,
        distillation_type="none",
        per_device_eval_batch_size=options.batch_size,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = DeiTLTTrainer(student, args, class_groups=GROUPS, eval_dataset=data)
    loader = DataLoader(data, options.batch_size, collate_fn=collate)

    def predicting() -> float:
        predictions, labels = predict_experts(student, loader, device=options.device)
        metrics = expert_metrics(predictions, labels, CLASS_COUNTS, GROUPS, NAMES)
        return metrics["experts"]["average"]["overall"]

    return {
        "predict_experts": predicting,
        "evaluate": lambda: trainer.evaluate()["eval_average_overall"],
        "loop": lambda: plain_loop(student, loader, options.device),
    }


def measure(options: argparse.Namespace) -> list[list[str]]:
    """The lines of the table."""
    student, _ = build_models(options)
    data = ReadyImages(BATCHES * options.batch_size, options.image_size)
    with tempfile.TemporaryDirectory() as options.scratch:
        evaluations = contestants(student, data, options)

        def seconds(evaluate: Callable[[], float]) -> float:
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                start = now()
                evaluate()
                return now() - start

        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            accuracies = {name: evaluate() for name, evaluate in evaluations.items()}
        if max(accuracies.values()) - min(accuracies.values()) > 1e-3:
            raise SystemExit(f"the evaluations differ, {accuracies}; the timing would mean nothing")
        turns = {name: lambda evaluate=evaluate: seconds(evaluate) for name, evaluate in evaluations.items()}
        times = time_in_turns(turns, options.rounds)

    def show(median: float) -> str:
        return f"{len(data) / median:.0f} images/s"

    return [
        compare("evaluation of a run, a plain loop", times["predict_experts"], times["loop"], show, ">= 0.97"),
        compare("Trainer.evaluate(), a plain loop", times["evaluate"], times["loop"], show, ">= 0.97"),
    ]


def main() -> None:
    options = parse()
    rows = measure(options)
    print(f"{machine(options.device)}, medians of {options.rounds} rounds\n")
    print(markdown_table([HEAD, *rows]))


if __name__ == "__main__":
    main()
