"""What `deitlt train` and `deitlt teacher` share: their help, and mistakes that are refused before torch is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from deitlt_hf.cli.flag_parser import Help
from deitlt_hf.cli.flags import check_data_is_there, check_flags
from deitlt_hf.errors import check_is_there
from deitlt_hf.recipes import load_recipe

_DATA = (
    "data data_dir image_size horizontal_flip image_column label_column group_column drop_duplicates test_fraction "
    "validation_fraction on_bad_image"
)
_STUDENT = "student_size patch_size init_from cls_loss drw_start_epoch mixup cutmix repeated_augmentation"
_STUDENTS_TEACHER = "teacher distillation_type"
_TEACHER = "architecture depth classifier init_from loss drw_start_epoch sam_rho class_balanced_sampling"
_TIME = "num_train_epochs learning_rate per_device_train_batch_size bf16 dataloader_num_workers seed"
_OUTPUT = "output_dir resume overwrite push_to_hub hub_model_id"

_OTHERS = {
    "DataArguments": "data",
    "TrainingDataArguments": "data",
    "StudentArguments": "student",
    "TeacherArguments": "teacher",
    "DeiTLTTrainingArguments": "more of the method",
    "TeacherTrainingArguments": "more of the method",
    "LongTailTrainingArguments": "more of the training",
    "DurableTrainingArguments": "more of the training",
    "TrainingArguments": "transformers' own",
}
# Of training on texts: the trainers refuse the first two, without which the others have no effect.
_HIDDEN = frozenset({"neftune_noise_alpha", "use_liger_kernel", "liger_kernel_config", "length_column_name"})

_LAYOUTS = {
    "train": Help(
        {"data": _DATA, "student": _STUDENT, "teacher": _STUDENTS_TEACHER, "time": _TIME, "output": _OUTPUT},
        _OTHERS,
        _HIDDEN,
    ),
    "teacher": Help({"data": _DATA, "teacher": _TEACHER, "time": _TIME, "output": _OUTPUT}, _OTHERS, _HIDDEN),
}


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add `--recipe`, which is no field of a dataclass: it gives the others their defaults."""
    parser.add_argument("--recipe", help="name of a recipe (see `deitlt recipes`) or a YAML file")


def check_training(
    command: str, description: str, dataclasses: Sequence[str], argv: Sequence[str]
) -> argparse.Namespace:
    """Show the help that `argv` asks for, or refuse what it alone shows to be wrong; returns what is given."""
    layout = _LAYOUTS[command]
    given = check_flags(
        command, "[--recipe RECIPE] [options]", description, dataclasses, argv, add_recipe, layout=layout
    )
    if "metric_for_best_model" in given:
        from deitlt_hf.evaluation.measures import check_best_measure, logged_measures  # loads NumPy

        is_student = command == "train"
        # The arguments refuse measures of averaged weights where these are not evaluated.
        check_best_measure(given.metric_for_best_model, logged_measures(is_student, averaged=is_student))
    for name in ("teacher", "init_from"):
        check_is_there(getattr(given, name, None))
    if "recipe" in given:
        load_recipe(given.recipe)
    if "data" in given:
        check_data_is_there(given.data)
    return given
