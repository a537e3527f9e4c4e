"""`deitlt predict`: what both experts say of images, and where they look."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from deitlt_hf.cli.console import OneLineParser, add_answer_rules, add_class_prior, quiet_libraries
from deitlt_hf.cli.next_steps import of_revision, say_next
from deitlt_hf.errors import DeiTLTError, check_model_is_there, printable

_TOP = 3  # classes to show of an image
_MANY = 100  # from this number of images on, a progress bar is shown


def run(argv: Sequence[str]) -> None:
    options = _parser().parse_args(argv)
    check_model_is_there(options.model)

    from deitlt_hf.evaluation.measures import FUSED, expert_named
    from deitlt_hf.inference.classifier import load_classifier, named_images
    from deitlt_hf.inference.panels import check_panels_are_free, panel_names
    from deitlt_hf.inference.prediction_files import Decisions, check_prediction_file, prediction_file

    if options.expert is not None:
        options.expert = expert_named(options.expert)
    _check_numbers(options)
    found = named_images(options.images)
    panels = dict(zip(found, panel_names(list(found.values())), strict=True))
    if options.output is not None:
        check_prediction_file(options.output)
    if options.attention is not None:
        check_panels_are_free(options.attention, list(panels.values()))
    quiet_libraries()
    classifier = load_classifier(
        options.model, options.revision, options.only, options.prior, options.precision, options.coverage
    )
    _check_no_class_is_called_uncertain(classifier, options)
    own = getattr(classifier.config, "expert", classifier.experts[0]) if classifier.rules is None else FUSED
    decisions = Decisions(options.expert or own, classifier.experts, options.threshold, classifier.rules)
    top = _TOP if options.top is None else options.top
    with (
        nullcontext(partial(_print_result, decisions=decisions, top=top))
        if options.output is None
        else prediction_file(options.output, decisions, top, is_ranked=options.top is not None)
    ) as show:
        unreadable = _predict(classifier, panels, options, decisions, show)
    if len(panels) - unreadable > 1:
        print(decisions.summary())
    if options.output is not None:
        print(f"predictions: {options.output}")
    if options.attention is not None:
        print(f"attention maps: {options.attention}")
    if options.attention is None and decisions.has_experts and classifier.has_attention:
        model = [options.model, *of_revision(argv)]
        say_next(["predict", *model, *options.images, "--attention", "maps"], ["app", *model])
    if unreadable:
        raise DeiTLTError(
            f"{unreadable} of {len(panels)} files could not be read as images, see above; the others are done"
        )


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="deitlt predict",
        description="Classes of images, by the average and by each expert, a summary, and where the two tokens look.",
    )
    parser.add_argument(
        "model", help="directory or hub id of a student or another image classifier, or what deitlt export wrote"
    )
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument(
        "--top",
        "--top_k",
        dest="top",
        metavar="K",
        type=int,
        help=f"classes to show of each image (default: {_TOP}); a CSV file then has a row for each of them",
    )
    parser.add_argument(
        "--threshold",
        metavar="P",
        type=float,
        help="images whose class has a probability below P (0 to 1) get the class 'uncertain'",
    )
    parser.add_argument(
        "--expert",
        help="decides and sorts the classes: average, cls (head), distillation (dist, tail) or fused; default: the "
        "model's own, usually average",
    )
    add_answer_rules(parser)
    add_class_prior(parser)
    parser.add_argument("--batch_size", type=int, default=32, help="images per step (default: 32)")
    parser.add_argument(
        "--attention", metavar="DIR", type=Path, help="directory for a picture per image of where the tokens look"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write a row per image to FILE.csv, or the top classes to FILE.json"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub (default: main)")
    return parser


def _check_numbers(options) -> None:
    """Refuse a threshold that is no probability, or that the file has no place for, and too few classes."""
    from deitlt_hf.ranges import Range

    if options.top is not None and options.top < 1:
        raise DeiTLTError(f"top is {options.top}; pass at least 1")
    marking = [name for name in ("threshold", "precision", "coverage") if getattr(options, name) is not None]
    if options.threshold is not None and options.threshold not in Range(0, 1):
        raise DeiTLTError(f"threshold is {options.threshold:g}; pass {Range(0, 1)}")
    if "threshold" in marking and "precision" in marking:
        raise DeiTLTError(
            "--threshold is one probability for all classes, and --precision finds them; pass one of them"
        )
    if marking and options.top is not None and options.output is not None and options.output.suffix.lower() == ".csv":
        raise DeiTLTError(
            f"--top writes a row per class, and --{marking[0]} marks images; pass one of them for a CSV file"
        )


def _check_no_class_is_called_uncertain(classifier, options) -> None:
    from deitlt_hf.inference.prediction_files import UNCERTAIN

    flag = "--threshold" if options.precision is None else "--precision"
    if (options.threshold, options.precision) != (None, None) and UNCERTAIN in classifier.class_names:
        raise DeiTLTError(
            f"the model has a class {UNCERTAIN!r}, which {flag} gives to images in doubt; leave {flag} out, "
            "and compare the column 'probability' yourself"
        )


def _predict(classifier, panels: dict[Path, str], options, decisions, show) -> int:
    """Show each image's result and save its panel; returns how many files could not be read."""
    from tqdm import tqdm

    from deitlt_hf.inference.panels import save_panel

    files, unreadable = list(panels), []

    def note(file: Path, error: DeiTLTError) -> None:
        unreadable.append(file)
        tqdm.write(f"deitlt predict: {error}", file=sys.stderr)

    results = classifier.stream(
        files,
        top=len(classifier.class_names),  # each expert's own best class is among them
        expert=options.expert,
        attention=options.attention is not None,
        batch_size=options.batch_size,
        on_error=note if len(files) > 1 else None,
    )
    # No bar for few images, nor beside results that scroll by on the terminal; None hides it unless on a terminal.
    hidden = len(files) < _MANY or (options.output is None and sys.stdout.isatty()) or None
    for result in tqdm(results, total=len(files), unit="image", leave=False, disable=hidden):
        if options.attention is not None:
            save_panel(result, options.attention / panels[result.file])
        decisions.count(result)
        show(result)
    return len(unreadable)


def _print_result(result, decisions, top: int) -> None:
    from deitlt_hf.evaluation.measures import EXPERT_LABELS
    from deitlt_hf.inference.prediction_files import UNCERTAIN

    is_uncertain = decisions.may_be_uncertain and decisions.chosen(result) == UNCERTAIN
    print(printable(result.file) + (f"  ({UNCERTAIN})" if is_uncertain else ""))
    rows = result.rows[:top]
    names = [printable(row.name) for row in rows]
    width = max(map(len, names))
    labels = {expert: EXPERT_LABELS.get(expert, expert) for expert in rows[0].probability}
    print(f"  {'':<{width}}" + "".join(f"{label:>13}" for label in labels.values()))
    for name, row in zip(names, rows, strict=True):
        print(f"  {name:<{width}}" + "".join(f"{100 * row.probability[expert]:>12.1f}%" for expert in labels))
    if result.prediction_set is not None:
        print(f"  set: {', '.join(map(printable, result.prediction_set))}")
