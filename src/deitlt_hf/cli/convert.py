"""`deitlt convert`: a checkpoint of the reference becomes a directory that `from_pretrained` loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deitlt_hf.cli.console import OneLineParser, quiet_libraries
from deitlt_hf.cli.next_steps import say_next


def run(argv: Sequence[str]) -> None:
    parser = OneLineParser(
        prog="deitlt convert",
        description="Convert a .pth checkpoint of the reference: a DeiT-LT student, or a ResNet teacher trained with "
        "PaCo, LDAM or cross-entropy.",
    )
    add, file = parser.add_argument, {"metavar": "FILE", "type": Path}
    add("file", **file, help="the .pth or .pth.tar file; the kind is detected")
    add("out", metavar="OUT", type=Path, help="directory to make")
    add("--ema", action="store_true", help="take the moving average of a student's weights")
    heads = "a student's attention heads (default: from the model's name in the file, else hidden size / 64)"
    add("--num_attention_heads", metavar="N", type=int, help=heads)
    names = "names of the classes in the data set's order, one a line (default: LABEL_0, LABEL_1, ...)"
    add("--label_names", **file, help=names)
    add(
        "--class_list",
        **file,
        help="the data set's training list, `path label` on each line, to count the classes: for files of ImageNet-LT "
        "and iNaturalist-2018 that do not hold the order of their classes",
    )
    order = "the data set's index of each of the file's classes, one a line, where it is known"
    add("--class_order", **file, help=order)
    args = parser.parse_args(argv)

    from deitlt_hf.reference.class_order import read_class_counts, read_class_order, read_lines
    from deitlt_hf.reference.convert import convert_and_describe, save_model_and_processor
    from deitlt_hf.reference.normalisation import normalisation_of

    quiet_libraries()
    names = None if args.label_names is None else read_lines(args.label_names, "label names")
    model, description = convert_and_describe(
        args.file,
        use_ema=args.ema,
        num_attention_heads=args.num_attention_heads,
        label_names=None if names is None else [name.strip() for name in names],
        class_counts=None if args.class_list is None else read_class_counts(args.class_list),
        class_order=None if args.class_order is None else read_class_order(args.class_order),
    )
    save_model_and_processor(model, args.out)
    # Printed because teachers and students were trained with pixels normalised in different ways.
    pixels = f"pixels normalised as {normalisation_of(model.config).name}'s"
    print(f"{args.file}: {description}{', EMA weights' if args.ema else ''}, {pixels}")
    print(f"saved to {args.out}")
    say_next(["evaluate", args.out, "--data", "DATA"])
