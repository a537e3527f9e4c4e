"""`deitlt evaluate`: accuracy of a student's experts on head, mid and tail classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deitlt_hf.errors import DeiTLTError


@dataclass
class EvaluateArguments:
    """Where the result goes."""

    output: str | None = field(default=None, metadata={"help": "JSON file for the result; it must not exist yet."})
    batch_size: int = field(default=64, metadata={"help": "Images per step."})


def run(argv: Sequence[str]) -> None:
    from accelerate import Accelerator

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.parsing import OneLineParser
    from deitlt_hf.evaluation.accuracy import format_table
    from deitlt_hf.hub.loading import load_run_settings, load_student
    from deitlt_hf.training.runs import DataArguments, evaluate_student, load_images, write_json

    parser = OneLineParser(
        [DataArguments, EvaluateArguments],
        prog="deitlt evaluate",
        description="Accuracy of a student's experts. The data are those of the run unless flags say otherwise.",
        allow_abbrev=False,
    )
    parser.add_argument("model", help="directory or hub id of a student")
    model_source = parser.parse_known_args(argv)[0].model
    of_data = {part.name for part in dataclasses.fields(DataArguments)}
    parser.set_defaults(**{name: value for name, value in load_run_settings(model_source).items() if name in of_data})
    data, options, _ = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    if options.output is not None and Path(options.output).exists():
        raise DeiTLTError(f"{options.output} exists; pass another --output")

    quiet_libraries()
    model = load_student(model_source)
    images = load_images(data)
    if list(model.config.id2label.values()) != images.class_names:
        raise DeiTLTError(
            f"{model_source} knows {model.config.num_labels} classes and {data.data} has {len(images.class_names)}, "
            "not the same ones in the same order; pass the data that the student was trained for with --data"
        )
    # Groups are about what the student was trained on, which its configuration tells.
    images.class_counts = model.config.class_counts or images.class_counts
    images.class_groups = model.config.class_groups or images.class_groups
    accelerator = Accelerator()
    metrics = evaluate_student(model, images, model.config.image_size, accelerator, options.batch_size)
    if accelerator.is_main_process:
        print(format_table(metrics))
        if options.output is not None:
            write_json(Path(options.output), metrics)
            print(f"numbers: {options.output}")
