"""`deitlt predict`: what both experts say of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deitlt_hf.cli.console import OneLineParser


def run(argv: Sequence[str]) -> None:
    parser = OneLineParser(
        prog="deitlt predict", description="Top classes of images, by the average and by each expert."
    )
    parser.add_argument("model", help="directory or hub id of a student")
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--top", type=int, default=3, help="classes to show (default: %(default)s)")
    parser.add_argument("--expert", default="average", help="which expert's order: average, cls or distillation")
    options = parser.parse_args(argv)

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.evaluation.accuracy import EXPERT_LABELS
    from deitlt_hf.evaluation.classifying import check_expert, classify, find_images
    from deitlt_hf.hub.loading import load_image_processor, load_student

    check_expert(options.expert)
    files = find_images(options.images)
    quiet_libraries()
    model, processor = load_student(options.model), load_image_processor(options.model)
    for result in classify(model, processor, files, top=options.top, expert=options.expert):
        print(result.file)
        width = max(len(row.name) for row in result.rows)
        print(f"  {'':<{width}}" + "".join(f"{label:>13}" for label in EXPERT_LABELS.values()))
        for row in result.rows:
            print(
                f"  {row.name:<{width}}" + "".join(f"{100 * row.probability[name]:>12.1f}%" for name in EXPERT_LABELS)
            )
