"""`deitlt train`: train a DeiT-LT student."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> None:
    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.parsing import parse_with_recipe
    from deitlt_hf.evaluation.accuracy import format_table
    from deitlt_hf.training.arguments import DeiTLTTrainingArguments
    from deitlt_hf.training.runs import StudentArguments, TrainingDataArguments, train_student

    data, student, args = parse_with_recipe(
        "train", "Train a DeiT-LT student.", [TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments], argv
    )
    quiet_libraries()
    result = train_student(data, student, args)
    if args.should_log:
        print(format_table(result.metrics))
        if "averaged_weights" in result.metrics:
            print("averaged weights (EMA):")
            print(format_table(result.metrics | {"experts": result.metrics["averaged_weights"]}))
        print(f"student, metrics.json and report.png: {args.output_dir}")
