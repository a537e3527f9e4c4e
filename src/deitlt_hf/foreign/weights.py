"""Checks weights that others made, or that come from a training that diverged."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.foreign.configurations import find_file

_FREE_WEIGHTS = 50_000_000  # so many may be missing in the files, such as those of a new head; 200 MB


def check_finite(model: torch.nn.Module | dict[str, torch.Tensor], source: str) -> None:
    """Refuse weights or buffers with NaN or infinite numbers; `source` names them in the message."""
    state = model.state_dict() if isinstance(model, torch.nn.Module) else model
    wrong = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if wrong:
        raise DeiTLTError(
            f"{source} has NaN or infinite numbers in {len(wrong)} of {len(state)} tensors, first {wrong[0]}; pass a "
            "model whose training went well"
        )


def _is_finite(tensor: Any) -> bool:
    if not isinstance(tensor, torch.Tensor) or tensor.is_meta or not tensor.is_floating_point():
        return True
    part = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return bool(torch.isfinite(part.float() if part.element_size() == 1 else part).all())


def check_size(auto_class: Any, config: PreTrainedConfig, source: str, revision: str | None = None) -> None:
    """Refuse, before memory is used, a configuration with far more weights than the model's files can hold."""
    files = [Path(source, name) for name in os.listdir(source)] if Path(source).is_dir() else []
    files = [file for file in files if file.suffix in (".safetensors", ".bin")]
    whole = None if files else find_file(source, "model.safetensors", revision)
    num_bytes = sum(file.stat().st_size for file in (files if whole is None else [whole]))
    if not num_bytes:
        return
    make = getattr(auto_class, "from_config", None) or auto_class._from_config
    with torch.device("meta"):  # which takes no memory
        model = make(config)
    weights = sum(math.prod(weight.shape) for weight in model.state_dict().values())
    if weights > num_bytes + _FREE_WEIGHTS:
        raise DeiTLTError(
            f"{source}/config.json is of a model of {weights / 1e6:,.0f} million weights, and its files have "
            f"{num_bytes / 1e6:,.1f} MB; pass a directory whose config.json and weights are of the same model"
        )
