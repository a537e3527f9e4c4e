"""`deitlt evaluate`: accuracy of a student's experts on head, mid and tail classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deitlt_hf.errors import DeiTLTError


@dataclass
class EvaluateArguments:
    """How to evaluate, and where the result goes."""

    output: str | None = field(default=None, metadata={"help": "JSON file for the result; it must not exist yet."})
    batch_size: int = field(default=64, metadata={"help": "Images per step."})
    confidence_intervals: bool = field(
        default=False,
        metadata={"help": "Add 95 %% intervals from 1000 bootstrap resamples of each class's test images."},
    )


def run(argv: Sequence[str]) -> None:
    import torch
    from accelerate import Accelerator

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.parsing import DataclassParser, take_data_of_run
    from deitlt_hf.data.arguments import DataArguments, images_for_model
    from deitlt_hf.evaluation.evaluate import evaluate_student
    from deitlt_hf.evaluation.measures import format_table
    from deitlt_hf.files import write_json
    from deitlt_hf.inference.loading import load_student
    from deitlt_hf.runs.images import load_images_to_measure

    parser = DataclassParser(
        [DataArguments, EvaluateArguments],
        of_run=DataArguments,
        prog="deitlt evaluate",
        usage="deitlt evaluate MODEL [options]",
        description="Accuracy of a student's experts. The data are those of the run unless flags say otherwise.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="directory or hub id of a student")
    parser.add_argument("--revision", default="main", help="Branch, tag or commit of a model on the hub.")
    known = parser.parse_known_args(argv)[0]
    source = known.model
    choice = take_data_of_run(parser, source, argv, known.revision)
    data, options, of_model = parser.parse_into(argv)
    _check(options)

    quiet_libraries()
    model = load_student(source, of_model.revision)
    measured = load_images_to_measure(data, choice, model.config, [source])
    images = images_for_model(measured.images, data, model.config, source)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # or processes on CPUs would not meet
    metrics = evaluate_student(
        model,
        images,
        model.config.image_size,
        accelerator,
        options.batch_size,
        confidence_intervals=options.confidence_intervals,
    )
    if accelerator.is_main_process:
        print(f"Accuracy in percent on {measured}\n")
        print(format_table(metrics))
        if options.output is not None:
            write_json(Path(options.output), metrics)
            print(f"numbers: {options.output}")


def _check(options: EvaluateArguments) -> None:
    """Refuse before the evaluation what would fail after it."""
    if options.batch_size < 1:
        raise DeiTLTError(f"batch_size is {options.batch_size}; pass 1 or more")
    if options.output is None:
        return
    output = Path(options.output)
    if output.exists():
        raise DeiTLTError(f"{output} exists; pass another --output")
    if not output.parent.is_dir():
        raise DeiTLTError(f"{output.parent} is no directory; make it, or pass another --output")
