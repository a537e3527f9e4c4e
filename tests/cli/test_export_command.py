"""`deitlt export` and `deitlt predict` on what it wrote, as a user types them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.cli.main import main
from deitlt_hf.data.views import image_processor


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("export_command") / "student"
    torch.manual_seed(0)
    config = DeiTLTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        num_labels=3,
        initializer_range=0.2,
    )
    DeiTLTForImageClassification(config).save_pretrained(directory)
    image_processor(16).save_pretrained(directory)
    return directory


def test_export_in_8_bits_and_predict(student, tmp_path, capfd):
    out = tmp_path / "int8"
    disabled = logging.root.manager.disable
    assert main(["export", str(student), str(out), "--int8"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert logging.root.manager.disable == disabled
    lines = printed.out.splitlines()
    assert lines[0].startswith(f"{out / 'model.onnx'}: ")
    assert 0 < float(lines[1].removeprefix("largest difference from PyTorch's logits on random input: ")) < 0.3
    assert float(lines[2].removeprefix("same top class as PyTorch on random input: ").removesuffix(" %")) > 80
    assert "measure the accuracy" in lines[3]
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.onnx", "preprocessor_config.json"]

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    shares = []
    for model, file in ((student, "torch.json"), (out, "onnx.json")):
        assert main(["predict", str(model), str(tmp_path / "a.png"), "--output", str(tmp_path / file)]) == 0
        (result,) = json.loads((tmp_path / file).read_text())
        shares.append({row["name"]: row["average"] for row in result["classes"]})
    assert shares[1] == pytest.approx(shares[0], abs=0.05)
    assert shares[1] != shares[0]


def test_without_a_directory_it_is_called_after_the_model_and_the_format(student, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(student), "--format", "onnx"]) == 0
    assert main(["export", str(student), "--int8"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student-onnx", "student-onnx-int8"]
    assert main(["export", str(student)]) == 2
    assert "student-onnx is not empty" in capfd.readouterr().err


def test_export_as_a_program(student, tmp_path, capfd):
    assert main(["export", str(student), str(tmp_path / "out"), "--format", "torch"]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert [line.split(":")[0] for line in printed.out.splitlines()] == [
        str(tmp_path / "out" / "model.pt2"),
        "largest difference from PyTorch's logits on random input",
        "next",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--format", "tflite"], "unknown format 'tflite'; pass onnx or torch"),
        (["--format", "torch", "--int8"], "int8"),
        (["--foramt", "torch"], "--foramt"),
    ],
)
def test_mistakes_end_in_one_line(student, tmp_path, capsys, more, message):
    try:
        status = main(["export", str(student), str(tmp_path / "out"), *more])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
