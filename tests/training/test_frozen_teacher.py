"""The teacher as the student sees it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, DeiTLTError, DeiTLTTrainer
from deitlt_hf.training.frozen_teacher import FrozenTeacher

ANIMALS = ["cat", "dog", "lynx"]


def named(names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def test_the_teacher_sees_the_students_pixels_at_its_own_size(golden, tiny_student, tiny_teacher):
    pixels = load_file(golden / "teacher_resize.safetensors")
    model = tiny_teacher(size=32)
    FrozenTeacher(model, tiny_student(), "cpu")(pixels["student_pixel_values"])
    torch.testing.assert_close(model.seen[0], pixels["teacher_pixel_values"], rtol=0, atol=1e-4)


def test_pixels_of_the_teachers_size_stay_as_they_are(tiny_student, tiny_teacher):
    model, pixels = tiny_teacher(), torch.randn(2, 3, 8, 8)
    FrozenTeacher(model, tiny_student(), "cpu")(pixels)
    assert model.seen[0] is pixels


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["cat", "dog", "lynx"], [0, 1, 2]),
        (["lynx", "cat", "dog"], [1, 2, 0]),
        (["owl", "lynx", "dog", "fox", "cat"], [4, 2, 1]),
        (["cat", "dog", "lynx", "owl"], [0, 1, 2]),
    ],
    ids=["same order", "other order", "more classes", "more classes after the student's"],
)
def test_classes_are_matched_by_name(tiny_student, tiny_teacher, names, columns):
    model, pixels = tiny_teacher(**named(names)), torch.randn(4, 3, 8, 8)
    student = tiny_student(class_counts=[9, 5, 1], **named(ANIMALS))
    logits = FrozenTeacher(model, student, "cpu")(pixels)
    torch.testing.assert_close(logits, model(pixels).logits[:, columns])


def test_a_class_that_the_teacher_lacks_is_named(tiny_student, tiny_teacher):
    student = tiny_student(class_counts=[9, 5, 1], **named(ANIMALS))
    with pytest.raises(DeiTLTError, match=r"^teacher and student have different label sets[^\n]*'lynx'[^\n]*$"):
        FrozenTeacher(tiny_teacher(**named(["cat", "dog", "owl"])), student, "cpu")


def test_the_teacher_neither_learns_nor_keeps_statistics(tiny_student, images, arguments):
    torch.manual_seed(0)
    teacher = CifarResNetForImageClassification(CifarResNetConfig(depth=20, image_size=8, num_labels=10)).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer = DeiTLTTrainer(tiny_student(), arguments(num_train_epochs=1), teacher=teacher, train_dataset=images())
    trainer.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(weight.requires_grad for weight in teacher.parameters())
    torch.testing.assert_close(dict(teacher.state_dict()), before, rtol=0, atol=0)


def test_the_teacher_is_not_saved_with_the_student(tiny_student, tiny_teacher, arguments, tmp_path):
    trainer = DeiTLTTrainer(tiny_student(), arguments(), teacher=tiny_teacher())
    trainer.save_model(tmp_path / "saved")
    alone = tiny_student()
    alone.save_pretrained(tmp_path / "alone")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == load_file(tmp_path / "alone" / "model.safetensors").keys()


@pytest.mark.parametrize("kind", ["cifar_resnet", "resnet"])
def test_a_teacher_may_be_a_directory(tiny_student, tmp_path, kind):
    torch.manual_seed(0)
    if kind == "cifar_resnet":
        model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, image_size=8, num_labels=10))
    else:
        config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=10)
        model = ResNetForImageClassification(config)
    model.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model.eval()(pixels).logits
    for source in (tmp_path, str(tmp_path)):
        torch.testing.assert_close(FrozenTeacher(source, tiny_student(), "cpu")(pixels), expected)


def test_a_directory_without_a_teacher_is_refused(tiny_student, tmp_path):
    with pytest.raises(DeiTLTError, match=r"^cannot load a teacher from [^\n]*$"):
        FrozenTeacher(tmp_path, tiny_student(), "cpu")


def test_a_teacher_in_half_precision_gives_logits_in_full(tiny_student, tiny_teacher):
    model, pixels = tiny_teacher(), torch.randn(2, 3, 8, 8)
    expected = model(pixels).logits
    logits = FrozenTeacher(model.to(torch.bfloat16), tiny_student(), "cpu")(pixels)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)


def test_a_timm_model_sees_the_size_that_it_was_made_for(tiny_student):
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    names = {index: f"LABEL_{index}" for index in range(10)}
    config = TimmWrapperConfig(
        architecture="resnet18",
        pretrained_cfg={"input_size": [3, 64, 64]},
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    model, pixels = TimmWrapperForImageClassification(config).eval(), torch.randn(2, 3, 32, 32)
    teacher = FrozenTeacher(model, tiny_student(), "cpu")
    assert teacher.image_size == (64, 64)
    resized = torch.nn.functional.interpolate(pixels, (64, 64), mode="bicubic")
    torch.testing.assert_close(teacher(pixels), model(pixel_values=resized).logits)
