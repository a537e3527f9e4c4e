"""The student's trainer, against the reference's steps and arithmetic by hand."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import TrainerCallback

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTError,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    convert_reference_checkpoint,
    grouped_accuracy,
    rebalanced_divergence,
)


def test_seven_steps_follow_the_reference(golden, golden_json, arguments):
    steps = load_file(golden / "trajectory.safetensors")
    student = convert_reference_checkpoint(golden / "student.pth", num_attention_heads=3)
    for layer in student.deit.layers:
        layer.drop_path.rate = 0.0
    teacher = convert_reference_checkpoint(golden / "teacher_paco_resnet32.pth.tar")
    optimizer = golden_json["optimizer"]
    args = arguments(
        num_train_epochs=7,
        per_device_train_batch_size=8,
        drw_start_epoch=4,
        learning_rate=optimizer["lr"],
        scale_learning_rate=False,
        weight_decay=optimizer["weight_decay"],
        adam_beta1=optimizer["betas"][0],
        adam_beta2=optimizer["betas"][1],
        adam_epsilon=optimizer["eps"],
    )
    trainer = DeiTLTTrainer(student, args, teacher=teacher)
    trainer.create_optimizer()
    for step in range(7):
        trainer.state.epoch = float(step)
        targets = steps["soft_targets"][step] if step < 4 else steps["labels"][step - 4]
        teacher_labels = trainer.teacher(steps["pixel_values"][step]).argmax(-1)
        assert teacher_labels.tolist() == steps["teacher_labels"][step].tolist()
        loss = trainer.training_step(student, {"pixel_values": steps["pixel_values"][step], "labels": targets})
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        parts = trainer._parts[:2]
        trainer._parts = None
        measured = torch.stack([loss, *parts]).double()
        torch.testing.assert_close(measured, steps["losses"][step], rtol=0, atol=1e-4)
    student.eval()
    outputs = student(steps["probe_pixel_values"])
    torch.testing.assert_close(outputs.cls_logits, steps["probe_cls_logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(outputs.distillation_logits, steps["probe_distillation_logits"], rtol=0, atol=1e-4)


def our_names(reference_name):
    """Names of the reference's parameter here; what was stacked there is three."""
    name, parameter = reference_name.rsplit(".", 1) if "." in reference_name else ("", reference_name)
    if not name:
        special = {"cls_token": "cls_token", "dist_token": "distillation_token", "pos_embed": "position_embeddings"}
        return [f"deit.embeddings.{special[parameter]}"]
    outside = {
        "head": "cls_classifier",
        "head_dist": "distillation_classifier",
        "norm": "deit.layernorm",
        "patch_embed.proj": "deit.embeddings.patch_embeddings.projection",
    }
    if name in outside:
        return [f"{outside[name]}.{parameter}"]
    layer, part = re.fullmatch(r"blocks\.(\d+)\.(.*)", name).groups()
    parts = {
        "attn.qkv": ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
        "attn.proj": ["attention.o_proj"],
        "mlp.fc1": ["mlp.fc1"],
        "mlp.fc2": ["mlp.fc2"],
        "norm1": ["layernorm_before"],
        "norm2": ["layernorm_after"],
    }
    return [f"deit.layers.{layer}.{ours}.{parameter}" for ours in parts[part]]


def test_the_optimizer_spares_what_the_reference_spares(golden_json, tiny_student, tiny_teacher, arguments):
    student = tiny_student(num_hidden_layers=golden_json["model"]["num_hidden_layers"])
    trainer = DeiTLTTrainer(student, arguments(weight_decay=0.05), teacher=tiny_teacher())
    names = {id(weight): name for name, weight in student.named_parameters()}
    groups = {
        group["weight_decay"]: {names[id(weight)] for weight in group["params"]}
        for group in trainer.create_optimizer().param_groups
    }
    spared = {ours for reference in golden_json["optimizer"]["no_weight_decay"] for ours in our_names(reference)}
    assert groups == {0.0: spared, 0.05: set(names.values()) - spared}


class Gradients(TrainerCallback):
    """The gradients at every optimiser step, before it."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: weight.grad.clone() for name, weight in model.named_parameters()})


@pytest.mark.parametrize("length", [32, 48], ids=["full", "last step with half of the batches"])
def test_accumulated_batches_give_the_gradient_of_one(tiny_student, tiny_teacher, images, arguments, length):
    steps = {}
    for batch, accumulation in ((8, 4), (32, 1)):
        gradients = Gradients()
        args = arguments(
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            dataloader_drop_last=False,
            learning_rate=1e-12,  # so that the second step starts at the same weights
            min_learning_rate=1e-12,
            warmup_epochs=0,
        )
        teacher = tiny_teacher()
        trainer = DeiTLTTrainer(
            tiny_student(), args, teacher=teacher, train_dataset=images(length), callbacks=[gradients]
        )
        trainer.train()
        assert {len(seen) for seen in teacher.seen[: 32 // batch]} == {batch}
        steps[batch] = gradients.steps
    assert len(steps[8]) == len(steps[32]) == -(-length // 32)
    for accumulated, joined in zip(steps[8], steps[32], strict=True):
        assert max(gradient.abs().max() for gradient in joined.values()) > 1e-3
        torch.testing.assert_close(accumulated, joined, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_drw_begins_at_the_first_step_of_its_epoch(
    tiny_student, tiny_teacher, images, arguments, spy, workers, accumulation
):
    batches, start, epochs = 4, 2, 3
    middle = (batches + 2) // accumulation  # the step in the middle of the epoch before
    steps = batches // accumulation
    for first in (0, middle):  # uninterrupted, and resumed
        args = arguments(
            num_train_epochs=epochs,
            drw_start_epoch=start,
            gradient_accumulation_steps=accumulation,
            dataloader_num_workers=workers,
            save_strategy="steps",
            save_steps=middle,
        )
        trainer = DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=images(4 * batches))
        calls = spy(trainer)
        trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-{first}" if first else None)
        by_hand = [batch // batches >= start for batch in range(first * accumulation, epochs * batches)]
        assert [call["drw"] for call in calls] == by_hand
        assert [call["weights"] is not None for call in calls] == by_hand
        assert all(call["weights"] is trainer.class_weights for call in calls if call["drw"])
        logged = [entry["drw"] for entry in trainer.state.log_history if "loss" in entry]
        assert logged == [float(step // steps >= start) for step in range(epochs * steps)]


@pytest.mark.parametrize("mixup_in_drw", [False, True])
def test_mixing_ends_with_drw_unless_kept(tiny_student, tiny_teacher, images, arguments, spy, mixup_in_drw):
    args = arguments(mixup=0.8, cutmix=1.0, drw_start_epoch=1, mixup_in_drw=mixup_in_drw, num_train_epochs=2)
    data = images()
    trainer = DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=data)
    calls = spy(trainer)
    trainer.train()
    for batch, call in enumerate(calls):
        labels = data.labels[call["images"]]
        if batch < 4 or mixup_in_drw:
            assert call["targets"].shape == (4, 10)
            assert not torch.equal(call["targets"], F.one_hot(labels, 10).float())
        else:
            assert call["targets"].tolist() == labels.tolist()


class Averages(TrainerCallback):
    """The average of the weights after every step, by hand."""

    def __init__(self, student, decay):
        self.decay = decay
        self.average = {name: weight.clone() for name, weight in student.state_dict().items()}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        for name, weight in model.state_dict().items():
            self.average[name] = self.decay * self.average[name] + (1 - self.decay) * weight


@pytest.fixture
def averaged(tiny_student, tiny_teacher, images, arguments):
    """A trainer after two epochs with averaged weights, and the average by hand."""
    groups = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    student = tiny_student(class_groups=groups)
    args = arguments(num_train_epochs=2, learning_rate=0.02, ema_decay=0.7, evaluate_ema=True, warmup_epochs=0)
    by_hand = Averages(student, 0.7)
    trainer = DeiTLTTrainer(
        student,
        args,
        teacher=tiny_teacher(),
        train_dataset=images(),
        eval_dataset=images(37),
        callbacks=[by_hand],
    )
    trainer.train()
    return trainer, by_hand.average


def test_the_average_is_the_arithmetic_from_the_initial_weights(averaged):
    trainer, by_hand = averaged
    assert trainer.state.global_step == 8
    torch.testing.assert_close(dict(trainer.ema.weights), by_hand, rtol=1e-5, atol=1e-6)


def test_the_average_is_evaluated_beside_the_student(averaged):
    trainer, by_hand = averaged
    own = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    metrics = trainer.evaluate()
    torch.testing.assert_close(dict(trainer.model.state_dict()), own, rtol=0, atol=0)
    data = trainer.eval_dataset
    for prefix, weights in (("eval", own), ("eval_ema", by_hand)):
        trainer.model.load_state_dict(weights)
        expected = accuracies_by_hand(trainer, data)
        assert {name: metrics[f"{prefix}_{name}"] for name in expected} == pytest.approx(expected)
        with torch.no_grad():
            loss = trainer.model(data.pixel_values, labels=data.labels).loss.item()
        assert metrics[f"{prefix}_loss"] == pytest.approx(loss, rel=1e-4)
    assert metrics["eval_loss"] != pytest.approx(metrics["eval_ema_loss"], rel=1e-3)


def accuracies_by_hand(trainer, data):
    with torch.no_grad():
        outputs = trainer.model.eval()(data.pixel_values)
    logits = {
        "average": outputs.cls_logits + outputs.distillation_logits,
        "cls": outputs.cls_logits,
        "distillation": outputs.distillation_logits,
    }
    return {
        f"{expert}_{group}": value
        for expert, values in logits.items()
        for group, value in grouped_accuracy(values, data.labels, trainer.class_groups).items()
    }


@pytest.mark.parametrize("batch", [8, 37, 64])
def test_every_test_image_is_evaluated_by_each_expert(tiny_student, images, arguments, batch):
    groups = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    data = images(37)
    args = arguments(distillation_type="none", per_device_eval_batch_size=batch)
    trainer = DeiTLTTrainer(tiny_student(), args, class_groups=groups, eval_dataset=data)
    torch.nn.init.normal_(trainer.model.cls_classifier.weight)  # so that the experts disagree
    torch.nn.init.normal_(trainer.model.distillation_classifier.weight)
    metrics = trainer.evaluate()
    expected = accuracies_by_hand(trainer, data)
    assert len(expected) == 12
    assert {name: metrics[f"eval_{name}"] for name in expected} == pytest.approx(expected)
    assert len({expected[f"{expert}_overall"] for expert in ("average", "cls", "distillation")}) > 1


def test_the_average_of_half_precision_logits_is_that_of_a_runs_evaluation(tiny_student, arguments):
    # In bfloat16 the second mean, 1.00390625, would round to 1 and lose to the first.
    cls_logits, distillation_logits = torch.tensor([[[1.0, 1.0078125]], [[1.0, 1.0]]], dtype=torch.bfloat16)
    trainer = DeiTLTTrainer(tiny_student(), arguments(distillation_type="none"))
    reduce = trainer.preprocess_logits_for_metrics
    assert reduce((cls_logits, cls_logits, distillation_logits), torch.tensor([1])).tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("logging_steps", [1, 2])
@pytest.mark.parametrize("distillation_view", ["strong", "weak"])
def test_the_log_is_what_a_count_by_hand_gives(
    tiny_student, tiny_teacher, images, arguments, monkeypatch, logging_steps, distillation_view
):
    args = arguments(
        num_train_epochs=2,
        drw_start_epoch=1,
        gradient_accumulation_steps=2,
        logging_steps=logging_steps,
        distillation_view=distillation_view,
        learning_rate=0.01,
    )
    data = images(20, weak_view=True)  # five batches an epoch: the third step has one
    trainer = DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=data)
    compute_loss, by_hand = trainer.compute_loss, {step: [] for step in range(1, 7)}

    def compute_loss_and_count(model, inputs, *args, **kwargs):
        with torch.no_grad():
            tokens = model.deit(inputs["pixel_values"]).last_hidden_state
            view = inputs["pixel_values" if distillation_view == "strong" else "weak_pixel_values"]
            right = trainer.teacher.model(view).logits.argmax(-1) == inputs["labels"]
            similarity = F.cosine_similarity(tokens[:, 0], tokens[:, 1])
        loss = compute_loss(model, inputs, *args, **kwargs)
        counted = [loss.item(), similarity.mean().item(), 100 * right.double().mean().item()]
        by_hand[trainer.state.global_step + 1].append(counted)
        return loss

    monkeypatch.setattr(trainer, "compute_loss", compute_loss_and_count)
    trainer.train()
    steps = {step: np.mean(batches, axis=0) for step, batches in by_hand.items()}
    assert [len(batches) for batches in by_hand.values()] == [2, 2, 1, 2, 2, 1]
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == list(range(logging_steps, 7, logging_steps))
    for before, entry in pairwise([{"step": 0}, *entries]):
        window = [steps[step] for step in range(before["step"] + 1, entry["step"] + 1)]
        loss, similarity, accuracy = np.mean(window, axis=0)
        assert entry["loss"] == pytest.approx(loss, rel=1e-5)
        assert entry["cls_loss"] + entry["distillation_loss"] == pytest.approx(loss, rel=1e-5)
        assert entry["token_similarity"] == pytest.approx(similarity, abs=1e-5)
        assert entry["teacher_accuracy"] == pytest.approx(accuracy)
        assert entry["images_per_second"] > 0
        assert entry["drw"] == float(entry["step"] > 3)


def test_images_per_second_counts_images_of_this_run_alone(tiny_student, tiny_teacher, images, arguments, monkeypatch):
    def train(checkpoint=None):
        args = arguments(save_strategy="steps", save_steps=14)
        trainer = DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=images())
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    trainer = train()
    # One second passes between any two looks at the clock; three looks lie between two log entries.
    seconds = iter(range(10_000))
    monkeypatch.setattr("deitlt_hf.durable.trainer.time.perf_counter", lambda: next(seconds))
    trainer = train(f"{trainer.args.output_dir}/checkpoint-14")
    speeds = [entry["images_per_second"] for entry in trainer.state.log_history[-3:-1]]
    assert all(1 <= speed <= 4 for speed in speeds), speeds


def test_in_distribution_distillation_shows_the_teacher_the_weak_view(
    tiny_student, tiny_teacher, images, arguments, spy
):
    student, teacher, data = tiny_student(), tiny_teacher(), images(weak_view=True)
    seen = []
    student.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    args = arguments(num_train_epochs=1, distillation_view="weak")
    trainer = DeiTLTTrainer(student, args, teacher=teacher, train_dataset=data)
    calls = spy(trainer)
    trainer.train()
    assert len(calls) == len(teacher.seen) == len(seen) == 4
    for call, pixels, strong in zip(calls, teacher.seen, seen, strict=True):
        torch.testing.assert_close(pixels, -data.pixel_values[call["images"]], rtol=0, atol=0)
        torch.testing.assert_close(strong, data.pixel_values[call["images"]], rtol=0, atol=0)


def test_in_distribution_distillation_needs_the_weak_view(tiny_student, tiny_teacher, images, arguments):
    args = arguments(distillation_view="weak")
    trainer = DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=images())
    with pytest.raises(DeiTLTError, match="weak_pixel_values"):
        trainer.train()


def test_the_teacher_labels_the_mixed_view(tiny_student, tiny_teacher, images, arguments):
    student, teacher = tiny_student(), tiny_teacher()
    seen = []
    student.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    args = arguments(num_train_epochs=1, mixup=0.8)
    data = images()
    DeiTLTTrainer(student, args, teacher=teacher, train_dataset=data).train()
    torch.testing.assert_close(teacher.seen, seen, rtol=0, atol=0)
    assert all(not (data.pixel_values == image).flatten(1).all(1).any() for image in seen[0])


def test_a_loss_that_is_not_finite_stops_the_run(tiny_student, tiny_teacher, images, arguments, spy):
    def trainer_of(data):
        args = arguments(num_train_epochs=1, save_strategy="steps", save_steps=2)
        return DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=data)

    healthy = trainer_of(images(32))
    order = spy(healthy)
    healthy.args.save_strategy = "no"
    healthy.args.max_steps = 5
    healthy.train()

    data = images(32)
    data.pixel_values[order[4]["images"][0], 1] = float("inf")
    trainer = trainer_of(data)
    with pytest.raises(DeiTLTError, match=r"^the loss is not finite at step 5 \(epoch 0\.50\)[^\n]*$"):
        trainer.train()
    directory = Path(trainer.args.output_dir)
    assert sorted(path.name for path in directory.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    student = DeiTLTForImageClassification.from_pretrained(directory / "checkpoint-4")
    assert all(weight.isfinite().all() for weight in student.state_dict().values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distillation_type": "hard"}, "hard distillation needs a teacher"),
        ({"distillation_type": "soft"}, "soft distillation needs a teacher"),
    ],
)
def test_distillation_needs_a_teacher(tiny_student, arguments, settings, message):
    with pytest.raises(DeiTLTError, match=message):
        DeiTLTTrainer(tiny_student(), arguments(**settings))


def test_drw_needs_class_counts(tiny_student, tiny_teacher, arguments):
    with pytest.raises(DeiTLTError, match="class_counts"):
        DeiTLTTrainer(tiny_student(class_counts=None), arguments(drw_start_epoch=1), teacher=tiny_teacher())


def test_fewer_images_than_a_batch_are_refused(tiny_student, tiny_teacher, images, arguments):
    trainer = DeiTLTTrainer(tiny_student(), arguments(), teacher=tiny_teacher(), train_dataset=images(3))
    with pytest.raises(DeiTLTError, match="3 training images do not fill one batch of 4"):
        trainer.train()


def test_repeated_augmentation_is_shared_out_over_processes(tiny_student, tiny_teacher, images, arguments, monkeypatch):
    args = arguments(repeated_augmentation=3)
    trainer = DeiTLTTrainer(tiny_student(), args, teacher=tiny_teacher(), train_dataset=images(300))
    alone = trainer._get_train_sampler()
    alone.set_epoch(2)
    shares = []
    monkeypatch.setattr(type(args), "world_size", property(lambda self: 2))
    for process in range(2):
        monkeypatch.setattr(type(args), "process_index", property(lambda self, process=process: process))
        shares.append(trainer._get_train_sampler())
        shares[-1].set_epoch(2)
    together = [index for pair in zip(*shares, strict=True) for index in pair]
    assert together == list(alone)
    assert len(together) == 256
    assert len(set(together)) == 86  # 85 images three times, and one for the rest


def test_the_prior_is_taken_out_of_the_teachers_labels(tiny_student, tiny_teacher, images, arguments):
    # A teacher that knows nothing but the prior of its training images: without it, DIST's classes are a tie, which
    # the rarest class (9) wins as soon as a little more than the prior is taken out.
    teacher, student = tiny_teacher(), tiny_student()
    log_prior = (torch.tensor(student.config.class_counts) / sum(student.config.class_counts)).log()
    with torch.no_grad():
        teacher.classifier.weight.zero_()
        teacher.classifier.bias.copy_(log_prior)
    batch = images(4)
    pixels = batch.pixel_values
    for tau, label in ((0.0, 0), (1.5, 9)):
        args = arguments(teacher_prior_tau=tau, distillation_alpha=1.0, mixup=0.0, cutmix=0.0)
        trainer = DeiTLTTrainer(student.train(), args, teacher=teacher)
        loss = trainer.compute_loss(student, {"pixel_values": pixels, "labels": batch.labels[:4]})
        expected = F.cross_entropy(student(pixels).distillation_logits, torch.full((4,), label))
        torch.testing.assert_close(loss, expected)


def test_ltkd_uses_the_groups_of_the_configuration(tiny_student, tiny_teacher, images, arguments):
    groups = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    student, teacher = tiny_student(class_groups=groups).train(), tiny_teacher()
    args = arguments(distillation_type="ltkd", distillation_alpha=1.0, mixup=0.0, cutmix=0.0)
    trainer = DeiTLTTrainer(student, args, teacher=teacher)
    pixels = images(4).pixel_values
    loss = trainer.compute_loss(student, {"pixel_values": pixels, "labels": torch.zeros(4, dtype=torch.int64)})
    divergence = rebalanced_divergence(
        student(pixels).distillation_logits, teacher(pixels).logits, list(groups.values())
    )
    torch.testing.assert_close(loss, divergence.mean())


@pytest.mark.parametrize(("classifier", "scale"), [("cosine", 30.0), ("linear", 1.0)])
def test_a_cosine_teachers_soft_labels_are_those_of_ldams_scaled_cosines(
    tiny_student, images, arguments, classifier, scale
):
    config = CifarResNetConfig(depth=20, image_size=8, num_labels=10, classifier=classifier)
    teacher, student = CifarResNetForImageClassification(config).eval(), tiny_student().train()
    args = arguments(distillation_type="soft", distillation_alpha=1.0, mixup=0.0, cutmix=0.0)
    trainer = DeiTLTTrainer(student, args, teacher=teacher)
    pixels = images(4).pixel_values
    loss = trainer.compute_loss(student, {"pixel_values": pixels, "labels": torch.zeros(4, dtype=torch.int64)})
    expected = F.kl_div(
        F.log_softmax(student(pixels).distillation_logits, -1),
        F.softmax(scale * teacher(pixels).logits, -1),
        reduction="none",
    )
    torch.testing.assert_close(loss, expected.mean())
