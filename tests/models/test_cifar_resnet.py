"""The CIFAR ResNet; its agreement with the reference's teachers is in tests/hub/test_conversion.py."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

import deitlt_hf  # noqa: F401 -- registers the Auto classes
from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification

# He et al. (2016), table 6: millions of parameters with ten classes.
PUBLISHED_PARAMETERS = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7"}


def make_model(seed: int = 0, **config) -> CifarResNetForImageClassification:
    torch.manual_seed(seed)
    return CifarResNetForImageClassification(CifarResNetConfig(**{"depth": 20, "num_labels": 10, **config})).eval()


@pytest.mark.parametrize(("depth", "millions"), PUBLISHED_PARAMETERS.items())
def test_depths_have_the_published_size(depth: int, millions: str) -> None:
    model = make_model(depth=depth)
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2g}" == millions
    # The depth counts convolutions and the classifier; shortcuts of option A have no parameters.
    assert sum(p.dim() in (2, 4) for p in model.parameters()) == depth


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 50}, "unknown depth 50; pass one of 20, 32, 44, 56, 110"),
        ({"classifier": "cosin"}, "unknown classifier 'cosin'; pass one of linear, cosine"),
        ({"num_channels": 0}, "num_channels is 0; pass 1 or more"),
        ({"image_size": -1}, "image_size is -1; pass 1 or more"),
    ],
)
def test_wrong_configuration_is_one_line(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the whole message is compared
        CifarResNetConfig(**wrong)
    assert str(caught.value) == message


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (28, 28), (64, 64)])
def test_takes_any_small_size(size: tuple[int, int]) -> None:
    model = make_model(num_channels=1, num_labels=3)
    small, large = model(torch.randn(2, 1, *size)), model.extract_features(torch.randn(1, 1, *size))
    assert small.logits.shape == (2, 3)
    assert small.loss is None
    assert large.shape == (1, 64)


def test_shortcut_subsamples_and_pads_with_zero_channels() -> None:
    block = make_model().layer2[0]
    hidden = torch.randn(1, 16, 5, 6)
    expected = torch.zeros(1, 32, 3, 3)
    expected[:, 8:24] = hidden[:, :, [0, 2, 4]][:, :, :, [0, 2, 4]]
    assert torch.equal(block.shortcut(hidden), expected)


def test_cosine_classifier_is_the_cosine() -> None:
    classifier = make_model(classifier="cosine", num_labels=3).classifier
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.weight[0, 0], classifier.weight[1, 1], classifier.weight[2, :2] = 2.0, 5.0, -1.0
    features = torch.zeros(1, 64)
    features[0, 0], features[0, 1] = 3.0, 4.0
    # Feature (3, 4) has length 5: cosines 3/5, 4/5 and -7 / (5 sqrt 2).
    torch.testing.assert_close(classifier(features), torch.tensor([[0.6, 0.8, -7 / (5 * math.sqrt(2))]]))


def test_loss_is_the_mean_cross_entropy_of_hard_and_soft_labels() -> None:
    model, pixel_values = make_model(num_labels=3), torch.randn(4, 3, 16, 16)
    labels = torch.tensor([0, 2, 1, 2])
    soft = torch.tensor([[0.5, 0.25, 0.25], [0, 0, 1], [0.1, 0.9, 0], [1, 0, 0]])
    log_p = model(pixel_values).logits.log_softmax(dim=1)
    hard_loss = -sum(log_p[row, label] for row, label in enumerate(labels)) / 4
    torch.testing.assert_close(model(pixel_values, labels=labels).loss, hard_loss)
    torch.testing.assert_close(model(pixel_values, labels=soft).loss, -(soft * log_p).sum() / 4)


def test_return_dict_false_gives_a_tuple() -> None:
    loss, logits = make_model()(torch.randn(2, 3, 8, 8), labels=torch.tensor([1, 2]), return_dict=False)
    assert loss.shape == ()
    assert logits.shape == (2, 10)


def test_initial_weights_have_the_references_statistics() -> None:
    model = make_model(num_labels=1000)
    # Kaiming-normal over the fan-in: sqrt(2 / (64 * 3 * 3)) and sqrt(2 / 64).
    assert model.layer3[1].conv1.weight.std().item() == pytest.approx(math.sqrt(2 / 576), rel=0.03)
    assert model.classifier.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.03)
    assert model.classifier.bias.abs().max().item() == pytest.approx(1 / 8, rel=0.01)  # uniform up to 1 / sqrt(64)
    assert torch.equal(model.bn1.weight, torch.ones(16))
    assert torch.equal(model.bn1.bias, torch.zeros(16))
    cosine = make_model(classifier="cosine", num_labels=50).classifier
    torch.testing.assert_close(cosine.weight.norm(dim=1), torch.ones(50))
    assert abs(cosine.weight.mean().item()) < 0.01


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_save_and_load(tmp_path: Path, classifier: str) -> None:
    model = make_model(classifier=classifier, num_labels=4, image_size=28, id2label=dict(enumerate("abcd")))
    model.train()(torch.randn(8, 3, 16, 16))  # so that the batch statistics differ from their initial values
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is CifarResNetForImageClassification
    assert (loaded.config.classifier, loaded.config.depth, loaded.config.image_size) == (classifier, 20, 28)
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    weights, loaded_weights = model.state_dict(), loaded.state_dict()
    assert weights.keys() == loaded_weights.keys()
    assert all(torch.equal(weights[name], loaded_weights[name]) for name in weights)


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_compiles_without_graph_breaks(classifier: str) -> None:
    model = make_model(classifier=classifier)
    pixel_values, labels = torch.randn(2, 3, 8, 8), torch.tensor([1, 2])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pixel_values, labels=labels).loss, model(pixel_values, labels=labels).loss)


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_bfloat16(classifier: str) -> None:
    model, pixel_values = make_model(classifier=classifier), torch.randn(2, 3, 8, 8)
    expected = model(pixel_values).logits
    logits = model.to(torch.bfloat16)(pixel_values.to(torch.bfloat16)).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, atol=0.05 * expected.abs().max().item(), rtol=0)
