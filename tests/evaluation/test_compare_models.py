"""Paired differences: against arithmetic, resampling image by image, and how often their intervals are right."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from made_up_analysis import GROUPS, made_up_analysis

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.analysis.analyze import Analysis
from deitlt_hf.evaluation.compare import compare_models, format_comparison, paired_differences
from deitlt_hf.evaluation.measures import MEASURES, expert_metrics, mean_accuracies

MEASURED = [measure for measure in MEASURES if measure.of_class_ids]
KEYS = tuple(measure.key for measure in MEASURED)
THREE_GROUPS = {"head": [0, 1], "mid": [2], "tail": [3, 4]}
SHARES = np.array([0.3, 0.25, 0.2, 0.15, 0.1])  # of the five classes among the test images


def draw_predictions(generator, num_images, first_accuracy, second_accuracy, independent):
    """Labels, and predictions of two models that are right with the probabilities of each class.

    An image is as hard for the second model as for the first, except for the share of `independent` images.
    """
    labels = generator.choice(len(SHARES), num_images, p=SHARES)
    hard = generator.random(num_images)
    second_hard = np.where(generator.random(num_images) < independent, generator.random(num_images), hard)
    wrong = (labels + 1) % len(SHARES)
    first = np.where(hard < np.asarray(first_accuracy)[labels], labels, wrong)
    second = np.where(second_hard < np.asarray(second_accuracy)[labels], labels, wrong)
    return first, second, labels


def test_values_are_the_differences_of_the_accuracies():
    first, second, labels = draw_predictions(np.random.default_rng(0), 300, [0.5] * 5, [0.7] * 5, 0.5)
    before, after = (mean_accuracies(predictions, labels, THREE_GROUPS) for predictions in (first, second))
    found = paired_differences(first, second, labels, THREE_GROUPS)
    assert {name: of["value"] for name, of in found.items()} == pytest.approx(
        {name: after[name] - before[name] for name in KEYS}
    )


def test_intervals_are_those_of_resampling_the_images_one_by_one():
    first, second, labels = draw_predictions(np.random.default_rng(1), 800, [0.8] * 5, [0.6] * 5, 0.4)
    generator = np.random.default_rng(2)
    drawn = {name: [] for name in KEYS}
    of_class = [np.flatnonzero(labels == label) for label in range(5)]
    for _ in range(1000):
        of_all = generator.integers(0, len(labels), len(labels))
        within = np.concatenate([generator.choice(rows, len(rows)) for rows in of_class])
        for names, rows in ((KEYS[:1], of_all), (KEYS[1:], within)):
            before, after = (mean_accuracies(of[rows], labels[rows], THREE_GROUPS) for of in (first, second))
            for name in names:
                drawn[name].append(after[name] - before[name])
    found = paired_differences(first, second, labels, THREE_GROUPS, num_resamples=1000)
    for name in KEYS:
        low, high = np.percentile(drawn[name], [2.5, 97.5])
        if name in ("macro_f1", "worst_class"):  # which resampling moves to one side
            low, high = np.array([low, high]) + found[name]["value"] - np.mean(drawn[name])
        # An end's standard deviation over so many resamples is about 0.02 of the width.
        assert found[name]["interval"] == pytest.approx([low, high], abs=0.07 * (high - low)), name
        assert found[name]["excludes_zero"] == (found[name]["interval"][1] < 0)


def test_95_percent_intervals_hold_the_true_difference_about_95_times_in_100():
    first_accuracy, second_accuracy = np.array([0.9, 0.8, 0.6, 0.3, 0.2]), np.array([0.85, 0.8, 0.65, 0.5, 0.45])
    per_class = 100 * (second_accuracy - first_accuracy)
    truth = {
        "overall": per_class @ SHARES,
        "head": per_class[:2].mean(),
        "mid": per_class[2],
        "tail": per_class[3:].mean(),
        "balanced_accuracy": per_class.mean(),
    }
    held = dict.fromkeys(truth, 0)
    sets = 300
    for seed in range(sets):
        generator = np.random.default_rng(1000 + seed)
        first, second, labels = draw_predictions(generator, 400, first_accuracy, second_accuracy, 0.5)
        differences = paired_differences(first, second, labels, THREE_GROUPS, 500, seed)
        for name in truth:
            low, high = differences[name]["interval"]
            held[name] += low <= truth[name] <= high
    # Of 300 sets, a true 95 % leaves these limits (3 standard deviations) about once in 300 times.
    assert {name: count / sets for name, count in held.items() if not 0.91 <= count / sets <= 0.98} == {}


def test_pairing_narrows_the_interval_where_models_fail_on_the_same_images():
    widths = []
    for independent in (0.1, 1.0):
        pair = draw_predictions(np.random.default_rng(3), 2000, [0.5] * 5, [0.55] * 5, independent)
        low, high = paired_differences(*pair, THREE_GROUPS)["overall"]["interval"]
        widths.append(high - low)
    assert widths[0] < 0.6 * widths[1]


def test_a_model_and_itself_differ_by_nothing():
    first, _, labels = draw_predictions(np.random.default_rng(4), 50, [0.5] * 5, [0.5] * 5, 1.0)
    for name, of in paired_differences(first, first, labels, THREE_GROUPS).items():
        interval = None if name == "worst_class" else [0.0, 0.0]  # no class has 50 images
        assert of == {"value": 0.0, "interval": interval, "excludes_zero": False}


def test_where_other_models_agree_on_a_few_images_they_may_differ_on_others():
    first, labels = np.array([0] * 18 + [1] * 18), np.array([0] * 18 + [1] * 18)
    second = np.where(np.arange(36) < 20, first, 0)
    found = paired_differences(first, second, labels, {"head": [0], "mid": [], "tail": [1]})
    low, high = found["head"]["interval"]
    # Both of the added images count for one model: 2 of 18 + 2.
    assert (found["head"]["value"], low, high) == (0.0, -10.0, 10.0)
    assert found["tail"]["excludes_zero"]


def test_groups_without_images_have_no_difference():
    found = paired_differences(
        np.array([0, 1]), np.array([0, 0]), np.array([0, 0]), {"head": [0], "mid": [1], "tail": []}
    )
    assert found["mid"] == found["tail"] == {"value": None, "interval": None, "excludes_zero": False}
    assert found["head"]["value"] == 50.0


def test_models_are_compared_by_their_own_prediction_with_the_first():
    analyses = {
        "ViT": made_up_analysis(1, two_tokens=False),
        "DeiT-LT": made_up_analysis(2, accuracy=0.95),
        "twin": made_up_analysis(2, accuracy=0.95),
    }
    analyses["twin"].record["model"]["prediction"] = "distillation"
    found = compare_models(analyses)
    columns = {"ViT": 0, "DeiT-LT": 0, "twin": 2}
    own = {name: analysis.predictions[:, columns[name]] for name, analysis in analyses.items()}
    labels = analyses["ViT"].labels
    # The same intervals as of an evaluation.
    three = np.stack([own["ViT"], own["DeiT-LT"], own["twin"]], axis=1)
    record = analyses["ViT"].record
    of_evaluation = expert_metrics(three, labels, record["class_counts"], GROUPS, record["class_names"], True)[
        "experts"
    ]
    for name, expert in zip(own, of_evaluation.values(), strict=True):
        assert {of: found["accuracies"][name][of]["value"] for of in KEYS} == {of: expert[of] for of in KEYS}
        intervals = {of: found["accuracies"][name][of]["interval"] for of in KEYS}
        assert intervals == {of: expert["confidence_intervals"].get(of) for of in KEYS}
    assert found["reference"] == "ViT"
    assert found["differences"] == {
        name: paired_differences(own["ViT"], own[name], labels, GROUPS) for name in ("DeiT-LT", "twin")
    }
    json.dumps(found, allow_nan=False)

    text = format_comparison(found).splitlines()
    assert [line.split("  ")[0] for line in text[1:4]] == ["ViT", "DeiT-LT", "twin"]
    assert [line.split("  ")[0] for line in text[5:7]] == ["DeiT-LT - ViT", "twin - ViT"]
    overall = found["differences"]["DeiT-LT"]["overall"]
    low, high = overall["interval"]
    assert f"{overall['value']:+.1f} [{low:+.1f}, {high:+.1f}] *" in text[5]


def taught(right: tuple[int, int], teachers: tuple[int, int] | None) -> Analysis:
    """An analysis of ten images of each of two classes: how many a model gets right of each, and how many its teacher.

    The two are right on as many of the same images as they can be.
    """
    labels = np.repeat([0, 1], 10)

    def predict(of_class: tuple[int, int]) -> np.ndarray:
        return np.concatenate([np.where(np.arange(10) < of_class[label], label, 1 - label) for label in (0, 1)])

    predictions, teacher = predict(right)[:, None], None if teachers is None else predict(teachers)
    groups = {"head": [0], "mid": [], "tail": [1]}
    metrics = expert_metrics(predictions, labels, [90, 3], groups, ["cat", "lynx"], experts=["cls"], teacher=teacher)
    return Analysis(metrics | {"model": {"prediction": "cls"}}, ("cls",), predictions, labels, [], teacher)


def test_a_teacher_has_a_row_and_its_students_their_differences_from_it():
    found = compare_models({"a": taught((8, 9), (10, 2)), "b": taught((10, 2), (10, 2))})
    values = {key: of["value"] for key, of in found["teachers"]["teacher"].items()}
    assert values == pytest.approx(
        {"overall": 60.0, "head": 100.0, "mid": None, "tail": 20.0, "balanced_accuracy": 60.0, "worst_class": 20.0}
        | {"macro_f1": 100 * (20 / 28 + 4 / 12) / 2}  # of cat and lynx 10 and 2 are right, 18 and 2 predicted
    )
    against = found["against_teachers"]
    assert {key: of["value"] for key, of in against["a"].items()} == {
        "overall": pytest.approx(25),  # 17 of 20 images and 12 of 20
        "head": pytest.approx(-20),
        "mid": None,
        "tail": pytest.approx(70),
        "balanced_accuracy": pytest.approx(25),
        "macro_f1": pytest.approx(100 * (16 / 19 + 18 / 21) / 2 - 100 * (20 / 28 + 4 / 12) / 2),
        "worst_class": pytest.approx(60),
    }
    # No image on which they differ is in 0.8^10, 11 %, of the head's resamples, and in 0.3^10 of the tail's.
    assert not against["a"]["head"]["excludes_zero"]
    assert against["a"]["tail"]["excludes_zero"]
    assert not any(of["excludes_zero"] for of in against["b"].values())  # it predicts what its teacher does
    lines = format_comparison(found).splitlines()
    assert [line.split("  ")[0] for line in lines[:8]] == [
        "", "a", "b", "teacher", "", "b - a", "a - its teacher", "b - its teacher",
    ]  # fmt: skip
    assert lines[3].split()[1] == "60.0"
    assert lines[6].split()[4] == "+25.0"
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("analyses", "rows"),
    [
        ({"a": taught((8, 5), None), "b": taught((9, 1), None)}, None),
        ({"a": taught((8, 5), None), "b": taught((9, 1), (10, 2))}, {"teacher of b": 60.0}),
        (
            {"a": taught((8, 5), (10, 2)), "b": taught((9, 1), (3, 3)), "c": taught((5, 5), (10, 2))},
            {"teacher of a, c": 60.0, "teacher of b": 30.0},
        ),
        ({"teacher": taught((8, 5), (10, 2)), "b": taught((9, 1), (10, 2))}, {"teacher of teacher, b": 60.0}),
    ],
)
def test_a_teachers_row_names_its_students_unless_it_is_everyones(analyses, rows):
    found = compare_models(analyses)
    measured = {row: of["overall"]["value"] for row, of in found.get("teachers", {}).items()}
    assert measured == (rows or {})
    with_teacher = [name for name, analysis in analyses.items() if analysis.teacher is not None]
    assert list(found.get("against_teachers", {})) == with_teacher
    text = format_comparison(found)
    assert all(f"\n{row} " in text for row in measured)
    assert text.count(" - its teacher ") == 2 * len(with_teacher)  # in both tables


def test_what_cannot_be_compared_is_refused():
    one = made_up_analysis(0)
    with pytest.raises(DeiTLTError, match=r"^1 model to compare; pass at least two$"):
        compare_models({"a": one})
    other_images = made_up_analysis(0, num_images=200)
    with pytest.raises(DeiTLTError, match=r"^b was analyzed on other images than a; pass analyses of the same images$"):
        compare_models({"a": one, "b": other_images})
    other_groups = dataclasses.replace(one, record=one.record | {"groups": GROUPS | {"mid": [6, 5, 4, 3]}})
    with pytest.raises(
        DeiTLTError, match=r"^b has other groups than a; pass models of the same classes, and the same head"
    ):
        compare_models({"a": one, "b": other_groups})
