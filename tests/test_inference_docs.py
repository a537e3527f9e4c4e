"""The Python of docs/inference.md runs as it stands, block after block."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from PIL import Image

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.data.views import image_processor

PAGE = (Path(__file__).parent.parent / "docs" / "inference.md").read_text()


def test_the_pages_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    digits = {index: str(index) for index in range(10)}
    config = DeiTLTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        initializer_range=0.3,
        id2label=digits,
        label2id={name: index for index, name in digits.items()},
        class_groups={"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]},
    )
    DeiTLTForImageClassification(config).save_pretrained("demo-output/student")
    image_processor(16).save_pretrained("demo-output/student")

    predict, export, without_package, evaluate = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    capsys.readouterr()
    exec(predict, {})
    assert len(capsys.readouterr().out.splitlines()) == 2
    with Image.open("attention.png") as drawn:
        assert drawn.size == (256, 256)

    exec(export, {})
    assert capsys.readouterr().out.startswith("exported/model.onnx ")

    assert "deitlt_hf" not in without_package
    exec(without_package, {})
    answers = [line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in answers] == ["average", "CLS expert", "DIST expert"]
    with Image.open("digit.png") as picture:
        inputs = image_processor(16)(picture, return_tensors="pt")
    model = DeiTLTForImageClassification.from_pretrained("demo-output/student").eval()
    with torch.inference_mode():
        outputs = model(**inputs)
    expected = [outputs[name].argmax().item() for name in ("logits", "cls_logits", "distillation_logits")]
    assert [int(answer) for _, answer in answers] == expected

    exec(evaluate, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["average", "cls", "distillation"]
    assert all("tail" in line for line in lines)
