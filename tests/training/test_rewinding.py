"""A loss that is not finite: rewinding to the last checkpoint with half the learning rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, DeiTLTError, DeiTLTTrainer, TeacherTrainer


@pytest.fixture
def make_trainer(tiny_student, images, arguments):
    """Makes a trainer whose loss is not finite the first times that it comes to certain steps."""

    def make(*broken_steps, **settings):
        defaults = {"distillation_type": "none", "save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}
        args = arguments(**defaults | {"lr_scheduler_type": "constant", "ema_decay": 0.9} | settings)
        trainer = DeiTLTTrainer(tiny_student(), args, train_dataset=images(), eval_dataset=images())
        left = list(broken_steps)
        compute_loss = trainer.compute_loss

        def break_down(model, inputs, *rest, **kwargs):
            loss = compute_loss(model, inputs, *rest, **kwargs)
            if trainer.state.global_step + 1 in left:
                left.remove(trainer.state.global_step + 1)
                loss = loss * torch.nan
            return loss

        trainer.compute_loss = break_down
        return trainer

    return make


def rates(trainer) -> dict[int, float]:
    return {entry["step"]: entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry}


def test_it_goes_back_to_the_last_checkpoint_with_half_the_rate(make_trainer, caplog):
    trainer = make_trainer(6, rewind_at_non_finite=2)
    trainer.train()
    assert trainer.state.global_step == 8
    assert rates(trainer) == pytest.approx({step: 1e-3 if step <= 4 else 5e-4 for step in range(1, 9)})
    assert next(message for message in caplog.messages if "going back" in message) == (
        f"the loss is not finite at step 6: going back to {trainer.args.output_dir}/checkpoint-4, the learning rate "
        "times 0.5 (rewind 1 of at most 2)"
    )
    assert [entry.get("rewinds") for entry in trainer.state.log_history if "loss" in entry] == [None] * 4 + [1.0] * 4


def test_what_follows_is_what_a_run_resumed_there_with_half_the_rate_does(make_trainer):
    rewound = make_trainer(6, rewind_at_non_finite=1)
    rewound.train()
    resumed = make_trainer(learning_rate=5e-4)
    resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-4")
    torch.testing.assert_close(dict(rewound.model.state_dict()), dict(resumed.model.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(rewound.ema.weights, resumed.ema.weights, rtol=0, atol=0)


def test_before_the_first_checkpoint_it_goes_back_to_the_start(make_trainer):
    rewound = make_trainer(2, 1, rewind_at_non_finite=2)
    rewound.train()
    gentle = make_trainer(learning_rate=2.5e-4)
    gentle.train()
    assert set(rates(rewound).values()) == {2.5e-4}
    torch.testing.assert_close(dict(rewound.model.state_dict()), dict(gentle.model.state_dict()), rtol=0, atol=0)


def test_the_count_and_the_rate_are_kept_over_a_resumption(make_trainer):
    make_trainer(4, rewind_at_non_finite=1).train()
    directory = Path(make_trainer().args.output_dir)
    assert json.loads((directory / "checkpoint-6" / "rewinds.json").read_text()) == {"rewinds": 1}
    resumed = make_trainer(8, rewind_at_non_finite=1)
    with pytest.raises(DeiTLTError, match="not finite at step 8"):
        resumed.train(resume_from_checkpoint=f"{directory}/checkpoint-6")
    assert rates(resumed)[7] == pytest.approx(5e-4)


def test_a_teacher_with_sam_and_paco_forgets_the_step_that_broke(teacher_arguments):
    rows = [
        {"pixel_values": torch.randn(3, 8, 8), "key_pixel_values": torch.randn(3, 8, 8), "labels": n % 2}
        for n in range(16)
    ]
    paco = {"loss": "paco", "paco_dim": 4, "paco_queue": 12, "sam_rho": 0.5, "num_train_epochs": 1}

    def trainer_of(**settings):
        args = teacher_arguments(save_strategy="steps", save_steps=2, **paco | {"learning_rate": 0.01} | settings)
        torch.manual_seed(0)
        model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=2, image_size=8))
        return TeacherTrainer(model, args, class_counts=[8, 8], train_dataset=rows)

    rewound, passes = trainer_of(rewind_at_non_finite=1, schedule="cosine", min_learning_rate=0.0), []
    compute_loss = rewound.compute_loss

    def break_down(*args, **kwargs):
        passes.append(rewound.state.global_step)
        return compute_loss(*args, **kwargs) * (torch.nan if len(passes) == 6 else 1)  # the second pass of step 3

    rewound.compute_loss = break_down
    rewound.train()
    resumed = trainer_of(schedule="cosine", min_learning_rate=0.0, learning_rate=0.005)
    resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-2")
    torch.testing.assert_close(dict(rewound.model.state_dict()), dict(resumed.model.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(dict(rewound.contrast.state_dict()), dict(resumed.contrast.state_dict()), rtol=0, atol=0)


def test_without_rewinds_nothing_is_saved_at_the_start(make_trainer):
    trainer = make_trainer(1)
    with pytest.raises(DeiTLTError, match="not finite at step 1"):
        trainer.train()
    assert not list(Path(trainer.args.output_dir).glob("checkpoint-*"))


def test_a_number_below_0_is_refused(make_trainer):
    with pytest.raises(DeiTLTError, match="rewind_at_non_finite is -1; pass 0 or"):
        make_trainer(rewind_at_non_finite=-1)


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "linear"])
def test_other_schedules_go_on_with_half_the_rate_too(make_trainer, schedule, tmp_path):
    settings = {"lr_scheduler_type": schedule, "eval_strategy": "no"}
    if schedule == "reduce_lr_on_plateau":
        settings |= {"eval_strategy": "epoch", "metric_for_best_model": "eval_loss"}
    undisturbed = make_trainer(**settings, output_dir=str(tmp_path / "undisturbed"))
    rewound = make_trainer(6, 8, rewind_at_non_finite=2, **settings)
    for trainer in (undisturbed, rewound):
        trainer.train()
    expected = {step: rate * 0.5 ** ((step > 4) + (step > 6)) for step, rate in rates(undisturbed).items()}
    assert rates(rewound) == pytest.approx(expected)
