"""A timm CNN with a cosine classifier."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import timm
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

import deitlt_hf  # noqa: F401 -- registers the Auto classes
from deitlt_hf.data.views import image_processor
from deitlt_hf.models.timm_cosine.configuration_timm_cosine import TimmCosineConfig
from deitlt_hf.models.timm_cosine.modeling_timm_cosine import TimmCosineForImageClassification


def make_model(seed: int = 0, **config) -> TimmCosineForImageClassification:
    torch.manual_seed(seed)
    settings = {"architecture": "test_resnet", "image_size": 32, "num_labels": 10, **config}
    return TimmCosineForImageClassification(TimmCosineConfig(**settings)).eval()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"architecture": "resnt50"},
            "unknown architecture 'resnt50'; pass a timm model's name, such as resnet50",
        ),
        (
            {"architecture": "hf_hub:timm/resnet50.a1_in1k"},
            "unknown architecture 'hf_hub:timm/resnet50.a1_in1k'; pass a timm model's name, such as resnet50",
        ),
        ({"num_channels": 0}, "num_channels is 0; pass 1 or more"),
        ({"image_size": -1}, "image_size is -1; pass 1 or more"),
    ],
)
def test_wrong_configuration_is_one_line(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole message is compared
        TimmCosineConfig(**wrong)
    assert str(caught.value) == message


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet"])
def test_logits_are_the_cosines_of_timms_features(architecture: str) -> None:
    model, pixel_values = make_model(architecture=architecture, num_labels=3), torch.randn(2, 3, 40, 40)
    alone = timm.create_model(architecture, num_classes=0).eval()
    alone.load_state_dict(model.backbone.state_dict())
    features, rows = alone(pixel_values).detach(), model.classifier.weight.detach()
    expected = [[f @ w / math.sqrt((f @ f) * (w @ w)) for w in rows] for f in features]
    torch.testing.assert_close(model(pixel_values).logits, torch.tensor(expected))


def test_loss_is_the_mean_cross_entropy_of_hard_and_soft_labels() -> None:
    model, pixel_values = make_model(num_labels=3), torch.randn(4, 3, 32, 32)
    labels = torch.tensor([0, 2, 1, 2])
    soft = torch.tensor([[0.5, 0.25, 0.25], [0, 0, 1], [0.1, 0.9, 0], [1, 0, 0]])
    log_p = model(pixel_values).logits.log_softmax(dim=1)
    hard_loss = -sum(log_p[row, label] for row, label in enumerate(labels)) / 4
    torch.testing.assert_close(model(pixel_values, labels=labels).loss, hard_loss)
    torch.testing.assert_close(model(pixel_values, labels=soft).loss, -(soft * log_p).sum() / 4)


def test_return_dict_false_gives_a_tuple_and_other_channels_are_taken() -> None:
    model = make_model(num_channels=1)
    loss, logits = model(torch.randn(2, 1, 32, 32), labels=torch.tensor([1, 2]), return_dict=False)
    assert loss.shape == ()
    assert logits.shape == (2, 10)


def test_the_backbone_keeps_timms_initialisation() -> None:
    model = make_model(architecture="resnet10t")
    torch.manual_seed(0)
    for name, weight in timm.create_model("resnet10t", num_classes=0).state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], weight), name
    # Of them, the last normalisation of a residual branch, which timm starts at zero and transformers would at one.
    assert not model.backbone.layer1[0].bn2.weight.any()


def test_class_vectors_start_uniform_and_normalised() -> None:
    rows = make_model(num_labels=200).classifier.weight
    assert rows.shape == (200, 96)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(200))
    assert abs(rows.mean().item()) < 0.005
    # Uniform values lie within sqrt(3) of their standard deviation, 1 / sqrt(96) here; norms of rows vary by some 5 %.
    assert rows.abs().max().item() < 1.2 * math.sqrt(3 / 96)


# resnetblur18 has filters that no file holds.
@pytest.mark.parametrize("architecture", ["test_resnet", "resnetblur18"])
def test_save_and_load(tmp_path: Path, architecture: str) -> None:
    model = make_model(architecture=architecture, num_labels=4, image_size=40, id2label=dict(enumerate("abcd")))
    model.train()(torch.randn(8, 3, 40, 40))  # so that the batch statistics differ from their initial values
    model.eval().save_pretrained(tmp_path)
    image_processor(40).save_pretrained(tmp_path)

    loaded, report = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert type(loaded) is TimmCosineForImageClassification
    assert not loaded.training
    assert (loaded.config.architecture, loaded.config.image_size) == (architecture, 40)
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    weights, loaded_weights = model.state_dict(), loaded.state_dict()
    assert weights.keys() == loaded_weights.keys()
    assert all(torch.equal(weights[name], loaded_weights[name]) for name in weights)
    pixel_values = torch.randn(2, 3, 40, 40)
    assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)
    assert type(AutoConfig.from_pretrained(tmp_path)) is TimmCosineConfig
    assert AutoImageProcessor.from_pretrained(tmp_path).crop_size["height"] == 40


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "first")
    TimmCosineForImageClassification.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second"))
    assert first == second | {"dtype": first["dtype"]}


def test_bfloat16() -> None:
    model, pixel_values = make_model(), torch.randn(2, 3, 32, 32)
    expected = model(pixel_values).logits
    logits = model.to(torch.bfloat16)(pixel_values.to(torch.bfloat16)).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0)
