"""The files of an adapter that PEFT saved, and the file of classes that this package adds."""

from __future__ import annotations

import os
from pathlib import Path

from transformers import PreTrainedConfig

from deitlt_hf.files import write_json

ADAPTER_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CLASSES_FILE = "classes.json"


def is_adapter(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory holds an adapter and no whole model."""
    return (Path(directory) / ADAPTER_FILE).is_file() and not (Path(directory) / "config.json").is_file()


def save_classes(config: PreTrainedConfig, directory: str | os.PathLike[str]) -> None:
    """Write an adapter's classes beside it, because PEFT saves nothing of the configuration that has them."""
    names = {"id2label": config.id2label, "label2id": config.label2id}
    known = {name: getattr(config, name, None) for name in ("class_counts", "class_groups", "image_size")}
    write_json(Path(directory, CLASSES_FILE), names | {name: value for name, value in known.items() if value})
