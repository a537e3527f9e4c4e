"""The benchmarks run, at sizes that say nothing of speed: those for a GPU on the CPU, and what their tables rest on."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_what_is_for_a_gpu_runs(benchmark_module, capsys):
    on_gpu = benchmark_module("on_gpu")
    flags = "--device cpu --sizes tiny --image-size 32 --batch-size 2 --teacher-depth 20 --steps 2 --workers 0"
    on_gpu.main([*flags.split(), "--no-compile"])
    printed = capsys.readouterr().out
    student, reference = re.findall(r"^\| (DeiT tiny, .*) \|$", printed, flags=re.MULTILINE)
    name, steps, share, whole, waiting = (cell.strip() for cell in student.split("|"))
    assert name == "DeiT tiny, not compiled"
    assert float(steps) > 0
    assert 0 < float(share.removesuffix(" %")) < 100
    assert 0 < float(waiting.removesuffix(" %")) < 100
    speed = float(reference.split("|")[3])
    against = float(re.search(r"settings: ([\d.]+) ", printed)[1])
    assert against == pytest.approx(float(whole) / speed, rel=0.2)  # of rounded figures
    recipe = re.search(r"\| CIFAR-10-LT.*\|", printed)[0].split("|")
    epochs, images, rate, hours = (float(cell.replace(",", "")) for cell in recipe[2:6])
    assert hours == pytest.approx(epochs * images / rate / 3600, rel=0.2)


def test_a_benchmark_that_is_cut_short_has_printed_what_it_measured(benchmark_module, capsys, monkeypatch):
    on_gpu = benchmark_module("on_gpu")

    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(on_gpu, "time_steps", lambda *_: 1234.0)
    monkeypatch.setattr(on_gpu, "time_training", lambda *_: (567.0, 0.25))
    monkeypatch.setattr(on_gpu, "time_reference", cut)
    with pytest.raises(KeyboardInterrupt):
        on_gpu.main("--device cpu --sizes tiny --image-size 32 --no-compile".split())
    row = capsys.readouterr().out.splitlines()[-1].split("|")
    assert [cell.strip() for cell in row if "%" not in cell] == ["", "DeiT tiny, not compiled", "1,234", "567", ""]


def test_ceilings_are_measured(benchmark_module, capsys):
    benchmark_module("ceilings").main("--device cpu --batch-size 4".split())
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(maxsplit=1)[0] for line in lines] == "product copy sending handing strong the".split()
    assert all(float(line[44:54]) > 0 for line in lines)


def test_flops_are_those_of_the_arithmetic(benchmark_module):
    on_gpu = benchmark_module("on_gpu")
    options = argparse.Namespace(size="tiny", image_size=64, patch_size=16, teacher_depth=20)
    student = benchmark_module("training_step").build_models(options)[0]
    tokens, width, layers, classes = 18, 192, 12, 10
    per_token = 4 * width**2 + 8 * width**2  # projections of attention, and the two layers behind it
    attention = 2 * tokens**2 * width
    patches = 16 * (16 * 16 * 3) * width
    # Of the last layer's tokens two are read; the others give keys and values alone.
    last = tokens * 2 * width**2 + 2 * (2 * width**2 + 8 * width**2) + 2 * 2 * tokens * width
    products = (layers - 1) * (tokens * per_token + attention) + last + patches + 2 * width * classes
    assert on_gpu.training_flops(student, 64) == 3 * 2 * products


def test_an_evaluation_times_what_computes_the_same(benchmark_module):
    options = benchmark_module("training_step").parse("--image-size 16 --batch-size 2 --rounds 1".split())
    rows = benchmark_module("evaluation").measure(options)
    assert [row[0] for row in rows] == ["evaluation of a run, a plain loop", "Trainer.evaluate(), a plain loop"]


def test_a_comparison_takes_rounds_in_pairs(benchmark_module):
    compare = benchmark_module("interleaved").compare
    row = compare("step", [1.0, 2.0, 4.0], [2.0, 5.0, 4.0], "{:.0f} s".format, ">= 1.00")
    assert row == ["step", "2 s", "4 s", "2.00", "1.50 to 2.25", ">= 1.00"]
    row = compare("loop", [1.01], [1.0], "{:.2f} s".format, overhead=True)
    assert row == ["loop", "1.01 s", "1.00 s", "1.00 %", "1.00 % to 1.00 %", ""]


def test_linear_cost_is_drawn(benchmark_module, tmp_path):
    scaling = benchmark_module("scaling")
    scaling.draw([(10, 1.0), (100, 9.0)], [(10, 1.0, 1.0, 2.0), (1000, 2.0, 2.0, 200.0)], tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_timms_student_has_both_heads_while_it_trains(benchmark_module):
    training_step = benchmark_module("training_step")
    options = training_step.parse("--image-size 16".split())
    heads = training_step.both_heads(training_step.timms_student(options).train()(torch.zeros(2, 3, 16, 16)))
    assert [tuple(logits.shape) for logits in heads] == [(2, 10), (2, 10)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-40GB", 312e12)],
)
def test_a_peak_is_that_of_the_devices_own_data_sheet(benchmark_module, monkeypatch, name: str, expected: float):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert benchmark_module("on_gpu").peak_flops(torch.device("cuda")) == (expected, "its data sheet")
