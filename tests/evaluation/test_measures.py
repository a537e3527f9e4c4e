from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    top_k_accuracy_score,
)

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.evaluate import in_top_5
from deitlt_hf.evaluation.measures import EXPERTS, expert_metrics, format_class_table, format_table, grouped_accuracy
from deitlt_hf.long_tail_accuracy.scores import Counter, percent
from deitlt_hf.models.deit_lt import configuration_deit_lt

GROUPS = {"head": [0, 1], "mid": [2], "tail": [3]}


@pytest.fixture(scope="module")
def golden_logits(golden) -> dict[str, torch.Tensor]:
    tensors = load_file(golden / "grouped_accuracy.safetensors")
    tensors["average"] = (tensors["cls_logits"] + tensors["distillation_logits"]) / 2
    return tensors | {"cls": tensors["cls_logits"], "distillation": tensors["distillation_logits"]}


@pytest.fixture(scope="module")
def golden_groups(golden_json) -> dict[str, list[int]]:
    return {name: list(range(start, end)) for name, (start, end) in golden_json["groups"].items()}


def test_experts_are_those_of_the_models_configuration():
    assert (
        EXPERTS == configuration_deit_lt.EXPERTS
    )  # two tuples: the models' files travel, and the measures load no torch


@pytest.fixture(scope="module")
def unbalanced() -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of a test set in which classes differ in size, so that the two kinds of mean differ."""
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=300, p=[0.5, 0.3, 0.15, 0.05])
    return np.where(rng.random(300) < 0.6, labels, rng.integers(0, 4, 300)), labels


@pytest.mark.parametrize("expert", EXPERTS)
@pytest.mark.parametrize(
    "as_given",
    [
        pytest.param(lambda logits: logits, id="torch logits"),
        pytest.param(lambda logits: logits.numpy(), id="numpy logits"),
        pytest.param(lambda logits: logits.tolist(), id="list of logits"),
        pytest.param(lambda logits: logits.clone().requires_grad_().argmax(-1), id="torch ids"),
        pytest.param(lambda logits: logits.argmax(-1).to(torch.int32).numpy(), id="numpy ids"),
        pytest.param(lambda logits: logits.argmax(-1).tolist(), id="list of ids"),
    ],
)
def test_grouped_accuracy_is_the_references(expert, as_given, golden_logits, golden_groups, golden_json):
    result = grouped_accuracy(as_given(golden_logits[expert]), golden_logits["labels"], golden_groups)
    assert result == pytest.approx(golden_json["grouped_accuracy"][expert], rel=1e-9)


def test_bfloat16_logits_with_gradient_are_accepted():
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    result = grouped_accuracy(logits, torch.tensor([1, 1]), {"head": [0], "mid": [1], "tail": []})
    assert (result["overall"], result["mid"]) == (50.0, 50.0)


def test_agrees_with_scikit_learn(unbalanced):
    predictions, labels = unbalanced
    result = grouped_accuracy(predictions, labels, GROUPS)
    assert result["overall"] == pytest.approx(100 * accuracy_score(labels, predictions))
    for name, members in GROUPS.items():
        assert result[name] == pytest.approx(100 * recall_score(labels, predictions, labels=members, average="macro"))
    tally = Counter(predictions, labels, 4).count()
    per_class = percent(tally.correct, tally.images)
    np.testing.assert_allclose(per_class, 100 * recall_score(labels, predictions, average=None))
    everything = grouped_accuracy(predictions, labels, {"head": range(4), "mid": [], "tail": []})
    assert everything["head"] == pytest.approx(100 * balanced_accuracy_score(labels, predictions))


def test_precision_f1_and_top_5_are_scikit_learns():
    rng = np.random.default_rng(3)
    names, tested = [str(label) for label in range(12)], [label for label in range(12) if label not in (4, 11)]
    labels = rng.choice(tested, 400, p=np.arange(10, 0, -1) / 55)
    logits = rng.standard_normal((400, 12))
    logits[np.arange(400), labels] += 1.5
    logits[:, 7] -= 9  # never predicted; class 4 is predicted and has no test image
    predictions, groups = logits.argmax(1), {"head": range(4), "mid": range(4, 8), "tail": range(8, 12)}
    in_top = {"model": in_top_5(torch.tensor(logits), torch.tensor(labels)).numpy()}
    assert 4 in predictions
    metrics = expert_metrics(
        predictions[:, None], labels, range(12, 0, -1), groups, names, experts=["model"], in_top=in_top
    )
    row = metrics["experts"]["model"]
    common = {"labels": range(12), "average": None, "zero_division": np.nan}
    recalls = recall_score(labels, predictions, **common)
    assert row["macro_f1"] == pytest.approx(100 * f1_score(labels, predictions, labels=tested, average="macro"))
    assert row["worst_class"] == pytest.approx(100 * np.nanmin(recalls))
    assert row["top_5"] == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=5, labels=range(12)))
    for name, expected in {
        "per_class": recalls,
        "per_class_precision": precision_score(labels, predictions, **common),
        "per_class_f1": f1_score(labels, predictions, **common),
    }.items():
        expected[[4, 11]] = np.nan  # nothing is said of classes without test images
        np.testing.assert_allclose(np.array(row[name], dtype=float), 100 * expected, err_msg=name)
    assert (row["per_class_precision"][7], row["per_class_f1"][7]) == (None, 0)


def test_top_5_needs_ten_classes_and_gives_equal_logits_no_rank():
    equal = in_top_5(torch.zeros(12, 12), torch.arange(12))
    assert equal.tolist() == [True] * 5 + [False] * 7  # as `argmax`, which takes the first of equal ones
    groups = {"head": [0], "mid": [1], "tail": list(range(2, 9))}
    ids = np.arange(9)
    metrics = expert_metrics(
        ids[:, None], ids, range(9, 0, -1), groups, "abcdefghi", experts=["model"], in_top={"model": ids < 5}
    )
    assert "top_5" not in metrics["experts"]["model"]


def test_groups_and_classes_without_test_images_are_nan():
    # Class 1 has no test image: head is class 0 alone. Class 3 has none: tail is empty. Worked out by hand.
    result = grouped_accuracy([0, 2, 1, 0], [0, 0, 2, 0], GROUPS)
    assert result["head"] == pytest.approx(200 / 3)
    assert (result["overall"], result["mid"]) == (50.0, 0.0)
    assert math.isnan(result["tail"])
    tally = Counter(np.array([0, 2, 1, 0]), np.array([0, 0, 2, 0]), 4).count()
    np.testing.assert_allclose(percent(tally.correct, tally.images), [200 / 3, np.nan, 0, np.nan])


@pytest.mark.parametrize(
    ("predictions", "labels", "groups", "message"),
    [
        ([0, 1], [0], GROUPS, r"\(2,\) do not fit labels of shape \(1,\)"),
        (np.zeros((2, 4, 1)), [0, 1], GROUPS, r"\(2, 4, 1\) do not fit"),
        ([], [], GROUPS, "no images"),
        ([0, 1], [0, -1], GROUPS, "label -1 is negative"),
        ([0, 1], [0, 4], GROUPS, "label 4 is in none of the groups"),
        ([0.0, 1.0], [0, 1], GROUPS, "predictions have type float64"),
        ([0, 1], torch.tensor([0.0, 1.0]), GROUPS, "labels have type float32"),
        ([0], [0], {"head": [0], "tail": [1]}, "lack 'mid'"),
        ([0], [0], {"head": [0], "mid": [], "tail": [-1]}, "group tail holds class id -1"),
        ([0], [0], {"head": [0, 1], "mid": [], "tail": [1]}, "class 1 is in the groups twice"),
    ],
)
def test_wrong_input_is_named_in_one_line(predictions, labels, groups, message):
    with pytest.raises(DeiTLTError, match=message) as error:
        grouped_accuracy(predictions, labels, groups)
    assert "\n" not in str(error.value)


@pytest.fixture
def metrics() -> dict:
    # Two images of class 0, one each of classes 1 and 2, none of class 3.
    predictions = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 0, 2]])
    return expert_metrics(predictions, [0, 0, 1, 2], [90, 30, 9, 3], GROUPS, ["cat", "dog", "lynx", "mink"])


def test_expert_metrics_keep_the_columns_order_and_fit_json(metrics):
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["num_images"] == 4
    assert (metrics["class_names"], metrics["class_counts"]) == (["cat", "dog", "lynx", "mink"], [90, 30, 9, 3])
    assert metrics["groups"] == GROUPS
    assert metrics["experts"] == {
        "average": expected(
            overall=75, head=100, mid=0, balanced_accuracy=200 / 3, per_class=[100, 100, 0, None],
            macro_f1=180 / 3, worst_class=0, per_class_precision=[200 / 3, 100, None, None],
            per_class_f1=[80, 100, 0, None],
            taken_for=[None, None, 0, None], taken_for_images=[None, None, 1, None],
        ),
        "cls": expected(
            overall=50, head=50, mid=0, balanced_accuracy=100 / 3, per_class=[100, 0, 0, None],
            macro_f1=200 / 9, worst_class=0, per_class_precision=[50, None, None, None],
            per_class_f1=[200 / 3, 0, 0, None],
            taken_for=[None, 0, 0, None], taken_for_images=[None, 1, 1, None],
        ),
        "distillation": expected(
            overall=75, head=75, mid=100, balanced_accuracy=250 / 3, per_class=[50, 100, 100, None],
            macro_f1=700 / 9, worst_class=50, per_class_precision=[100, 50, 100, None],
            per_class_f1=[200 / 3, 200 / 3, 100, None],
            taken_for=[1, None, None, None], taken_for_images=[1, None, None, None],
        ),
    }  # fmt: skip


def expected(**values) -> dict:
    return {"tail": None} | {
        name: value if isinstance(value, list) else pytest.approx(value) for name, value in values.items()
    }


def test_what_a_class_is_most_often_taken_for():
    # Class 0: twice 2, once 1. Class 1: once 3, once 0: the first. Class 2: no class that there is. Class 3: right.
    predictions, labels = [2, 1, 2, 3, 0, 4, 3], [0, 0, 0, 1, 1, 2, 3]
    metrics = expert_metrics(np.array([predictions]).T, labels, [90, 30, 9, 3], GROUPS, "abcd", experts=("model",))
    row = metrics["experts"]["model"]
    assert (row["taken_for"], row["taken_for_images"]) == ([2, 0, None, None], [2, 1, None, None])


def test_the_table_of_classes_marks_where_few_images_were_tested():
    groups = {"head": [1], "mid": [2], "tail": [0, 3]}
    labels = np.repeat([0, 1, 2], [9, 10, 1])
    average = np.where(np.arange(20) < 3, 2, labels)  # three images of class 0 are taken for class 2
    dist = np.where(labels == 1, 0, labels)
    metrics = expert_metrics(
        np.stack([average, average, dist], 1), labels, [5, 300, 40, 2], groups, ["owl", "fox", "elk", "cat"],
        teacher=np.zeros(20, dtype=int),
    )  # fmt: skip
    assert format_class_table(metrics) == (
        "class  group  training images  test images  average  CLS expert  DIST expert  teacher  "
        "most often taken for (images)\n"
        "fox    head               300         10      100.0       100.0          0.0      0.0  -\n"
        "elk    mid                 40          1 ~    100.0       100.0        100.0      0.0  -\n"
        "owl    tail                 5          9 ~     66.7        66.7        100.0    100.0  elk (3)\n"
        "cat    tail                 2          0          -           -            -        -  -\n"
        "~ fewer than 10 test images: one image changes the accuracy by more than 10 points"
    )
    assert format_class_table(metrics, "distillation").splitlines()[1].endswith("0.0  owl (10)")
    assert format_class_table(metrics, most=4) == format_class_table(metrics)
    assert format_class_table(metrics, most=3) == "4 classes: `deitlt evaluate MODEL --per_class true` lists them"


def test_the_table_of_classes_has_precision_and_f1_on_request():
    # Three images of a, two right; three of b, all right, and one of a is taken for it; c is never predicted.
    labels, predictions = [0] * 3 + [1] * 3 + [2], [0, 0, 1, 1, 1, 1, 1]
    groups = {"head": [0], "mid": [1], "tail": [2]}
    metrics = expert_metrics(np.array([predictions]).T, labels, [9, 5, 2], groups, "abc", experts=("model",))
    heading, *rows = format_class_table(metrics, precision_and_f1=True).splitlines()
    assert heading.split()[6:9] == ["model", "precision", "F1"]
    assert [row.split()[5:8] for row in rows[:3]] == [
        ["66.7", "100.0", "80.0"], ["100.0", "60.0", "75.0"], ["0.0", "-", "0.0"]
    ]  # fmt: skip


def test_numbers_of_test_images_without_a_mark_have_no_line_about_it():
    labels = np.repeat([0, 1], 10)
    metrics = expert_metrics(
        np.array([labels]).T, labels, [5, 3], {"head": [0], "mid": [], "tail": [1]}, "ab", experts=("model",)
    )
    assert "~" not in format_class_table(metrics)
    assert format_class_table(metrics).splitlines()[1] == ("a      head                 5           10  100.0  -")


def test_expert_metrics_with_intervals():
    # All right, all wrong, and the first of two classes right; class 2 has no test image.
    groups = {"head": [0], "mid": [1], "tail": [2]}
    predictions = np.repeat([[0, 3, 0], [1, 3, 0]], 50, axis=0)
    metrics = expert_metrics(predictions, np.repeat([0, 1], 50), [9, 5, 1], groups, "abc", confidence_intervals=True)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    intervals = {expert: values["confidence_intervals"] for expert, values in metrics["experts"].items()}
    # Where all resamples agree, Wilson's interval for 50 images of a class, and for 100 of both.
    reach = {images: 100 * 1.96**2 / (images + 1.96**2) for images in (50, 100)}
    for expert, ends in {"average": lambda far: [100 - far, 100], "cls": lambda far: [0, far]}.items():
        assert intervals[expert].pop("tail") == [None, None]
        assert list(intervals[expert]) == ["overall", "head", "mid", "balanced_accuracy", "macro_f1", "worst_class"]
        for name, found in intervals[expert].items():
            assert found == pytest.approx(ends(reach[50 if name in ("head", "mid") else 100])), name
    assert intervals["distillation"]["head"] == pytest.approx([100 - reach[50], 100])
    assert intervals["distillation"]["mid"] == pytest.approx([0, reach[50]])
    assert intervals["distillation"]["overall"] == pytest.approx([40.2, 59.8], abs=2)  # the binomial's 50 +- 9.8


def test_expert_metrics_make_numpy_and_torch_input_plain():
    groups = {"head": np.array([0]), "mid": np.array([], dtype=int), "tail": range(1, 2)}
    predictions, labels = torch.tensor([[0, 0, 0], [1, 0, 1]]), torch.tensor([0, 1])
    metrics = expert_metrics(predictions, labels, np.array([9, 1]), groups, np.array(["a", "b"]))
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["groups"] == {"head": [0], "mid": [], "tail": [1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": np.zeros((4, 2), dtype=int)}, r"shape \(4, 2\).*\(N, 3\)"),
        ({"predictions": np.zeros(4, dtype=int)}, r"shape \(4,\)"),
        ({"class_names": ["cat", "dog"]}, "2 class names, 4 class counts and groups over 4 classes"),
        ({"class_counts": [90, 30]}, "4 class names, 2 class counts"),
        ({"groups": {"head": [0, 1], "mid": [1, 2], "tail": [3]}}, "groups over 5 classes"),
        ({"labels": [0, 1]}, "do not fit labels"),
    ],
)
def test_expert_metrics_refuse_what_does_not_fit_together(change, message):
    arguments = {
        "predictions": np.zeros((4, 3), dtype=int),
        "labels": [0, 0, 1, 2],
        "class_counts": [90, 30, 9, 3],
        "groups": GROUPS,
        "class_names": ["cat", "dog", "lynx", "mink"],
    }
    with pytest.raises(DeiTLTError, match=message):
        expert_metrics(**(arguments | change))


def test_table_shows_what_was_measured(metrics):
    assert format_table(metrics).splitlines() == [
        "             overall    head     mid    tail balanced",
        "average         75.0   100.0     0.0       -     66.7",
        "CLS expert      50.0    50.0     0.0       -     33.3",
        "DIST expert     75.0    75.0   100.0       -     83.3",
        "             macro-F1   worst",
        "average          60.0     0.0",
        "CLS expert       22.2     0.0",
        "DIST expert      77.8    50.0",
        "head: 2 classes with 90-30 training images, mid: 1 class with 9 training images, "
        "tail: 1 class with 3 training images (none with test images)",
    ]


def test_table_with_intervals_keeps_its_columns(metrics):
    intervals = {"overall": [50, 100], "head": [100, 100], "mid": [0, 0], "tail": [None, None]}
    intervals["balanced_accuracy"] = [40, 60]
    metrics["experts"]["average"]["confidence_intervals"] = intervals
    metrics["experts"]["cls"]["confidence_intervals"] = intervals | {"overall": [7.25, 99.96]}
    metrics["experts"]["distillation"]["confidence_intervals"] = intervals
    assert format_table(metrics).splitlines()[:5] == [
        f"{'':12}{'overall':>22}{'head':>22}{'mid':>22}{'tail':>22}{'balanced':>22}",
        "average         75.0 [50.0, 100.0]  100.0 [100.0, 100.0]        0.0 [0.0, 0.0]"
        + f"{'-':>22}{'66.7 [40.0, 60.0]':>22}",
        "CLS expert       50.0 [7.2, 100.0]   50.0 [100.0, 100.0]        0.0 [0.0, 0.0]"
        + f"{'-':>22}{'33.3 [40.0, 60.0]':>22}",
        "DIST expert     75.0 [50.0, 100.0]   75.0 [100.0, 100.0]      100.0 [0.0, 0.0]"
        + f"{'-':>22}{'83.3 [40.0, 60.0]':>22}",
        "in brackets: 95 % intervals from bootstrap resamples of each class's test images",
    ]


def test_table_of_an_empty_group():
    groups = {"head": [0, 1], "mid": [], "tail": []}
    table = format_table(expert_metrics(np.zeros((2, 3), dtype=int), [0, 1], [7, 7], groups, ["a", "b"]))
    assert table.splitlines()[1].split() == ["average", "50.0", "50.0", "-", "-", "50.0"]
    assert table.endswith("head: 2 classes with 7 training images, mid: no classes, tail: no classes")


def test_the_teacher_has_a_row_and_a_paired_difference():
    labels = [0] * 4 + [1] * 2 + [2] * 2
    student = [0, 0, 0, 1, 1, 1, 0, 0]  # 3 of 4, 2 of 2, 0 of 2
    teacher = [0, 0, 0, 0, 0, 1, 2, 2]  # 4 of 4, 1 of 2, 2 of 2
    groups = {"head": [0], "mid": [1], "tail": [2]}
    metrics = expert_metrics(
        [[each] * 3 for each in student], labels, [9, 5, 2], groups, ["a", "b", "c"], teacher=teacher
    )
    assert {name: metrics["teacher"][name] for name in ("overall", "head", "mid", "tail")} == {
        "overall": 87.5, "head": 100.0, "mid": 50.0, "tail": 100.0
    }  # fmt: skip
    found = metrics["against_teacher"]["average"]
    assert {name: of["value"] for name, of in found.items()} == pytest.approx(
        {"overall": -25.0, "head": -25.0, "mid": 50.0, "tail": -100.0, "balanced_accuracy": -25.0,
         "macro_f1": 100 * (6 / 9 + 4 / 5 + 0) / 3 - 100 * (8 / 9 + 2 / 3 + 1) / 3, "worst_class": -50.0}
    )  # fmt: skip
    # Both images differ. With one added that is the other way round, and one more: of four images, -2, -1 or 0 of 2.
    assert found["tail"] == {"value": -100.0, "interval": [-100.0, 0.0], "excludes_zero": False}
    assert found["worst_class"] == {"value": -50.0, "interval": None, "excludes_zero": False}
    assert not found["overall"]["excludes_zero"]
    table = format_table(metrics).splitlines()
    assert table[4].split() == ["teacher", "87.5", "100.0", "50.0", "100.0", "83.3"]
    assert table[5].startswith("average - teacher: overall -25.0 [")
    assert "tail -100.0 [-100.0, +0.0]" in table[5]


def test_without_a_teacher_there_is_no_such_row():
    metrics = expert_metrics([[0] * 3], [0], [9, 5, 2], {"head": [0], "mid": [1], "tail": [2]}, ["a", "b", "c"])
    assert not {"teacher", "against_teacher"} & metrics.keys()
    assert "teacher" not in format_table(metrics)
