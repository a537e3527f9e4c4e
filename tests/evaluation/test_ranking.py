"""Average precision, recall at a precision and precision at a recall, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve

from deitlt_hf import DeiTLTError
from deitlt_hf.evaluation import evaluate
from deitlt_hf.evaluation.measures import expert_metrics, format_class_table, format_table
from deitlt_hf.evaluation.ranking import check_numbers, class_ranking, format_ranking, ranking_measures

GROUPS = {"head": [0, 1], "mid": [2], "tail": [3, 4]}


def _drawn(images: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, images)  # class 4 has no image
    logits = draw.normal(size=(images, 5)) + 1.5 * np.eye(5)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return (probabilities.round(1) if ties else probabilities), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("at", [0.3, 0.9, 1.0])
def test_they_are_scikit_learn_s(at, ties):
    probabilities, labels = _drawn(120, 0, ties)
    found = ranking_measures(probabilities, labels, GROUPS, at)["classes"]
    for label in range(4):
        positive, scores = labels == label, probabilities[:, label]
        precision, recall, _ = precision_recall_curve(positive, scores)
        assert found["average_precision"][label] == pytest.approx(100 * average_precision_score(positive, scores))
        # The last point, precision 1 at recall 0, stands for no threshold.
        assert found["recall"][label] == pytest.approx(100 * recall[precision >= at].max())
        assert found["precision"][label] == pytest.approx(100 * precision[:-1][recall[:-1] >= at].max())
    assert [found[name][4] for name in found] == [None] * 3


def test_means_are_over_tested_classes():
    probabilities, labels = _drawn(120, 1)
    found = ranking_measures(probabilities, labels, GROUPS)
    of = found["classes"]["average_precision"]
    means = found["means"]["average_precision"]
    assert means["all"] == pytest.approx(np.mean(of[:4]))
    assert means["head"] == pytest.approx((of[0] + of[1]) / 2)
    assert means["tail"] == pytest.approx(of[3])
    assert "intervals" not in found


def test_a_table_by_hand():
    # Of class b the order is: b, a, b, so its precision is 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    probabilities = np.array([[0.1, 0.9], [0.3, 0.7], [0.6, 0.4]])
    groups = {"head": [0], "mid": [], "tail": [1]}
    found = ranking_measures(probabilities, [1, 0, 1], groups, 0.6)
    assert found["classes"]["average_precision"][1] == pytest.approx(100 * (1 / 2 + 2 / 3 / 2))
    assert found["classes"]["recall"] == [0.0, 100.0]
    assert found["classes"]["precision"] == pytest.approx([50.0, 200 / 3])
    metrics = {"class_names": ["a", "b"], "class_counts": [5, 2], "test_counts": [1, 2], "groups": groups}
    lines = format_ranking(metrics, found).splitlines()
    assert [line.split() for line in lines[1:7]] == [
        ["all", "66.7", "50.0", "58.3"],
        ["head", "50.0", "0.0", "50.0"],
        ["mid", "-", "-", "-"],
        ["tail", "83.3", "100.0", "66.7"],
        ["a", "50.0", "0.0", "50.0"],
        ["b", "83.3", "100.0", "66.7"],
    ]
    assert lines[0].split("  ")[-1] == "precision at 60 % recall"


def test_they_are_in_the_one_list_of_measures():
    # The classes of the test above. At 90 %, a has no such precision, and b has it for its first image.
    probabilities = np.array([[0.1, 0.9], [0.3, 0.7], [0.6, 0.4]])
    groups, ranked = {"head": [0], "mid": [], "tail": [1]}, class_ranking(probabilities, np.array([1, 0, 1]))
    metrics = expert_metrics(
        [[1], [1], [0]], [1, 0, 1], [5, 2], groups, "ab", True, experts=("model",), ranked={"model": ranked}
    )
    row = metrics["experts"]["model"]
    assert row["per_class_average_precision"] == pytest.approx([50.0, 250 / 3])
    assert row["per_class_recall_at_precision_90"] == [0.0, 50.0]
    assert row["per_class_precision_at_recall_90"] == pytest.approx([50.0, 200 / 3])
    assert row["recall_at_precision_90"] == 25.0
    heading, model = format_table(metrics).splitlines()[3:5]
    assert " ".join(heading.split()).endswith(" mAP R at P90 P at R90")
    assert model.split()[-3:] == ["66.7", "25.0", "58.3"]
    assert "recall_at_precision_90" not in row["confidence_intervals"]
    by_class = format_class_table(metrics, precision_and_f1=True).splitlines()
    assert "AP  R at P90  P at R90" in by_class[0]
    assert by_class[2].split()[-5:-2] == ["83.3", "50.0", "66.7"]


def test_intervals_hold_the_mean_of_test_sets_like_this_one():
    """30 classes of two kinds; of 100 intervals at 95 % about 89 to 100 hold it. docs/measures.md has more."""
    classes, images, draw = 30, 5, np.random.default_rng(5)
    groups = {"head": range(10), "mid": range(10, 20), "tail": range(20, 30)}
    labels = np.repeat(np.arange(classes), images)
    own = np.where(np.arange(classes) < 15, 3.0, 1.5)[labels]
    rows = []
    for seed in range(100):
        scores = draw.normal(size=(len(labels), classes))
        scores[np.arange(len(labels)), labels] += own
        found = ranking_measures(scores, labels, groups, num_resamples=100, seed=seed)
        rows.append((found["means"]["average_precision"]["all"], *found["intervals"]["all"]))
    value, low, high = np.array(rows).T
    held = 100 * np.mean((low <= value.mean()) & (value.mean() <= high))
    assert 89 <= held <= 100


def test_a_group_with_a_class_of_few_images_has_no_interval():
    labels = np.repeat(np.arange(4), [9, 9, 9, 4])
    scores = np.random.default_rng(0).normal(size=(31, 5))
    found = ranking_measures(scores, labels, GROUPS, num_resamples=20)
    assert list(found["intervals"]) == ["head", "mid"]


@pytest.mark.parametrize(("asked", "most", "kept"), [(None, 60, []), ("cls", 60, ["cls"]), (None, 999, None)])
def test_probabilities_are_kept_of_all_rows_while_they_are_few(asked, most, kept, monkeypatch):
    monkeypatch.setattr(evaluate, "MOST_PROBABILITIES", most)
    found = evaluate.Predictions(keeps_probabilities=True, probabilities_of=asked)
    probabilities, labels = _drawn(20, 3)
    logits = torch.tensor(probabilities).log()
    for part in (slice(0, 12), slice(12, 20)):
        rows = {"cls": logits[part], "distillation": -logits[part]}
        found.add(rows, torch.tensor(labels[part]), logits[part])
    assert list(found.probabilities) == (["cls", "distillation", "teacher"] if kept is None else kept)
    for row in found.probabilities:
        expected = ranking_measures(found.probabilities[row], labels, GROUPS, at=0.9)["classes"]
        for ours, of in zip(expected.values(), found.ranked[row].values(), strict=True):
            assert of[:4].tolist() == pytest.approx(ours[:4])
    if "cls" in found.probabilities:
        np.testing.assert_allclose(found.probabilities["cls"], probabilities, rtol=1e-5)


@pytest.mark.parametrize("at", [0.0, 1.1])
def test_a_share_outside_its_range_is_refused(at):
    with pytest.raises(DeiTLTError, match=f"at is {at:g}; pass a precision or recall above 0 and up to 1"):
        ranking_measures(*_drawn(10, 0), GROUPS, at)


def test_too_many_numbers_are_refused_before_the_work():
    check_numbers(50_000, 1000)
    with pytest.raises(DeiTLTError, match="of 24,426 images and 8,142 classes are too many to be kept; leave --at out"):
        check_numbers(24_426, 8_142)
