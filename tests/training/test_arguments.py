"""Arguments that cannot work are refused in one line that says what to pass instead."""

from __future__ import annotations

import dataclasses
import re

import pytest
from transformers import TrainingArguments

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTError,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    TeacherTrainer,
)
from deitlt_hf.recipes import load_recipe, recipe_names

BOTH = [
    ({"num_train_epochs": 10, "drw_start_epoch": 10}, r"drw_start_epoch 10 is beyond the last epoch.*\(10\)"),
    ({"drw_start_epoch": -1}, "drw_start_epoch is -1; pass 0"),
    ({"class_balanced_beta": 1.0}, r"class_balanced_beta is 1.0; .*\[0, 1\)"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0; pass a number above 0"),
    ({"overwrite": True, "resume": True}, "overwrite and resume"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0; pass 1 or more"),
    ({"dataloader_num_workers": -1}, "dataloader_num_workers is -1; pass 0 or more"),
    ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size is 0; pass 1 or more"),
    ({"fsdp": True}, "fsdp shards over processes, and there is one"),
    ({"num_train_epochs": float("nan")}, "num_train_epochs is nan; pass a number in "),
    ({"num_train_epochs": 1e300}, r"num_train_epochs is 1e\+300; pass a number in"),
    ({"num_train_epochs": -1}, "num_train_epochs is -1; pass"),
    ({"learning_rate": float("inf")}, "learning_rate is inf; pass a number above 0"),
    ({"learning_rate": "1e-3"}, "learning_rate is '1e-3'; pass a number above 0"),
    ({"weight_decay": -0.1}, "weight_decay is -0.1; pass 0 or more"),
    ({"warmup_epochs": float("nan")}, "warmup_epochs is nan; pass 0 or more"),
    ({"seed": -1}, "seed is -1; pass a number from 0 to 4294967295"),
    ({"data_seed": 2**32}, "data_seed is 4294967296; pass a number from 0 to 4294967295"),
    ({"max_steps": 0}, "max_steps is 0; pass 1 or more"),
    ({"logging_steps": float("inf")}, "logging_steps is inf; pass a number above 0"),
    ({"save_total_limit": -1}, "save_total_limit is -1; pass 0 or more"),
    ({"report_to": "wandb"}, "report_to wandb: .*; or pass --report_to none"),
    ({"report_to": ["tensorboard"]}, "report_to tensorboard: .* or pass --report_to none"),
    ({"report_to": "nosuch"}, "report_to nosuch: nosuch is not supported"),
    ({"lr_scheduler_type": "nosuch"}, "nosuch is not a valid SchedulerType"),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type cosine_with_min_lr: .*; see lr_scheduler_kwargs"),
    ({"lr_scheduler_kwargs": {"min_lr": 0}}, "lr_scheduler_kwargs go with a schedule of transformers"),
    ({"accelerator_config": "no-such.json"}, "No such file .*no-such.json"),
    ({"torch_compile_mode": "fast"}, "unknown torch_compile_mode 'fast'; pass one of default"),
    ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha 5.0 is for training on texts; leave it out"),
    (
        {"train_sampling_strategy": "group_by_length"},
        "train_sampling_strategy group_by_length is for",
    ),
    ({"fp16": True}, "fp16 needs a GPU, and this training has none; leave fp16 out"),
    ({"torch_compile_backend": "nosuch"}, "unknown torch_compile_backend 'nosuch'; pass one of .*inductor"),
]
STUDENT = [
    ({"distillation_type": "mild"}, "unknown distillation type 'mild'; pass one of .*hard"),
    ({"distillation_view": "medium"}, "unknown distillation view 'medium'; pass one of strong, weak"),
    ({"mixup": 0.8, "per_device_train_batch_size": 5}, "per_device_train_batch_size is 5; pass an even one"),
    ({"cutmix": 1.0, "per_device_train_batch_size": 5}, "per_device_train_batch_size is 5; pass an even one"),
    ({"distillation_view": "weak", "mixup": 0.8}, "pass mixup 0 and cutmix 0"),
    ({"evaluate_ema": True}, "pass ema_decay too"),
    ({"ema_decay": 2.0}, "ema_decay is 2.0; pass a number from 0 to 1"),
    ({"mixup": -1.0}, "mixup is -1.0; pass 0 or more"),
    ({"cutmix": float("nan")}, "cutmix is nan; pass 0 or more"),
    ({"label_smoothing_factor": 1.0}, r"label_smoothing_factor is 1.0; pass a number in \[0, 1\)"),
    ({"adam_beta2": 1.0}, r"adam_beta2 is 1.0; pass a number in \[0, 1\)"),
    ({"distillation_temperature": 0.0}, "distillation_temperature is 0.0; pass a number above 0"),
    ({"distillation_alpha": 1.5}, "distillation_alpha is 1.5; pass a number from 0 to 1"),
    ({"optim": "adamw_8bit"}, "optim adamw_8bit: You need to install `bitsandbytes`"),
    ({"optim": "galore_adamw", "optim_target_modules": "all"}, "optim galore_adamw: You need to install"),
    ({"optim": "nosuch"}, "nosuch is not a valid OptimizerNames"),
]
TEACHER = [
    ({"loss": "arcface"}, "unknown loss 'arcface'; pass one of ce, focal, balanced_softmax, logit_adjusted"),
    ({"training_view": "medium"}, "unknown training view 'medium'; pass one of strong, weak"),
    ({"loss": "paco", "training_view": "strong"}, "training_view is 'strong', but PaCo has views of its own; leave it"),
    ({"schedule": "linear"}, "unknown schedule 'linear'; pass one of steps, cosine"),
    ({"sam_rho": -0.1}, "sam_rho is -0.1; pass 0"),
    ({"sam_rho": [0.1, -0.1]}, "sam_rho is 0.1 -0.1; pass 0"),
    ({"sam_rho": []}, "sam_rho is empty; pass 0"),
    ({"sam_rho": [0.1, 0.2, 0.3]}, "sam_rho has 3 radii; pass sam_rho_epochs, the 2 epochs"),
    ({"sam_rho": [0.1, 0.2], "sam_rho_epochs": [2, 3]}, r"\[2, 3\] do not fit the 2 radii of sam_rho; pass 1"),
    ({"sam_rho": [0.1, 0.2, 0.3], "sam_rho_epochs": [3, 2]}, r"\[3, 2\] do not fit the 3 radii .* pass 2 rising"),
    ({"sam_rho": 0.1, "sam_rho_epochs": 2}, r"sam_rho_epochs are \[2\], but sam_rho has one radius; pass one more"),
    ({"sam_rho": float("nan")}, "sam_rho is nan; pass 0"),
    ({"sam_rho": 0.1, "fp16": True}, "needs bf16 or full precision; leave fp16 out"),
    ({"sam_rho": [0.1, float("inf")]}, "sam_rho is 0.1 inf; pass 0"),
    ({"loss": "paco", "per_device_train_batch_size": 1}, "per_device_train_batch_size is 1; .* pass 2 or more"),
    ({"loss": "paco", "drw_start_epoch": 2}, "drw_start_epoch is 2, but PaCo .* leave it out"),
    ({"loss": "paco", "paco_dim": 0}, "paco_dim is 0; pass 1 or more"),
    ({"loss": "paco", "paco_queue": 0}, "paco_queue is 0; pass 1 or more"),
    ({"optim": "adamw_torch"}, "optim does nothing: teachers learn plain labels by SGD; leave it out"),
    ({"label_smoothing_factor": 0.1}, "label_smoothing_factor does nothing"),
    ({"momentum": 1.0}, r"momentum is 1.0; pass a number in \[0, 1\)"),
    ({"loss": "paco", "paco_momentum": 1.5}, "paco_momentum is 1.5; pass a number from 0 to 1"),
]


def refused(make, settings, message):
    with pytest.raises(DeiTLTError, match=message) as error:
        make(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("settings", "message"), BOTH + STUDENT)
def test_a_students_arguments_are_checked(arguments, settings, message):
    refused(arguments, settings, message)


@pytest.mark.parametrize(("settings", "message"), BOTH + TEACHER)
def test_a_teachers_arguments_are_checked(teacher_arguments, settings, message):
    refused(teacher_arguments, settings, message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric_for_best_model": "accuracy"}, "unknown metric_for_best_model 'accuracy'; pass one of loss, "),
        ({"metric_for_best_model": "eval_ema_cls_tail"}, "unknown metric_for_best_model 'ema_cls_tail'"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics is True; .* need False"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches is False; .* need True"),
        ({"prediction_loss_only": True}, "prediction_loss_only is True, which measures no accuracies"),
    ],
)
def test_what_built_in_measures_cannot_do_is_refused(arguments, teacher_arguments, settings, message):
    for make in (arguments, teacher_arguments):
        refused(lambda make=make: make(**settings).check_built_in_measures(), {}, message)


def test_the_names_of_measures_are_those_that_an_evaluation_logs(arguments, teacher_arguments, tiny_student, images):
    student_args = arguments(distillation_type="none", ema_decay=0.5, evaluate_ema=True)
    groups = {"head": [0], "mid": [1], "tail": list(range(2, 10))}
    student = DeiTLTTrainer(tiny_student(), student_args, class_groups=groups, eval_dataset=images())
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10))
    teacher = TeacherTrainer(model, teacher_arguments(), class_groups=groups, eval_dataset=images())
    for trainer in (student, teacher):
        logged = {name for name in trainer.evaluate() if not re.search("runtime|per_second|preparation|epoch", name)}
        measures = ("loss", *trainer.args.measures)
        assert logged == {f"eval_{name}" for name in measures}
        for name in measures:
            for spelling in (name, f"eval_{name}"):
                trainer.args.metric_for_best_model = spelling
                trainer.args.check_built_in_measures()


def test_the_last_epoch_may_be_the_first_of_drw(arguments):
    assert arguments(num_train_epochs=10, drw_start_epoch=9).drw_start_epoch == 9


def test_an_odd_batch_is_fine_without_mixing(arguments):
    assert arguments(per_device_train_batch_size=5).per_device_train_batch_size == 5


def test_the_defaults_are_the_papers(tmp_path):
    args = DeiTLTTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    paper = {
        "learning_rate": 5e-4,
        "weight_decay": 0.05,
        "min_learning_rate": 1e-5,
        "warmup_epochs": 5,
        "label_smoothing_factor": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "repeated_augmentation": 3,
        "distillation_type": "hard",
        "distillation_alpha": 0.5,
        "class_balanced_beta": 0.9999,
        "per_device_train_batch_size": 128,
    }
    assert {name: getattr(args, name) for name in paper} == paper
    assert args.bf16 is False  # slower than float32 on CPUs without native support


def test_paco_wants_a_process_per_device(teacher_arguments, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    assert teacher_arguments(loss="ce").n_gpu == 2
    with pytest.raises(DeiTLTError, match=r"one process per device, and this one has 2; .* accelerate launch$"):
        teacher_arguments(loss="paco")


@pytest.mark.parametrize("given", [0.8, [0.8]])
def test_one_radius_needs_no_list(teacher_arguments, given):
    args = teacher_arguments(sam_rho=given)
    assert args.sam_rho == [0.8]
    assert args.uses_sam
    assert not teacher_arguments(sam_rho=0).uses_sam


def test_no_workers_are_kept_where_there_are_none(tmp_path):
    settings = {"output_dir": str(tmp_path), "dataloader_persistent_workers": True}
    assert not DeiTLTTrainingArguments(**settings, dataloader_num_workers=0).dataloader_persistent_workers
    assert DeiTLTTrainingArguments(**settings, dataloader_num_workers=2).dataloader_persistent_workers


@pytest.mark.parametrize(("given", "expected"), [({}, 24), ({"per_device_eval_batch_size": 6}, 6)])
def test_an_evaluation_takes_as_many_images_as_the_training(tmp_path, given, expected):
    args = DeiTLTTrainingArguments(str(tmp_path), per_device_train_batch_size=24, use_cpu=True, **given)
    assert args.eval_batch_size == expected
    assert dataclasses.replace(args, per_device_train_batch_size=12).eval_batch_size == (6 if given else 12)


def test_recipes_of_the_paper_keep_a_few_of_fifty_checkpoints():
    names = [name for name in recipe_names() if not re.search("small|digits|finetune", name)]
    assert len(names) == 23
    for name in names:
        recipe = load_recipe(name)
        assert (recipe["save_strategy"], recipe["save_steps"]) == ("steps", 0.02), name
        assert recipe["dataloader_persistent_workers"] is True, name
        assert "save_total_limit" not in recipe  # the default: the last two, and the best
