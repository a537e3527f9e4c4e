"""`deitlt teacher`: train a CNN teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.cli.next_steps import after_training_a_teacher, say_next
from deitlt_hf.cli.training_flags import check_training
from deitlt_hf.errors import counted

_ABOUT = "Train a CNN teacher. With --data and without a recipe, the settings follow from the data and are shown."


def run(argv: Sequence[str]) -> None:
    check_training("teacher", _ABOUT, ["TrainingDataArguments", "TeacherArguments", "TeacherTrainingArguments"], argv)

    from deitlt_hf.cli.parsing import parse_with_recipe
    from deitlt_hf.cli.suggesting import settings_for_data
    from deitlt_hf.data.arguments import TrainingDataArguments
    from deitlt_hf.data.suggestion import suggest_teacher_recipe
    from deitlt_hf.evaluation.measures import MOST_LISTED_CLASSES, format_class_table
    from deitlt_hf.hub.repository import address_of
    from deitlt_hf.runs.profiling import format_profile
    from deitlt_hf.runs.training import TeacherArguments, check_teacher, profile_teacher, run_teacher
    from deitlt_hf.training.arguments import TeacherTrainingArguments

    def suggest(instances: Sequence[Any], given: dict[str, Any]) -> dict[str, Any]:
        data, teacher, args = instances
        check_teacher(teacher, args)
        return settings_for_data(suggest_teacher_recipe, data, given)

    data, teacher, args = parse_with_recipe(
        "teacher",
        [TrainingDataArguments, TeacherArguments, TeacherTrainingArguments],
        argv,
        suggest,
    )
    quiet_libraries()
    if args.profile:
        profile = profile_teacher(data, teacher, args)
        if args.should_log:
            print(format_profile(profile))
        return
    metrics = run_teacher(data, teacher, args)
    if args.should_log:
        print(accuracy_line(metrics))
        print(f"\n{format_class_table(metrics, most=MOST_LISTED_CLASSES)}\n")
        print(f"teacher: {args.output_dir}")
        if args.push_to_hub:
            print(f"on the hub: {address_of(args.hub_model_id, args.hub_revision)}")
        say_next(*after_training_a_teacher(argv, data, args.output_dir))


def accuracy_line(metrics: Mapping[str, Any]) -> str:
    """What a teacher's run measured, in a line."""
    from deitlt_hf.evaluation.measures import shown_tables

    accuracies = metrics["accuracy"]
    shown = [f"{one.label} {one.text(accuracies[one.key])}" for one in shown_tables([accuracies])[0]]
    return f"{', '.join(shown)} % on {counted(metrics['num_images'], 'test image')}"
