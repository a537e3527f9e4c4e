"""What `deitlt train`, `teacher` and `fit` share: their help, and mistakes that are refused before torch is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from deitlt_hf.cli.flag_parser import Help
from deitlt_hf.cli.flags import check_data_is_there, check_flags
from deitlt_hf.errors import DeiTLTError, check_is_there
from deitlt_hf.recipes import load_recipe, recipe_names

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
    "FitArguments": "teacher",
    "DeiTLTTrainingArguments": "more of the method",
    "TeacherTrainingArguments": "more of the method",
    "LongTailTrainingArguments": "more of the training",
    "DurableTrainingArguments": "more of the training",
    "TrainingArguments": "transformers' own",
}
# Of training on texts: the trainers refuse the first two, without which the others have no effect.
_HIDDEN = frozenset({"neftune_noise_alpha", "use_liger_kernel", "liger_kernel_config", "length_column_name"})

# Flags of `deitlt train` that `deitlt fit` refuses, and what to do instead.
NOT_FOR_FIT = {
    "data": "name the data without a flag, as in `deitlt fit pictures`",
    **dict.fromkeys(("resume", "resume_from_checkpoint"), "the same command goes on where it stopped; leave it out"),
    "profile": "it profiles one training; pass it to `deitlt train`",
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_revision"),
        "the model is finished after its training; push it at the end with `deitlt push`",
    ),
}

_LAYOUTS = {
    "train": Help(
        {"data": _DATA, "student": _STUDENT, "teacher": _STUDENTS_TEACHER, "time": _TIME, "output": _OUTPUT},
        _OTHERS,
        _HIDDEN,
    ),
    "teacher": Help({"data": _DATA, "teacher": _TEACHER, "time": _TIME, "output": _OUTPUT}, _OTHERS, _HIDDEN),
    "fit": Help(
        {
            "data": _DATA.removeprefix("data "),
            "student": _STUDENT,
            "teacher": f"{_STUDENTS_TEACHER} teacher_epochs",
            "time": _TIME,
            "output": "output_dir overwrite",
        },
        _OTHERS,
        _HIDDEN | NOT_FOR_FIT.keys(),
    ),
}


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add `--recipe`, which is no field of a dataclass: it gives the others their defaults."""
    parser.add_argument("--recipe", help="name of a recipe (see `deitlt recipes`) or a YAML file")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="DATA", nargs="?", help="a folder of images, a table of them, a name or a hub id"
    )


_USAGES = {"fit": ("DATA [options]", _add_source)}


def check_training(
    command: str, description: str, dataclasses: Sequence[str], argv: Sequence[str]
) -> argparse.Namespace:
    """Show the help that `argv` asks for, or refuse what it alone shows to be wrong; returns what is given."""
    layout = _LAYOUTS[command]
    usage, add_others = _USAGES.get(command, ("[--recipe RECIPE] [options]", add_recipe))
    given = check_flags(command, usage, description, dataclasses, argv, add_others, layout=layout)
    if "metric_for_best_model" in given:
        from deitlt_hf.evaluation.measures import check_best_measure, logged_measures  # loads NumPy

        is_student = command != "teacher"
        # The arguments refuse measures of averaged weights where these are not evaluated.
        check_best_measure(given.metric_for_best_model, logged_measures(is_student, averaged=is_student))
    for name in ("teacher", "init_from"):
        check_is_there(getattr(given, name, None))
    if "recipe" in given:
        load_recipe(given.recipe)
        its_command = "teacher" if "-teacher" in given.recipe else "train"
        if given.recipe in recipe_names() and command != its_command:
            raise DeiTLTError(f"recipe {given.recipe} is for deitlt {its_command}")
    if command == "fit":
        _check_fit(given)
    if "data" in given:
        check_data_is_there(given.data)
    return given


def _check_fit(given: argparse.Namespace) -> None:
    """Refuse flags that a whole run cannot have, and take the data from the first word as `data`."""
    for name, instead in NOT_FOR_FIT.items():
        if name in given:
            raise DeiTLTError(f"--{name} is no flag of `deitlt fit`: {instead}")
    if getattr(given, "source", None) is None:
        raise DeiTLTError("no data are named; pass a folder of images, as in `deitlt fit pictures`")
    given.data = given.source
    del given.source
