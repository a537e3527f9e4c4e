"""What runs a student: PyTorch, ONNX Runtime or a torch.export program, all from pixels to both heads' logits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.attention import attention_maps
from deitlt_hf.evaluation.two_tokens import run_two_tokens
from deitlt_hf.foreign.configurations import INDEX_FILE, find_file
from deitlt_hf.inference.exported_student import quiet_exporters
from deitlt_hf.inference.loading import load_student, load_student_config
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

ONNX_FILE = "model.onnx"
PROGRAM_FILE = "model.pt2"
INSTALL_ONNX = "pip install 'deitlt-hf[onnx]'"
_WEIGHT_FILES = ("model.safetensors", INDEX_FILE)


@dataclass
class HeadOutputs:
    """Both heads' logits, float32 `(batch, classes)`; attention maps `(batch, rows, cols)` where there are any."""

    cls_logits: np.ndarray
    distillation_logits: np.ndarray
    attention: dict[str, np.ndarray] | None = None


class Runtime(Protocol):
    """Runs a student on `(batch, channels, height, width)` float32 pixel values."""

    name: str
    config: DeiTLTConfig

    def __call__(self, pixel_values: torch.Tensor) -> HeadOutputs: ...


class TorchRuntime:
    """A student in PyTorch, where its weights are; the only runtime that says where the tokens look.

    Example:
        >>> from deitlt_hf import DeiTLTConfig
        >>> config = DeiTLTConfig(
        ...     image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_labels=10
        ... )
        >>> runtime = TorchRuntime(DeiTLTForImageClassification(config).eval())
        >>> runtime(torch.zeros(2, 3, 32, 32)).cls_logits.shape
        (2, 10)
    """

    name = "torch"

    def __init__(self, model: DeiTLTForImageClassification):
        self.model = model
        self.config = model.config

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> HeadOutputs:
        cls_logits, distillation_logits, weights = run_two_tokens(self.model, pixel_values.to(self.model.device))
        maps = {token: map.cpu().numpy() for token, map in attention_maps(weights, self.config).items()}
        return HeadOutputs(cls_logits.float().cpu().numpy(), distillation_logits.float().cpu().numpy(), maps)


class OnnxRuntime:
    """A student that `deitlt export --format onnx` wrote, on the CPU.

    Example:
        >>> runtime = OnnxRuntime("exported/model.onnx", config)  # doctest: +SKIP
    """

    name = "onnx"

    def __init__(self, file: str | os.PathLike[str], config: DeiTLTConfig):
        self.session = onnx_session(file)
        self.config = config

    def __call__(self, pixel_values: torch.Tensor) -> HeadOutputs:
        names = ["cls_logits", "distillation_logits"]
        return HeadOutputs(*self.session.run(names, {"pixel_values": pixel_values.numpy()}))


class ExportedRuntime:
    """A student that `deitlt export --format torch` wrote.

    Loading one can run code that its file brings: torch unpickles parts of it, and its graph names what is called.

    Example:
        >>> runtime = ExportedRuntime("exported/model.pt2", config)  # doctest: +SKIP
    """

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
        return HeadOutputs(cls_logits.numpy(), distillation_logits.numpy())


def onnx_session(file: str | os.PathLike[str]):
    """An `onnxruntime.InferenceSession` on the CPU.

    Raises:
        DeiTLTError: ONNX Runtime is not installed, or the file is no model.

    Example:
        >>> session = onnx_session("exported/model.onnx")  # doctest: +SKIP
    """
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


def load_runtime(source: str, revision: str | None = None) -> Runtime:
    """The student in a directory or hub repository, with whatever runs what lies there; PyTorch weights come first.

    Raises:
        DeiTLTError: there is no model or one of another type, or what would run it is not installed.

    Example:
        >>> load_runtime("demo-output/student").name  # doctest: +SKIP
        'torch'
    """
    config = load_student_config(source, revision)  # first, since it says at once why nothing can be loaded
    if not any(find_file(source, name, revision) for name in _WEIGHT_FILES):
        for name, runtime in ((ONNX_FILE, OnnxRuntime), (PROGRAM_FILE, ExportedRuntime)):
            file = find_file(source, name, revision)
            if file is not None:
                _check_trusted(source, name)
                return runtime(file, config)
    return TorchRuntime(load_student(source, revision).to(_device()))


def _check_trusted(source: str, name: str) -> None:
    if name == PROGRAM_FILE and not Path(source).is_dir():
        raise DeiTLTError(
            f"{source} holds a torch.export program, and loading one can run any code; if you trust its owner, "
            "download it and pass the directory"
        )


def _device() -> torch.device:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
