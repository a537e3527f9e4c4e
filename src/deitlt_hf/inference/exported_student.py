"""A student as exporters need it: pixels in, three tensors out, and nothing that depends on the batch size."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import torch
from torch import nn

from deitlt_hf.evaluation.two_tokens import run_two_tokens
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

INPUT = "pixel_values"
OUTPUTS = ("logits", "cls_logits", "distillation_logits")


class ExportedStudent(nn.Module):
    """A student whose forward takes `pixel_values` alone and returns the tensors named by `OUTPUTS`.

    Example:
        >>> from deitlt_hf import DeiTLTConfig
        >>> config = DeiTLTConfig(
        ...     image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_labels=10
        ... )
        >>> student = ExportedStudent(DeiTLTForImageClassification(config)).eval()
        >>> [output.shape for output in student(torch.zeros(2, 3, 32, 32))]
        [torch.Size([2, 10]), torch.Size([2, 10]), torch.Size([2, 10])]
    """

    def __init__(self, model: DeiTLTForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        cls_logits, distillation_logits, _ = run_two_tokens(self.model, pixel_values)
        average = (cls_logits + distillation_logits) / 2
        logits = {"average": average, "cls": cls_logits, "distillation": distillation_logits}
        # An output that is another output too would lose its name in ONNX, so it is a copy.
        return logits[self.model.config.expert].clone(), cls_logits, distillation_logits


def trace(model: DeiTLTForImageClassification) -> torch.export.ExportedProgram:
    """The student's program for any batch size; the model itself stays as it was.

    Example:
        >>> from deitlt_hf import DeiTLTConfig
        >>> config = DeiTLTConfig(
        ...     image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_labels=10
        ... )
        >>> program = trace(DeiTLTForImageClassification(config).eval()).module()
        >>> program(torch.zeros(5, 3, 32, 32))[0].shape
        torch.Size([5, 10])
    """
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others trace to masks and checks for nan, which cost time
    try:
        with quiet_exporters(), torch.no_grad():
            program = torch.export.export(
                ExportedStudent(model).eval(),
                (torch.zeros(2, *input_shape(model)),),  # with one image the batch size would be taken for a constant
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}},
            )
    finally:
        model.set_attn_implementation(implementation)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and source lines of this machine, which files would carry along
    return program


def input_shape(model: DeiTLTForImageClassification) -> tuple[int, int, int]:
    """`(channels, height, width)` of the model's pixel values."""
    height, width = model.deit.embeddings.image_size
    return model.config.num_channels, height, width


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keep what exporters say of their own progress off the terminal; errors are exceptions anyway."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # onnxscript 0.6 prints
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
