"""`deitlt teacher`: train a CNN teacher."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> None:
    from deitlt_hf.cli.console import quiet_libraries
    from deitlt_hf.cli.parsing import parse_with_recipe
    from deitlt_hf.training.arguments import TeacherTrainingArguments
    from deitlt_hf.training.runs import TeacherArguments, TrainingDataArguments, train_teacher

    data, teacher, args = parse_with_recipe(
        "teacher", "Train a CNN teacher.", [TrainingDataArguments, TeacherArguments, TeacherTrainingArguments], argv
    )
    quiet_libraries()
    accuracies = train_teacher(data, teacher, args)
    if args.should_log:
        print(", ".join(f"{group} {accuracy:.1f}" for group, accuracy in accuracies.items()) + " % on the test split")
        print(f"teacher: {args.output_dir}")
