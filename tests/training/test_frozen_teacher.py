"""The teacher as the student sees it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BitImageProcessor,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTImageProcessor,
)

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTError,
    DeiTLTTrainer,
    TeacherTrainer,
)
from deitlt_hf.data.views import image_processor
from deitlt_hf.teachers.frozen import FrozenTeacher

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


@pytest.mark.parametrize(
    ("training", "scale"),
    [(None, 30), ({"loss": "ldam"}, 30), ({"loss": "ldam", "ldam_scale": 20.0}, 20), ({"loss": "ce"}, 1)],
)
def test_a_cosine_teacher_gives_cosines_scaled_as_in_its_training(
    tmp_path, tiny_student, teacher_arguments, training, scale
):
    config = CifarResNetConfig(depth=20, image_size=8, num_labels=10, classifier="cosine")
    model, pixels = CifarResNetForImageClassification(config).eval(), torch.randn(4, 3, 8, 8)
    if training is not None:
        TeacherTrainer(model, teacher_arguments(**training), class_counts=[1] * 10)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(FrozenTeacher(tmp_path, tiny_student(), "cpu")(pixels), scale * model(pixels).logits)


def test_a_class_that_the_teacher_lacks_is_named(tiny_student, tiny_teacher):
    student = tiny_student(class_counts=[9, 5, 1], **named(ANIMALS))
    with pytest.raises(DeiTLTError, match=r"^teacher and student have different label sets[^\n]*'lynx'[^\n]*$"):
        FrozenTeacher(tiny_teacher(**named(["cat", "dog", "owl"])), student, "cpu")


def test_a_class_of_which_the_teacher_has_two_is_named(tiny_student, tiny_teacher):
    """ImageNet has cranes that fly and cranes that lift."""
    student = tiny_student(class_counts=[9, 5, 1], **named(["cat", "crane", "dog"]))
    with pytest.raises(DeiTLTError, match=r"^the teacher has 2 classes named 'crane'[^\n]*id2label[^\n]*$"):
        FrozenTeacher(tiny_teacher(**named(["cat", "crane", "dog", "crane"])), student, "cpu")
    FrozenTeacher(tiny_teacher(**named(["cat", "owl", "crane", "dog", "owl"])), student, "cpu")  # no student's owl


def test_one_list_of_classes_is_in_one_order_whatever_their_names(tiny_student, tiny_teacher):
    model, pixels = tiny_teacher(**named(["crane", "cat", "crane"])), torch.randn(4, 3, 8, 8)
    student = tiny_student(class_counts=[9, 5, 1], **named(["crane", "cat", "crane"]))
    torch.testing.assert_close(FrozenTeacher(model, student, "cpu")(pixels), model(pixels).logits)


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


def test_a_module_that_is_no_model_of_transformers_is_refused(tiny_student):
    with pytest.raises(
        DeiTLTError, match=r"^the teacher is a Linear; pass a model of transformers, such as Timm[^\n]*$"
    ):
        FrozenTeacher(torch.nn.Linear(3, 10), tiny_student(), "cpu")


def test_a_teacher_in_half_precision_gives_logits_in_full(tiny_student, tiny_teacher):
    model, pixels = tiny_teacher(), torch.randn(2, 3, 8, 8)
    expected = model(pixels).logits
    logits = FrozenTeacher(model.to(torch.bfloat16), tiny_student(), "cpu")(pixels)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)


def test_a_timm_model_sees_the_size_that_it_was_made_for(tiny_student):
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


# The student's normalisation, which is ImageNet's.
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def tiny_cifar_resnet(size=8):
    torch.manual_seed(0)
    return CifarResNetForImageClassification(CifarResNetConfig(depth=20, image_size=size, num_labels=10))


def watch(teacher):
    """The list to which the pixels that a `FrozenTeacher` shows its model are appended."""
    seen = []
    teacher.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("pixels", ["reference", "own", "student"])
def test_what_the_teacher_sees_is_one_argument(tiny_student, tmp_path, pixels):
    tiny_cifar_resnet(size=8).save_pretrained(tmp_path)
    ViTImageProcessor(size=12, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.2]).save_pretrained(tmp_path)
    teacher = FrozenTeacher(tmp_path, tiny_student(), "cpu", pixels)
    seen = watch(teacher)
    values = torch.rand(2, 3, 16, 16)  # of images, before anybody normalises them
    teacher((values - MEAN) / STD)
    own = (values - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.5, 0.25, 0.2]).view(1, 3, 1, 1)
    expected = {
        "reference": torch.nn.functional.interpolate((values - MEAN) / STD, (8, 8), mode="bicubic"),
        "own": torch.nn.functional.interpolate(own, (12, 12), mode="bicubic"),
        "student": (values - MEAN) / STD,
    }
    torch.testing.assert_close(seen[0], expected[pixels], rtol=0, atol=1e-5)


def test_constant_images_by_hand(tiny_student, tmp_path):
    """A grey of 0.6 is (0.6 - 0.5) / 0.25 = 0.4 to a teacher with mean 0.5 and standard deviation 0.25."""
    tiny_cifar_resnet().save_pretrained(tmp_path)
    ViTImageProcessor(size=8, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path)
    teacher = FrozenTeacher(str(tmp_path), tiny_student(), "cpu", "own")
    seen = watch(teacher)
    students = [(0.6 - 0.485) / 0.229, (0.6 - 0.456) / 0.224, (0.6 - 0.406) / 0.225]
    teacher(torch.tensor(students).view(1, 3, 1, 1).expand(2, 3, 24, 24))
    torch.testing.assert_close(seen[0], torch.full((2, 3, 8, 8), 0.4))


@pytest.mark.parametrize(
    ("processor", "mean", "size"),
    [
        (BitImageProcessor(size={"shortest_edge": 14}, crop_size=10, image_mean=[0.1, 0.2, 0.3]), [0.1, 0.2, 0.3], 10),
        (ConvNextImageProcessor(size={"shortest_edge": 20}, image_mean=[0.1, 0.2, 0.3]), [0.1, 0.2, 0.3], 20),
        (ViTImageProcessor(size={"height": 6, "width": 6}, do_normalize=False), [0.0, 0.0, 0.0], 6),
        (ViTImageProcessor(size=6, do_resize=False, image_mean=[0.1, 0.2, 0.3]), [0.1, 0.2, 0.3], 8),
        (image_processor(40), [0.485, 0.456, 0.406], 40),
        (image_processor(16), [0.485, 0.456, 0.406], 16),
    ],
    ids=["crop", "shortest edge", "no normalisation", "no resizing", "the package's", "the package's for small images"],
)
def test_own_size_and_mean_of_image_processors(tiny_student, tmp_path, processor, mean, size):
    tiny_cifar_resnet().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    teacher = FrozenTeacher(tmp_path, tiny_student(), "cpu", "own")
    seen = watch(teacher)
    at_mean = (torch.tensor(mean).view(1, 3, 1, 1) - MEAN) / STD
    teacher(at_mean.expand(1, 3, 8, 8))
    assert seen[0].shape == (1, 3, size, size)
    torch.testing.assert_close(seen[0], torch.zeros_like(seen[0]), rtol=0, atol=1e-5)


def tiny_timm(**pretrained_cfg):
    names = [f"LABEL_{index}" for index in range(10)]
    config = TimmWrapperConfig(architecture="test_resnet", pretrained_cfg=pretrained_cfg, **named(names))
    return TimmWrapperForImageClassification(config)


@pytest.mark.parametrize("is_object", [True, False])
def test_a_timm_model_says_its_own_pixels_itself(tiny_student, tmp_path, is_object):
    model = tiny_timm(input_size=[3, 24, 24], mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    model.save_pretrained(tmp_path)
    teacher = FrozenTeacher(model if is_object else tmp_path, tiny_student(), "cpu", "own")
    seen = watch(teacher)
    teacher(((torch.tensor(0.75) - MEAN) / STD).expand(1, 3, 32, 32))
    torch.testing.assert_close(seen[0], torch.full((1, 3, 24, 24), 0.5))


def test_a_model_that_was_loaded_knows_where_its_image_processor_is(tiny_student, tmp_path):
    tiny_cifar_resnet().save_pretrained(tmp_path)
    image_processor(16).save_pretrained(tmp_path)
    loaded = CifarResNetForImageClassification.from_pretrained(tmp_path)
    assert FrozenTeacher(loaded, tiny_student(), "cpu", "own").image_size == (16, 16)


@pytest.mark.parametrize("is_object", [True, False])
def test_own_pixels_without_an_image_processor_are_refused(tiny_student, tmp_path, is_object):
    model = tiny_cifar_resnet()
    model.save_pretrained(tmp_path)
    message = (
        "was not loaded from files; pass the directory"
        if is_object
        else "has no image processor .preprocessor_config.json.; save"
    )
    with pytest.raises(DeiTLTError, match=f"^teacher_pixels 'own' needs the teacher's image processor[^\n]*{message}"):
        FrozenTeacher(model if is_object else tmp_path, tiny_student(), "cpu", "own")


def test_unknown_pixels_are_refused(tiny_student, tiny_teacher, arguments):
    message = r"^unknown teacher_pixels 'theirs'; pass one of reference, own, student$"
    with pytest.raises(DeiTLTError, match=message):
        FrozenTeacher(tiny_teacher(), tiny_student(), "cpu", "theirs")
    with pytest.raises(DeiTLTError, match=message):
        arguments(teacher_pixels="theirs")


def test_the_trainer_hands_its_argument_on(tiny_student, tiny_teacher, arguments):
    trainer = DeiTLTTrainer(tiny_student(), arguments(teacher_pixels="student"), teacher=tiny_teacher(size=32))
    assert trainer.teacher.image_size is None
    assert DeiTLTTrainer(tiny_student(), arguments(), teacher=tiny_teacher(size=32)).teacher.image_size == (32, 32)


def test_the_teachers_convolutions_are_channels_last(tiny_student):
    teacher = FrozenTeacher(tiny_cifar_resnet(), tiny_student(), "cpu")
    assert teacher.model.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
