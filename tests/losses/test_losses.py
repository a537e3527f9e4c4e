from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from deitlt_hf import (
    DeiTLTError,
    DistillationLoss,
    LDAMLoss,
    PaCoLoss,
    class_balanced_weights,
    rebalanced_divergence,
)


@pytest.fixture(scope="module")
def tensors(golden):
    return load_file(golden / "losses.safetensors")


@pytest.mark.parametrize("beta", [0.9999, 0.999])
def test_class_balanced_weights_agree_with_the_reference(golden_json, beta):
    weights = class_balanced_weights(golden_json["class_counts"], beta)
    expected = torch.tensor(golden_json["class_balanced_weights"][f"beta={beta}"])
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)


def test_class_balanced_weights_by_hand():
    # beta = 0.5: effective numbers of 1 and 2 images are 1 and 1.5, so weights are 1 : 2/3, scaled to sum to 2.
    torch.testing.assert_close(class_balanced_weights([1, 2], 0.5), torch.tensor([1.2, 0.8]))
    torch.testing.assert_close(class_balanced_weights([900, 3], 0.0), torch.ones(2))


@pytest.mark.parametrize(("counts", "beta", "part"), [([3, 0], 0.9, "class 1"), ([1], 1.0, "1.0"), ([1], -0.1, "-0.1")])
def test_class_balanced_weights_refuse(counts, beta, part):
    with pytest.raises(DeiTLTError, match=re.escape(part)):
        class_balanced_weights(counts, beta)


KEYS = [
    "distillation=hard,temperature=1.0,weighted=False,targets=soft,alpha=0.5",
    "distillation=hard,temperature=1.0,weighted=True,targets=hard,alpha=0.5",
    "distillation=soft,temperature=1.0,weighted=False,targets=soft,alpha=0.5",
    "distillation=soft,temperature=3.0,weighted=False,targets=hard,alpha=0.3",
    "distillation=none,temperature=1.0,weighted=False,targets=soft,alpha=0.5",
    "distillation=none,temperature=1.0,weighted=True,targets=hard,alpha=0.5",
]


@pytest.mark.parametrize("key", KEYS)
def test_distillation_loss_agrees_with_the_reference(golden_json, tensors, key):
    case = dict(pair.split("=") for pair in key.split(","))
    loss = DistillationLoss(case["distillation"], float(case["alpha"]), float(case["temperature"]))
    weights = class_balanced_weights(golden_json["class_counts"]) if case["weighted"] == "True" else None
    parts = loss(
        tensors["cls_logits"],
        tensors["distillation_logits"],
        tensors["soft_targets" if case["targets"] == "soft" else "labels"],
        tensors["teacher_logits"],
        weights,
    )
    torch.testing.assert_close(torch.stack(parts), torch.tensor(golden_json["losses"][key]), rtol=0, atol=1e-5)


def test_soft_distillation_weighs_samples_by_the_teachers_class(tensors):
    loss = DistillationLoss("soft", alpha=1.0)
    weights = torch.linspace(0.1, 2, 10)
    arguments = [tensors[name] for name in ("cls_logits", "distillation_logits", "labels", "teacher_logits")]
    single = torch.stack([loss(*(tensor[i : i + 1] for tensor in arguments)).loss for i in range(16)])
    sample_weights = weights[tensors["teacher_logits"].argmax(-1)]
    expected = (single * sample_weights).sum() / sample_weights.sum()
    torch.testing.assert_close(loss(*arguments, class_weights=weights).loss, expected)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [({"distillation_type": "hrad"}, "hrad"), ({"alpha": 1.5}, "1.5"), ({"temperature": 0}, "temperature is 0")],
)
def test_distillation_loss_refuses(arguments, part):
    with pytest.raises(DeiTLTError, match=part):
        DistillationLoss(**arguments)


def test_hard_distillation_without_a_teacher_is_refused(tensors):
    with pytest.raises(DeiTLTError, match="teacher_logits"):
        DistillationLoss()(tensors["cls_logits"], tensors["distillation_logits"], tensors["labels"])


@pytest.mark.parametrize(
    ("key", "max_margin", "weighted"),
    [
        ("ldam(max_margin=0.5,scale=30)", 0.5, False),
        ("ldam(max_margin=0.3,scale=30,class_balanced_weights)", 0.3, True),
    ],
)
def test_ldam_agrees_with_the_reference(golden_json, tensors, key, max_margin, weighted):
    counts = golden_json["class_counts"]
    weights = class_balanced_weights(counts) if weighted else None
    loss = LDAMLoss(counts, max_margin=max_margin)(tensors["cosine_logits"], tensors["labels"], weights)
    assert loss.item() == pytest.approx(golden_json["losses"][key], abs=1e-4)


def test_ldam_refuses_an_empty_class():
    with pytest.raises(DeiTLTError, match="class 1"):
        LDAMLoss([5, 0])


def test_paco_agrees_with_the_reference(golden_json, tensors):
    loss = PaCoLoss(golden_json["class_counts"], alpha=0.05, beta=1.0, gamma=1.0, temperature=0.2)
    value = loss(tensors["paco_features"], tensors["paco_labels"], tensors["paco_classifier_logits"])
    expected = golden_json["losses"]["paco(alpha=0.05,beta=1,gamma=1,temperature=0.2,queue=16)"]
    assert value.item() == pytest.approx(expected, abs=1e-4)


def paco_by_hand(features, labels, logits, counts, alpha, beta, gamma, temperature):
    """The published definition, one pair at a time."""
    total = 0.0
    for i, row in enumerate(logits.double().tolist()):
        adjusted = [value + math.log(count / sum(counts)) for value, count in zip(row, counts, strict=True)]
        others = [j for j in range(len(features)) if j != i]
        similarity = {j: float(features[i].double() @ features[j].double()) / temperature for j in others}
        partition = sum(map(math.exp, adjusted)) + gamma * sum(math.exp(similarity[j]) for j in others)
        label = int(labels[i])
        positives = [(beta, adjusted[label])]
        positives += [(alpha, similarity[j]) for j in others if int(labels[j]) == label]
        weights = sum(weight for weight, _ in positives)
        total -= sum(weight * (value - math.log(partition)) for weight, value in positives) / weights
    return total / len(logits)


@pytest.mark.parametrize("settings", [(0.05, 1.0, 1.0, 0.2), (0.3, 2.0, 0.5, 0.05), (0.0, 1.0, 3.0, 1.0)])
def test_paco_is_its_definition_for_other_settings(settings):
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(4 + 4 + 9, 5, generator=generator), dim=1)
    labels = torch.tensor([0, 1, 1, 2, 0, 1, 1, 2, *range(3), *range(3), *range(3)])
    logits, counts = torch.randn(4, 3, generator=generator), [50, 7, 3]
    value = PaCoLoss(counts, *settings)(features, labels, logits)
    assert value.item() == pytest.approx(paco_by_hand(features, labels, logits, counts, *settings), rel=1e-5)


def test_paco_computes_in_float32_whatever_it_is_given(tensors):
    counts, half = list(range(10, 0, -1)), torch.bfloat16
    rounded = [tensors[name].to(half) for name in ("paco_features", "paco_classifier_logits")]
    value = PaCoLoss(counts)(rounded[0], tensors["paco_labels"], rounded[1])
    full = PaCoLoss(counts)(rounded[0].float(), tensors["paco_labels"], rounded[1].float())
    torch.testing.assert_close(value, full, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"class_counts": [5, 0]}, "class 1 has no training images"),
        ({"alpha": -0.1}, "alpha is -0.1; pass 0 or more"),
        ({"beta": 0}, "beta is 0; pass a number above 0"),
        ({"gamma": -1}, "gamma is -1; pass a number above 0"),
        ({"temperature": 0.0}, "temperature is 0.0; pass a number above 0"),
    ],
)
def test_paco_refuses(arguments, part):
    with pytest.raises(DeiTLTError, match=re.escape(part)):
        PaCoLoss(**{"class_counts": [5, 1]} | arguments)


@pytest.mark.parametrize("distillation_type", ["hard", "none"])
def test_one_hot_targets_weigh_like_hard_labels(tensors, distillation_type):
    loss = DistillationLoss(distillation_type)
    logits = [tensors["cls_logits"], tensors["distillation_logits"]]
    weights = torch.linspace(0.1, 2, 10)
    one_hot = torch.nn.functional.one_hot(tensors["labels"], 10).float()
    hard = loss(*logits, tensors["labels"], tensors["teacher_logits"], weights)
    soft = loss(*logits, one_hot, tensors["teacher_logits"], weights)
    torch.testing.assert_close(torch.stack(soft), torch.stack(hard))


def probabilities(*rows):
    return torch.tensor(rows).log()


def test_ltkd_by_hand():
    # Groups {0, 1} and {2}. The teacher gives them 3/4 and 1/4 for one image, 1/2 each for the other: 5/4 and 3/4 in
    # all. Divided by these and normalised: 9/14 and 5/14, 3/8 and 5/8. The student gives every class a third.
    teacher = probabilities([0.5, 0.25, 0.25], [0.25, 0.25, 0.5])
    between = [
        9 / 14 * math.log(9 / 14 / (2 / 3)) + 5 / 14 * math.log(5 / 14 / (1 / 3)),
        3 / 8 * math.log(3 / 8 / (2 / 3)) + 5 / 8 * math.log(5 / 8 / (1 / 3)),
    ]
    within = [2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3), 0.0]  # of the first group; the second has one class
    expected = torch.tensor([a + b / 2 for a, b in zip(between, within, strict=True)])
    torch.testing.assert_close(rebalanced_divergence(torch.zeros(2, 3), teacher, [[0, 1], [2], []]), expected)
    parts = DistillationLoss("ltkd", alpha=1.0, class_groups={"head": [0, 1], "mid": [2], "tail": []})(
        torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 2]), teacher, torch.tensor([1.0, 0.0, 3.0])
    )
    torch.testing.assert_close(parts.loss, (expected[0] + 3 * expected[1]) / 4)


def test_ltkd_of_a_teacher_whose_groups_are_balanced_is_the_plain_divergence():
    student = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    # One logit decides within both groups, so that each has half of the probability.
    teacher = torch.tensor([[2.0, 1.0, 2.0, 1.0], [0.0, 3.0, 3.0, 0.0]])[[0, 1, 0, 1, 1]]
    temperature = 2.0
    expected = F.kl_div(
        F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1), reduction="none"
    ).sum(-1)
    divergence = rebalanced_divergence(student, teacher, [[0, 1], [2, 3]], temperature)
    torch.testing.assert_close(divergence, temperature**2 * expected)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (None, "pass class_groups"),
        ({"head": [0], "mid": [1], "tail": [1, 2]}, "class_groups name a class twice or leave one out"),
        ({"head": [0], "mid": [], "tail": [2, 3]}, "class_groups name a class twice or leave one out"),
        ({"head": [0], "mid": [1], "tail": [2]}, "the groups hold 3 of 4 classes; pass each class in one group"),
    ],
)
def test_ltkd_without_each_class_in_a_group_is_refused(groups, said):
    logits = torch.zeros(1, 4)
    with pytest.raises(DeiTLTError, match=said):
        DistillationLoss("ltkd", class_groups=groups)(logits, logits, torch.tensor([0]), logits)
