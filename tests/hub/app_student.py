"""A student for the tests of the app: small, of three classes, and not undecided between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.data.views import image_processor

CAPTIONS = {
    "<i>owl</i>": "head: <i>owl</i> (1,200 training images)",
    "рысь": "mid: рысь (30 training images)",
    "fox": "tail: fox (1 training image)",
}


def app_config() -> DeiTLTConfig:
    return DeiTLTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        initializer_range=0.2,
        id2label=dict(enumerate(CAPTIONS)),
        label2id={name: index for index, name in enumerate(CAPTIONS)},
        class_counts=[1200, 30, 1],
        class_groups={"head": [0], "mid": [1], "tail": [2]},
    )


def save_student(directory: Path) -> None:
    torch.manual_seed(0)
    DeiTLTForImageClassification(app_config()).save_pretrained(directory)
    image_processor(32).save_pretrained(directory)


def colourful(width: int, height: int) -> Image.Image:
    """A picture whose sides and corners differ."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((255 * np.stack([x, y, 1 - x * y], axis=-1)).astype(np.uint8))
