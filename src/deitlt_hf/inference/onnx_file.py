"""A student as an ONNX file, in float32 or with its layers' matrix products in 8 bits."""

from __future__ import annotations

import os

import torch

from deitlt_hf import __version__
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import whole_file
from deitlt_hf.inference.exported_student import INPUT, OUTPUTS, quiet_exporters, trace
from deitlt_hf.inference.runtimes import INSTALL_ONNX
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

OPSET = 20  # the first with Gelu


def require_onnx() -> None:
    """Raise `DeiTLTError` where a library that writes or runs ONNX is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DeiTLTError(f"exporting to ONNX needs {error.name}: {INSTALL_ONNX}") from error


def write_onnx(model: DeiTLTForImageClassification, file: str | os.PathLike[str]) -> None:
    """Write a student's ONNX file: input `pixel_values` of any batch size, three outputs, opset 20.

    Its metadata say what it is, and which version of this package wrote it.

    Example:
        >>> write_onnx(load_student("demo-output/student"), "model.onnx")  # doctest: +SKIP
    """
    with quiet_exporters():
        program = torch.onnx.export(
            trace(model),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes={INPUT: {0: "batch"}},  # traced already; here for the name alone
            verbose=False,
        )
    program.model.producer_name, program.model.producer_version = "deitlt_hf", __version__
    height, width = model.deit.embeddings.image_size
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
    """Replace an ONNX file by one whose layers multiply in 8 bits, with scales of the activations found while it runs.

    The patch projection and the heads stay in float32: they are a small part of the work, the first runs slower in
    8 bits, and the second decide.

    Example:
        >>> quantise_onnx("model.onnx")  # doctest: +SKIP
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Before it quantises, ONNX Runtime makes each Gemm, which are the heads, a MatMul of this name.
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
