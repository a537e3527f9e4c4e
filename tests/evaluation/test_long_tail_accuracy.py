from __future__ import annotations

import doctest
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from huggingface_hub import RepoCard
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from deitlt_hf import (
    DeiTLTConfig,
    DeiTLTForImageClassification,
    LongTailAccuracy,
    class_groups,
    load_long_tailed_dataset,
    long_tail_accuracy,
)
from deitlt_hf.data.views import image_processor
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.long_tail_accuracy import intervals as intervals_module
from deitlt_hf.long_tail_accuracy.intervals import Bootstrap, Resampler
from deitlt_hf.long_tail_accuracy.scores import Counter, groups_by_count

DIRECTORY = Path(long_tail_accuracy.__file__).parent
CLASS_COUNTS = [500, 200, 120, 80, 60, 40, 15, 9, 5]
GROUPS = {"head": [0, 1, 2], "mid": [3, 4, 5], "tail": [6, 7, 8]}
GROUPS_OF_THREE = {"head": [0], "mid": [1], "tail": [2]}

pytestmark = pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # scikit-learn's

# Two processes, of which the second is forked to import `evaluate` once. Nothing of the package can be imported;
# transformers is hidden for a moment because `evaluate` would load all of it.
TWO_PROCESSES = """
import json, os, sys
sys.modules["deitlt_hf"] = sys.modules["transformers"] = None
import evaluate
del sys.modules["transformers"]
directory, cache, data = sys.argv[1:]
rank = int(os.fork() == 0)
metric = evaluate.load(directory, process_id=rank, num_process=2, experiment_id="both", cache_dir=cache)
predictions, references = json.load(open(data))
half = slice(rank, None, 2)
metric.add_batch(predictions=predictions[half][:100], references=references[half][:100])
for prediction, reference in zip(predictions[half][100:], references[half][100:]):
    metric.add(prediction=prediction, reference=reference)
result = metric.compute(class_counts=[500, 200, 120, 80, 60, 40, 15, 9, 5], confidence_intervals=True)
assert not [name for name in sys.modules if name.startswith("deitlt_hf.")]
if rank == 1:
    os._exit(result is not None)
_, status = os.wait()
print(json.dumps({"result": result, "status_of_the_other": status}))
"""


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of an uneven test set in which class 4 of 9 is missing."""
    rng = np.random.default_rng(0)
    labels = rng.choice(9, size=400, p=[0.3, 0.2, 0.1, 0.1, 0, 0.1, 0.1, 0.06, 0.04])
    return np.where(rng.random(400) < 0.6, labels, rng.integers(0, 9, 400)), labels


@pytest.fixture
def metric(tmp_path) -> LongTailAccuracy:
    return LongTailAccuracy(cache_dir=str(tmp_path))


def assert_is_scikit_learns(result: dict, predictions: np.ndarray, labels: np.ndarray) -> None:
    assert result["overall"] == pytest.approx(100 * accuracy_score(labels, predictions))
    recalls = 100 * recall_score(labels, predictions, labels=range(9), average=None, zero_division=np.nan)
    np.testing.assert_allclose(result["per_class"], recalls)
    for group, classes in GROUPS.items():
        assert result[group] == pytest.approx(np.nanmean(recalls[classes]))
    assert result["balanced_accuracy"] == pytest.approx(100 * balanced_accuracy_score(labels, predictions))


@pytest.mark.parametrize("groups", [{"class_counts": CLASS_COUNTS}, {"groups": GROUPS}], ids=["counts", "groups"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, np.ndarray.tolist], ids=["numpy", "torch", "list"])
def test_values_are_scikit_learns(metric, answers, groups, kind):
    predictions, labels = answers
    result = metric.compute(predictions=kind(predictions), references=kind(labels), **groups)
    assert_is_scikit_learns(result, predictions, labels)


@pytest.mark.parametrize("expert", ["average", "cls", "distillation"])
def test_values_are_the_references(metric, golden, golden_json, expert):
    tensors = load_file(golden / "grouped_accuracy.safetensors")
    tensors["average_logits"] = (tensors["cls_logits"] + tensors["distillation_logits"]) / 2
    groups = {name: list(range(*ends)) for name, ends in golden_json["groups"].items()}
    result = metric.compute(
        predictions=tensors[f"{expert}_logits"].argmax(-1), references=tensors["labels"], groups=groups
    )
    expected = golden_json["grouped_accuracy"][expert]
    assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_added_piece_by_piece_and_kept_in_memory(answers, tmp_path):
    predictions, labels = answers
    metric = LongTailAccuracy(keep_in_memory=True, cache_dir=str(tmp_path))
    metric.add_batch(predictions=predictions[:200], references=labels[:200])
    for prediction, label in zip(predictions[200:], labels[200:], strict=True):
        metric.add(prediction=prediction, reference=label)
    assert_is_scikit_learns(metric.compute(class_counts=CLASS_COUNTS), predictions, labels)


def test_two_processes_without_this_package_share_one_result(answers, tmp_path):
    predictions, labels = answers
    data = tmp_path / "answers.json"
    data.write_text(json.dumps([predictions.tolist(), labels.tolist()]))
    finished = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES, str(DIRECTORY), str(tmp_path / "cache"), str(data)],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    printed = json.loads(finished.stdout.splitlines()[-1])
    assert printed["status_of_the_other"] == 0
    result = printed["result"]
    assert_is_scikit_learns(result, predictions, labels)
    low, high = result["confidence_intervals"]["overall"]
    assert low < result["overall"] < high


def test_the_metric_cards_examples_run(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(DIRECTORY.parent)
    result = doctest.testfile(str(DIRECTORY / "README.md"), module_relative=False)
    assert result.failed == 0
    assert result.attempted > 0
    assert {"evaluate", "metric"} <= set(RepoCard.load(DIRECTORY / "README.md").data.tags)


@pytest.mark.parametrize(
    "division", [{}, {"thresholds": (90, 10)}, {"thresholds": (9, 9)}, {"boundaries": (3, 7)}, {"boundaries": (0, 0)}]
)
def test_groups_are_class_groups(division):
    rng = np.random.default_rng(0)
    for num_classes in (1, 8, 100):
        counts = rng.integers(1, 150, num_classes).tolist()
        fitting = {name: tuple(min(end, num_classes) for end in ends) for name, ends in division.items()}
        assert groups_by_count(counts, **fitting) == class_groups(counts, **fitting)


@pytest.mark.parametrize(
    ("counts", "division"),
    [([5, 0], {}), ([5, 1], {"boundaries": (2, 1)}), ([5, 1], {"boundaries": (0, 3)}), ([5], {"thresholds": (1, 2)})],
)
def test_groups_refuse_what_class_groups_refuses(counts, division):
    with pytest.raises(DeiTLTError):
        class_groups(counts, **division)
    with pytest.raises(ValueError, match="pass"):
        groups_by_count(counts, **division)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_counts": None}, "either class_counts or groups"),
        ({"groups": GROUPS}, "either class_counts or groups"),
        ({"class_counts": [5, 0]}, "class 1 has 0 training images"),
        ({"class_counts": [5]}, "label 1 is in none of the groups"),
        ({"class_counts": None, "groups": {"head": [0, 1]}}, "lack 'mid'"),
        ({"class_counts": None, "groups": {"head": [0, 1], "mid": [], "tail": [1]}}, "class 1 is in the groups twice"),
        ({"predictions": [], "references": []}, "no images"),
        ({"confidence_intervals": True, "num_resamples": 0}, "num_resamples is 0"),
        ({"confidence_intervals": True, "seed": -1}, "seed is -1"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(metric, arguments, message):
    arguments = {"predictions": [0, 1], "references": [0, 1], "class_counts": [9, 5]} | arguments
    with pytest.raises(ValueError, match=message) as error:
        metric.compute(**arguments)
    assert "\n" not in str(error.value)


def intervals_of(images, correct, members, **options) -> dict[str, list[float]]:
    """The intervals of a test set with so many images and right predictions per class; the others are no class."""
    labels = np.repeat(np.arange(len(images)), images)
    first = np.cumsum(images) - images
    is_right = np.arange(len(labels)) - first[labels] < np.asarray(correct)[labels]
    counter = Counter(np.where(is_right, labels, -1), labels, len(images))
    return Bootstrap({"": counter}, labels, members, **options).intervals("")


def wilson(right: float, images: float) -> list[float]:
    """Wilson's 95 % interval as in the textbook: the shares that a test at 1.96 standard deviations does not refuse."""
    low, high = np.sort(np.roots([images + 1.96**2, -(2 * right + 1.96**2), right**2 / images]))
    return pytest.approx([100 * low, 100 * high], abs=1e-6)


def test_intervals_by_hand(metric):
    # Head: always right. Mid: always wrong. Tail: no test images. Overall and balanced: half of the images.
    result = metric.compute(
        predictions=[0] * 200, references=[0] * 100 + [1] * 100, class_counts=[500, 50, 5], confidence_intervals=True
    )
    intervals = result["confidence_intervals"]
    # All resamples agree, which does not mean that new images would: Wilson's intervals for 100 and for 200 images.
    assert (intervals["head"], intervals["mid"]) == (wilson(100, 100), wilson(0, 100))
    assert intervals["head"][0] == pytest.approx(100 * 100 / (100 + 1.96**2))
    assert all(math.isnan(end) for end in intervals["tail"])
    assert intervals["balanced_accuracy"] == wilson(100, 200)  # in every resample one class is right and one is wrong
    assert "per_class" not in intervals


@pytest.mark.parametrize("correct", [[150, 100, 50], [300, 220, 100], [380, 300, 220]])
def test_interval_of_overall_is_the_binomials(correct):
    share = sum(correct) / 1000
    interval = intervals_of(np.array([400, 350, 250]), correct, GROUPS_OF_THREE, num_resamples=4000)
    reach = 1.96 * math.sqrt(share * (1 - share) / 1000)
    assert interval["overall"] == pytest.approx([100 * (share - reach), 100 * (share + reach)], abs=0.35)


def test_seed_selects_the_resamples_and_pieces_do_not(monkeypatch):
    images, correct = np.array([40, 30, 7]), np.array([20, 20, 3])
    intervals = intervals_of(images, correct, GROUPS_OF_THREE, seed=1)
    assert intervals != intervals_of(images, correct, GROUPS_OF_THREE, seed=2)
    monkeypatch.setattr(intervals_module, "WEIGHTS_AT_ONCE", 8 * 77)  # 8 resamples at a time
    assert intervals == intervals_of(images, correct, GROUPS_OF_THREE, seed=1)


def test_intervals_cover_the_true_accuracies():
    """Of 400 test sets drawn from one population, about 95 % have the population's accuracy in their interval."""
    rng = np.random.default_rng(0)
    share_of_class = np.array([0.2, 0.2, 0.15, 0.15, 0.1, 0.1, 0.06, 0.04])
    recall = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.6])
    members = {"head": [0, 1, 2], "mid": [3, 4, 5], "tail": [6, 7]}
    truth = {name: 100 * recall[ids].mean() for name, ids in members.items()}
    truth |= {"overall": 100 * share_of_class @ recall, "balanced_accuracy": 100 * recall.mean()}
    covered = dict.fromkeys(truth, 0)
    for seed in range(400):
        images = rng.multinomial(500, share_of_class)
        intervals = intervals_of(images, rng.binomial(images, recall), members, num_resamples=300, seed=seed)
        for name in truth:
            low, high = intervals[name]
            covered[name] += low <= truth[name] <= high
    assert all(0.91 <= count / 400 <= 0.98 for count in covered.values()), covered


def test_no_resample_misses_a_class():
    # Of the mid class's two images one is drawn and weighs two: half of the resamples have it right. The only tail
    # class with an image has a single one and does not vary: Wilson's interval of one image that is right.
    images, correct = np.array([20, 2, 1, 0]), np.array([20, 1, 1, 0])
    members = {"head": [0], "mid": [1], "tail": [2, 3]}
    intervals = intervals_of(images, correct, members)
    assert intervals["tail"] == wilson(1, 1)
    assert intervals["mid"] == [0, 100]
    assert intervals["balanced_accuracy"] == pytest.approx([200 / 3, 100])  # (100 + 0 or 100 + 100) / 3


def test_weights_keep_each_classs_number_of_images_and_have_the_variance_of_new_images():
    labels = np.repeat([0, 1, 2], [2, 5, 40])
    ((weights, of_classes),) = Resampler(labels, GROUPS_OF_THREE, 3, seed=0).by_class(4000)
    for label, count in enumerate((2, 5, 40)):
        of_class = weights[:, labels == label]
        np.testing.assert_allclose(of_class.sum(1), count)
        # The mean of values 0 .. n - 1 with variance v (divisor n - 1) over n new images has the variance v / n.
        values = np.arange(count)
        means = of_class @ values / count
        assert means.mean() == pytest.approx(values.mean(), abs=4 * values.std(ddof=1) / math.sqrt(4000))
        assert means.var() == pytest.approx(values.var(ddof=1) / count, rel=0.1)
    np.testing.assert_array_equal(of_classes, 1)


def test_single_images_vary_together():
    # Eight classes with one image, half of them right: 0 to 8 right, as the binomial has it, around 4; its standard
    # deviation is sqrt(8) / 2, and sqrt(8 / 7) times that for the seven degrees of freedom.
    images, correct = np.ones(8, int), np.repeat([1, 0], 4)
    members = {"head": [], "mid": [], "tail": range(8)}
    ((weights, of_classes),) = Resampler(np.arange(8), members, 8, seed=0).by_class(4000)
    np.testing.assert_array_equal(weights, of_classes)
    np.testing.assert_allclose(weights.sum(1), 8)
    right = weights @ correct
    assert right.mean() == pytest.approx(4, abs=0.1)
    assert right.std() == pytest.approx(math.sqrt(8 / 7) * math.sqrt(8) / 2, rel=0.05)
    low, high = intervals_of(images, correct, members)["tail"]
    assert 0 <= low < 20 < 80 < high <= 100


@pytest.mark.parametrize(
    ("images", "together"),
    [
        ([1, 1, 1, 1, 9, 9], [[0, 1], [2, 3]]),  # head and mid: those of a group
        ([1, 9, 1, 9, 9, 9], [[0, 2]]),  # one in each of two groups
        ([1, 1, 1, 9, 9, 9], [[0, 1, 2]]),  # two and a lone one
        ([1, 9, 9, 9, 9, 9], [[0]]),  # nothing to be drawn with
    ],
)
def test_single_images_are_drawn_with_those_of_their_group(images, together):
    members = {"head": [0, 1], "mid": [2, 3], "tail": [4, 5]}
    labels = np.repeat(np.arange(6), images)
    ((_, of_classes),) = Resampler(labels, members, 6, seed=0).by_class(200)
    for pool in together:
        np.testing.assert_allclose(of_classes[:, pool].sum(1), len(pool))
        assert (of_classes[:, pool].std(0) > 0).all() == (len(pool) > 1)
    np.testing.assert_array_equal(np.delete(of_classes, np.concatenate(together), axis=1), 1)


def test_intervals_of_few_images_cover_the_true_accuracies():
    """Thirty classes with 1 to 40 test images, as held out of a long tail."""
    rng = np.random.default_rng(1)
    images = np.maximum(np.geomspace(40, 0.5, 30).round().astype(int), 1)
    recall = np.linspace(0.9, 0.1, 30)
    members = {"head": range(10), "mid": range(10, 20), "tail": range(20, 30)}
    covered = 0
    for seed in range(400):
        correct = rng.binomial(images, recall)
        low, high = intervals_of(images, correct, members, num_resamples=300, seed=seed)["balanced_accuracy"]
        assert low <= 100 * (correct / images).mean() <= high
        covered += low <= 100 * recall.mean() <= high
    assert 0.89 <= covered / 400 <= 0.98, covered  # 0.83 with resamples of all images


def test_a_prediction_that_is_no_class_is_wrong():
    tally = Counter(np.array([0, 7, -1]), np.array([0, 0, 1]), num_classes=2).count()
    assert (tally.images.tolist(), tally.correct.tolist()) == ([2, 1], [1, 0])


def test_the_metric_cards_evaluator_gives_the_models_own_accuracies(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = [str(digit) for digit in range(10)]
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=2,
        class_counts=list(range(100, 0, -10)), id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )  # fmt: skip
    model = DeiTLTForImageClassification(config).eval()
    model.save_pretrained("demo-output/student")
    processor = image_processor(16)
    processor.save_pretrained("demo-output/student")
    text = (DIRECTORY / "README.md").read_text()
    (snippet,) = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "evaluator" in part]
    exec(snippet, found := {})
    test = load_long_tailed_dataset("digits-lt")["test"]
    with torch.no_grad():
        predicted = model(**processor([row["image"].convert("RGB") for row in test], return_tensors="pt")).logits
    assert found["result"]["overall"] == pytest.approx(100 * accuracy_score(test["label"], predicted.argmax(-1)))
