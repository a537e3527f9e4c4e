"""A student whose adapters alone learn, wrapped by peft, trains like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open

from deitlt_hf import DeiTLTError, DeiTLTForImageClassification, DeiTLTTrainer

HEADS = ("cls_classifier", "distillation_classifier")
GROUPS = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}


@pytest.fixture
def train(tiny_student, tiny_teacher, images, arguments):
    """Trains adapters for three epochs of four steps, DRW in the last, from the start or from a checkpoint."""

    def run(checkpoint: str | None = None, rank: int = 2, **settings) -> DeiTLTTrainer:
        defaults = {"drw_start_epoch": 2, "num_train_epochs": 3, "ema_decay": 0.9, "save_strategy": "epoch"}
        args = arguments(**defaults | {"learning_rate": 0.01} | settings)
        lora = LoraConfig(r=rank, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], modules_to_save=list(HEADS))
        torch.manual_seed(0)
        student = get_peft_model(tiny_student(class_groups=GROUPS), lora)
        trainer = DeiTLTTrainer(student, args, teacher=tiny_teacher(), train_dataset=images(), eval_dataset=images(12))
        trainer.train(resume_from_checkpoint=checkpoint and f"{args.output_dir}/{checkpoint}")
        return trainer

    return run


def assert_same(model: torch.nn.Module, expected: torch.nn.Module) -> None:
    torch.testing.assert_close(dict(model.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)


def logits(model: torch.nn.Module, images) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixel_values=images().pixel_values).logits


def test_adapters_and_heads_learn_and_nothing_else(train, tiny_student, images):
    trainer = train()
    learned = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or ".modules_to_save." in name for name in learned)
    assert sum("lora_" in name for name in learned) == 8  # two matrices at each of four projections
    own = tiny_student().state_dict()
    unwrapped = {
        name.replace(".base_layer", ""): weight for name, weight in trainer.model.base_model.model.state_dict().items()
    }
    frozen = {name: weight for name, weight in own.items() if name.split(".")[0] not in HEADS}
    torch.testing.assert_close({name: unwrapped[name] for name in frozen}, frozen, rtol=0, atol=0)
    assert not torch.equal(logits(trainer.model, images), logits(tiny_student(), images))
    metrics = trainer.evaluate()
    assert {"eval_average_tail", "eval_cls_balanced_accuracy", "eval_distillation_overall"} <= metrics.keys()


def test_saved_adapters_are_small_and_give_the_same_logits_on_a_fresh_student(train, tiny_student, images):
    trainer = train()
    directory = Path(trainer.args.output_dir)
    trainer.save_model()
    own = logits(trainer.model, images)
    with trainer.averaged_weights():
        averaged = logits(trainer.model, images)
    assert not torch.equal(own, averaged)
    for saved, expected in ((directory, own), (directory / "ema", averaged)):
        with safe_open(saved / "adapter_model.safetensors", "pt") as file:
            names = list(file.keys())
        assert len(names) == 8 + 4  # weight and bias of each head
        assert not (saved / "model.safetensors").exists()
        again = PeftModel.from_pretrained(tiny_student(), saved)
        torch.testing.assert_close(logits(again, images), expected, rtol=0, atol=1e-6)
    merged = again.merge_and_unload()
    merged.save_pretrained(directory / "merged")
    torch.testing.assert_close(
        logits(type(merged).from_pretrained(directory / "merged"), images), logits(again, images), rtol=0, atol=1e-5
    )


def test_the_saved_heads_may_be_for_other_classes(tiny_student, images, arguments, tmp_path):
    four = {index: f"class {index}" for index in range(4)}
    tiny_student(id2label=four, class_counts=[9, 5, 4, 1]).save_pretrained(tmp_path / "four")
    args = arguments(distillation_type="none", num_train_epochs=1)

    def for_ten_classes() -> DeiTLTForImageClassification:
        id2label = {index: f"class {index}" for index in range(10)}
        return DeiTLTForImageClassification.from_pretrained(tmp_path / "four", id2label=id2label, class_counts=[5] * 10)

    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=list(HEADS))
    trainer = DeiTLTTrainer(get_peft_model(for_ten_classes(), lora), args, train_dataset=images())
    trainer.train()
    trainer.save_model()
    again = PeftModel.from_pretrained(for_ten_classes(), args.output_dir)
    assert logits(again, images).shape == (16, 10)
    torch.testing.assert_close(logits(again, images), logits(trainer.model, images), rtol=0, atol=1e-6)


def test_a_resumed_run_is_the_uninterrupted_one(train):
    whole = train()
    resumed = train("checkpoint-8")
    assert_same(resumed.model, whole.model)
    torch.testing.assert_close(resumed.ema.weights, whole.ema.weights, rtol=0, atol=0)


def test_the_best_adapters_are_loaded(train, tiny_student, images):
    trainer = train(
        ema_decay=None,
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # so that the best is not the last
    )
    best = trainer.state.best_model_checkpoint
    assert best == f"{trainer.args.output_dir}/checkpoint-4"
    expected = logits(PeftModel.from_pretrained(tiny_student(), best), images)
    torch.testing.assert_close(logits(trainer.model, images), expected, rtol=0, atol=1e-6)


def test_a_checkpoint_without_adapters_is_refused(train, tiny_student, tmp_path):
    tiny_student().save_pretrained(tmp_path / "student" / "whole")
    with pytest.raises(DeiTLTError, match=r"^cannot load the checkpoint [^\n]*whole[^\n]*$"):
        train("whole")


def test_a_checkpoint_of_adapters_of_another_rank_is_refused(train):
    train(num_train_epochs=1, drw_start_epoch=0)
    with pytest.raises(DeiTLTError, match=r"^the checkpoint [^\n]*checkpoint-4 is of a model of another size[^\n]*$"):
        train("checkpoint-4", rank=3)
