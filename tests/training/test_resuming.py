"""A run that is resumed in the middle of an epoch goes on as if it had not been cut, where its views are not random.

With random views, repeated augmentation, mixing and accumulated batches: see `test_exact_resuming.py`.
"""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, skip_first_batches
from torch.utils.data import BatchSampler

from deitlt_hf import DeiTLTError, DeiTLTForImageClassification, DeiTLTTrainer
from deitlt_hf.data.sampling import repeated_augmentation_sampler
from deitlt_hf.training.callbacks import SetSamplerEpoch

BATCHES, MIDDLE = 5, 8  # batches of an epoch; batches before the checkpoint, which lies in the second epoch


@pytest.fixture
def train(tiny_student, tiny_teacher, images, arguments, spy):
    """Runs three epochs, DRW in the last, from the start or from a checkpoint; gives the trainer and its batches."""

    def run(checkpoint=None, own_rates=None, **settings):
        args = arguments(
            num_train_epochs=3,
            ema_decay=0.9,
            save_strategy="steps",
            save_steps=MIDDLE,
            **{"learning_rate": 0.01, "drw_start_epoch": 2} | settings,
        )
        student, options = tiny_student(), {}
        if own_rates:
            heads = [*student.cls_classifier.parameters(), *student.distillation_classifier.parameters()]
            parts = zip((student.deit.parameters(), heads), own_rates, strict=True)
            own = torch.optim.SGD([{"params": [*part], "lr": rate} for part, rate in parts], momentum=0.9)
            options["optimizers"] = (own, None)
        trainer = DeiTLTTrainer(student, args, teacher=tiny_teacher(), train_dataset=images(4 * BATCHES), **options)
        batches = spy(trainer)
        trainer.train(resume_from_checkpoint=checkpoint and f"{args.output_dir}/{checkpoint}")
        return trainer, batches

    return run


@pytest.mark.parametrize("settings", [{}, {"dataloader_num_workers": 2}, {"own_rates": (0.02, 0.1)}])
def test_a_resumed_run_is_the_uninterrupted_one(train, settings):
    whole, batches = train(**settings)
    resumed, rest = train(f"checkpoint-{MIDDLE}", **settings)
    seen = [batch["images"] for batch in batches]
    # Each epoch has an order of its own, so that a wrong one would be noticed.
    assert seen[:BATCHES] != seen[BATCHES : 2 * BATCHES] != seen[2 * BATCHES : 3 * BATCHES]
    for what in ("images", "rate", "drw"):
        assert [batch[what] for batch in rest] == [batch[what] for batch in batches[MIDDLE:]]
    assert_same(resumed.model, whole.model)
    torch.testing.assert_close(resumed.ema.weights, whole.ema.weights, rtol=0, atol=0)
    logged = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (resumed, whole)]
    assert logged[0] == pytest.approx(logged[1])


def test_another_learning_rate_holds_from_the_checkpoint_on(train):
    settings = {"min_learning_rate": 0.0, "warmup_epochs": 0}
    _, batches = train(**settings)
    _, rest = train(f"checkpoint-{MIDDLE}", **settings, learning_rate=0.001)
    expected = [batch["rate"] / 10 for batch in batches[MIDDLE:]]
    assert [batch["rate"] for batch in rest] == pytest.approx(expected)


@pytest.mark.parametrize("settings", [{"per_device_train_batch_size": 2}, {"gradient_accumulation_steps": 2}])
def test_steps_of_another_size_are_refused(train, settings):
    train()
    with pytest.raises(DeiTLTError, match=r"checkpoint-8 is at epoch 1\.60, where .* be at [^\n]*; resume with the"):
        train("checkpoint-8", **settings)


def test_so_is_another_number_of_processes(train, tmp_path):
    trainer, _ = train()
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-8"
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    (checkpoint / "trainer_state.json").write_text(json.dumps(state | {"epoch": 3.2}))  # of half as many steps
    with pytest.raises(DeiTLTError, match=r"epoch 3\.20, where .* be at 1\.60; resume with 2 processes, and not 1$"):
        train("checkpoint-8")


def assert_same(model, expected):
    torch.testing.assert_close(dict(model.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)


def test_the_averaged_weights_are_in_the_checkpoint_as_a_model(train):
    trainer, _ = train(max_steps=MIDDLE, drw_start_epoch=None)
    average = DeiTLTForImageClassification.from_pretrained(f"{trainer.args.output_dir}/checkpoint-{MIDDLE}/ema")
    torch.testing.assert_close(dict(average.state_dict()), trainer.ema.weights, rtol=0, atol=0)
    own = DeiTLTForImageClassification.from_pretrained(f"{trainer.args.output_dir}/checkpoint-{MIDDLE}")
    assert_same(own, trainer.model)
    assert not torch.equal(own.cls_classifier.weight, average.cls_classifier.weight)


def test_an_average_that_begins_with_the_resumed_run_begins_at_its_weights(
    tiny_student, tiny_teacher, images, arguments
):
    def trainer_of(**settings):
        args = arguments(num_train_epochs=2, save_strategy="epoch", **settings)
        return DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=images())

    without = trainer_of()
    without.train()
    trainer = trainer_of(ema_decay=0.999)
    trainer.train(resume_from_checkpoint=f"{without.args.output_dir}/checkpoint-8")  # the end: no step is left
    torch.testing.assert_close(trainer.ema.weights, dict(without.model.state_dict()), rtol=0, atol=0)


def test_the_sampler_of_several_processes_learns_its_epoch_too():
    """What the Trainer does at a resumed epoch, around the loader that accelerate gives to one of two processes."""
    sampler = repeated_augmentation_sampler(24, num_replicas=2)
    shard = BatchSamplerShard(BatchSampler(sampler, 4, drop_last=True), num_processes=1, process_index=0)
    loader = DataLoaderShard(range(24), batch_sampler=shard)
    SetSamplerEpoch().on_epoch_begin(None, SimpleNamespace(epoch=3.67), None, train_dataloader=loader)
    resumed = skip_first_batches(loader, 2)
    resumed.set_epoch(3)
    expected = repeated_augmentation_sampler(24, num_replicas=2)
    expected.set_epoch(3)
    assert torch.cat(list(resumed)).tolist() == list(expected)[8:]


def test_the_best_checkpoint_is_loaded_whole(tiny_student, images, arguments, tmp_path):
    groups = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}

    def train(checkpoint: str | None = None) -> str:
        args = arguments(
            distillation_type="none",
            num_train_epochs=3,
            save_strategy="epoch",
            eval_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=True,  # so that the best is not the last
            learning_rate=0.01,
        )
        options = {"class_groups": groups, "train_dataset": images(), "eval_dataset": images()}
        trainer = DeiTLTTrainer(tiny_student(), args, **options)
        trainer.train(checkpoint)
        best = f"{Path(checkpoint).parent if checkpoint else args.output_dir}/checkpoint-4"
        assert trainer.state.best_model_checkpoint == best
        assert_same(trainer.model, DeiTLTForImageClassification.from_pretrained(best))
        return args.output_dir

    shutil.move(train(), tmp_path / "moved")
    train(str(tmp_path / "moved" / "checkpoint-12"))  # its state names the old directory


def test_checkpoints_at_a_share_of_all_steps(tiny_student, images, arguments):
    """The recipes save so: a run resumes from one without a word, and keeps the last two and the best."""

    def train(checkpoint: str | None = None, limit: int | None = None, **settings) -> DeiTLTTrainer:
        shares = {"save_strategy": "steps", "save_steps": 0.2, "eval_strategy": "steps", "eval_steps": 0.2}
        args = arguments(
            distillation_type="none",
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=True,  # so that the best is not the last
            learning_rate=0.01,
            num_train_epochs=5,
            save_total_limit=limit,
            **shares,
        )
        trainer = DeiTLTTrainer(tiny_student(), args, train_dataset=images(), eval_dataset=images())
        trainer.train(resume_from_checkpoint=checkpoint and f"{args.output_dir}/{checkpoint}")
        assert (args.save_steps, trainer.state.save_steps, trainer.state.eval_steps) == (0.2, 4, 4)
        return trainer

    def saved(trainer: DeiTLTTrainer) -> set[str]:
        return {path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")}

    whole = train()
    assert saved(whole) == {f"checkpoint-{step}" for step in (4, 8, 12, 16, 20)}
    best = whole.state.best_model_checkpoint
    with watched_warnings() as warned:
        resumed = train("checkpoint-8")
    assert not [line for line in warned if "do not match" in line]
    assert resumed.state.log_history[-2]["eval_loss"] == whole.state.log_history[-2]["eval_loss"]
    assert resumed.state.best_model_checkpoint == best
    assert_same(resumed.model, whole.model)
    assert saved(train(limit=2)) == {Path(best).name, "checkpoint-20"}


@contextmanager
def watched_warnings():
    """What transformers logs as warnings, which does not reach the root logger."""
    warned: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        yield warned
    finally:
        logger.removeHandler(handler)


def test_a_checkpoint_without_weights_is_refused(tiny_student, images, arguments, tmp_path):
    trainer = DeiTLTTrainer(tiny_student(), arguments(distillation_type="none"), train_dataset=images())
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(DeiTLTError, match=r"^cannot load the checkpoint [^\n]*checkpoint-1[^\n]*$"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
