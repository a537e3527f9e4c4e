"""What runs a student: PyTorch, ONNX Runtime or a torch.export program, all from pixels to both heads' logits."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.attention import attention_maps, run_with_attention
from deitlt_hf.foreign.configurations import INDEX_FILE, find_file
from deitlt_hf.inference.loading import load_student, load_student_config
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

ONNX_FILE = "model.onnx"
PROGRAM_FILE = "model.pt2"
INSTALL_ONNX = "pip install 'deitlt-hf[onnx]'"


@dataclass
class HeadOutputs:
    """Both heads' logits, float32 `(batch, classes)`, and, from PyTorch, attention maps `(batch, rows, cols)`."""

    cls_logits: torch.Tensor
    distillation_logits: torch.Tensor
    attention: dict[str, torch.Tensor] | None = None


class Runtime(Protocol):
    """Runs a student on `(batch, channels, height, width)` float32 pixel values; gives tensors on the CPU."""

    name: str
    config: DeiTLTConfig

    def __call__(self, pixel_values: torch.Tensor) -> HeadOutputs: ...


class TorchRuntime:
    """A student in PyTorch, on the device of its weights; the only runtime that says where the tokens look."""

    name = "torch"

    def __init__(self, model: DeiTLTForImageClassification):
        self.model = model
        self.config = model.config

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> HeadOutputs:
        outputs, weights = run_with_attention(self.model, pixel_values.to(self.model.device))
        maps = {token: map.cpu() for token, map in attention_maps(weights, self.config).items()}
        return HeadOutputs(outputs.cls_logits.float().cpu(), outputs.distillation_logits.float().cpu(), maps)


class OnnxRuntime:
    """A student that `deitlt export --format onnx` wrote, on the CPU."""

    name = "onnx"

    def __init__(self, file: str | os.PathLike[str], config: DeiTLTConfig):
        self.session = onnx_session(file)
        self.config = config

    def __call__(self, pixel_values: torch.Tensor) -> HeadOutputs:
        names = ["cls_logits", "distillation_logits"]
        return HeadOutputs(*map(torch.from_numpy, self.session.run(names, {"pixel_values": pixel_values.numpy()})))


class ExportedRuntime:
    """A student that `deitlt export --format torch` wrote; loading such a file can run any code in it."""

    name = "exported"

    def __init__(self, file: str | os.PathLike[str], config: DeiTLTConfig):
        try:
            with quiet_exporters():
                self.program = torch.export.load(file).module()
        except Exception as error:  # a damaged archive can make the reader fail in almost any way
            raise DeiTLTError(f"{file} is no torch.export program: {type(error).__name__}; export it anew") from error
        self.config = config

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> HeadOutputs:
        _, cls_logits, distillation_logits = self.program(pixel_values)
        return HeadOutputs(cls_logits, distillation_logits)


def load_runtime(source: str, revision: str | None = None) -> Runtime:
    """The student in a directory or hub repository, in the runtime that its files are for; PyTorch weights come first.

    PyTorch runs on the accelerator if there is one.
    """
    config = load_student_config(source, revision)  # first, since it says at once why nothing can be loaded
    if not any(find_file(source, name, revision) for name in ("model.safetensors", INDEX_FILE)):
        if (file := find_file(source, ONNX_FILE, revision)) is not None:
            return OnnxRuntime(file, config)
        if (file := find_file(source, PROGRAM_FILE, revision)) is not None:
            if not Path(source).is_dir():
                raise DeiTLTError(
                    f"{source} holds a torch.export program, and loading one can run any code; if you trust its owner, "
                    "download it and pass the directory"
                )
            return ExportedRuntime(file, config)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return TorchRuntime(load_student(source, revision).to(accelerator or "cpu"))


def onnx_session(file: str | os.PathLike[str]):
    """An `onnxruntime.InferenceSession` on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DeiTLTError(f"running {file} needs ONNX Runtime: {INSTALL_ONNX}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about the graph, which a user cannot change
    # Threads that spin while they wait take the cores from the decoding of the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise DeiTLTError(f"{file} is no ONNX model that ONNX Runtime loads; export it anew") from error


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keep the progress messages of exporters off the terminal; their errors are exceptions anyway."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # onnxscript 0.6 prints
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
