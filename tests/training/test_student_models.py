"""Students from scratch, and from the weights of a DeiT that was trained on images of another size."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DeiTImageProcessor,
    ViTConfig,
    ViTModel,
)

from deitlt_hf import DeiTLTError
from deitlt_hf.data.suggestion import STUDENT_SIZES
from deitlt_hf.runs.student_models import StudentArguments, check_shape, image_size_of, load_start, student_config

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


def _with_sides(source, directory, **sides):
    shutil.copytree(source, directory)
    content = json.loads((directory / "config.json").read_text()) | sides
    (directory / "config.json").write_text(json.dumps(content))
    return StudentArguments(init_from=str(directory))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    directory = tmp_path_factory.mktemp("vit")
    ViTModel(ViTConfig(image_size=32, patch_size=8, **shape)).save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("kind", ["deit", "vit"])
@pytest.mark.parametrize("size", [32, 48])
def test_square_sides_may_be_lists(deit, vit, tmp_path, kind, size):
    source = {"deit": deit[1], "vit": vit}[kind]
    listed = _with_sides(source, tmp_path / "listed", patch_size=[8, 8], image_size=[32, 32])
    students = [load_start(of, size, CLASSES) for of in (StudentArguments(init_from=source), listed)]
    of_number, of_list = ({k: v for k, v in of.state_dict().items() if "classifier" not in k} for of in students)
    torch.testing.assert_close(of_list, of_number, atol=0, rtol=0)
    assert (students[1].config.image_size, students[1].config.patch_size) == (size, 8)
    assert image_size_of(listed.init_from) == 32


@pytest.mark.parametrize("kind", ["deit", "vit"])
def test_sides_that_are_not_square_are_refused(deit, vit, tmp_path, kind):
    uneven = _with_sides({"deit": deit[1], "vit": vit}[kind], tmp_path / "uneven", patch_size=[8, 4])
    with pytest.raises(DeiTLTError, match=r"uneven has patch_size \[8, 4\], which is not square; pass a model[^\n]*$"):
        load_start(uneven, 48, CLASSES)


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
