"""`deitlt train`: train a DeiT-LT student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deitlt_hf.cli.console import quiet_libraries
from deitlt_hf.cli.next_steps import after_training_a_student, say_next
from deitlt_hf.cli.training_flags import check_training
from deitlt_hf.errors import DeiTLTError, counted

_ABOUT = "Train a DeiT-LT student. With --data and without a recipe, the settings follow from the data and are shown."

_RESUMING = ("resume", "resume_from_checkpoint")


def run(argv: Sequence[str]) -> None:
    given = vars(
        check_training("train", _ABOUT, ["TrainingDataArguments", "StudentArguments", "DeiTLTTrainingArguments"], argv)
    )
    if "data" in given and not given.keys() & {"recipe", "teacher", "distillation_type", "init_from", *_RESUMING}:
        raise _no_teacher("hard", given["data"])  # the default

    from deitlt_hf.cli.parsing import parse_with_recipe
    from deitlt_hf.cli.suggesting import check_before_suggesting, settings_for_data, student_suggestion
    from deitlt_hf.data.arguments import TrainingDataArguments
    from deitlt_hf.evaluation.measures import MOST_LISTED_CLASSES, format_class_table, format_table
    from deitlt_hf.hub.repository import address_of
    from deitlt_hf.runs.pretrained import SMALL_IMAGES, say_pretrained_start
    from deitlt_hf.runs.profiling import format_profile
    from deitlt_hf.runs.training import StudentArguments, profile_student, train_student
    from deitlt_hf.training.arguments import DeiTLTTrainingArguments

    def suggest(instances: Sequence[Any], given: dict[str, Any]) -> dict[str, Any]:
        data, student, args = instances
        check_before_suggesting(instances, given)
        if student.init_from is not None:
            return settings_for_data(student_suggestion(student.init_from), data, given)
        if student.teacher is None and args.distillation_type != "none":
            raise _no_teacher(args.distillation_type, data.data)
        settings = settings_for_data(student_suggestion(None), data, given)
        if settings["image_size"] > SMALL_IMAGES:
            say_pretrained_start()
        return settings

    data, student, args = parse_with_recipe(
        "train",
        [TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments],
        argv,
        suggest,
    )
    quiet_libraries()
    if args.profile:
        profile = profile_student(data, student, args)
        if args.should_log:
            print(format_profile(profile))
        return
    result = train_student(data, student, args)
    if args.should_log:
        print(f"Accuracy in percent on {counted(result.metrics['num_images'], 'test image')}\n")
        print(format_table(result.metrics))
        if "averaged_weights" in result.metrics:
            print("averaged weights (EMA):")
            print(format_table(result.metrics | {"experts": result.metrics["averaged_weights"]}))
        print(f"\n{format_class_table(result.metrics, student.expert, MOST_LISTED_CLASSES)}\n")
        print(f"student, metrics.json and report.png: {args.output_dir}")
        if args.push_to_hub:
            print(f"on the hub: {address_of(args.hub_model_id, args.hub_revision)}")
        say_next(*after_training_a_student(args.output_dir))


def _no_teacher(distillation_type: str, data: str) -> DeiTLTError:
    return DeiTLTError(
        f"{distillation_type} distillation needs a teacher; pass one, which `deitlt teacher --data {data}` trains, a "
        "pretrained Vision Transformer to init_from, or distillation_type 'none'"
    )
