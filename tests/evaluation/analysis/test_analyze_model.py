from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve
from small_vits import KINDS, make_vit

from deitlt_hf import (
    DeiTLTError,
    analyze_model,
    attention_rollout,
    expected_calibration_error,
    feature_rank,
    grouped_accuracy,
    mean_attention_distance,
    token_attention,
    token_similarity,
)
from deitlt_hf.evaluation.evaluate import predict_experts
from deitlt_hf.evaluation.measures import expert_metrics

CLASSES = {
    "class_names": ["cat", "dog", "lynx", "puma", "ocelot"],
    "class_counts": [9, 400, 80, 3, 1000],
    "groups": {"head": [1, 4], "mid": [2], "tail": [0, 3]},
}
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


class Batches:
    """A loader that counts how often it is read."""

    def __init__(self, pixel_values: torch.Tensor, labels: torch.Tensor, size: int):
        self.batches = list(zip(pixel_values.split(size), labels.split(size), strict=True))
        self.read = 0

    def __iter__(self):
        for pixel_values, labels in self.batches:
            self.read += 1
            yield {"pixel_values": pixel_values, "labels": labels}


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (40, 3, 16, 16), generator=generator) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels - mean) / std, torch.randint(0, 5, (40,), generator=generator)


@pytest.fixture(scope="module")
def teacher():
    return lambda pixel_values: pixel_values.mean((2, 3)) @ torch.linspace(-1, 1, 15).view(3, 5).sin()


def analyze(model, images, size=12, **options):
    options = {"image_mean": MEAN, "image_std": STD} | CLASSES | options
    return analyze_model(model, Batches(*images, size), **options)


def numbers(value) -> list[float]:
    """All the numbers in a record."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [number for part in parts for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def ranking(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """The ranking measures of each class in percent, by scikit-learn."""
    rows = np.full((3, probabilities.shape[1]), np.nan)
    for label in np.unique(labels):
        positive, scores = labels == label, probabilities[:, label]
        precision, recall = (of[:-1] for of in precision_recall_curve(positive, scores)[:2])  # the last is no threshold
        at = recall[precision >= 0.9].max(initial=0), precision[recall >= 0.9].max()
        rows[:, label] = 100 * average_precision_score(positive, scores), *(100 * of for of in at)
    keys = "average_precision", "recall_at_precision_90", "precision_at_recall_90"
    return dict(zip(keys, rows.tolist(), strict=True))


@pytest.fixture(scope="module")
def student():
    return make_vit("DeiT-LT")


@pytest.fixture(scope="module")
def analysis(student, images, teacher):
    return analyze(student, images, source="runs/student", teacher=teacher)


def test_predictions_are_those_of_an_evaluation(analysis, student, images):
    predictions, labels = predict_experts(student, Batches(*images, 40))
    np.testing.assert_array_equal(analysis.predictions, predictions)
    np.testing.assert_array_equal(analysis.labels, labels)
    assert analysis.experts == ("average", "cls", "distillation")
    assert analysis.predictions.dtype == analysis.labels.dtype == np.int64
    names = CLASSES["class_names"]
    with torch.inference_mode():
        output = student.eval()(images[0])
    logits = {"average": output.logits, "cls": output.cls_logits, "distillation": output.distillation_logits}
    ranked = {row: ranking(of.softmax(-1).numpy(), labels) for row, of in logits.items()}
    metrics = expert_metrics(predictions, labels, CLASSES["class_counts"], CLASSES["groups"], names, ranked=ranked)
    for row, measured in metrics["experts"].items():
        of_record = analysis.record["experts"][row]
        for key in [f"{prefix}{key}" for key in ranked[row] for prefix in ("", "per_class_")]:
            assert of_record[key] == pytest.approx(measured[key])
            measured[key] = of_record[key]  # the rest is equal, not nearly so
    assert {name: analysis.record[name] for name in metrics} == metrics


@torch.inference_mode()
def test_layers_are_measured_over_all_images(analysis, student, images):
    student.set_attn_implementation("eager")
    output = student(images[0], output_hidden_states=True, output_attentions=True)
    student.set_attn_implementation("sdpa")
    for token in ("all", "cls", "distillation"):
        expected = mean_attention_distance(output.attentions, patch_size=4, token=token)
        torch.testing.assert_close(torch.tensor(analysis.record["attention_distance"][token]), expected)
    cls, distillation = ([states[:, index] for states in output.hidden_states[1:]] for index in (0, 1))
    ranks = {"cls": list(map(feature_rank, cls)), "distillation": list(map(feature_rank, distillation))}
    assert analysis.record["feature_rank"] == {"variance": 0.99} | ranks
    similarity = [token_similarity(*tokens).mean().item() for tokens in zip(cls, distillation, strict=True)]
    assert analysis.record["token_similarity"] == pytest.approx(similarity, rel=1e-5)
    singular = torch.linalg.svdvals(cls[1] - cls[1].mean(0)) ** 2
    assert analysis.record["spectrum"]["cls"][1] == pytest.approx((singular / singular.sum()).tolist(), rel=1e-3)


@torch.inference_mode()
def test_calibration_and_agreement_are_those_of_the_logits(analysis, student, images, teacher):
    pixel_values, labels = images
    output, groups = student(pixel_values), CLASSES["groups"]
    probabilities = output.distillation_logits.softmax(-1)
    of_dist = analysis.record["calibration"]["distillation"]
    assert of_dist["overall"]["ece"] == pytest.approx(expected_calibration_error(probabilities, labels), rel=1e-5)
    tail = np.isin(labels, groups["tail"])
    expected = expected_calibration_error(probabilities[tail], labels[tail])
    assert of_dist["tail"]["ece"] == pytest.approx(expected, rel=1e-5)
    assert sum(entry["count"] for entry in of_dist["tail"]["bins"]) == tail.sum()

    taught, cls = teacher(pixel_values).argmax(-1), output.cls_logits.argmax(-1)
    agreement = analysis.record["agreement"]
    assert list(agreement) == ["cls-distillation", "teacher-cls", "teacher-distillation", "teacher"]
    assert agreement["teacher"] == grouped_accuracy(taught, labels, groups)
    assert agreement["teacher-cls"]["overall"] == 100 * (taught == cls).sum().item() / len(labels)


def test_examples_show_what_the_model_saw(analysis, student, images):
    pixel_values, labels = images
    # All five classes, from the most frequent to the rarest, and the first image of each.
    assert [example.label for example in analysis.examples] == [4, 1, 2, 0, 3]
    for example in analysis.examples:
        index = labels.tolist().index(example.label)
        shown = torch.tensor(example.image).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        torch.testing.assert_close((shown - mean) / std, pixel_values[index], rtol=0, atol=1e-5)
        maps = token_attention(student, pixel_values[index : index + 1])
        for token in ("cls", "distillation"):
            np.testing.assert_allclose(example.attention[token], maps[token][0].numpy(), rtol=1e-4)
        assert list(example.predicted.values()) == analysis.predictions[index].tolist()


@torch.inference_mode()
def test_rollout_of_an_example_is_its_tokens_row(analysis, student, images):
    example = analysis.examples[1]
    index = images[1].tolist().index(example.label)
    student.set_attn_implementation("eager")
    attentions = student(images[0][index : index + 1], output_attentions=True).attentions
    student.set_attn_implementation("sdpa")
    rollout = attention_rollout(attentions)[0]
    np.testing.assert_allclose(example.rollout["distillation"].ravel(), rollout[1, 2:].numpy(), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_records_of_all_kinds_are_json_without_nan(kind, images, teacher):
    record = analyze(make_vit(kind), images, teacher=teacher).record
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    model = record["model"]
    assert (model["layers"], model["heads"], model["image_size"], model["patch_size"]) == (3, 2, 16, 4)
    assert model["parameters"] == sum(weight.numel() for weight in make_vit(kind).parameters())
    two_heads = kind in ("DeiT-LT", "DeiT with teacher")
    experts = ["average", "cls", "distillation"] if two_heads else ["cls"]
    assert model["prediction"] == experts[0]
    for measure in ("experts", "calibration", "confusion"):
        assert list(record[measure]) == experts
    tokens = experts[1:] or ["cls"]
    assert list(record["attention_distance"]) == ["all", *tokens]
    assert list(record["spectrum"]) == tokens
    assert (record["token_similarity"] is None) is not two_heads
    assert list(record["agreement"]) == ["cls-distillation"] * two_heads + [f"teacher-{t}" for t in tokens] + [
        "teacher"
    ]


def test_groups_without_images_are_none(images):
    pixel_values, labels = images
    kept = labels != 2
    record = analyze(make_vit("DeiT-LT"), (pixel_values[kept], labels[kept])).record
    assert record["experts"]["cls"]["mid"] is None
    assert record["confusion"]["cls"]["groups"][1] == [None] * 3
    assert record["calibration"]["cls"]["mid"]["ece"] is None
    assert record["agreement"]["cls-distillation"]["mid"] is None
    assert list(record["agreement"]) == ["cls-distillation"]


def test_size_of_the_batches_does_not_matter(analysis, student, images, teacher):
    other = analyze(student, images, size=7, source="runs/student", teacher=teacher)
    assert len(numbers(analysis.record)) > 500
    assert numbers(other.record) == pytest.approx(numbers(analysis.record), rel=1e-3)  # spectra have four digits


def test_the_images_are_read_once_and_the_model_is_left_as_it_was(images):
    model = make_vit("DeiT-LT").train()
    model.deit.layernorm.eval()
    loader = Batches(*images, 10)
    analyze_model(model, loader, **CLASSES)
    assert loader.read == 4
    assert (model.training, model.deit.layers[0].training, model.deit.layernorm.training) == (True, True, False)
    assert model.config._attn_implementation == "sdpa"
    assert all(weight.grad is None for weight in model.parameters())


def test_the_students_own_prediction_is_named(images):
    assert analyze(make_vit("DeiT-LT", expert="distillation"), images).record["model"]["prediction"] == "distillation"


def test_a_head_that_was_never_trained_is_left_out(images, analysis, student, teacher):
    record = analyze(student, images, teacher=teacher, dist_is_trained=False).record
    assert list(record["experts"]) == list(record["calibration"]) == list(record["spectrum"]) == ["cls"]
    assert record["model"]["prediction"] == "cls"
    assert record["token_similarity"] is record["crossing"]["slope"] is None
    assert record["experts"]["cls"] == analysis.record["experts"]["cls"]
    for reader, layers in record["attention_distance"].items():
        np.testing.assert_allclose(layers, analysis.record["attention_distance"][reader])
    assert list(record["agreement"]) == ["teacher-cls", "teacher"]


def test_half_precision(images):
    pixel_values, labels = images
    single = analyze(make_vit("DeiT-LT"), images).record
    half = analyze(make_vit("DeiT-LT").bfloat16(), (pixel_values.bfloat16(), labels)).record
    for token, layers in single["attention_distance"].items():
        np.testing.assert_allclose(half["attention_distance"][token], layers, rtol=0.05)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_names": ["cat", "dog"]}, "5 classes and class_names 2"),
        ({"class_counts": [1, 2]}, "2 class counts"),
        ({"groups": {"head": [0], "mid": [1], "tail": [2, 3]}}, "groups over 4 classes"),
    ],
)
def test_classes_that_do_not_fit_are_refused(changes, said, images):
    with pytest.raises(DeiTLTError, match=said):
        analyze(make_vit("DeiT-LT"), images, **changes)


def test_no_images_are_refused():
    with pytest.raises(DeiTLTError, match="no batch"):
        analyze_model(make_vit("DeiT-LT"), [], **CLASSES)
