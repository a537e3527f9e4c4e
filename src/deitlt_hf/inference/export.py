"""Writes a student for ONNX Runtime or as a torch.export program, and checks what was written against PyTorch."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from transformers.image_processing_utils import BaseImageProcessor

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import METRICS_FILE, RECIPE_FILE, check_is_free, new_directory
from deitlt_hf.hub.pushing import OF_THE_RUN, model_files, public_recipe
from deitlt_hf.inference.exported_student import INPUT, OUTPUTS, input_shape, quiet_exporters, trace
from deitlt_hf.inference.loading import load_image_processor, load_student
from deitlt_hf.inference.onnx_file import quantise_onnx, require_onnx, write_onnx
from deitlt_hf.inference.runtimes import ONNX_FILE, PROGRAM_FILE, onnx_session
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

FORMATS = ("onnx", "torch")
TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 3)
INT8_IMAGES = 32


@dataclass
class ExportReport:
    """What an export wrote, and how far it is from PyTorch.

    Args:
        file: the model's file; configuration and image processor lie beside it.
        largest_difference: of any logit, on random input; in float32 at most 1e-4.
        agreement: share of random inputs, in [0, 1], to which int8 gives the same top class as PyTorch does, over the
            average and both experts; None without int8.

    Example:
        >>> ExportReport(Path("out/model.onnx"), 3e-6).agreement is None
        True
    """

    file: Path
    largest_difference: float
    agreement: float | None = None


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
            without int8, `metrics.json`.
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
    _check(format, int8)
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
        if int8:
            quantise_onnx(file)
            difference, agreement = _compare_int8(model, file)
        _save_plain_json(model, processor, unfinished, int8)
        # What 8 bits do to the accuracy nobody has measured.
        for told in _told_by_run(os.fspath(source), revision, () if int8 else (METRICS_FILE,)):
            is_recipe = told.name == RECIPE_FILE
            (unfinished / told.name).write_text(public_recipe(told) if is_recipe else told.read_text())
    return ExportReport(Path(out) / file.name, difference, agreement)


def _check(format: str, int8: bool) -> None:
    if format not in FORMATS:
        raise DeiTLTError(f"unknown format {format!r}; pass {' or '.join(FORMATS)}")
    if format != "onnx" and int8:
        raise DeiTLTError(f"int8 was asked for with format {format}; pass format onnx, or leave int8 out")
    if format == "onnx":
        require_onnx()


def _check_outputs(model: DeiTLTForImageClassification, file: Path) -> float:
    """The largest difference of any logit between the file and the model's own forward, where it is small."""
    run = _runner(file)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(size, *input_shape(model), generator=generator) for size in CHECKED_BATCHES]
    difference = float(np.max([np.abs(run(batch) - _pytorch(model, batch)).max() for batch in batches]))
    if not difference <= TOLERANCE:  # nan is no small difference
        raise DeiTLTError(
            f"the exported logits differ from PyTorch's by up to {difference:.2g}, more than {TOLERANCE:g}, so nothing "
            "was written; check the model for infinite weights, and try the other format"
        )
    return difference


def _compare_int8(model: DeiTLTForImageClassification, file: Path) -> tuple[float, float]:
    """The largest difference of any logit, and the share of equal top classes, on blurred noise.

    Plain noise has the same few classes for nearly every model; noise of few large spots has more.
    """
    channels, height, width = input_shape(model)
    spots = torch.randn(INT8_IMAGES, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    pixel_values = F.interpolate(spots, size=(height, width), mode="bicubic")
    exported, own = _runner(file)(pixel_values), _pytorch(model, pixel_values)
    return float(np.abs(exported - own).max()), float((exported.argmax(-1) == own.argmax(-1)).mean())


def _runner(file: Path) -> Callable[[torch.Tensor], np.ndarray]:
    """What runs a file: pixel values to `(outputs, batch, classes)`, in the order of `OUTPUTS`."""
    if file.name == ONNX_FILE:
        session = onnx_session(file)
        return lambda pixel_values: np.stack(session.run(list(OUTPUTS), {INPUT: pixel_values.numpy()}))
    program = torch.export.load(file).module()
    return lambda pixel_values: np.stack([logits.detach().numpy() for logits in program(pixel_values)])


@torch.inference_mode()
def _pytorch(model: DeiTLTForImageClassification, pixel_values: torch.Tensor) -> np.ndarray:
    outputs = model(pixel_values)
    return np.stack([outputs[name].numpy() for name in OUTPUTS])


def _told_by_run(source: str, revision: str | None, results: Sequence[str]) -> Iterator[Path]:
    """The files, here or on the hub, that say how a student was trained and what was measured."""
    names = {*OF_THE_RUN, *results}
    if Path(source).is_dir():
        yield from (file for file in model_files(source) if file.name in names)
        return
    for name in sorted(names):
        with suppress(OSError, ValueError):  # not every model has them
            yield Path(hf_hub_download(source, name, revision=revision))


def _save_plain_json(
    model: DeiTLTForImageClassification, processor: BaseImageProcessor, directory: Path, int8: bool
) -> None:
    """Configuration and processor, without references to modeling files, which lie beside PyTorch weights alone."""
    config = copy.deepcopy(model.config)
    config.__dict__.pop("auto_map", None)
    if int8:  # the card says so
        config.exported_precision = "int8"
    config.to_json_file(directory / "config.json", use_diff=True)
    processor.to_json_file(directory / "preprocessor_config.json")
