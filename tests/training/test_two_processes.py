"""Two processes on a CPU, with DDP and with FSDP2, against one process that takes the batches of both in turn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import two_process_runs
from timm.data.distributed_sampler import RepeatAugSampler
from transformers import AutoModelForImageClassification
from two_process_runs import (
    BATCH,
    SAVED,
    STEPS,
    Images,
    make_student,
    make_teacher,
    sam_trainer,
    student_trainer,
)

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, DeiTLTError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What two processes end with, each by itself, and what one process ends with."""
    directory = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    teacher = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10, image_size=8)).eval()
    teacher.save_pretrained(directory / "teacher")
    config = Path(__file__).parents[2] / "examples" / "accelerate" / "ddp.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", "0"]
    launched = subprocess.Popen(
        [*command, two_process_runs.__file__, directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    student, sam = student_trainer(directory / "one", processes=1), sam_trainer(directory / "one-sam", processes=1)
    one = {}
    for name, trainer in (("student", student), ("sam", sam)):
        trainer.train()
        one[name] = two_process_runs.outcome(trainer)
    student.save_model(str(directory / "one" / "final"))
    with torch.no_grad():
        one["teacher"] = teacher(Images(4).pixel_values).logits
    output, errors = launched.communicate(timeout=240)
    assert launched.returncode == 0, errors[-3000:]
    both = [torch.load(directory / f"process-{process}.pt", weights_only=False) for process in (0, 1)]
    return SimpleNamespace(one=one, both=both, directory=directory, output=output)


CASES = [("ddp", "student"), ("fsdp", "student"), ("ddp-sam", "sam"), ("fsdp-sam", "sam")]
UNTRAINED = {"student": make_student, "sam": make_teacher}


@pytest.mark.parametrize(("two", "one"), CASES)
def test_two_processes_take_the_steps_of_one(runs, two, one):
    measured, expected = runs.both[0][two], runs.one[one]
    assert len(expected["losses"]) == STEPS
    assert measured["losses"] == pytest.approx(expected["losses"], rel=0, abs=1e-5)
    assert measured["gradient norms"] == pytest.approx(expected["gradient norms"], rel=1e-5)
    torch.testing.assert_close(measured["weights"], expected["weights"], rtol=0, atol=1e-5)
    # They agree on where the steps led, not on where both began: all weights moved a hundred times further.
    for name, start in UNTRAINED[one]().state_dict().items():
        if not name.endswith("k_proj.bias"):  # a softmax ignores it
            assert (expected["weights"][name] - start).abs().max() > 1e-3, name
    if one == "student":
        torch.testing.assert_close(measured["average"], expected["average"], rtol=0, atol=1e-5)
        apart = expected["average"]["cls_classifier.weight"] - expected["weights"]["cls_classifier.weight"]
        assert apart.abs().max() > 1e-4


@pytest.mark.parametrize("two", [two for two, _ in CASES])
def test_both_processes_hold_the_same_model_average_and_log(runs, two):
    first, second = (process[two] for process in runs.both)
    assert first["losses"] == second["losses"]
    for kind in ("weights", "average"):
        torch.testing.assert_close(first[kind], second[kind], rtol=0, atol=0)


def test_each_process_draws_its_own_random_numbers(runs):
    first, second = (process["ddp"]["initial seed"] for process in runs.both)
    assert first != second


def test_together_they_see_the_references_repeated_augmentation(runs):
    sampler, order = RepeatAugSampler(range(300), num_replicas=1, rank=0), []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        order += list(sampler)
    first, second = (process["ddp"]["seen"] for process in runs.both)
    assert len(first) == len(second) == 2 * STEPS
    for batch, shares in enumerate(zip(first, second, strict=True)):
        together = [index for pair in zip(*shares, strict=True) for index in pair]
        assert together == order[2 * BATCH * batch : 2 * BATCH * (batch + 1)]


def test_without_it_each_image_is_seen_once_an_epoch(runs):
    first, second = (process["ddp-sam"]["seen"] for process in runs.both)
    epoch = 256 // (2 * BATCH)
    of_epoch = [index for batch in first[:epoch] + second[:epoch] for index in batch]
    assert sorted(of_epoch) == list(range(256))


@pytest.mark.parametrize(("two", "one"), CASES)
def test_each_test_image_counts_once(runs, two, one):
    """37 images in batches of four: the last batches of two processes are filled up with images seen already."""
    for process in runs.both:
        assert process[two]["metrics"] == pytest.approx(runs.one[one]["metrics"], rel=1e-5)
        if one == "student":
            assert process[two]["predictions"] == runs.one[one]["predictions"]
            assert len(process[two]["predictions"]) == 37


def test_fsdp_computes_in_half_precision_what_ddp_does(runs):
    """With weights and losses in float32, where accelerate's FSDP2 would have both in bfloat16."""
    ddp, fsdp = (runs.both[0][f"{name}-bf16"] for name in ("ddp", "fsdp"))
    assert fsdp["losses"] == pytest.approx(ddp["losses"], rel=1e-6)
    torch.testing.assert_close(fsdp["weights"], ddp["weights"], rtol=0, atol=1e-6)
    assert {weight.dtype for weight in fsdp["weights"].values()} == {torch.float32}
    assert fsdp["losses"][0] != pytest.approx(runs.one["student"]["losses"][0], rel=1e-6)


def test_fsdp_resumes_exactly(runs):
    whole, resumed = runs.both[0]["fsdp"], runs.both[0]["resumed"]
    for kind in ("weights", "average"):
        torch.testing.assert_close(resumed[kind], whole[kind], rtol=0, atol=0)
    assert resumed["losses"] == whole["losses"]
    assert resumed["seen"] == whole["seen"]


@pytest.mark.parametrize("part", [".", "ema"])
def test_what_fsdp_saves_is_what_one_process_saves(runs, part):
    sharded, plain = (runs.directory / kind / "final" / part for kind in ("fsdp", "one"))
    files = [sorted(path.name for path in directory.iterdir() if path.is_file()) for directory in (sharded, plain)]
    assert files[0] == files[1]
    for name in files[0]:
        if not name.endswith((".safetensors", ".bin")):
            assert (sharded / name).read_bytes() == (plain / name).read_bytes(), name
    model, report = AutoModelForImageClassification.from_pretrained(sharded, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = runs.both[0]["fsdp"]["weights" if part == "." else "average"]
    torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_checkpoint_is_written_once_with_the_random_state_of_both(runs, kind):
    run = runs.directory / kind
    assert {path.name for path in run.iterdir()} == {f"checkpoint-{SAVED}", f"checkpoint-{STEPS}", "final"}
    names = {path.name for path in (run / f"checkpoint-{SAVED}").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors", "scheduler.pt", "ema"} <= names
    model = AutoModelForImageClassification.from_pretrained(run / f"checkpoint-{STEPS}")
    torch.testing.assert_close(dict(model.state_dict()), runs.both[0][kind]["weights"], rtol=0, atol=0)


def test_the_log_is_printed_once(runs):
    lines = [line for line in runs.output.splitlines() if line.startswith("{'loss'")]
    assert len(lines) == 4 * STEPS + 2 * 3 + STEPS - SAVED


def test_every_process_has_the_teachers_weights(runs):
    for process in runs.both:
        torch.testing.assert_close(process["teacher"], runs.one["teacher"])


def test_a_checkpoint_of_fsdp_is_not_resumed_without_it(runs):
    trainer = student_trainer(runs.directory / "fsdp", processes=1)
    with pytest.raises(DeiTLTError, match=r"checkpoint-10 was written under FSDP; resume it in the same way"):
        trainer.train(resume_from_checkpoint=str(runs.directory / "fsdp" / f"checkpoint-{SAVED}"))
