"""What a training is said to take, by a clock of which the test decides."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from deitlt_hf.runs import estimate
from deitlt_hf.runs.estimate import TimeEstimate


def said(monkeypatch, capsys, directory: Path, step: float, steps: int, test_images: int = 96, **changed) -> str:
    """What is printed in a training of `steps` steps of 32 images, each of which takes `step` seconds."""
    model = torch.nn.Linear(1000, 1000, bias=False)  # 4 MB
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 1000)).sum().backward()
    optimizer.step()  # from now on it holds 8 MB
    settings = {
        "device": torch.device("cpu"),
        "train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "world_size": 1,
        "dataloader_num_workers": 0,
        "dataloader_prefetch_factor": None,
        "eval_strategy": IntervalStrategy.NO,
        "save_strategy": SaveStrategy.STEPS,
        "save_total_limit": 2,
        "output_dir": str(directory),
    }
    args = SimpleNamespace(**(settings | changed))
    state = SimpleNamespace(
        max_steps=steps, global_step=0, epoch=0.0, num_train_epochs=10, save_steps=steps // 5, eval_steps=None
    )
    trainer = SimpleNamespace(
        model=model, args=args, state=state, eval_dataset=[0] * 96, is_world_process_zero=lambda: True
    )
    callback = TimeEstimate(trainer, test_images=test_images)
    now = [0.0]
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])
    for _ in range(steps):
        now[0] += step
        state.global_step += 1
        callback.on_step_end(args, state, None, optimizer=optimizer)
    monkeypatch.undo()
    return capsys.readouterr().out


def test_the_time_is_that_of_the_steps_left_and_of_the_evaluation(monkeypatch, capsys, tmp_path):
    text = said(monkeypatch, capsys, tmp_path, step=2.0, steps=105)
    # 15 of 105 steps are over: 90 x 2 s, and 96 test images at a third of 2/32 s each, 2 s.
    assert text.startswith(
        "about 3 minutes more on this machine: 90 steps of 32 images, 16 images per second; 2 seconds of it for"
    )
    # The model, and two checkpoints of model and optimizer: 4 + 2 x (4 + 8) MB.
    assert "28 MB of disk for the model and 2 checkpoints" in text
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize(
    ("changed", "steps_left", "seconds_of_evaluation"),
    [
        ({"eval_strategy": IntervalStrategy.EPOCH}, 90, 22),  # ten epochs, and once at the end
        # The test images at the end are others than the 96 validation images of ten epochs: 20 and 4 seconds.
        ({"eval_strategy": IntervalStrategy.EPOCH, "test_images": 192}, 90, 24),
        ({"dataloader_num_workers": 8}, 82, 2),  # 16 batches were fetched ahead, two for a step: 8 steps later
    ],
)
def test_what_changes_it(changed, steps_left, seconds_of_evaluation, monkeypatch, capsys, tmp_path):
    text = said(monkeypatch, capsys, tmp_path, step=2.0, steps=105, **changed)
    assert f"{steps_left} steps of 32 images" in text
    assert f"{seconds_of_evaluation} seconds of it for evaluation" in text


def test_a_long_training_on_a_cpu_is_told_what_makes_it_shorter(monkeypatch, capsys, tmp_path):
    assert "--student_size tiny" in said(monkeypatch, capsys, tmp_path, step=60.0, steps=105)


def test_a_training_of_seconds_has_no_estimate(monkeypatch, capsys, tmp_path):
    assert said(monkeypatch, capsys, tmp_path, step=0.01, steps=105) == ""
    assert said(monkeypatch, capsys, tmp_path, step=2.0, steps=14) == ""
