"""Reads a `.pth` file of the reference without running anything that it pickles."""

from __future__ import annotations

import argparse
import pathlib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from deitlt_hf.errors import DeiTLTError

State = dict[str, torch.Tensor]

# What the reference pickles next to its tensors: its command line and accuracies. NumPy 1 and Python before 3.13 write
# other module names than NumPy 2 and Python 3.13. Paths become pure ones, which exist on every system.
_SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    (pathlib.PurePosixPath, "pathlib.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(scalar)) for scalar in (np.bool_, np.int32, np.int64, np.float32, np.float64)),
]


@dataclass(frozen=True)
class ReferenceFile:
    """The weights to convert, and the command line that the reference keeps with a student's."""

    path: Path
    state: State
    args: Any = None

    @property
    def is_student(self) -> bool:
        return "dist_token" in self.state

    @property
    def is_paco(self) -> bool:
        return "encoder_q.conv1.weight" in self.state

    def shape(self, name: str, num_dims: int) -> torch.Size:
        """The shape of a tensor, from which a size of the model follows."""
        if name not in self.state or self.state[name].dim() != num_dims:
            raise DeiTLTError(
                f"{self.path} lacks a tensor {name} of {num_dims} dimensions, so the model's size is unknown"
            )
        return self.state[name].shape


def read_reference_file(path: Path, use_ema: bool = False) -> ReferenceFile:
    """Read a checkpoint with an unpickler that builds only tensors, containers and the listed types.

    `use_ema` takes the weights at `model_ema` instead of those at `model` (students) or `state_dict` (teachers).
    """
    if not path.is_file():
        raise DeiTLTError(f"{path} does not exist or is not a file; pass a .pth checkpoint of the reference")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_SAFE_GLOBALS):
            warnings.simplefilter("ignore")  # torch warns of pickles that it did not write
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the unpickler fail in almost any way
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise DeiTLTError(
                f"{path} pickles {refused.group(1)}, which no checkpoint of the reference holds; nothing of it was "
                "run, pass a file from a source that you trust"
            ) from error
        raise DeiTLTError(
            f"{path} is not a readable checkpoint ({type(error).__name__}): it may be truncated, or no .pth file at all"
        ) from error
    if not isinstance(checkpoint, dict):
        raise DeiTLTError(f"{path} holds a {type(checkpoint).__name__} where a checkpoint is a dict of weights")
    return ReferenceFile(path, _weights(checkpoint, use_ema, path), checkpoint.get("args"))


def _weights(checkpoint: dict[str, Any], use_ema: bool, path: Path) -> State:
    """The tensors to convert, without the prefix that DataParallel gives to every name."""
    keys = ("model_ema",) if use_ema else ("model", "state_dict")
    state = next((checkpoint[key] for key in keys if isinstance(checkpoint.get(key), dict)), None)
    if state is None and use_ema:
        raise DeiTLTError(f"{path} holds no EMA weights (key model_ema); convert its plain weights instead")
    if state is None:
        raise DeiTLTError(
            f"{path} has neither the key model (a student) nor state_dict (a teacher), but "
            f"{', '.join(map(str, list(checkpoint)[:5])) or 'nothing'}; pass a checkpoint of the reference"
        )
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise DeiTLTError(f"{path}: the entry {name!r} of its weights is a {type(tensor).__name__}, not a tensor")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def count_numbers(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the group in `pattern` matches in the names."""
    return len({match.group(1) for match in (re.match(pattern, name) for name in names) if match})
