"""A new model is one folder with two files, as CONTRIBUTING.md says: it trains, loads and carries its code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import deitlt_hf

CONFIGURATION = """
from transformers import PreTrainedConfig


class TinyNetConfig(PreTrainedConfig):
    model_type = "tiny_net"

    def __init__(self, image_size=32, **kwargs):
        super().__init__(**kwargs)
        self.image_size = image_size


TinyNetConfig.register_for_auto_class()
"""
MODELING = """
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from .configuration_tiny_net import TinyNetConfig


class TinyNetForImageClassification(PreTrainedModel):
    config_class = TinyNetConfig

    def __init__(self, config):
        super().__init__(config)
        self.stem = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Linear(4, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, labels=None, **kwargs):
        logits = self.classifier(self.stem(pixel_values).mean((2, 3)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


TinyNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
"""
TRAIN = """
import deitlt_hf.cli.main, sys
sys.exit(deitlt_hf.cli.main.main(sys.argv[1:]))
"""
LOAD = """
import {first}
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained("run", trust_remote_code={trusts})
AutoImageProcessor.from_pretrained("run")
print(type(model).__module__)
"""


def run(directory: Path, code: str, *argv: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(directory), "HF_HOME": str(directory / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_trained_and_loads_with_this_package_and_without(tmp_path):
    package = tmp_path / "deitlt_hf"
    shutil.copytree(Path(deitlt_hf.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    folder = package / "models/tiny_net"
    folder.mkdir()
    (folder / "configuration_tiny_net.py").write_text(CONFIGURATION)
    (folder / "modeling_tiny_net.py").write_text(MODELING)

    settings = {"architecture": "tiny_net", "data": "digits-lt", "image_size": 16, "num_train_epochs": 1}
    settings |= {"max_steps": 2, "use_cpu": "true", "disable_tqdm": "true", "report_to": "none", "sam_rho": 0}
    settings |= {"dataloader_num_workers": 0, "save_strategy": "no", "output_dir": "run", "loss": "ce"}
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    run(tmp_path, TRAIN, "teacher", *flags)

    saved = tmp_path / "run"
    assert json.loads((saved / "config.json").read_text())["model_type"] == "tiny_net"
    assert (saved / "modeling_tiny_net.py").read_text() == MODELING
    card = (saved / "README.md").read_text()
    assert "An image classifier: tiny_net, for images of 16 pixels" in card
    assert 'from_pretrained("run", trust_remote_code=True)' in card
    assert run(tmp_path, LOAD.format(first="deitlt_hf", trusts=False)).startswith("deitlt_hf.models.tiny_net.")
    shutil.rmtree(package)
    assert run(tmp_path, LOAD.format(first="sys", trusts=True)).startswith("transformers_modules.")
