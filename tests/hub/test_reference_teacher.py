"""The reference's teachers for larger images become timm models that compute the same."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, TimmWrapperForImageClassification

from deitlt_hf import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    DeiTLTError,
    TimmCosineForImageClassification,
    convert_reference_checkpoint,
)
from deitlt_hf.reference.checkpoint_file import ReferenceFile
from deitlt_hf.reference.convert import convert_and_describe, save_model_and_processor
from deitlt_hf.reference.teacher import convert_teacher
from deitlt_hf.teachers.frozen import FrozenTeacher

CLASSES = 7
NAMES = [f"species {letter}" for letter in "abcdefg"]
NOTHING_ELSE = {"num_attention_heads": None, "label_names": None, "class_counts": None, "class_order": None}


def torchvision_resnet(architecture: str, num_classes: int = CLASSES) -> torchvision.models.ResNet:
    """With random statistics too: a ResNet at its initial ones would hide a mean in the place of a variance."""
    torch.manual_seed(0)
    peer = getattr(torchvision.models, architecture)(num_classes=num_classes).eval()
    for name, buffer in peer.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return peer


def paco_checkpoint(peer: torchvision.models.ResNet) -> dict:
    """What PaCo's training saves: both encoders with their projections, both classifiers, and the queue."""
    trunk = {name: tensor for name, tensor in peer.state_dict().items() if not name.startswith("fc.")}
    width = peer.fc.in_features
    normalisation = ("weight", "bias", "running_mean", "running_var")
    projection = {"0.weight": (width, width), "0.bias": (width,), "3.weight": (128, width), "3.bias": (128,)}
    projection |= {f"1.{name}": (width,) for name in normalisation} | {"1.num_batches_tracked": ()}

    def empty(*shape: int) -> torch.Tensor:  # one number on disk
        return torch.full((), torch.nan).expand(shape)

    state = OrderedDict(queue=empty(8192, 128), queue_l=torch.zeros(8192).long(), queue_ptr=torch.zeros(1).long())
    for name, tensor in trunk.items():
        state[f"encoder_q.{name}"], state[f"encoder_k.{name}"] = tensor, empty(*tensor.shape)
    for encoder in ("encoder_q", "encoder_k"):
        state |= {f"{encoder}.fc.{name}": empty(*shape) for name, shape in projection.items()}
    state |= {"linear.weight": peer.fc.weight.detach(), "linear.bias": peer.fc.bias.detach()}
    state |= {"linear_k.weight": empty(*peer.fc.weight.shape), "linear_k.bias": empty(*peer.fc.bias.shape)}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.02, momentum=0.9)
    return {
        "epoch": 400,
        "arch": "resnet50",
        "acc": torch.tensor(57.0),
        "state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()),
        "optimizer": optimizer.state_dict(),
    }


@pytest.fixture(scope="module")
def resnet50() -> torchvision.models.ResNet:
    return torchvision_resnet("resnet50")


@pytest.fixture(scope="module")
def paco_file(resnet50: torchvision.models.ResNet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("paco")
    torch.save(paco_checkpoint(resnet50), directory / "paco.pth.tar")
    yield directory / "paco.pth.tar"
    shutil.rmtree(directory)  # hundreds of megabytes


@pytest.fixture(scope="module")
def converted(paco_file: Path) -> Path:
    model = convert_reference_checkpoint(paco_file, label_names=NAMES)
    save_model_and_processor(model, paco_file.with_name("converted"))
    return paco_file.with_name("converted")


@torch.inference_mode()
def test_paco_resnet50_computes_what_torchvision_does(resnet50: torchvision.models.ResNet, converted: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(converted)
    assert isinstance(model, TimmWrapperForImageClassification)
    assert (model.config.architecture, model.dtype) == ("resnet50", torch.float32)
    assert list(model.config.id2label.values()) == NAMES
    assert model.config.label2id["species c"] == 2
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images).logits, resnet50(images), atol=1e-4, rtol=1e-6)


def test_image_processor_beside_a_timm_model(converted: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(converted)
    picture = Image.new("RGB", (300, 280), (255, 0, 51))
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    # ImageNet's mean and standard deviation, by hand
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(pixels[0, :, 100, 100], torch.tensor(expected))
    torch.testing.assert_close(pixels.amax((0, 2, 3)), pixels.amin((0, 2, 3)))


def test_student_finds_the_image_size_of_a_timm_teacher(converted: Path) -> None:
    names = dict(enumerate(reversed(NAMES)))
    label2id = {name: index for index, name in names.items()}
    student = CifarResNetForImageClassification(CifarResNetConfig(depth=20, id2label=names, label2id=label2id))
    assert FrozenTeacher(str(converted), student, device="cpu").image_size == (224, 224)


def test_converting_a_resnet50_twice_gives_identical_bytes(paco_file: Path, converted: Path) -> None:
    again = paco_file.with_name("again")
    save_model_and_processor(convert_reference_checkpoint(paco_file, label_names=NAMES), again)
    files = sorted(path.name for path in again.iterdir())
    assert files == ["config.json", "model.safetensors"]
    assert all((again / file).read_bytes() == (converted / file).read_bytes() for file in files)


def test_linear_classifier_in_torchvisions_layout(tmp_path: Path) -> None:
    peer = torchvision_resnet("resnet18")
    torch.save({"state_dict": peer.state_dict(), "best_acc1": 45.4}, tmp_path / "teacher.pth.tar")
    model, description = convert_and_describe(tmp_path / "teacher.pth.tar", use_ema=False, **NOTHING_ELSE)
    assert description == "teacher with a linear classifier, ResNet-18 for 224 pixels, 7 classes"
    assert isinstance(model, TimmWrapperForImageClassification)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images).logits, peer(images), atol=1e-4, rtol=1e-6)


@torch.inference_mode()
def test_cosine_classifier_in_torchvisions_layout(tmp_path: Path) -> None:
    peer = torchvision_resnet("resnet34")
    peer.fc = torch.nn.Identity()
    class_vectors = torch.randn(512, CLASSES)  # columns
    state = peer.state_dict() | {"fc.weight": class_vectors}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "ldam.pth.tar")
    model, description = convert_and_describe(tmp_path / "ldam.pth.tar", use_ema=False, **NOTHING_ELSE)
    assert description == "LDAM teacher with a cosine classifier, ResNet-34 for 224 pixels, 7 classes"
    save_model_and_processor(model, tmp_path / "teacher")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher")
    assert isinstance(model, TimmCosineForImageClassification)
    images = torch.randn(2, 3, 64, 64)
    expected = F.normalize(peer(images), dim=1) @ F.normalize(class_vectors, dim=0)
    torch.testing.assert_close(model(images).logits, expected, atol=1e-5, rtol=0)
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "teacher")(Image.new("L", (300, 280)), return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 3, 224, 224)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
@pytest.mark.parametrize("cosine", [False, True])
def test_every_tensor_of_every_depth_has_its_place(architecture: str, cosine: bool) -> None:
    with torch.device("meta"):
        peer = getattr(torchvision.models, architecture)(num_classes=CLASSES)
        state = peer.state_dict()
        if cosine:
            state = {name: tensor for name, tensor in state.items() if name != "fc.bias"}
            state["fc.weight"] = state["fc.weight"].T
        model, converted, _ = convert_teacher(ReferenceFile(Path("teacher.pth"), state))
    assert model.config.architecture == architecture
    assert {name: tensor.shape for name, tensor in converted.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("architecture", ["resnext50_32x4d", "wide_resnet50_2"])
def test_other_networks_with_these_names_are_refused(tmp_path: Path, architecture: str) -> None:
    with torch.device("meta"):
        names = getattr(torchvision.models, architecture)(num_classes=CLASSES).state_dict()
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in names.items()}
    torch.save({"state_dict": state}, tmp_path / "teacher.pth.tar")
    with pytest.raises(DeiTLTError, match="tensors of another shape"):
        convert_reference_checkpoint(tmp_path / "teacher.pth.tar")


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
INATURALIST = ([0.466, 0.471, 0.380], [0.195, 0.194, 0.192])


@pytest.mark.parametrize(("num_classes", "normalisation"), [(1000, IMAGENET), (8142, INATURALIST)])
def test_224_pixel_teachers_keep_their_normalisation(num_classes: int, normalisation: tuple) -> None:
    with torch.device("meta"):
        state = torchvision.models.resnet18(num_classes=num_classes).state_dict()
        model, _, _ = convert_teacher(ReferenceFile(Path("teacher.pth"), state))
    assert (model.config.pretrained_cfg["mean"], model.config.pretrained_cfg["std"]) == normalisation


@pytest.mark.parametrize(
    ("name", "normalisation"),
    [
        ("teacher_paco_resnet32.pth.tar", ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])),
        ("teacher_ldam_resnet32.pth.tar", ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])),
        ("student.pth", IMAGENET),
    ],
)
def test_saved_image_processor_normalises_as_training_did(
    golden: Path, tmp_path: Path, name: str, normalisation: tuple
) -> None:
    save_model_and_processor(convert_reference_checkpoint(golden / name), tmp_path / "model")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    picture = np.full((32, 32, 3), 102, dtype=np.uint8)
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    expected = [(0.4 - mean) / std for mean, std in zip(*normalisation, strict=True)]
    torch.testing.assert_close(pixels, torch.tensor(expected).view(1, 3, 1, 1).expand(1, 3, 32, 32))
