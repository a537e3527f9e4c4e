"""Trains runs, kills them with SIGKILL at random moments, resumes them, and compares with the run that was not cut.

    python tests/training/killed_runs.py            # 20 runs
    python tests/training/killed_runs.py --runs 2   # one in a save, one in an evaluation

Of the kills, a third each falls into a save, into an evaluation, and anywhere. Whatever a kill leaves under the name of
a checkpoint has to be the undisturbed run's checkpoint of that step, and the final weights have to be its own, bit for
bit. Every other run has loader workers.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification, DeiTLTTrainer, DeiTLTTrainingArguments
from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.data.views import evaluation_view, strong_view
from deitlt_hf.durable.checkpoints import is_complete, newest_complete

ELSEWHERE, SAVE, EVALUATION = "a step", "a save", "an evaluation"
PHASES = [ELSEWHERE, SAVE, EVALUATION]
IMAGES, BATCH, EPOCHS, SAVE_STEPS = 32, 4, 3, 3
RESULT = "final.pt"


class Shared:
    """One byte that a child writes and its parent reads: the phase that it is in."""

    def __init__(self):
        self._memory = mmap.mmap(-1, 1)

    def set(self, phase: str) -> None:
        self._memory[0] = PHASES.index(phase)

    def get(self) -> str:
        return PHASES[self._memory[0]]


class TellsItsPhase(DeiTLTTrainer):
    shared: Shared

    def _save_checkpoint(self, model, trial) -> None:
        self.shared.set(SAVE)
        super()._save_checkpoint(model, trial)
        self.shared.set(ELSEWHERE)

    def evaluate(self, *args, **kwargs):
        self.shared.set(EVALUATION)
        metrics = super().evaluate(*args, **kwargs)
        self.shared.set(ELSEWHERE)
        return metrics


def viewed(view) -> ViewedDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 16, 16, 3), dtype=np.uint8)
    rows = Dataset.from_dict({"image": [Image.fromarray(image) for image in pixels], "label": [0, 1] * (IMAGES // 2)})
    return ViewedDataset(rows, {"pixel_values": view}, "train")


def train(directory: Path, workers: int, shared: Shared, keep: int | None) -> None:
    """In a child: train from the newest complete checkpoint, or from the start, and write all final state."""
    args = DeiTLTTrainingArguments(
        str(directory),
        num_train_epochs=EPOCHS,
        drw_start_epoch=2,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        learning_rate=0.01,
        scale_learning_rate=False,
        ema_decay=0.9,
        evaluate_ema=True,
        distillation_type="none",
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=SAVE_STEPS,
        save_total_limit=keep,
        dataloader_num_workers=workers,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    torch.manual_seed(0)
    shape = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    groups = {"head": [0], "mid": [], "tail": [1]}
    config = DeiTLTConfig(num_labels=2, class_counts=[90, 3], class_groups=groups, drop_path_rate=0.3, **shape)
    trainer = TellsItsPhase(
        DeiTLTForImageClassification(config),
        args,
        train_dataset=viewed(strong_view(16)),
        eval_dataset=viewed(evaluation_view(16)),
    )
    trainer.shared = shared
    for callback in (c for c in trainer.callback_handler.callbacks if type(c).__name__ == "PrinterCallback"):
        trainer.remove_callback(callback)
    trainer.train(resume_from_checkpoint=newest_complete(directory))
    state = {"model": trainer.model.state_dict(), "ema": trainer.ema.weights, "log": trainer.state.global_step}
    torch.save(state | {"optimizer": trainer.optimizer.state_dict()["state"]}, directory / RESULT)


def start(*args) -> int:
    """Fork: a child has everything imported already."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(*args)
            status = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def kill(child: int, shared: Shared, where: str, seconds: float, chance: random.Random) -> tuple[str, bool]:
    """Kill the child at a random moment `where`; returns where it was, and whether it was still alive."""
    deadline = time.monotonic() + chance.uniform(0.0, seconds)
    while time.monotonic() < deadline and not has_ended(child):
        time.sleep(0.001)
    while where != ELSEWHERE and shared.get() != where and not has_ended(child):
        pass
    if where != ELSEWHERE:
        time.sleep(chance.uniform(0.0, 0.03))  # somewhere in it
    was = shared.get()
    os.kill(child, signal.SIGKILL)
    return was, os.WIFSIGNALED(os.waitpid(child, 0)[1])


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def same(first, second) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def check_checkpoints(directory: Path, undisturbed: Path) -> None:
    for checkpoint in directory.glob("checkpoint-*"):
        if not is_complete(checkpoint):
            raise SystemExit(f"{checkpoint.name} is there and not complete: {sorted(os.listdir(checkpoint))}")
        for name in ("model.safetensors", "ema/model.safetensors"):
            if not same(load_file(checkpoint / name), load_file(undisturbed / checkpoint.name / name)):
                raise SystemExit(f"{checkpoint.name}/{name} is not the undisturbed run's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    chance, shared, died = random.Random(options.seed), Shared(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        started = time.monotonic()
        if os.waitpid(start(undisturbed, 0, shared, None), 0)[1] != 0:
            raise SystemExit("the undisturbed run failed")
        seconds = time.monotonic() - started
        expected = torch.load(undisturbed / RESULT)
        for number in range(options.runs):
            directory, workers = Path(folder) / f"run-{number}", 2 * (number % 2)
            alive = False
            while not alive:  # until a kill comes before the end
                shutil.rmtree(directory, ignore_errors=True)
                shared.set(ELSEWHERE)
                child = start(directory, workers, shared, 2)
                was, alive = kill(child, shared, PHASES[(number + 1) % 3], seconds, chance)
            died[was] += 1
            if directory.is_dir():
                check_checkpoints(directory, undisturbed)
            resumed_from = newest_complete(directory)
            if os.waitpid(start(directory, workers, shared, 2), 0)[1] != 0:
                raise SystemExit(f"run {number}, killed in {was}, could not be resumed")
            check_checkpoints(directory, undisturbed)
            left = [path.name for path in directory.glob(".*checkpoint*")]
            if left:
                raise SystemExit(f"run {number} has leftovers: {left}")
            if not same(torch.load(directory / RESULT), expected):
                raise SystemExit(f"run {number}, killed in {was}, ended with other weights than the undisturbed run")
            print(f"run {number}: killed in {was}, resumed from {Path(resumed_from or 'the start').name}", flush=True)
            shutil.rmtree(directory)
    print(f"{options.runs} runs, killed in: {dict(died)}; all ended with the weights of the undisturbed run")


if __name__ == "__main__":
    main()
