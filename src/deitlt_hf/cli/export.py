"""`deitlt export`: a student for ONNX Runtime, or as a torch.export program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deitlt_hf.cli.console import OneLineParser, quiet_libraries
from deitlt_hf.cli.next_steps import say_next
from deitlt_hf.errors import check_model_is_there


def run(argv: Sequence[str]) -> None:
    parser = OneLineParser(
        prog="deitlt export",
        description="Write a student with its configuration and image processor for another runtime, and check its "
        "logits against PyTorch's. deitlt predict takes the directory.",
    )
    parser.add_argument("model", help="directory or hub id of a student")
    parser.add_argument(
        "out", metavar="OUT", nargs="?", type=Path, help="directory to make (default: the model's name and the format)"
    )
    parser.add_argument("--format", default="onnx", help="onnx, or torch for torch.export (default: %(default)s)")
    parser.add_argument("--int8", action="store_true", help="quantise to 8 bits: smaller, faster, other logits")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub (default: main)")
    options = parser.parse_args(argv)
    check_model_is_there(options.model)

    from deitlt_hf.inference.export import export_model

    quiet_libraries()
    name = f"{Path(options.model).resolve().name}-{options.format}{'-int8' * options.int8}"
    report = export_model(options.model, options.out or name, options.format, options.int8, options.revision)
    print(f"{report.file}: {report.file.stat().st_size / 1e6:.1f} MB")
    print(f"largest difference from PyTorch's logits on random input: {report.largest_difference:.2g}")
    if report.agreement is not None:
        print(f"same top class as PyTorch on random input: {100 * report.agreement:.1f} %")
        print("8 bits change predictions; measure the accuracy on images of your own before relying on them")
    say_next(["predict", options.out or name, "photo.jpg"])
