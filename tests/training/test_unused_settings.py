"""Settings that do nothing are said, and only those."""

from __future__ import annotations

import pytest

from deitlt_hf.data.arguments import TrainingDataArguments
from deitlt_hf.recipes import is_teacher_recipe, load_recipe, recipe_names
from deitlt_hf.runs.settings import say_what_is_unused
from deitlt_hf.runs.student_models import StudentArguments
from deitlt_hf.runs.training import TeacherArguments


def said(caplog, parts) -> list[str]:
    say_what_is_unused(parts)
    return [record.message for record in caplog.records if record.name == "deitlt_hf"]


@pytest.mark.parametrize(
    ("student", "settings", "unused"),
    [
        ({"teacher": "t"}, {"distillation_type": "none"}, "teacher t (needs distillation_type hard, soft or ltkd)"),
        ({"teacher": "t"}, {}, None),
        ({}, {"distillation_temperature": 2.0}, "distillation_temperature 2 (needs distillation_type soft or ltkd)"),
        ({}, {"distillation_temperature": 2.0, "distillation_type": "soft"}, None),
        ({}, {"mixup_in_drw": True, "class_balanced_beta": 0.99},
         "mixup_in_drw true, class_balanced_beta 0.99 (needs drw_start_epoch)"),
        ({}, {"metric_for_best_model": "cls_tail"}, "metric_for_best_model cls_tail (needs load_best_model_at_end)"),
        ({}, {"metric_for_best_model": "cls_tail", "eval_strategy": "epoch", "save_strategy": "best"}, None),
        ({}, {"metric_for_best_model": "cls_tail", "eval_strategy": "epoch", "lr_scheduler_type":
              "reduce_lr_on_plateau"}, None),
    ],
)  # fmt: skip
def test_of_a_student(caplog, arguments, student, settings, unused):
    parts = [TrainingDataArguments(), StudentArguments(**student), arguments(**settings)]
    assert said(caplog, parts) == ([f"not used: {unused}"] if unused else [])


@pytest.mark.parametrize(
    ("teacher", "settings", "unused"),
    [
        ({"architecture": "resnet50", "depth": 20}, {}, "depth 20 (needs architecture cifar_resnet, from scratch)"),
        ({"init_from": "x", "architecture": "resnet50"}, {}, "architecture resnet50 (needs a start from scratch"),
        ({}, {"ldam_scale": 20.0}, "ldam_scale 20 (needs loss ldam)"),
        ({}, {"ldam_scale": 20.0, "loss": "ldam"}, None),
        ({}, {"schedule": "cosine", "decay_epochs": [1]}, "decay_epochs 1 (needs schedule steps)"),
        ({"depth": 20}, {}, None),
    ],
)
def test_of_a_teacher(caplog, teacher_arguments, teacher, settings, unused):
    lines = said(caplog, [TrainingDataArguments(), TeacherArguments(**teacher), teacher_arguments(**settings)])
    assert [line.startswith(f"not used: {unused}") for line in lines] == ([True] if unused else [])


@pytest.mark.parametrize("name", recipe_names())
def test_no_recipe_sets_what_is_not_used(caplog, arguments, teacher_arguments, name):
    settings = load_recipe(name)
    make, which = (teacher_arguments, TeacherArguments) if is_teacher_recipe(name) else (arguments, StudentArguments)
    of = {part: set(part.__dataclass_fields__) for part in (TrainingDataArguments, which)}
    parts = [part(**{key: value for key, value in settings.items() if key in of[part]}) for part in of]
    rest = {key: value for key, value in settings.items() if key not in set.union(*of.values())}
    assert (
        said(caplog, [*parts, make(**{"mixup": 0.8, "cutmix": 1.0} | rest) if make is arguments else make(**rest)])
        == []
    )
