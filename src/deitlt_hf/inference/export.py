"""Writes a student for ONNX Runtime or as a torch.export program, and checks what was written against PyTorch."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from deitlt_hf import __version__
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.analysis.vit import eager_attention
from deitlt_hf.evaluation.attention import sides
from deitlt_hf.files import CALIBRATION_FILE, METRICS_FILE, RECIPE_FILE, check_is_free, new_directory, whole_file
from deitlt_hf.foreign.configurations import find_file
from deitlt_hf.hub.pushing import OF_THE_RUN, model_files, public_recipe
from deitlt_hf.inference.loading import load_image_processor, load_student
from deitlt_hf.inference.runtimes import (
    INPUT,
    INSTALL_ONNX,
    ONNX_FILE,
    OUTPUTS,
    PROGRAM_FILE,
    load_file,
    quiet_exporters,
)
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

OPSET = 20  # of ONNX, the first with Gelu
FORMATS = ("onnx", "torch")
TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 3)
INT8_IMAGES = 32


@dataclass
class ExportReport:
    """What an export wrote, and how far it is from PyTorch."""

    file: Path  # configuration and image processor lie beside it
    largest_difference: float  # of any logit, on random input; in float32 at most 1e-4
    agreement: float | None = None  # with int8: share in [0, 1] of equal top classes, of the average and both experts


def export_model(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    format: str = "onnx",
    int8: bool = False,
    revision: str | None = None,
) -> ExportReport:
    """Write a student, with its configuration and image processor, for another runtime than transformers.

    The model takes `pixel_values` `(batch, channels, height, width)` float32 of any batch size, and has three outputs
    `(batch, classes)`: `logits` (those of the configuration's expert), `cls_logits` and `distillation_logits`. They
    have to equal the model's own in PyTorch to 1e-4, on random input of two batch sizes; otherwise nothing is written.

    Args:
        source: a student's directory or hub id.
        out: directory to make; it must be absent or empty. It gets `model.onnx` or `model.pt2`, `config.json`,
            `preprocessor_config.json`, and what its card is written from: the run's `recipe.yaml`, `run.json` and,
            without int8, `metrics.json` and `calibration.json`.
        format: `"onnx"`, or `"torch"` for a program of `torch.export`.
        int8: quantise the layers' matrix products dynamically, weights and activations in 8 bits (ONNX only). Faster
            and a quarter of the size, but it changes the logits: measure the accuracy before relying on it.
        revision: branch, tag or commit of a hub repository, by default its main branch.

    Returns:
        What was measured.

    Raises:
        DeiTLTError: an unknown format, int8 in another than ONNX, an `out` that is not free, no student at `source`, a
            missing library, or logits that differ.

    Example:
        >>> export_model("demo-output/student", "exported").largest_difference < 1e-4  # doctest: +SKIP
        True
    """
    if format not in FORMATS:
        raise DeiTLTError(f"unknown format {format!r}; pass {' or '.join(FORMATS)}")
    if format != "onnx" and int8:
        raise DeiTLTError(f"int8 was asked for with format {format}; pass format onnx, or leave int8 out")
    if format == "onnx":
        require_onnx()
    check_is_free(out)
    model = load_student(os.fspath(source), revision).float()
    processor = load_image_processor(os.fspath(source), revision)
    with new_directory(out) as unfinished:
        if format == "torch":
            file = unfinished / PROGRAM_FILE
            with quiet_exporters():
                torch.export.save(trace(model), file)
        else:
            file = unfinished / ONNX_FILE
            write_onnx(model, file)
        difference = _check_outputs(model, file)
        agreement = None
        config = copy.deepcopy(model.config)
        config.__dict__.pop("auto_map", None)  # an export has no modeling files
        if int8:
            quantise_onnx(file)
            difference, agreement = _compare_int8(model, file)
            config.exported_precision = "int8"  # the card says so
        config.to_json_file(unfinished / "config.json", use_diff=True)
        processor.to_json_file(unfinished / "preprocessor_config.json")
        # 8 bits may have another accuracy.
        names = OF_THE_RUN if int8 else (*OF_THE_RUN, METRICS_FILE, CALIBRATION_FILE)
        if Path(source).is_dir():
            files = [of_run for of_run in model_files(source) if of_run.name in names]
        else:
            files = [of_run for name in names if (of_run := find_file(os.fspath(source), name, revision))]
        for of_run in files:
            text = public_recipe(of_run) if of_run.name == RECIPE_FILE else of_run.read_text()
            (unfinished / of_run.name).write_text(text)
    return ExportReport(Path(out) / file.name, difference, agreement)


def _check_outputs(model: DeiTLTForImageClassification, file: Path) -> float:
    """The largest difference of any logit between the file and the model's own forward; a large one is an error."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(size, *input_shape(model), generator=generator) for size in CHECKED_BATCHES]
    # Tensors' max keeps nan, Python's does not.
    difference = torch.stack([(out - own).abs().max() for out, own in _outputs(model, file, batches)]).max().item()
    if not difference <= TOLERANCE:  # nan is no small difference
        raise DeiTLTError(
            f"the exported logits differ from PyTorch's by up to {difference:.2g}, more than {TOLERANCE:g}, so nothing "
            "was written; check the model for infinite weights, and try the other format"
        )
    return difference


def _compare_int8(model: DeiTLTForImageClassification, file: Path) -> tuple[float, float]:
    """The largest difference of any logit, and the share of equal top classes, on blurred noise."""
    # On plain noise nearly every model gives the same few classes; on noise of few large spots it gives more.
    channels, height, width = input_shape(model)
    spots = torch.randn(INT8_IMAGES, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    pixel_values = F.interpolate(spots, size=(height, width), mode="bicubic")
    ((exported, own),) = _outputs(model, file, [pixel_values])
    return (exported - own).abs().max().item(), (exported.argmax(-1) == own.argmax(-1)).double().mean().item()


@torch.inference_mode()
def _outputs(
    model: DeiTLTForImageClassification, file: Path, batches: list[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each batch what the file and the model give, `(outputs, batch, classes)` in the order of `OUTPUTS`."""
    run = load_file(file)
    return [(torch.stack([*run(batch)]), torch.stack([model(batch)[name] for name in OUTPUTS])) for batch in batches]


class ExportedStudent(nn.Module):
    """A student that takes only `pixel_values` and returns the three tensors named by `OUTPUTS`."""

    def __init__(self, model: DeiTLTForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        outputs = self.model(pixel_values)
        # A tensor that is two outputs would lose one of its names in ONNX, so this is a copy.
        return outputs.logits.clone(), outputs.cls_logits, outputs.distillation_logits


def trace(model: DeiTLTForImageClassification) -> torch.export.ExportedProgram:
    """The student's program for any batch size; the model is not changed."""
    # Other implementations of attention also trace masks and checks for nan, which cost time.
    with eager_attention(model), quiet_exporters(), torch.no_grad():
        program = torch.export.export(
            ExportedStudent(model).eval(),
            (torch.zeros(2, *input_shape(model)),),  # a batch size of 1 would be traced as a constant
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}},
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the user's machine, which the file would show to others
    return program


def input_shape(model: DeiTLTForImageClassification) -> tuple[int, int, int]:
    """`(channels, height, width)` of the model's pixel values."""
    height, width = sides(model.config.image_size)
    return model.config.num_channels, height, width


def require_onnx() -> None:
    """Raise `DeiTLTError` where a library that writes or runs ONNX is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DeiTLTError(f"exporting to ONNX needs {error.name}: {INSTALL_ONNX}") from error


def write_onnx(model: DeiTLTForImageClassification, file: str | os.PathLike[str]) -> None:
    """Write a student's ONNX file: input `pixel_values` of any batch size, three outputs, opset 20."""
    with quiet_exporters():
        program = torch.onnx.export(
            trace(model),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes={INPUT: {0: "batch"}},  # only for the name: it is traced already
            verbose=False,
        )
    program.model.producer_name, program.model.producer_version = "deitlt_hf", __version__
    height, width = sides(model.config.image_size)
    program.model.metadata_props.update(
        {
            "model_type": model.config.model_type,
            "image_size": f"{height} x {width}",
            "expert": model.config.expert,
            "opset": str(OPSET),
            "deitlt_hf_version": __version__,
        }
    )
    program.save(os.fspath(file), external_data=False)


def quantise_onnx(file: str | os.PathLike[str]) -> None:
    """Replace an ONNX file by one whose layers multiply in 8 bits, with the activations' scales found while it runs.

    The patch projection and the heads stay in float32: they are little work, the projection is slower in 8 bits, and
    the heads decide.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The heads are the only Gemms. Before it quantises, ONNX Runtime makes each a MatMul of this name.
    heads = [f"{node.name}_MatMul" for node in onnx.load(file).graph.node if node.op_type == "Gemm"]
    with whole_file(file) as unfinished, quiet_exporters():
        quantize_dynamic(
            os.fspath(file),
            unfinished,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=heads,
            per_channel=True,
            reduce_range=True,  # 7 bits: products of 8 overflow on processors without VNNI instructions
            weight_type=QuantType.QInt8,
        )
