"""`deitlt convert`: a checkpoint of the reference becomes a directory that `from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deitlt_hf.cli.console import OneLineParser
from deitlt_hf.errors import DeiTLTError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def run(argv: list[str]) -> None:
    """Convert the checkpoint named in `argv`, save it, and print what it was and where it is.

    Raises:
        DeiTLTError: whatever `convert_reference_checkpoint` and `save_model_and_processor` raise, or an unreadable file
            of label names.

    Example:
        >>> from deitlt_hf.cli.convert import run
        >>> run(["checkpoint.pth", "student", "--ema"])  # doctest: +SKIP
    """
    args = _parser().parse_args(argv)

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.hub.conversion import convert_reference_checkpoint, save_model_and_processor

    quiet_libraries()
    model = convert_reference_checkpoint(
        args.file,
        use_ema=args.ema,
        num_attention_heads=args.num_attention_heads,
        label_names=None if args.label_names is None else _read_label_names(args.label_names),
    )
    save_model_and_processor(model, args.out)
    print(f"{args.file}: {_describe(model.config)}{', EMA weights' if args.ema else ''}")
    print(f"saved to {args.out}")


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="deitlt convert",
        description="Convert a .pth checkpoint of the reference (a DeiT-LT student, or a PaCo or LDAM ResNet teacher).",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the .pth or .pth.tar file; which kind it is, it tells")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory to make")
    parser.add_argument("--ema", action="store_true", help="take the moving average of a student's weights")
    parser.add_argument(
        "--num-attention-heads",
        "--num_attention_heads",
        metavar="N",
        type=int,
        help="of a student (default: its hidden size / 64)",
    )
    parser.add_argument(
        "--label-names",
        "--label_names",
        metavar="FILE",
        type=Path,
        help="names of the classes in the checkpoint's order, one a line",
    )
    return parser


def _read_label_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DeiTLTError(
            f"cannot read label names from {path}; pass a UTF-8 text file with one name a line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _describe(config: PreTrainedConfig) -> str:
    if config.model_type == "deit_lt":
        return (
            f"DeiT-LT student, {config.num_hidden_layers} layers, hidden size {config.hidden_size}, "
            f"{config.num_attention_heads} heads, image size {config.image_size}, patch size {config.patch_size}, "
            f"{config.num_labels} classes"
        )
    return f"ResNet-{config.depth} teacher, {config.classifier} classifier, {config.num_labels} classes"
