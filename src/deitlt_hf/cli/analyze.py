"""`deitlt analyze`: what a model is good at, its errors, and what its tokens do, as numbers, figures and a page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deitlt_hf.cli.flags import check_flags
from deitlt_hf.errors import check_model_is_there


@dataclass
class AnalyzeArguments:
    """How to analyze, and where the result goes."""

    out: str = field(metadata={"help": "Directory for the result; it must not exist yet."})
    teacher: str | None = field(
        default=None,
        metadata={"help": "Directory or hub id of a teacher; left out, that of the model's run if it is still there."},
    )
    batch_size: int = field(default=64, metadata={"help": "Images per step."})


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="directory or hub id of a student or another image classifier")
    parser.add_argument("--revision", default="main", help="Branch, tag or commit of a model on the hub.")


def run(argv: Sequence[str]) -> None:
    check_model_is_there(
        check_flags(
            "analyze",
            "MODEL --out DIR [options]",
            "Accuracy, errors and calibration of a student, a teacher or any other image classifier, and attention and "
            "features of a student, DeiT or ViT, as a page with figures. "
            "The data are those of the run unless flags say otherwise.",
            ["DataArguments", "AnalyzeArguments"],
            argv,
            _add_model,
            of_run=True,
        ).model
    )

    import torch
    from accelerate import PartialState

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.next_steps import of_revision, say_next
    from deitlt_hf.cli.parsing import check_analysis, parse_with_data_of_run
    from deitlt_hf.evaluation.analysis.vit import has_tokens
    from deitlt_hf.evaluation.measures import format_table
    from deitlt_hf.evaluation.page import ANALYSIS_FILE, PAGE_FILE, write_analysis
    from deitlt_hf.files import last_part
    from deitlt_hf.inference.loading import load_any_config
    from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
    from deitlt_hf.runs.analyzing import analyze_saved_model
    from deitlt_hf.runs.images import load_images_to_measure

    choice, data, options, of_model = parse_with_data_of_run("analyze", AnalyzeArguments, argv, _add_model)
    state = PartialState(cpu=not torch.accelerator.is_available())
    check_analysis(options.out, state.num_processes)

    quiet_libraries()
    source = of_model.model
    config = load_any_config(source, of_model.revision)
    measured = load_images_to_measure(data, choice, config, [source])
    analysis = analyze_saved_model(
        source,
        measured.images,
        data,
        revision=of_model.revision,
        teacher=options.teacher,
        batch_size=options.batch_size,
        device=state.device,
    )
    write_analysis({last_part(source): analysis}, options.out)
    print(f"Accuracy in percent on {measured}\n")
    print(format_table(analysis.record, analysis.record["model"]["prediction"]))
    if "teacher" not in analysis.record["agreement"] and has_tokens(config):  # a CNN is rather a teacher itself
        print("no teacher was found to compare with; --teacher DIR names one")
    print(f"numbers: {Path(options.out) / ANALYSIS_FILE}\npage: {Path(options.out) / PAGE_FILE}")
    if config.model_type == DeiTLTConfig.model_type:
        say_next(*([command, source, *of_revision(argv)] for command in ("app", "export")))
