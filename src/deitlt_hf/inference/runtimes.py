"""Runs a student in PyTorch, in ONNX Runtime or as a torch.export program.

A runtime takes pixel values `(batch, channels, height, width)` float32, and gives the logits of both heads on the CPU.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.attention import attention_maps, gives_attention, run_with_attention
from deitlt_hf.evaluation.evaluate import logits_by_row
from deitlt_hf.foreign.configurations import INDEX_FILE, find_file
from deitlt_hf.inference.loading import load_student, load_student_config
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

ONNX_FILE = "model.onnx"
PROGRAM_FILE = "model.pt2"
INPUT = "pixel_values"
OUTPUTS = ("logits", "cls_logits", "distillation_logits")
INSTALL_ONNX = "pip install 'deitlt-hf[onnx]'"


@dataclass
class HeadOutputs:
    """Both heads' logits, float32 `(batch, classes)`, and, from PyTorch, attention maps `(batch, rows, cols)`."""

    cls_logits: torch.Tensor
    distillation_logits: torch.Tensor
    attention: dict[str, torch.Tensor] | None = None


class TorchRuntime:
    """A student in PyTorch, on the device of its weights; the only runtime that says where the tokens look."""

    name = "torch"

    def __init__(self, model: DeiTLTForImageClassification):
        self.model = model
        self.config = model.config
        self.has_attention = gives_attention(model.config)

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> HeadOutputs:
        pixel_values = pixel_values.to(self.model.device)
        if self.has_attention:
            outputs, weights = run_with_attention(self.model, pixel_values)
            maps = {token: map.cpu() for token, map in attention_maps(weights, self.config).items()}
        else:
            outputs, maps = self.model(pixel_values), None
        return HeadOutputs(outputs.cls_logits.float().cpu(), outputs.distillation_logits.float().cpu(), maps)


class OneHeadRuntime:
    """An image classifier with one head, on the device of its weights: pixel values to logits `(batch, classes)`."""

    name = "torch"
    has_attention = False

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.config = model.config

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        rows = logits_by_row(self.model(pixel_values.to(self.model.device)), self.config)
        return next(iter(rows.values())).cpu()  # of transformers' DeiT with two heads their mean


class FileRuntime:
    """A student in a file that `deitlt export` wrote, on the CPU; loading a torch.export program can run any code."""

    has_attention = False

    def __init__(self, file: Path, config: DeiTLTConfig):
        self.name = "onnx" if file.name == ONNX_FILE else "exported"
        self.config = config
        self._outputs = load_file(file)

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> HeadOutputs:
        _, cls_logits, distillation_logits = self._outputs(pixel_values)
        return HeadOutputs(cls_logits, distillation_logits)


Runtime = TorchRuntime | FileRuntime


def accelerator_or_cpu() -> torch.device | str:
    """The accelerator of this machine, or the CPU."""
    return (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None) or "cpu"


def load_runtime(source: str, revision: str | None = None) -> Runtime:
    """The student in a directory or hub repository, from PyTorch weights if it has them, on the accelerator if any."""
    config = load_student_config(source, revision)  # first, because its errors are the clearest
    if not any(find_file(source, name, revision) for name in ("model.safetensors", INDEX_FILE)):
        if (file := find_file(source, ONNX_FILE, revision)) is not None:
            return FileRuntime(file, config)
        if (file := find_file(source, PROGRAM_FILE, revision)) is not None:
            if not Path(source).is_dir():
                raise DeiTLTError(
                    f"{source} holds a torch.export program, and loading one can run any code; if you trust its owner, "
                    "download it and pass the directory"
                )
            return FileRuntime(file, config)
    return TorchRuntime(load_student(source, revision).to(accelerator_or_cpu()))


def load_file(file: Path) -> Callable[[torch.Tensor], Sequence[torch.Tensor]]:
    """A function that runs an exported student: pixel values to logits `(batch, classes)` in the order of `OUTPUTS`."""
    if file.name == ONNX_FILE:
        session = _onnx_session(file)
        return lambda pixel_values: [*map(torch.from_numpy, session.run(OUTPUTS, {INPUT: pixel_values.numpy()}))]
    try:
        with quiet_exporters():
            return torch.export.load(file).module()
    except Exception as error:  # a damaged archive can make the reader fail in almost any way
        raise DeiTLTError(f"{file} is no torch.export program: {type(error).__name__}; export it anew") from error


def _onnx_session(file: Path):
    """An `onnxruntime.InferenceSession` on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DeiTLTError(f"running {file} needs ONNX Runtime: {INSTALL_ONNX}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone: a user cannot change the graph that warnings are about
    # Threads that spin while they wait take the cores from the decoding of the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise DeiTLTError(f"{file} is no ONNX model that ONNX Runtime loads; export it anew") from error


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Hide the progress messages of exporters; their errors are exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # onnxscript 0.6 prints
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
