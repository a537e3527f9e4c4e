"""The CNNs that can become teachers, from scratch and from other weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from deitlt_hf.data.views import evaluation_view, image_processor
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.losses.ldam import has_cosine_classifier
from deitlt_hf.teachers.build import load_classifier, make_classifier


def label_maps(names="abc"):
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def small_resnet(names="abc"):
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **label_maps(names)
    )
    torch.manual_seed(0)
    return ResNetForImageClassification(config)


@pytest.mark.parametrize(
    ("architecture", "classifier", "kind"),
    [
        ("cifar_resnet", "linear", "CifarResNetForImageClassification"),
        ("cifar_resnet", "cosine", "CifarResNetForImageClassification"),
        ("test_resnet", "linear", "TimmWrapperForImageClassification"),
        ("test_resnet", "cosine", "TimmCosineForImageClassification"),
        ("mobilenet_v2", "linear", "MobileNetV2ForImageClassification"),
    ],
)
def test_architectures_and_what_they_save(tmp_path, architecture, classifier, kind):
    model = make_classifier(architecture, 40, label_maps(), classifier=classifier, depth=20).eval()
    assert type(model).__name__ == kind
    assert has_cosine_classifier(model.config) == (classifier == "cosine")
    model.config.class_counts, model.config.class_groups = [9, 4, 1], {"head": [0], "mid": [1], "tail": [2]}
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    config = loaded.config
    assert (config.id2label, config.label2id) == ({0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2})
    assert (config.class_counts, config.class_groups) == ([9, 4, 1], {"head": [0], "mid": [1], "tail": [2]})
    assert getattr(config, "image_size", None) == 40 or config.pretrained_cfg["input_size"] == [3, 40, 40]
    pixels = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, model(pixels).logits)


def test_a_timm_model_starts_as_timm_starts_it():
    torch.manual_seed(0)
    expected = timm.create_model("resnet10t", num_classes=3)
    model = make_classifier("resnet10t", 40, label_maps())
    # Kaiming-normal over the fan-out of a 3x3 convolution with 512 channels; the wrapper's own would be 0.02.
    spread = model.timm_model.layer4[0].conv2.weight.std().item()
    assert spread == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert not model.timm_model.layer1[0].bn2.weight.any()
    assert model.timm_model.state_dict().keys() == expected.state_dict().keys()


def test_resnet_is_resnet_50():
    with torch.device("meta"):
        model = make_classifier("resnet", 224, label_maps([f"class {index}" for index in range(1000)]))
    assert sum(weight.numel() for weight in model.parameters()) == 25_557_032  # torchvision's ResNet-50


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "resnt50"}, r"unknown architecture 'resnt50'; did you mean .*\bresnet50\b.*\?"),
        (
            {"architecture": "my own"},
            "unknown architecture 'my own'; pass cifar_resnet, a timm model such as resnet50, or a model type of .*",
        ),
        (
            {"architecture": "resnet", "classifier": "cosine"},
            "resnet has a linear classifier; a cosine one goes with cifar_resnet and timm models, such as resnet50",
        ),
        ({"architecture": "resnet50", "classifier": "cosin"}, "unknown classifier 'cosin'; pass one of linear, cosine"),
        ({"architecture": "cifar_resnet", "depth": 50}, "unknown depth 50; pass one of 20, 32, 44, 56, 110"),
    ],
)
def test_wrong_settings_are_one_line(settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_classifier(image_size=32, label_maps=label_maps(), **settings)


# Wider than high, so that it matters whether and where it is cropped.
@pytest.mark.parametrize("size", [16, 40, 64])
def test_transformers_makes_a_timm_teachers_pixels_as_its_evaluation_does(tmp_path, size):
    make_classifier("test_resnet", size, label_maps()).save_pretrained(tmp_path)
    image_processor(size).save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0], evaluation_view(size)(image), rtol=0, atol=1e-5)


MAKERS = {
    "cifar_resnet": lambda: make_classifier("cifar_resnet", 8, label_maps(), depth=20),
    "cosine cifar_resnet": lambda: make_classifier("cifar_resnet", 8, label_maps(), depth=20, classifier="cosine"),
    "timm": lambda: make_classifier("test_resnet", 32, label_maps()),
    "cosine timm": lambda: make_classifier("test_resnet", 32, label_maps(), classifier="cosine"),
    "resnet": small_resnet,
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("names", ["cba", "vwxyz"])
def test_other_weights_go_on_with_the_classes_at_hand(tmp_path, kind, names):
    model = MAKERS[kind]()
    model.save_pretrained(tmp_path / "before")
    started = load_classifier(str(tmp_path / "before"), 24, label_maps(names))
    assert type(started) is type(model)
    assert has_cosine_classifier(started.config) == kind.startswith("cosine")
    weights, before = started.state_dict(), model.state_dict()
    new = {name for name in before if weights[name].shape != before[name].shape}
    assert all(torch.equal(weights[name], before[name]) for name in before if name not in new)
    parts = {"weight"} if kind.startswith("cosine") else {"weight", "bias"}
    assert {name.rsplit(".", 1)[-1] for name in new} == (parts if len(names) == 5 else set())
    assert all(len(weights[name]) == 5 and weights[name].isfinite().all() for name in new)
    # And after saving, the new names are the ones that are found.
    started.save_pretrained(tmp_path / "after")
    config = AutoModelForImageClassification.from_pretrained(tmp_path / "after").config
    assert config.id2label == dict(enumerate(names))
    assert getattr(config, "image_size", None) == 24 or config.pretrained_cfg["input_size"] == [3, 24, 24]


def test_timms_own_files_are_a_start(tmp_path):
    """The layout of timm's repositories on the hub: timm's own names of weights and of what the images are."""
    alone = timm.create_model("test_resnet", num_classes=1000)
    save_file(alone.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    images = {"input_size": [3, 160, 160], "test_input_size": [3, 200, 200], "crop_pct": 0.95, "num_classes": 1000}
    images |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "tag": "r160_in1k"}
    config = {"architecture": "test_resnet", "num_classes": 1000, "num_features": 96, "pretrained_cfg": images}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_classifier(str(tmp_path), 40, label_maps())
    weights = model.timm_model.state_dict()
    kept = {name: weight for name, weight in alone.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(weights[name], weight) for name, weight in kept.items())
    assert weights["fc.weight"].shape == (3, 96)
    # The student's images from now on, whatever the weights were trained on.
    model.save_pretrained(tmp_path / "saved")
    own = AutoImageProcessor.from_pretrained(tmp_path / "saved").data_config
    expected = {"input_size": (3, 40, 40), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert {name: own[name] for name in expected} == expected
    assert (own["crop_pct"], own["interpolation"]) == (0.875, "bicubic")


def test_weights_in_half_precision_are_trained_in_full(tmp_path):
    small_resnet().to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_classifier(str(tmp_path), 24, label_maps()).dtype == torch.float32


def test_a_weight_other_than_the_heads_must_fit(tmp_path):
    config = DeiTConfig(
        image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    DeiTForImageClassification(config).save_pretrained(tmp_path)
    assert load_classifier(str(tmp_path), 16, label_maps()).config.num_labels == 3
    with pytest.raises(
        DeiTLTError, match=r": its \S*position_embeddings has the shape \(1, 6, 12\), where \(1, 18, 12\)"
    ):
        load_classifier(str(tmp_path), 32, label_maps())


@pytest.mark.parametrize("lost", ["classifier.1.weight", "resnet.embedder.embedder.convolution.weight"])
def test_only_the_head_may_be_missing(tmp_path, lost):
    small_resnet().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if "classifier" in lost:
        assert load_classifier(str(tmp_path), 24, label_maps()).classifier[1].weight.isfinite().all()
        return
    with pytest.raises(DeiTLTError, match=f": its file lacks 1 weights, among them {lost}; pass one that is complete$"):
        load_classifier(str(tmp_path), 24, label_maps())
