"""`deitlt evaluate`: accuracy of a student's experts, or of any image classifier, on head, mid and tail classes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deitlt_hf.cli.console import PRIOR_HELP, RULES_HELP
from deitlt_hf.cli.flags import check_flags
from deitlt_hf.errors import DeiTLTError, check_model_is_there, counted

if TYPE_CHECKING:
    from deitlt_hf.data.arguments import DataArguments
    from deitlt_hf.evaluation.answer_rules import AnswerRules
    from deitlt_hf.evaluation.evaluate import Evaluation
    from deitlt_hf.runs.images import DataChoice, MeasuredImages


@dataclass
class EvaluateArguments:
    """How to evaluate, and where the result goes."""

    output: str | None = field(default=None, metadata={"help": "JSON file for the result; it must not exist yet."})
    errors: str | None = field(
        default=None,
        metadata={"help": "CSV file for the images that are wrong, the most confident first; it must not exist yet."},
    )
    mistakes: str | None = field(
        default=None,
        metadata={
            "help": "Directory for a page of suspected wrong labels and the most confident errors of each class; it "
            "must not exist yet."
        },
    )
    per_class: bool = field(
        default=False,
        metadata={"help": "A line for each class, also where there are more than 30, with precision and F1."},
    )
    only: str | None = field(default=None, metadata={"help": PRIOR_HELP["only"]})
    prior: str | None = field(default=None, metadata={"help": PRIOR_HELP["prior"]})
    precision: float | None = field(default=None, metadata={"help": RULES_HELP["precision"]})
    coverage: float | None = field(default=None, metadata={"help": RULES_HELP["coverage"]})
    at: float | None = field(
        default=None,
        metadata={
            "help": "Add average precision, recall at this precision and precision at this recall (such as 0.9), by "
            "group and class."
        },
    )
    batch_size: int = field(default=64, metadata={"help": "Images per step."})
    confidence_intervals: bool = field(
        default=False,
        metadata={"help": "Add 95 %% intervals from 1000 bootstrap resamples of each class's test images."},
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="directory or hub id of a student, a teacher or another image classifier")
    parser.add_argument("--revision", default="main", help="Branch, tag or commit of a model on the hub.")


def run(argv: Sequence[str]) -> None:
    check_model_is_there(_checked_flags(argv).model)

    import torch
    from accelerate import Accelerator

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.next_steps import after_measuring, say_next
    from deitlt_hf.evaluation.class_prior import class_prior
    from deitlt_hf.inference.loading import load_any_config
    from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
    from deitlt_hf.runs.analyzing import evaluate_saved_model
    from deitlt_hf.runs.images import load_images_to_measure, of_occurring_classes

    choice, data, options, of_model = _parse(argv)
    quiet_libraries()
    source = of_model.model
    config = load_any_config(source, of_model.revision)
    prior = class_prior(config, options.only, options.prior)
    rules = _rules(options, prior, source, config, of_model.revision)
    measured = load_images_to_measure(data, choice, config, [source])
    if prior is not None:
        measured = of_occurring_classes(measured, prior, config)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # or processes on CPUs would not meet
    evaluation, own = evaluate_saved_model(
        source,
        measured.images,
        data,
        accelerator,
        revision=of_model.revision,
        batch_size=options.batch_size,
        confidence_intervals=options.confidence_intervals,
        prior=prior,
        set_thresholds=rules and rules.set_thresholds,
        keep_probabilities=options.at is not None,
    )
    if accelerator.is_main_process:
        print(f"Accuracy in percent on {measured}")
        print(f"{prior.description}\n" if prior else "")
        _print_and_write(evaluation, own, measured, options, rules)
        if options.mistakes is not None:
            _write_mistakes(source, evaluation, own, measured, prior and prior.description, options.mistakes)
        say_next(*after_measuring(source, config.model_type == DeiTLTConfig.model_type, argv))


def _checked_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The flags as they are typed, checked without a heavy import."""
    return check_flags(
        "evaluate",
        "MODEL [options]",
        "Accuracy of a student's experts, of a teacher, or of any other image classifier. "
        "The data are those of the run unless flags say otherwise.",
        ["DataArguments", "EvaluateArguments"],
        argv,
        _add_model,
        of_run=True,
    )


def _parse(argv: Sequence[str]) -> tuple[DataChoice, DataArguments, EvaluateArguments, argparse.Namespace]:
    """The settings, with the data of the model's run; refuses files that would be written and are there."""
    from deitlt_hf.cli.parsing import parse_with_data_of_run
    from deitlt_hf.files import check_is_free, check_is_new

    choice, data, options, of_model = parse_with_data_of_run("evaluate", EvaluateArguments, argv, _add_model)
    for flag, file in (("--output", options.output), ("--errors", options.errors)):
        if file is not None:
            check_is_new(Path(file), flag)
    if options.mistakes is not None:
        check_is_free(options.mistakes)
    return choice, data, options, of_model


def _rules(options: EvaluateArguments, prior, source: str, config, revision: str | None) -> AnswerRules | None:
    """The rules for a precision and a coverage; None where neither is asked for."""
    from deitlt_hf.inference.loading import load_answer_rules

    if prior is not None and (options.precision, options.coverage) != (None, None):
        raise DeiTLTError("precision and coverage are measured on all classes; leave --only and --prior out")
    return load_answer_rules(source, config, revision, options.precision, options.coverage)


def _print_and_write(
    evaluation: Evaluation,
    own: str,
    measured: MeasuredImages,
    options: EvaluateArguments,
    rules: AnswerRules | None,
) -> None:
    """Print both tables, and write the files that are asked for; `own` is the row of the model's own prediction."""
    from deitlt_hf.evaluation.answer_rules import format_rules, measure_rules
    from deitlt_hf.evaluation.errors_file import write_errors
    from deitlt_hf.evaluation.measures import MOST_LISTED_CLASSES, format_class_table, format_table
    from deitlt_hf.evaluation.ranking import format_ranking, ranking_measures
    from deitlt_hf.files import write_json

    metrics, test, found = evaluation.metrics, measured.images.test, evaluation.predictions
    print(format_table(metrics, own))
    most = None if options.per_class else MOST_LISTED_CLASSES
    print(f"\n{format_class_table(metrics, own, most, precision_and_f1=options.per_class)}")
    if rules is not None:
        metrics["answers"] = measure_rules(rules, found, metrics["groups"])
        print(f"\n{format_rules(metrics['answers'])}")
    if options.at is not None:
        resamples = 1000 * options.confidence_intervals
        metrics["ranking"] = ranking_measures(
            found.probabilities[own], found.labels, metrics["groups"], options.at, resamples
        )
        print(f"\n{format_ranking(metrics, metrics['ranking'], most)}")
    if options.output is not None:
        write_json(Path(options.output), metrics)
        print(f"numbers: {options.output}")
    if options.errors is not None:
        wrong = write_errors(Path(options.errors), test, metrics["class_names"], found, own, measured.rows)
        print(f"errors: {options.errors} has {wrong} of {counted(len(test), 'test image')}, the most confident first")


def _write_mistakes(
    source: str, evaluation: Evaluation, own: str, measured: MeasuredImages, prior: str | None, directory: str
) -> None:
    """Write the page of mistakes, and say where it is and what it shows."""
    from deitlt_hf.evaluation.mistakes_page import PAGE_FILE, write_mistakes
    from deitlt_hf.files import public_name

    test, metrics, found = measured.images.test, evaluation.metrics, evaluation.predictions
    chosen = write_mistakes(directory, public_name(source), test, metrics, found, own, measured.rows, prior)
    print(
        f"mistakes: {Path(directory) / PAGE_FILE} has {counted(chosen.num_wrong, 'wrong image')}, "
        f"{chosen.num_suspected} of them with a suspected label"
    )
