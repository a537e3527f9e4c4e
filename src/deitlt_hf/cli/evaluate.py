"""`deitlt evaluate`: accuracy of a student's experts on head, mid and tail classes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deitlt_hf.cli.flags import check_flags
from deitlt_hf.errors import check_model_is_there


@dataclass
class EvaluateArguments:
    """How to evaluate, and where the result goes."""

    output: str | None = field(default=None, metadata={"help": "JSON file for the result; it must not exist yet."})
    batch_size: int = field(default=64, metadata={"help": "Images per step."})
    confidence_intervals: bool = field(
        default=False,
        metadata={"help": "Add 95 %% intervals from 1000 bootstrap resamples of each class's test images."},
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="directory or hub id of a student")
    parser.add_argument("--revision", default="main", help="Branch, tag or commit of a model on the hub.")


def run(argv: Sequence[str]) -> None:
    check_model_is_there(
        check_flags(
            "evaluate",
            "MODEL [options]",
            "Accuracy of a student's experts. The data are those of the run unless flags say otherwise.",
            ["DataArguments", "EvaluateArguments"],
            argv,
            _add_model,
            of_run=True,
        ).model
    )

    import torch
    from accelerate import Accelerator

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.next_steps import after_measuring, say_next
    from deitlt_hf.cli.parsing import DataclassParser, parse_with_data_of_run
    from deitlt_hf.data.arguments import DataArguments, images_for_model
    from deitlt_hf.evaluation.evaluate import evaluate_student
    from deitlt_hf.evaluation.measures import format_table
    from deitlt_hf.files import check_is_new, write_json
    from deitlt_hf.inference.loading import load_run_settings, load_student
    from deitlt_hf.runs.analyzing import teacher_of_run
    from deitlt_hf.runs.images import load_images_to_measure

    parser = DataclassParser("evaluate", [DataArguments, EvaluateArguments])
    _add_model(parser)
    choice, data, options, of_model = parse_with_data_of_run(parser, argv, lambda known: known.model)
    if options.output is not None:
        check_is_new(Path(options.output), "--output")

    quiet_libraries()
    source = of_model.model
    model = load_student(source, of_model.revision)
    measured = load_images_to_measure(data, choice, model.config, [source])
    images = images_for_model(measured.images, data, model.config, source)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # or processes on CPUs would not meet
    teacher = teacher_of_run(source, model, load_run_settings(source, of_model.revision), accelerator.device)
    metrics = evaluate_student(
        model,
        images,
        model.config.image_size,
        accelerator,
        options.batch_size,
        confidence_intervals=options.confidence_intervals,
        teacher=teacher,
    )
    if accelerator.is_main_process:
        print(f"Accuracy in percent on {measured}\n")
        print(format_table(metrics))
        if options.output is not None:
            write_json(Path(options.output), metrics)
            print(f"numbers: {options.output}")
        say_next(*after_measuring(source))
