"""Class-balanced sampling, and a new classifier on features that stay as they are (cRT, Kang et al., 2020)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTError,
    DeiTLTTrainer,
    StudentArguments,
    TeacherArguments,
    TeacherTrainer,
    TimmCosineConfig,
    TimmCosineForImageClassification,
)
from deitlt_hf.data.sampling import ClassBalancedSampler
from deitlt_hf.runs.training import check_student, check_teacher
from deitlt_hf.teachers.build import make_classifier

LABELS = np.repeat([0, 1, 2, 4], [960, 30, 9, 1])  # there is no image of class 3


def order(sampler: ClassBalancedSampler, epoch: int) -> np.ndarray:
    sampler.set_epoch(epoch)
    return np.array(list(sampler))


def test_every_class_gets_an_equal_share_and_every_image_of_it_can_come():
    shuffled = np.random.default_rng(1).permutation(LABELS)
    sampler = ClassBalancedSampler(shuffled, seed=0)
    drawn = np.concatenate([order(sampler, epoch) for epoch in range(60)])
    assert len(drawn) == 60 * len(sampler) == 60_000
    # Four classes: 15,000 draws of each, with a standard deviation of sqrt(60,000 x 1/4 x 3/4) = 106.
    classes, counts = np.unique(shuffled[drawn], return_counts=True)
    assert classes.tolist() == [0, 1, 2, 4]
    assert (abs(counts - 15_000) < 5 * 106).all()
    # 500 draws of each of the 30 images of class 1, with a standard deviation of 22; 15.6 of each of class 0.
    images = np.bincount(drawn, minlength=1_000)
    assert (abs(images[shuffled == 1] - 500) < 5 * 22).all()
    assert images.min() > 0


def test_the_order_depends_on_seed_and_epoch_alone():
    sampler, other = ClassBalancedSampler(LABELS, seed=3), ClassBalancedSampler(LABELS, seed=3)
    first, second = order(sampler, 0), order(sampler, 1)
    assert (order(other, 1) == second).all()
    assert (order(sampler, 0) == first).all()
    assert (first != second).any()
    assert (order(ClassBalancedSampler(LABELS, seed=4), 0) != first).any()


def test_a_resumed_training_draws_the_same_images(tiny_student, images, arguments, spy):
    def train(checkpoint=None):
        settings = {"class_balanced_sampling": True, "distillation_type": "none", "num_train_epochs": 3}
        args = arguments(save_strategy="steps", save_steps=1, save_total_limit=None, **settings)
        trainer = DeiTLTTrainer(tiny_student(), args, train_dataset=images())
        calls = spy(trainer)
        trainer.train(resume_from_checkpoint=checkpoint and f"{args.output_dir}/checkpoint-{checkpoint}")
        return [call["images"] for call in calls]

    whole = train()
    assert len(whole) == 12
    assert len(set(np.concatenate(whole[:4]))) < 16  # with replacement
    assert train(6) == whole[6:]


def test_a_table_with_labels_is_sampled_and_other_data_are_refused(tiny_teacher, images, teacher_arguments):
    args = teacher_arguments(class_balanced_sampling=True)
    rows = Dataset.from_dict({"pixel_values": [0.0] * len(LABELS), "label": LABELS})
    drawn = [LABELS[index] for index in TeacherTrainer(tiny_teacher(), args, train_dataset=rows)._get_train_sampler()]
    # Of class 4 there is one image, which comes in a quarter of 1,000 draws.
    assert 250 - 5 * 14 < drawn.count(4) < 250 + 5 * 14
    unlabelled = rows.remove_columns("label")
    for data in (unlabelled, [images()[0]] * 8):
        with pytest.raises(DeiTLTError, match=f"a {type(data).__name__} does not tell them"):
            TeacherTrainer(tiny_teacher(), args, train_dataset=data).train()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("settings", [{}, {"sam_rho": 0.05, "gradient_accumulation_steps": 2}])
def test_a_teachers_features_stay_bit_for_bit(images, teacher_arguments, settings, tmp_path):
    data = images()
    CifarResNetForImageClassification(CifarResNetConfig(depth=20, image_size=8, num_labels=10)).save_pretrained(
        tmp_path / "first"
    )
    model = CifarResNetForImageClassification.from_pretrained(tmp_path / "first")
    before = weights(model)
    args = teacher_arguments(retrain_classifier=True, class_balanced_sampling=True, num_train_epochs=1, **settings)
    trainer = TeacherTrainer(model, args, train_dataset=data)
    fresh, features = weights(model), model.eval().extract_features(data.pixel_values)
    assert changed(model, before) == {"classifier.weight", "classifier.bias"}  # before the first step: drawn anew
    trainer.train()
    assert changed(model, fresh) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(model.eval().extract_features(data.pixel_values), features)


def test_the_new_classifier_depends_on_the_seed_alone(teacher_arguments):
    def made(seed):
        torch.manual_seed(7)
        model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, image_size=8, num_labels=10))
        torch.manual_seed(seed + 50)
        TeacherTrainer(model, teacher_arguments(retrain_classifier=True, seed=seed))
        return model.classifier.weight

    assert torch.equal(made(0), made(0))
    assert not torch.equal(made(0), made(1))


def test_a_students_heads_alone_are_trained(tiny_student, images, arguments):
    settings = {"retrain_classifier": True, "class_balanced_sampling": True, "distillation_type": "none"}
    args = arguments(num_train_epochs=1, learning_rate=0.1, ema_decay=0.9, **settings)
    trainer = DeiTLTTrainer(args=args, model_init=lambda: tiny_student(drop_path_rate=0.5), train_dataset=images())
    trainer.train()
    heads = {f"{head}.{part}" for head in ("cls_classifier", "distillation_classifier") for part in ("weight", "bias")}
    assert changed(trainer.model, weights(tiny_student())) == heads
    assert not trainer.model.deit.training  # no stochastic depth either


def test_the_classifier_of_every_kind_of_teacher_is_found(teacher_arguments):
    maps = {"id2label": dict(enumerate("abc")), "label2id": {name: number for number, name in enumerate("abc")}}
    models = {
        "timm_model.fc": make_classifier("test_resnet", 32, maps),
        "classifier": TimmCosineForImageClassification(
            TimmCosineConfig(architecture="test_resnet", image_size=32, **maps)
        ),
        "classifier.1": make_classifier("resnet", 32, maps),
    }
    for name, model in models.items():
        TeacherTrainer(model, teacher_arguments(retrain_classifier=True))
        learns = {weight.rsplit(".", 1)[0] for weight, of in model.named_parameters() if of.requires_grad}
        assert learns == {name}


def test_what_cannot_work_is_refused(tiny_teacher, arguments, teacher_arguments):
    with pytest.raises(DeiTLTError, match="pass repeated_augmentation 1"):
        arguments(class_balanced_sampling=True, repeated_augmentation=3)
    with pytest.raises(DeiTLTError, match="train_sampling_strategy"):
        arguments(class_balanced_sampling=True, train_sampling_strategy="sequential")
    with pytest.raises(DeiTLTError, match="pass another loss"):
        teacher_arguments(retrain_classifier=True, loss="paco")
    with pytest.raises(DeiTLTError, match="pass init_from"):
        check_teacher(TeacherArguments(), teacher_arguments(retrain_classifier=True))
    with pytest.raises(DeiTLTError, match="pass init_from"):
        check_student(StudentArguments(), arguments(retrain_classifier=True), 8)
    model = tiny_teacher()
    model.classifier = nn.Flatten()
    with pytest.raises(DeiTLTError, match="LinearClassifier has none"):
        TeacherTrainer(model, teacher_arguments(retrain_classifier=True))
