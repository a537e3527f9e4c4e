"""`deitlt predict`: what both experts say of images, and where they look."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from deitlt_hf.cli.console import OneLineParser, quiet_libraries
from deitlt_hf.errors import DeiTLTError, check_model_is_there, printable

_MANY = 100  # from this number of images on, a progress bar is shown


def run(argv: Sequence[str]) -> None:
    parser = OneLineParser(
        prog="deitlt predict",
        description="Top classes of images, by the average and by each expert, and where the two tokens look.",
    )
    parser.add_argument("model", help="directory or hub id of a student, or a directory that deitlt export wrote")
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument("--top", type=int, default=3, help="classes to show (default: %(default)s)")
    parser.add_argument(
        "--expert",
        help="sort the classes by: average, cls or distillation (default: the model's own, usually average)",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images per step (default: 32)")
    parser.add_argument(
        "--attention", metavar="DIR", type=Path, help="directory for a picture per image of where the tokens look"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the result to FILE.json or FILE.csv")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub (default: main)")
    options = parser.parse_args(argv)
    check_model_is_there(options.model)

    from deitlt_hf.evaluation.measures import EXPERTS
    from deitlt_hf.inference.classifier import ExpertClassifier, find_images
    from deitlt_hf.inference.panels import check_panels_are_free, panel_names
    from deitlt_hf.inference.prediction_files import check_prediction_file, prediction_file
    from deitlt_hf.ranges import one_of

    if options.expert is not None:
        one_of("expert", options.expert, EXPERTS)
    files = find_images(options.images)
    if options.output is not None:
        check_prediction_file(options.output)
    if options.attention is not None:
        check_panels_are_free(options.attention, panel_names(files))
    quiet_libraries()
    classifier = ExpertClassifier.from_pretrained(options.model, options.revision)
    with nullcontext(_print_result) if options.output is None else prediction_file(options.output) as show:
        unreadable = _predict(classifier, files, options, show)
    if options.output is not None:
        print(f"predictions: {options.output}")
    if options.attention is not None:
        print(f"attention maps: {options.attention}")
    if unreadable:
        raise DeiTLTError(
            f"{unreadable} of {len(files)} files could not be read as images, see above; the others are done"
        )


def _predict(classifier, files: list[Path], options, show) -> int:
    """Show each image's result and save its panel; returns how many files could not be read."""
    from tqdm import tqdm

    from deitlt_hf.inference.panels import panel_names, save_panel

    unreadable = []

    def note(file: Path, error: DeiTLTError) -> None:
        unreadable.append(file)
        tqdm.write(f"deitlt predict: {error}", file=sys.stderr)

    results = classifier.stream(
        files,
        top=len(classifier.class_names) if options.attention else options.top,  # a panel has each expert's own
        expert=options.expert,
        attention=options.attention is not None,
        batch_size=options.batch_size,
        on_error=note if len(files) > 1 else None,
    )
    names = dict(zip(files, panel_names(files), strict=True))
    # No bar for few images, nor beside results that scroll by on the terminal; None hides it unless on a terminal.
    hidden = len(files) < _MANY or (options.output is None and sys.stdout.isatty()) or None
    for result in tqdm(results, total=len(files), unit="image", leave=False, disable=hidden):
        if options.attention is not None:
            save_panel(result, options.attention / names[result.file])
            result.rows = result.rows[: options.top]
        show(result)
    return len(unreadable)


def _print_result(result) -> None:
    from deitlt_hf.evaluation.measures import EXPERT_LABELS

    print(printable(result.file))
    names = [printable(row.name) for row in result.rows]
    width = max(map(len, names))
    print(f"  {'':<{width}}" + "".join(f"{label:>13}" for label in EXPERT_LABELS.values()))
    for name, row in zip(names, result.rows, strict=True):
        print(f"  {name:<{width}}" + "".join(f"{100 * row.probability[expert]:>12.1f}%" for expert in EXPERT_LABELS))
