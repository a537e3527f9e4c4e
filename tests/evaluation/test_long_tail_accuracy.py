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
from deitlt_hf.long_tail_accuracy import scores
from deitlt_hf.long_tail_accuracy.scores import bootstrap_intervals, groups_by_count, tally

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


def test_intervals_by_hand(metric):
    # Head: always right. Mid: always wrong. Tail: no test images. Overall and balanced: half of the images.
    result = metric.compute(
        predictions=[0] * 200, references=[0] * 100 + [1] * 100, class_counts=[500, 50, 5], confidence_intervals=True
    )
    intervals = result["confidence_intervals"]
    assert (intervals["head"], intervals["mid"]) == ([100, 100], [0, 0])
    assert all(math.isnan(end) for end in intervals["tail"])
    assert intervals["balanced_accuracy"] == [50, 50]  # in every resample one class is right and one is wrong
    assert "per_class" not in intervals


@pytest.mark.parametrize("correct", [[150, 100, 50], [300, 220, 100], [380, 300, 220]])
def test_interval_of_overall_is_the_binomials(correct):
    share = sum(correct) / 1000
    interval = bootstrap_intervals(np.array([400, 350, 250]), np.array(correct), GROUPS_OF_THREE, num_resamples=4000)
    reach = 1.96 * math.sqrt(share * (1 - share) / 1000)
    assert interval["overall"] == pytest.approx([100 * (share - reach), 100 * (share + reach)], abs=0.35)


def test_seed_selects_the_resamples_and_pieces_do_not(monkeypatch):
    images, correct = np.array([40, 30, 7]), np.array([20, 20, 3])
    intervals = bootstrap_intervals(images, correct, GROUPS_OF_THREE, seed=1)
    assert intervals != bootstrap_intervals(images, correct, GROUPS_OF_THREE, seed=2)
    monkeypatch.setattr(scores, "CELLS_AT_ONCE", 50)  # 8 resamples at a time
    assert intervals == bootstrap_intervals(images, correct, GROUPS_OF_THREE, seed=1)


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
        intervals = bootstrap_intervals(images, rng.binomial(images, recall), members, num_resamples=300, seed=seed)
        for name, (low, high) in intervals.items():
            covered[name] += low <= truth[name] <= high
    assert all(0.91 <= count / 400 <= 0.98 for count in covered.values()), covered


def test_no_resample_misses_a_class():
    # Of the mid class's two images a quarter of the resamples has both right and a quarter none: 50 +- sqrt(2) x 50,
    # cut to what there is. The only tail class with an image has a single one and does not vary.
    images, correct = np.array([20, 2, 1, 0]), np.array([20, 1, 1, 0])
    members = {"head": [0], "mid": [1], "tail": [2, 3]}
    intervals = bootstrap_intervals(images, correct, members)
    assert intervals["tail"] == [100, 100]
    assert intervals["mid"] == [0, 100]
    reach = math.sqrt(2) * 50 / 3
    assert intervals["balanced_accuracy"] == pytest.approx([250 / 3 - reach, 100])  # (100 + 50 + 100) / 3


def test_single_images_vary_together():
    # Eight classes with one image, half of them right: 0 to 8 right, as the binomial has it, around 4; its standard
    # deviation is sqrt(8) / 2, and sqrt(8 / 7) times that for the seven degrees of freedom.
    images, correct = np.ones(8, int), np.repeat([1, 0], 4)
    members = {"head": [], "mid": [], "tail": range(8)}
    drawn = np.concatenate(list(scores.resample_cells(np.stack([correct, 1 - correct], -1), 4000, seed=0)))
    right = drawn[..., 0].sum(-1)
    assert right.mean() == pytest.approx(4, abs=0.1)
    assert right.std() == pytest.approx(math.sqrt(8 / 7) * math.sqrt(8) / 2, rel=0.05)
    low, high = bootstrap_intervals(images, correct, members)["tail"]
    assert 0 <= low < 20 < 80 < high <= 100


def test_intervals_of_few_images_cover_the_true_accuracies():
    """Thirty classes with 1 to 40 test images, as held out of a long tail."""
    rng = np.random.default_rng(1)
    images = np.maximum(np.geomspace(40, 0.5, 30).round().astype(int), 1)
    recall = np.linspace(0.9, 0.1, 30)
    members = {"head": range(10), "mid": range(10, 20), "tail": range(20, 30)}
    covered = 0
    for seed in range(400):
        correct = rng.binomial(images, recall)
        low, high = bootstrap_intervals(images, correct, members, num_resamples=300, seed=seed)["balanced_accuracy"]
        assert low <= 100 * (correct / images).mean() <= high
        covered += low <= 100 * recall.mean() <= high
    assert 0.89 <= covered / 400 <= 0.98, covered  # 0.83 with resamples of all images


def test_a_prediction_that_is_no_class_is_wrong():
    images, correct = tally([0, 7, -1], [0, 0, 1], num_classes=2)
    assert (images.tolist(), correct.tolist()) == ([2, 1], [1, 0])


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
