"""Students from scratch, and from the weights of a DeiT that was trained on images of another size."""

from __future__ import annotations

import pytest
import torch
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher, DeiTImageProcessor

from deitlt_hf import DeiTLTError
from deitlt_hf.data.suggestion import STUDENT_SIZES
from deitlt_hf.runs.student_models import StudentArguments, check_shape, load_start, student_config

CLASSES = {"id2label": {0: "cat", 1: "lynx"}, "label2id": {"cat": 0, "lynx": 1}}


@pytest.fixture(scope="module")
def deit(tmp_path_factory):
    """A DeiT of transformers for 32 pixels with other positions than zeros, and its directory."""
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = DeiTConfig(image_size=32, patch_size=8, layer_norm_eps=1e-6, **shape, **CLASSES)
    model = DeiTForImageClassificationWithTeacher(config).eval()
    torch.nn.init.normal_(model.deit.embeddings.position_embeddings)
    directory = tmp_path_factory.mktemp("deit")
    model.save_pretrained(directory)
    DeiTImageProcessor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]).save_pretrained(directory)
    return model, str(directory)


@pytest.mark.parametrize("size", [16, 32, 48])
def test_positions_are_interpolated_as_transformers_does(deit, size):
    model, directory = deit
    student = load_start(StudentArguments(init_from=directory), size, CLASSES).eval()
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        theirs = model(pixels, interpolate_pos_encoding=True)
        ours = student(pixels)
    torch.testing.assert_close(ours.cls_logits, theirs.cls_logits)
    torch.testing.assert_close(ours.distillation_logits, theirs.distillation_logits)
    assert student.config.image_size == size


def test_a_size_that_the_patches_do_not_divide_is_refused(deit):
    with pytest.raises(DeiTLTError, match=r"^image_size 20 is not divisible by the model's patch_size 8; pass"):
        load_start(StudentArguments(init_from=deit[1]), 20, CLASSES)


def test_an_interpolated_student_saves_and_loads(deit, tmp_path):
    student = load_start(StudentArguments(init_from=deit[1]), 48, CLASSES).eval()
    student.save_pretrained(tmp_path)
    again = type(student).from_pretrained(tmp_path).eval()
    pixels = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(again(pixels).logits, student(pixels).logits)


def test_a_shape_of_its_own_is_said(deit, caplog):
    load_start(StudentArguments(init_from=deit[1], hidden_size=96, student_size="tiny"), 32, CLASSES)
    assert [record.message for record in caplog.records if record.name == "deitlt_hf"] == [
        f"init_from {deit[1]} has a shape of its own; not used: student_size tiny, hidden_size 96"
    ]
    caplog.clear()
    load_start(StudentArguments(init_from=deit[1]), 32, CLASSES)
    assert not [record for record in caplog.records if record.name == "deitlt_hf"]


@pytest.mark.parametrize(
    ("settings", "image_size", "message"),
    [
        ({"hidden_size": 100}, None, "hidden_size 100 is not divisible by num_attention_heads 3"),
        (
            {"hidden_size": 96, "num_attention_heads": 5},
            None,
            "96 is not divisible by num_attention_heads 5",
        ),
        ({"patch_size": 5}, 32, "image_size 32 is not divisible by patch_size 5"),
    ],
)
def test_shapes_that_cannot_be_are_known_before_the_data(settings, image_size, message):
    with pytest.raises(ValueError, match=message):
        check_shape(StudentArguments(**settings), image_size)
    for size in STUDENT_SIZES:  # whatever the data would choose
        with pytest.raises(ValueError, match="not divisible"):
            student_config(StudentArguments(student_size=size, **settings), image_size or 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student_size": "huge"}, "unknown student size 'huge'; pass one of tiny, small, base"),
        ({"patch_size": 0}, "patch_size is 0; pass a number from 1 to 4096"),
        ({"hidden_size": -3}, "hidden_size is -3; pass"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000; pass a number from 1 to 16384"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate is 1.0; pass a number in \[0, 1\)"),
        ({"expert": "rare"}, "unknown expert 'rare'; pass one of"),
    ],
)
def test_a_students_flags_are_checked(settings, message):
    with pytest.raises(DeiTLTError, match=f"^{message}"):
        StudentArguments(**settings)
