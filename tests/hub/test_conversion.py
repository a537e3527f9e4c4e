"""Checkpoints of the reference become models of this package that compute the same."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.models.deit import VisionTransformerDistilled

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTError,
    DeiTLTForImageClassification,
    convert_reference_checkpoint,
)
from deitlt_hf.reference.convert import save_model_and_processor
from deitlt_hf.teachers.frozen import FrozenTeacher

STUDENT_HEADS = 3
COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
# As if the student's data set had other indices: that of each of its classes, by falling frequency, and its counts.
FILE_ORDER = [4, 0, 9, 1, 8, 2, 7, 3, 6, 5]
ORIGINAL_COUNTS = [2997, 1077, 387, 139, 5000, 50, 83, 232, 645, 1796]


def read(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=False)


def error_of(path: Path, **options) -> str:
    """The one line that converting ends with."""
    with pytest.raises(DeiTLTError) as caught:
        convert_reference_checkpoint(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def changed(golden: Path, tmp_path: Path) -> Callable[..., Path]:
    """A golden checkpoint, rewritten after a change."""

    def write(name: str, change: Callable[[dict], object]) -> Path:
        checkpoint = read(golden / name)
        change(checkpoint)
        torch.save(checkpoint, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize(("method", "classifier"), [("paco", "linear"), ("ldam", "cosine")])
def test_teacher_computes_what_the_reference_does(golden: Path, method: str, classifier: str) -> None:
    model = convert_reference_checkpoint(golden / f"teacher_{method}_resnet32.pth.tar")
    expected = load_file(golden / f"teacher_{method}_resnet32_forward.safetensors")
    assert isinstance(model, CifarResNetForImageClassification)
    assert (model.config.depth, model.config.classifier, model.config.num_labels) == (32, classifier, 10)
    torch.testing.assert_close(model(expected["pixel_values"]).logits, expected["logits"], atol=1e-4, rtol=0)


def test_student_computes_what_the_reference_does(golden: Path, golden_json: dict) -> None:
    model = convert_reference_checkpoint(golden / "student.pth")  # its name says that it is a tiny one
    expected = load_file(golden / "student_forward.safetensors")
    assert isinstance(model, DeiTLTForImageClassification)
    assert {name: getattr(model.config, name) for name in golden_json["model"]} == golden_json["model"]
    assert model.config.class_counts == COUNTS
    outputs = model(expected["pixel_values"])
    for name in ("cls_logits", "distillation_logits"):
        torch.testing.assert_close(outputs[name], expected[name], atol=1e-4, rtol=0)


def test_every_tensor_of_the_student_is_used(changed: Callable[..., Path]) -> None:
    sizes: dict[float, int] = {}

    def fill_each_with_its_number(checkpoint: dict) -> None:
        for number, tensor in enumerate(checkpoint["model"].values(), start=1):
            sizes[float(number)] = tensor.fill_(number).numel()

    path = changed("student.pth", fill_each_with_its_number)
    model = convert_reference_checkpoint(path, num_attention_heads=STUDENT_HEADS)
    values, counts = torch.cat([p.detach().flatten() for p in model.parameters()]).unique(return_counts=True)
    assert len(sizes) == 47
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == sizes


def test_ema_takes_the_averaged_weights(changed: Callable[..., Path]) -> None:
    # The golden file's averaged weights equal its plain ones.
    def move_average(checkpoint: dict) -> None:
        checkpoint["model_ema"] = {name: tensor + 1 for name, tensor in checkpoint["model"].items()}

    path = changed("student.pth", move_average)
    plain, averaged = (
        convert_reference_checkpoint(path, num_attention_heads=STUDENT_HEADS, use_ema=use_ema).state_dict()
        for use_ema in (False, True)
    )
    assert all(torch.equal(averaged[name], plain[name] + 1) for name in plain)


def test_names_that_other_versions_pickle_are_read(golden: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(golden / "student.pth") as old, zipfile.ZipFile(tmp_path / "renamed.pth", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            for here, there in (
                (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"),  # NumPy 1
                (b"cpathlib\nPosixPath\n", b"cpathlib._local\nPosixPath\n"),  # Python 3.13
            ):
                assert not name.endswith("data.pkl") or here in content
                content = content.replace(here, there)
            new.writestr(name, content)
    model = convert_reference_checkpoint(tmp_path / "renamed.pth", num_attention_heads=STUDENT_HEADS)
    assert model.config.class_counts[0] == 5000


@pytest.mark.parametrize("hidden_size", [64, 192])
def test_other_students_agree_with_timm(tmp_path: Path, hidden_size: int) -> None:
    torch.manual_seed(0)
    heads = hidden_size // 64
    peer = VisionTransformerDistilled(
        img_size=24, patch_size=8, embed_dim=hidden_size, depth=2, num_heads=heads, num_classes=5, in_chans=1
    ).eval()
    torch.nn.init.normal_(peer.head_dist.weight)
    torch.save({"model": peer.state_dict(), "args": argparse.Namespace()}, tmp_path / "deit.pth")
    model = convert_reference_checkpoint(tmp_path / "deit.pth", label_names=["a", "b", "c", "d", "e"])
    assert (model.config.image_size, model.config.num_attention_heads, model.config.class_counts) == (24, heads, None)
    assert (model.config.id2label[4], model.config.label2id["b"]) == ("e", 1)
    pixel_values = torch.randn(2, 1, 24, 24)
    torch.testing.assert_close(model(pixel_values).logits, peer(pixel_values), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("depth", [20, 44, 56, 110])
def test_linear_teacher_of_any_depth_with_data_parallel_prefix(tmp_path: Path, depth: int) -> None:
    # 64 classes: the shape of the weight does not tell whether class vectors are rows or columns.
    weights = CifarResNetForImageClassification(CifarResNetConfig(depth=depth, num_labels=64)).state_dict()
    state = {f"module.{name.replace('classifier', 'linear')}": tensor for name, tensor in weights.items()}
    torch.save({"epoch": 200, "state_dict": state}, tmp_path / "teacher.pth.tar")
    model = convert_reference_checkpoint(tmp_path / "teacher.pth.tar")
    assert (model.config.depth, model.config.classifier) == (depth, "linear")
    converted = model.state_dict()
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], weights[name]) for name in weights)


class Call:
    """Pickles as a call, as a malicious file would."""

    def __init__(self, function: Callable, *arguments: str) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable, tuple[str, ...]]:
        return self.call


@pytest.mark.parametrize("place", ["args", "model"])
@pytest.mark.parametrize(
    "call",
    [
        lambda target: Call(os.system, f"touch '{target}'"),
        lambda target: Call(open, target, "w"),
        lambda target: Call(exec, f"open({target!r}, 'w').close()"),
    ],
    ids=["system", "open", "exec"],
)
def test_pickled_call_is_refused_and_not_run(
    changed: Callable[..., Path], tmp_path: Path, recwarn, place: str, call: Callable[[str], Call]
) -> None:
    target = tmp_path / "written"
    pickle.loads(pickle.dumps(call(str(target))))
    assert target.exists()  # the trap works
    target.unlink()
    path = changed("student.pth", lambda checkpoint: checkpoint.update({place: call(str(target))}))
    assert "nothing of it was run" in error_of(path, num_attention_heads=STUDENT_HEADS)
    for protocol in (2, 4):  # torch's own, and that of Python's pickle, which torch warns of
        (tmp_path / "plain.pth").write_bytes(pickle.dumps({place: call(str(target))}, protocol=protocol))
        error_of(tmp_path / "plain.pth")
    assert not [warning for warning in recwarn if warning.category is UserWarning]  # the refusal is all that is shown
    assert not target.exists()


def test_damaged_files_end_in_one_line(golden: Path, tmp_path: Path) -> None:
    whole = (golden / "student.pth").read_bytes()
    for name, content in {
        "half": whole[: len(whole) // 2],
        "start": whole[:100],
        "empty": b"",
        "text": b"hi\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert f"{tmp_path / name} is not a readable checkpoint" in error_of(tmp_path / name)
    assert "does not exist or is not a file" in error_of(tmp_path / "nowhere.pth")
    assert "does not exist or is not a file" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list where"),
        ({"epoch": 3}, "has neither the key model (a student) nor state_dict (a teacher), but epoch"),
        ({"model": {"fc.weight": torch.zeros(2, 2)}}, "holds neither a DeiT-LT student nor"),
        ({"model": {"head.weight": 3}}, "the entry 'head.weight' of its weights is a int"),
        ({"model": {"dist_token": torch.zeros(1, 1, 8)}}, "lacks a tensor patch_embed.proj.weight of 4 dimensions"),
        ({"state_dict": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}, "(16 channels after conv1, not 64) nor"),
        (
            {"state_dict": {"conv1.weight": torch.zeros(16, 3, 3, 3), "linear.weight": torch.zeros(64, 10)}},
            "unknown depth 2; pass one of 20, 32, 44, 56, 110",
        ),
    ],
)
def test_other_checkpoints_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert message in error_of(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("student.pth", lambda c: c["model"].update(extra=torch.zeros(1)), "1 tensors left over"),
        ("student.pth", lambda c: c["model"].pop("norm.bias"), "1 tensors missing"),
        ("student.pth", lambda c: c["model"].update({"head_dist.bias": torch.zeros(3)}), "1 tensors of another shape"),
        ("student.pth", lambda c: setattr(c["args"], "model", "vit"), "no multiple of 64; pass num_attention_heads"),
        ("student.pth", lambda c: c["args"].cls_num_list.pop(), "9 entries for 10 classes"),
        ("student.pth", lambda c: setattr(c["args"], "cls_num_list", "many"), "is no list of numbers"),
        ("teacher_paco_resnet32.pth.tar", lambda c: c["state_dict"].update(x=torch.zeros(1)), "left over"),
        ("teacher_ldam_resnet32.pth.tar", lambda c: c["state_dict"].pop("bn1.bias"), "missing"),
    ],
)
def test_tensors_and_counts_must_fit(
    changed: Callable[..., Path], name: str, change: Callable[[dict], object], message: str
) -> None:
    assert message in error_of(changed(name, change))


@pytest.fixture
def imagenet_student(changed: Callable[..., Path]) -> Callable[..., Path]:
    """The golden student as one of ImageNet-LT, whose training keeps more in `args`."""

    def write(**args: object) -> Path:
        def rename(checkpoint: dict) -> None:
            counts = [np.int64(count) for count in checkpoint["args"].cls_num_list]
            in_training = {"data_set": "IMAGENETLT", "cls_num_list": counts, "categories": [390, 835]}
            vars(checkpoint["args"]).update(in_training | args)

        return changed("student.pth", rename)

    return write


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ({"class_map": [1, 3, 5, 7, 0, 9, 8, 6, 4, 2]}, {}),
        ({"class_map": None}, {"class_counts": ORIGINAL_COUNTS}),
        ({}, {"class_order": FILE_ORDER}),
        ({}, {"class_order": FILE_ORDER, "class_counts": ORIGINAL_COUNTS}),
        ({"cls_num_list": None}, {"class_counts": ORIGINAL_COUNTS}),
    ],
)
def test_classes_are_named_in_the_data_sets_order(
    imagenet_student: Callable[..., Path], args: dict, options: dict
) -> None:
    path = imagenet_student(**args)
    config = convert_reference_checkpoint(path, **options).config
    assert [config.id2label[position] for position in range(10)] == [f"LABEL_{index}" for index in FILE_ORDER]
    assert config.label2id["LABEL_9"] == 2
    assert config.class_counts == COUNTS
    named = convert_reference_checkpoint(path, label_names=list("abcdefghij"), **options).config
    assert "".join(named.id2label.values()) == "eajbichdgf"


def test_student_and_paco_teacher_match_by_name(imagenet_student: Callable[..., Path], golden: Path) -> None:
    student = convert_reference_checkpoint(imagenet_student(), class_order=FILE_ORDER)
    teacher = convert_reference_checkpoint(golden / "teacher_paco_resnet32.pth.tar")
    expected = load_file(golden / "teacher_paco_resnet32_forward.safetensors")
    logits = FrozenTeacher(teacher, student, device="cpu")(expected["pixel_values"])
    torch.testing.assert_close(logits, expected["logits"][:, FILE_ORDER], atol=1e-4, rtol=0)


def test_order_that_a_student_does_not_hold_is_asked_for(imagenet_student: Callable[..., Path]) -> None:
    assert "pass class_counts (--class-list FILE" in error_of(imagenet_student())
    message = error_of(imagenet_student(), class_counts=[2 * count for count in ORIGINAL_COUNTS])
    assert "was trained with 5000 images of class 4, where class_counts has 10000" in message


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("student.pth", {"num_attention_heads": 5}, "5 attention heads do not divide hidden size 48"),
        ("student.pth", {"num_attention_heads": 3, "label_names": ["a"]}, "1 label names were given for 10 classes"),
        ("student.pth", {"num_attention_heads": 3, "label_names": list("abcdefghia")}, "'a' was given twice"),
        (
            "student.pth",
            {"class_counts": COUNTS[::-1]},
            "trained with 5000 images of class 0, where class_counts has 50",
        ),
        ("teacher_ldam_resnet32.pth.tar", {"use_ema": True}, "holds no EMA weights"),
        ("teacher_ldam_resnet32.pth.tar", {"class_counts": [1]}, "class_counts has 1 entries for the 10 classes"),
    ],
)
def test_options_must_fit(golden: Path, name: str, options: dict, message: str) -> None:
    assert message in error_of(golden / name, **options)


@pytest.mark.parametrize("name", ["student.pth", "teacher_ldam_resnet32.pth.tar"])
def test_converting_twice_gives_identical_bytes(golden: Path, tmp_path: Path, name: str) -> None:
    for out in ("first", "second"):
        model = convert_reference_checkpoint(golden / name, num_attention_heads=STUDENT_HEADS)
        save_model_and_processor(model, tmp_path / out)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    saved = [file for file in files if not file.endswith(".py")]  # beside the model's code
    assert saved == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.fixture
def small_model() -> CifarResNetForImageClassification:
    return CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=3))


def test_saves_into_an_empty_directory_and_into_a_new_one(
    small_model: CifarResNetForImageClassification, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new" / "deeper"):
        save_model_and_processor(small_model, out)
        assert CifarResNetForImageClassification.from_pretrained(out).config.num_labels == 3


def test_refuses_what_is_there(small_model: CifarResNetForImageClassification, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out, message in ((tmp_path, "is not empty"), (tmp_path / "notes.txt", "is a file")):
        with pytest.raises(DeiTLTError, match=message):
            save_model_and_processor(small_model, out)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_failed_save_leaves_nothing(
    small_model: CifarResNetForImageClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(directory: Path) -> None:
        (directory / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(small_model, "save_pretrained", fill_the_disk)
    with pytest.raises(DeiTLTError, match=r"cannot write .*: No space left on device"):
        save_model_and_processor(small_model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
