"""What flags do to a recipe, and what an unknown flag may have meant."""

from __future__ import annotations

import pytest

from deitlt_hf.cli.parsing import parse_with_recipe, scaled_to_epochs
from deitlt_hf.data.arguments import TrainingDataArguments
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.runs.student_models import StudentArguments
from deitlt_hf.runs.training import TeacherArguments
from deitlt_hf.training.arguments import DeiTLTTrainingArguments, TeacherTrainingArguments

STUDENT = [TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments]
TEACHER = [TrainingDataArguments, TeacherArguments, TeacherTrainingArguments]


def parse(argv, dataclasses=STUDENT):
    return parse_with_recipe("train", dataclasses, [*argv, "--use_cpu", "true"])[2]


def notices(caplog) -> list[str]:
    return [record.message for record in caplog.records if record.name == "deitlt_hf"]


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--learn_rate", "did you mean --learning_rate?"),
        ("--num-epochs", "did you mean --num_train_epochs?"),
        ("--bs", "did you mean --per_device_train_batch_size?"),
        ("--pretrained=x", "did you mean --init_from?"),
        ("--distillation_typ", "--distillation_type"),
        ("--imagesize", "did you mean --image_size?"),
        ("--hep", None),
        ("--xyzzy", None),
    ],
)
def test_an_unknown_flag_is_named_with_what_it_may_mean(capsys, flag, meant):
    with pytest.raises(SystemExit):
        parse([flag])
    said = capsys.readouterr().err
    assert f"unknown option {flag}" in said
    assert (meant in said) if meant else ("did you mean" not in said)


@pytest.mark.parametrize(
    ("recipe", "epochs", "scaled"),
    [
        ({"num_train_epochs": 20, "drw_start_epoch": 16}, 10, {"drw_start_epoch": 8}),
        ({"num_train_epochs": 20, "drw_start_epoch": 16}, 5, {"drw_start_epoch": 4, "warmup_epochs": 1.25}),
        ({"num_train_epochs": 20, "drw_start_epoch": 16}, 40, {"drw_start_epoch": 32}),
        ({"num_train_epochs": 20, "drw_start_epoch": 16}, 20, {}),
        ({"num_train_epochs": 20}, 5, {"warmup_epochs": 1.25}),
        ({"num_train_epochs": 200, "warmup_epochs": 10, "drw_start_epoch": 160}, 10,
         {"drw_start_epoch": 8, "warmup_epochs": 0.5}),
        ({"num_train_epochs": 200, "decay_epochs": [160, 180]}, 20, {"decay_epochs": [16, 18]}),
        ({"num_train_epochs": 20, "drw_start_epoch": None}, 10, {}),
        ({"drw_start_epoch": 16}, 20, {}),
    ],
)  # fmt: skip
def test_epochs_of_a_recipe_are_scaled_and_that_is_said(caplog, recipe, epochs, scaled):
    assert scaled_to_epochs(recipe, {"num_train_epochs": epochs}) == scaled
    assert len(notices(caplog)) == (1 if scaled else 0)
    for name, value in scaled.items():
        assert scaled_to_epochs(recipe, {"num_train_epochs": epochs, name: value}).get(name) is None


def test_fewer_epochs_of_a_recipe_need_no_other_flag(caplog):
    args = parse(["--recipe", "digits-lt", "--num_train_epochs", "4"])  # 120 of 240
    assert (args.num_train_epochs, args.drw_start_epoch, args.warmup_epochs) == (4, 2, pytest.approx(5 * 4 / 240))
    assert notices(caplog) == [
        "4 epochs in place of the recipe's 240; in proportion: drw_start_epoch 2, warmup_epochs 0.0833333"
    ]
    args = parse(["--recipe", "digits-lt", "--num_train_epochs", "5", "--drw_start_epoch", "2"])
    assert args.drw_start_epoch == 2


def test_a_resumed_runs_drw_stays_and_that_is_said(caplog, tmp_path):
    (tmp_path / "recipe.yaml").write_text("num_train_epochs: 2\ndrw_start_epoch: 1\n")
    args = parse(["--resume", "--output_dir", str(tmp_path), "--num_train_epochs", "6"])
    assert (args.num_train_epochs, args.drw_start_epoch) == (6, 1)
    assert notices(caplog) == [
        "resumed with 6 epochs in place of 2: DRW starts at epoch 1, and the learning rate follows the schedule of the "
        "new number; --drw_start_epoch changes the first"
    ]
    caplog.clear()
    parse(["--resume", "--output_dir", str(tmp_path)])
    assert notices(caplog) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("image_size: 16.5", "image_size is 16.5; pass a whole number"),
        ("image_size: true", "image_size is true; pass a whole number"),
        ("mixup: true", "mixup is true; pass a number"),
        ("group_boundaries: [3, 7.5]", "group_boundaries is 7.5; pass a whole number"),
        ("save_strategy: no", "save_strategy is false; pass a text, in quotes"),
        ("bf16: 1", "bf16 is 1; pass true or false"),
    ],
)
def test_a_recipes_value_of_another_type_is_refused(line, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"{line}\n")
    with pytest.raises(DeiTLTError, match=f"mine.yaml: {message}$"):
        parse(["--recipe", str(tmp_path / "mine.yaml")])
