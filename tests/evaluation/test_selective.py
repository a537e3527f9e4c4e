"""Thresholds for a precision and conformal sets for a coverage, by hand and on many random splits."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from deitlt_hf import DeiTLTError
from deitlt_hf.evaluation.selective import (
    Validation,
    coverage_thresholds,
    measure_answers,
    measure_sets,
    precision_thresholds,
    prediction_sets,
    say_shared,
)

GROUPS = {"head": [0], "mid": [1, 2], "tail": [3, 4]}


def validation(predicted, right, confidence, labels=None, true_probability=None) -> Validation:
    """Validation images of five classes; a wrong one is of the next class."""
    predicted, right = np.asarray(predicted), np.asarray(right, bool)
    labels = np.where(right, predicted, (predicted + 1) % 5) if labels is None else np.asarray(labels)
    true_probability = confidence if true_probability is None else true_probability
    return Validation(labels, predicted, np.asarray(confidence), np.asarray(true_probability), 5, GROUPS)


def falling(number: int) -> np.ndarray:
    return 1 - np.arange(number) / 1000


def test_a_threshold_falls_as_long_as_the_precision_is_sure():
    right = np.ones(60, bool)
    right[[49, 50]] = False
    found = precision_thresholds(validation([0] * 60, right, falling(60)), 0.9)
    lower = {n: binomtest(49, n).proportion_ci(0.8, "exact").low for n in (50, 51)}  # one-sided 90 %
    assert lower[50] >= 0.9 > lower[51]
    interval = binomtest(49, 50).proportion_ci(0.95, "exact")
    assert found.rows[0].pop("interval") == pytest.approx([100 * interval.low, 100 * interval.high], abs=1e-9)
    assert found.rows[0] == {
        "of": "class",
        "classes": [0],
        "images": 60,
        "threshold": falling(60)[49],
        "answered": 50,
        "right": 49,
        "precision": 98.0,
    }
    assert found.values.tolist()[0] == falling(60)[49]


def test_images_of_equal_confidence_are_answered_together():
    right = np.ones(60, bool)
    right[[49, 50]] = False
    confidence = falling(60)
    confidence[50] = confidence[49]  # with 49, which alone would pass
    found = precision_thresholds(validation([0] * 60, right, confidence), 0.9)
    assert (found.rows[0]["answered"], found.values[0]) == (49, confidence[48])


@pytest.mark.parametrize(("images", "is_enough"), [(44, False), (45, True)])
def test_how_many_right_images_are_enough(images, is_enough):
    sure = validation([0] * images, [True] * images, falling(images))
    assert (0.95**images <= 0.1) == is_enough
    if is_enough:
        assert precision_thresholds(sure, 0.95).values[0] == falling(images)[-1]
    else:
        message = "precision is 0.95, which no threshold reaches on 44 validation images; the best there is: 0.94; "
        with pytest.raises(DeiTLTError, match=f"^{message}pass less, or calibrate with more validation images$"):
            precision_thresholds(sure, 0.95)
        assert 0.94**44 <= 0.1
        assert precision_thresholds(sure, 0.94).values[0] == falling(images)[-1]


def test_one_wrong_image_of_many_is_not_the_end():
    right = np.ones(2000, bool)
    right[0] = False
    assert precision_thresholds(validation([0] * 2000, right, falling(2000)), 0.95).rows[0]["answered"] == 2000


def test_wrong_images_alone_reach_nothing():
    with pytest.raises(DeiTLTError, match="no lower one is reached either"):
        precision_thresholds(validation([0] * 60, [False] * 60, falling(60)), 0.9)


def test_classes_share_a_threshold_with_their_group_then_with_the_rest():
    predicted = [0] * 60 + [1] * 30 + [2] * 25 + [3] * 5 + [4] * 20
    confidence = np.concatenate([falling(60), falling(55), falling(25)])
    found = precision_thresholds(validation(predicted, [True] * 140, confidence), 0.9)
    of = [(row["of"], row["classes"], row["images"], row["answered"]) for row in found.rows]
    assert of == [("class", [0], 60, 60), ("mid", [1, 2], 55, 55), ("tail", [3, 4], 25, 25)]
    found = precision_thresholds(validation(predicted, [True] * 140, confidence), 0.95)  # which needs 45 images
    assert [row["of"] for row in found.rows] == ["class", "mid", "rest"]
    assert found.values[3:].tolist() == [math.inf] * 2
    predicted = [0] * 10 + [1] * 10 + [2] * 10 + [3] * 5 + [4] * 10
    found = precision_thresholds(validation(predicted, [True] * 45, falling(45)), 0.95)
    assert [(row["of"], row["classes"], row["images"]) for row in found.rows] == [("rest", [0, 1, 2, 3, 4], 45)]
    assert found.values.tolist() == [falling(45)[-1]] * 5


def test_a_class_that_is_wrong_too_often_is_never_answered(caplog):
    predicted = [0] * 60 + [1] * 60
    found = precision_thresholds(validation(predicted, [True] * 60 + [True, False] * 30, [*falling(60)] * 2), 0.9)
    assert found.values.tolist() == [falling(60)[-1], *[math.inf] * 4]
    say_shared("precision 0.9", found, ["a", "b\n", "c", "d", "e"])
    why = "never answered, for no threshold of the validation images reaches it"
    assert caplog.messages == [f"precision 0.9: {why}: 'b\\n', 'c', 'd' and 1 more"]


def test_a_set_holds_the_class_of_the_asked_share_of_its_images(caplog):
    labels = [0] * 60 + [1] * 9 + [2] * 10 + [3] * 8
    true_probability = np.concatenate([falling(60), np.arange(1, 20) / 20, [0.01] * 8])
    found = coverage_thresholds(validation(labels, [True] * 87, true_probability, labels, true_probability), 0.9)
    # ceil(61 * 0.9) = 55 of 60, ceil(20 * 0.9) = 18 of 19, ceil(88 * 0.9) = 80 of 87, of which 8 have 0.01
    assert found.values.tolist() == [falling(60)[54], *[2 / 20] * 2, *[0.01] * 2]
    assert [(row["of"], row["classes"], row["images"]) for row in found.rows] == [
        ("class", [0], 60),
        ("mid", [1, 2], 19),
        ("all", [3, 4], 87),
    ]
    say_shared("coverage 0.9", found, ["a", "b", "c", "d", "e"])
    assert caplog.messages == [
        "coverage 0.9: too few validation images, so the threshold is that of all images: 'd', 'e'"
    ]


@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.95])
def test_the_smallest_group_that_has_a_coverage(coverage):
    fewest = round(coverage / (1 - coverage) + 0.49)
    for images, is_enough in ((fewest - 1, False), (fewest, True)):
        labels = [1] * images
        of = validation(labels, [True] * images, falling(images), labels, falling(images))
        if is_enough:
            assert coverage_thresholds(of, coverage).values[1] == falling(images)[-1]
        else:
            with pytest.raises(DeiTLTError, match=f"needs {fewest} validation images, and there are {images}; pass at"):
                coverage_thresholds(of, coverage)


def test_the_coverage_that_a_message_names_can_be_had():
    of = validation([1] * 17, [True] * 17, falling(17))
    with pytest.raises(DeiTLTError, match=r"pass at most 0\.944, or"):
        coverage_thresholds(of, 0.95)
    coverage_thresholds(of, 0.944)


@pytest.mark.parametrize("find", [precision_thresholds, coverage_thresholds])
@pytest.mark.parametrize("share", [0, 1, 95, float("nan")])
def test_a_share_is_between_0_and_1(find, share):
    with pytest.raises(DeiTLTError, match=r"(precision|coverage) is .*; pass a number in \(0, 1\), such as 0.9"):
        find(validation([0] * 60, [True] * 60, falling(60)), share)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": [5]},
        {"labels": [-1]},
        {"predicted": [0.5]},
        {"confidence": [1.5]},
        {"true_probability": [None]},
        {"true_probability": []},
        {"labels": "x"},
        {"labels": [], "predicted": [], "confidence": [], "true_probability": []},
    ],
)
def test_lists_that_this_package_does_not_write_are_refused(wrong):
    lists = {"labels": [0], "predicted": [1], "confidence": [0.5], "true_probability": [0.4]}
    assert Validation.read(lists, 5, None).predicted.tolist() == [1]
    for broken in (lists | wrong, {}):
        with pytest.raises(DeiTLTError, match="class ids below 5 and probabilities of one image each; run"):
            Validation.read(broken, 5, None)


def test_a_set_has_the_classes_above_their_thresholds_and_the_first():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.35, 0.33, 0.32]])
    sets = prediction_sets(probabilities, np.array([0.4, 0.3, 0.7]))
    assert sets.tolist() == [[True, True, False], [False, False, True], [True, True, False]]


def test_measures_of_answers_and_sets():
    labels, predicted = np.array([0, 0, 0, 1, 3, 3]), np.array([0, 0, 3, 1, 3, 0])
    answered = np.array([True, False, True, True, False, True])
    measured = measure_answers(labels, predicted, answered, GROUPS)
    assert {name: (of["images"], of["share"], of["answers"], of["precision"]) for name, of in measured.items()} == {
        "overall": (6, pytest.approx(200 / 3), 4, 50.0),
        "head": (3, pytest.approx(200 / 3), 2, 50.0),  # of three images two are answered; 0 is answered twice
        "mid": (1, 100.0, 1, 100.0),
        "tail": (2, 50.0, 1, 0.0),
    }
    assert measured["tail"]["interval"] == [0.0, pytest.approx(97.5)]  # Clopper and Pearson's of one wrong image
    covered, sizes = np.array([True, True, False, True, True, False]), np.array([1, 2, 3, 1, 4, 5])
    sets = measure_sets(covered, sizes, labels, GROUPS)
    assert sets["overall"] == {
        "images": 6,
        "coverage": pytest.approx(200 / 3),
        "size": pytest.approx(16 / 6),
        "single": pytest.approx(100 / 3),
    }
    assert sets["tail"] == {"images": 2, "coverage": 50.0, "size": 4.5, "single": 0.0}
    nothing = measure_sets(covered[:3], sizes[:3], labels[:3], GROUPS)["mid"]
    assert nothing == {"images": 0, "coverage": None, "size": None, "single": None}


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent.parent / "benchmarks"))
        yield importlib.import_module("answers_selective")


@pytest.fixture(scope="module", params=[0.005, 0.02, 0.1])
def splits(benchmark, request):
    """100 splits of images of ten classes, of which the rarer ones are recognised less well.

    The probabilities are overconfident. Of 100 validation images, 10 of each class, groups share thresholds; of 2000,
    classes have their own.
    """
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 2000)
    logits = generator.normal(size=(len(labels), 10)) * 1.5
    logits[np.arange(len(labels)), labels] += np.linspace(5, 2, 10)[labels]
    shares = np.exp(1.5 * (logits - logits.max(-1, keepdims=True)))
    shares /= shares.sum(-1, keepdims=True)
    groups = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    found = []
    for seed in range(100):
        some, fresh = benchmark.split_images(labels, request.param, seed)
        validation = benchmark.as_validation(shares[some], labels[some], groups)
        found.append(benchmark.Split(validation, shares[fresh], labels[fresh]))
    return found


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_sets_keep_their_coverage_over_100_splits(benchmark, splits, coverage):
    measured = benchmark.measure_coverage(splits, coverage)
    for of in measured.values():
        assert of["alone"] == pytest.approx(100 * coverage, abs=2)
        assert of["coverage"] >= of["alone"]
    assert measured["tail"]["size"] > measured["head"]["size"]


@pytest.mark.parametrize("precision", [0.9, 0.95])
def test_thresholds_keep_their_precision_over_100_splits(benchmark, splits, precision):
    measured = benchmark.measure_precision(splits, precision)
    assert measured["kept"] >= 90
    assert measured["within"] >= 90
    if len(splits[0].validation.labels) < 400:
        return  # few splits have enough images
    accuracy = 100 * (splits[0].probabilities.argmax(-1) == splits[0].labels).mean()
    assert accuracy < 100 * precision < measured["precision"]
    assert measured["reached"] > 50
    assert measured["answered"] > 15


def test_splits_have_their_own_fusion(benchmark):
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    experts = draw.normal(size=(2, 120, 3)) + 3 * np.eye(3)[labels]
    logits = benchmark.Logits(*experts, labels, [50, 20, 5], {"head": [0], "mid": [1], "tail": [2]})
    splits = benchmark.splits_of(logits, number=2)
    assert [(len(split.validation.labels), split.probabilities.shape) for split in splits] == [(30, (90, 3))] * 2
    assert "0.9: sets, %" in benchmark.coverage_table([splits])
    assert benchmark.precision_table([splits]).count("\n") == 3
