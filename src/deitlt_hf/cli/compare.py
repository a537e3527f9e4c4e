"""`deitlt compare`: models side by side on the same images, with intervals, differences and overlaid figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deitlt_hf.cli.flags import check_flags
from deitlt_hf.errors import DeiTLTError, check_model_is_there


@dataclass
class CompareArguments:
    """How to compare, and where the result goes."""

    out: str | None = field(
        default=None,
        metadata={"help": "Directory for numbers, figures and a page; it must not exist yet. Left out, a table only."},
    )
    batch_size: int = field(default=64, metadata={"help": "Images per step."})


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="+",
        help="directory or hub id of a student or another image classifier, or NAME=DIR to show it under another name",
    )


def run(argv: Sequence[str]) -> None:
    given = check_flags(
        "compare",
        "MODEL MODEL ... [options]",
        "Models side by side: accuracies with 95 % intervals, differences from the first, and figures. "
        "The data are those of the first model's run unless flags say otherwise.",
        ["DataArguments", "CompareArguments"],
        argv,
        _add_models,
        of_run=True,
    )
    sources = name_models(given.models)
    for source in sources.values():
        check_model_is_there(source)

    import torch
    from accelerate import PartialState

    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.next_steps import after_measuring, say_next
    from deitlt_hf.cli.parsing import check_analysis, parse_with_data_of_run
    from deitlt_hf.data.arguments import images_for_model
    from deitlt_hf.evaluation.compare import check_same_classes, compare_models, format_comparison
    from deitlt_hf.evaluation.page import ANALYSIS_FILE, PAGE_FILE, write_analysis
    from deitlt_hf.inference.loading import load_any_config
    from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
    from deitlt_hf.runs.analyzing import analyze_saved_model
    from deitlt_hf.runs.images import load_images_to_measure

    first = next(iter(sources.values()))
    choice, data, options, _ = parse_with_data_of_run("compare", CompareArguments, argv, _add_models, lambda _: first)
    state = PartialState(cpu=not torch.accelerator.is_available())
    check_analysis(options.out, state.num_processes)

    quiet_libraries()
    configs = {name: load_any_config(source) for name, source in sources.items()}
    measured = load_images_to_measure(data, choice, next(iter(configs.values())), list(sources.values()))
    images = measured.images
    classes = {}
    for name, source in sources.items():  # before the first is analyzed, which may take long
        of_model = images_for_model(images, data, configs[name], source)
        classes[name] = {"class_names": of_model.class_names, "groups": of_model.class_groups}
    check_same_classes(classes)
    analyses = {
        name: analyze_saved_model(source, images, data, batch_size=options.batch_size, device=state.device)
        for name, source in sources.items()
    }
    print(f"Accuracy in percent on {measured}\n")
    comparison = compare_models(analyses)
    print(format_comparison(comparison))
    if options.out is not None:
        write_analysis(analyses, options.out)
        print(f"numbers: {Path(options.out) / ANALYSIS_FILE}\npage: {Path(options.out) / PAGE_FILE}")
    best = max(sources, key=lambda name: comparison["accuracies"][name]["overall"]["value"])
    is_student = configs[best].model_type == DeiTLTConfig.model_type
    say_next(*after_measuring(sources[best], is_student, argv))


def name_models(models: Sequence[str]) -> dict[str, str]:
    """Name -> directory or hub id; the name is the last part of the path, or given as `NAME=DIR`.

    Example:
        >>> name_models(["runs/vit", "DeiT-LT=runs/cifar10-lt-small"])
        {'vit': 'runs/vit', 'DeiT-LT': 'runs/cifar10-lt-small'}
    """
    from deitlt_hf.files import last_part

    if len(models) < 2:
        raise DeiTLTError(f"there is only {models[0]} to compare; pass at least two models")
    sources: dict[str, str] = {}
    for model in models:
        name, equals, source = model.partition("=")
        if not (name and equals and source) or Path(model).exists():
            name, source = last_part(model), model
        if name in sources:
            raise DeiTLTError(
                f"{sources[name]} and {source} are both named {name}; name one of them yourself: other={source}"
            )
        sources[name] = source
    return sources
