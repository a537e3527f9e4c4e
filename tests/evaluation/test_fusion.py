"""The fit of both experts' shares, against hand arithmetic, scikit-learn, and data whose best fusion is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from deitlt_hf import DeiTLTConfig, DeiTLTError, DeiTLTForImageClassification
from deitlt_hf.evaluation import fusion as fusions
from deitlt_hf.evaluation.fusion import fit_fusion, fused_probabilities
from deitlt_hf.models.deit_lt.modeling_deit_lt import fused_logits

SHAPE = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def _logits(images: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Made-up logits of two experts of unlike noise, and labels drawn from one mixture of both."""
    draw = np.random.default_rng(seed)
    cls, distillation = draw.normal(0, 2, (images, classes)), draw.normal(0, 1, (images, classes))
    mixed = 0.8 * cls + 1.4 * distillation
    labels = (mixed + draw.gumbel(size=mixed.shape)).argmax(1)  # a draw from softmax(mixed)
    return cls, distillation, labels


def test_fused_logits_by_hand():
    cls, distillation = torch.tensor([[np.log(3.0), 0.0]]), torch.tensor([[0.0, np.log(4.0)]])
    # Log probabilities are log(3/4), log(1/4) and log(1/5), log(4/5).
    plain = fused_logits({"cls": 2.0, "distillation": 0.5, "bias": [0.1, 0.0]}, cls, distillation)
    expected = [2 * np.log(0.75) + 0.5 * np.log(0.2) + 0.1, 2 * np.log(0.25) + 0.5 * np.log(0.8)]
    assert plain.tolist() == [pytest.approx(expected, abs=1e-6)]
    per_class = fused_logits({"cls": [2.0, 1.0], "distillation": [0.5, 0.0], "bias": 0.0}, cls, distillation)
    assert per_class.tolist() == [pytest.approx([expected[0] - 0.1, np.log(0.25)], abs=1e-6)]


def test_the_plain_average_is_a_fusion_of_halves():
    cls, distillation, _ = (torch.as_tensor(of).float() for of in _logits(20, 5))
    fused = fused_logits({"cls": 0.5, "distillation": 0.5, "bias": [0.0] * 5}, cls, distillation)
    assert torch.allclose(fused.softmax(-1), ((cls + distillation) / 2).softmax(-1), atol=1e-6)


def test_the_model_answers_with_its_fusion():
    numbers = {"cls": 0.7, "distillation": [0.2, 0.9, 0.4], "bias": [0.0, -1.0, 2.0]}
    config = DeiTLTConfig(num_labels=3, expert="fused", fusion=numbers, **SHAPE)
    outputs = DeiTLTForImageClassification(config).eval()(torch.rand(2, 3, 16, 16))
    expected = fused_logits(numbers, outputs.cls_logits, outputs.distillation_logits)
    assert torch.equal(outputs.logits, expected)
    assert outputs.logits.dtype == torch.float32


def test_the_mixture_that_the_labels_came_from_is_found():
    cls, distillation, labels = _logits(20_000, 4)
    fit = fit_fusion(cls, distillation, labels, [100] * 4)
    assert fit.kind == "shared"
    assert fit.fusion["cls"] == pytest.approx(0.8, abs=0.03)
    assert fit.fusion["distillation"] == pytest.approx(1.4, abs=0.06)
    assert fit.temperature == pytest.approx(1 / 2.2, abs=0.02)
    assert fit.shares == pytest.approx({"cls": 0.8 / 2.2, "distillation": 1.4 / 2.2}, abs=0.02)


def test_two_classes_are_scikit_learn_s_logistic_regression():
    cls, distillation, labels = _logits(300, 2)
    labels[:5] = 1  # uneven classes, which weigh the same
    fit = fit_fusion(cls, distillation, labels, [90, 10], "shared")
    # The margin of class 1 is linear in both experts' margins, plus the strength times log(90 / 10).
    margins = np.stack([of[:, 1] - of[:, 0] for of in (cls, distillation)], axis=1)
    margins = np.concatenate([margins, np.full((300, 1), np.log(9.0))], axis=1)
    shifted = LogisticRegression(C=1e9, fit_intercept=False, class_weight="balanced", tol=1e-10, max_iter=10_000)
    shifted.fit(margins, labels)
    assert fit.fusion["cls"] == pytest.approx(shifted.coef_[0, 0], rel=0.03)  # the pull is worth one image
    assert fit.fusion["distillation"] == pytest.approx(shifted.coef_[0, 1], rel=0.03)
    first, second = fit.fusion["bias"]
    assert second - first == pytest.approx(shifted.coef_[0, 2] * np.log(9.0), rel=0.2, abs=0.01)


def test_every_class_weighs_the_same():
    cls, distillation, labels = _logits(200, 3)
    rare = np.flatnonzero(labels == 2)
    many = [np.concatenate([of, *[of[rare]] * 4]) for of in (cls, distillation, labels)]
    once, often = (fit_fusion(*of, [50, 20, 5], "shared").fusion for of in ((cls, distillation, labels), many))
    assert often["cls"] == pytest.approx(once["cls"], abs=0.02)  # only the pull differs
    assert often["bias"] == pytest.approx(once["bias"], abs=0.05)


@pytest.mark.parametrize("kind", fusions.KINDS)
def test_perfect_experts_and_single_images_get_finite_numbers(kind):
    right = 50 * np.eye(3)
    fit = fit_fusion(right, right, [0, 1, 2], [1000, 10, 1], kind)
    probabilities = fused_probabilities(fit.fusion, right, right)
    assert (probabilities.argmax(1) == [0, 1, 2]).all()
    assert max(map(abs, fit.fusion["bias"])) < 10


def test_cross_validation_is_of_images_that_were_not_fitted_and_takes_the_simplest():
    cls, distillation, labels = _logits(400, 4)
    fit = fit_fusion(cls, distillation, labels, [100, 50, 20, 5])
    assert list(fit.cross_validation) == ["average", *fusions.KINDS]
    assert fit.kind == "shared"  # which made the labels
    assert fit.folds == 5
    assert fit.cross_validation["shared"].loss < fit.cross_validation["average"].loss
    # A class that one expert sees and the other does not, so that terms per class pay.
    cls[:, 3] += 3
    distillation[:, 2] -= 3
    assert fit_fusion(cls, distillation, labels, [50] * 4).kind == "per class"


def test_without_two_images_of_a_class_nothing_is_compared():
    fit = fit_fusion(np.eye(3), np.eye(3), [0, 1, 2], [3, 2, 1])
    assert (fit.kind, fit.cross_validation, fit.folds) == ("shared", {}, 0)


@pytest.mark.parametrize(
    ("labels", "counts", "kind", "said"),
    [
        ([0, 1], [3, 2, 1], None, "2 labels and 3 class counts do not fit together"),
        ([0, 1, 2], [3, 2], None, "3 labels and 2 class counts do not fit together"),
        ([0, 1, 2], [3, 2, 1], "best", "kind is 'best'; pass one of shared, by frequency, per class"),
    ],
)
def test_what_does_not_fit_is_refused(labels, counts, kind, said):
    with pytest.raises(DeiTLTError, match=said):
        fit_fusion(np.eye(3), np.eye(3), labels, counts, kind)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"expert": "fused"}, "expert is 'fused' and there is no fusion"),
        ({"fusion": {"cls": 1.0}}, "fusion has"),
        ({"fusion": {"cls": 1.0, "distillation": 0.0, "bias": [0.0]}}, "fusion 'bias' is not a finite number"),
        ({"fusion": {"cls": float("nan"), "distillation": 0.0, "bias": 0.0}}, "fusion 'cls' is not a finite number"),
        ({"fusion": {"cls": "1", "distillation": 0.0, "bias": 0.0}}, "fusion 'cls' is not a finite number"),
    ],
)
def test_a_configuration_refuses_a_wrong_fusion(settings, said):
    with pytest.raises(Exception, match=said):
        DeiTLTConfig(num_labels=3, **SHAPE, **settings)


def test_a_fusion_stays_behind_with_its_classes(tmp_path):
    numbers = {"cls": 1.0, "distillation": 0.0, "bias": [0.0, 1.0, 2.0]}
    DeiTLTForImageClassification(DeiTLTConfig(num_labels=3, expert="fused", fusion=numbers, **SHAPE)).save_pretrained(
        tmp_path
    )
    assert DeiTLTConfig.from_pretrained(tmp_path).fusion == numbers
    other = DeiTLTConfig.from_pretrained(tmp_path, num_labels=5)
    assert (other.expert, other.fusion) == ("average", None)
