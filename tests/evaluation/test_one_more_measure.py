"""A new measure is one entry of `MEASURES`: it then appears wherever accuracies are printed, written or chosen by."""

from __future__ import annotations

import json

import numpy as np
import pytest
from huggingface_hub import ModelCard
from made_up_analysis import GROUPS, made_up_analysis
from transformers import EvalPrediction

from deitlt_hf import (
    DeiTLTConfig,
    DeiTLTError,
    DeiTLTForImageClassification,
    DeiTLTTrainer,
    DeiTLTTrainingArguments,
    LongTailAccuracy,
    TeacherTrainingArguments,
    compare_models,
    write_analysis,
    write_model_card,
)
from deitlt_hf.evaluation import page as analysis_page
from deitlt_hf.evaluation.compare import format_comparison
from deitlt_hf.evaluation.measures import MEASURES, Measure, expert_metrics, format_table
from deitlt_hf.long_tail_accuracy.scores import percent

LOWEST = Measure(
    "lowest_class",
    "lowest",
    "Accuracy, lowest class",
    lambda tally, members: np.nanmin(percent(tally.correct, tally.images), axis=-1),
)
LABELS = np.repeat([0, 1, 2], 50)
PREDICTIONS = np.where(np.arange(150) % 10 < 3 * (LABELS == 1), 0, LABELS)  # 30 % of class 1 are wrong
THREE_GROUPS = {"head": [0], "mid": [1], "tail": [2]}


@pytest.fixture(autouse=True)
def _one_more_measure():
    MEASURES.append(LOWEST)
    yield
    MEASURES.remove(LOWEST)


@pytest.fixture
def metrics() -> dict:
    return expert_metrics(np.stack([PREDICTIONS] * 3, 1), LABELS, [90, 30, 3], THREE_GROUPS, "abc", True)


def test_in_metrics_and_the_printed_table(metrics):
    for measured in json.loads(json.dumps(metrics))["experts"].values():
        assert measured["lowest_class"] == 70
        low, high = measured["confidence_intervals"]["lowest_class"]
        assert 50 < low < 70 < high < 90
    heading, row, *_ = format_table(metrics).splitlines()
    assert heading.split() == ["overall", "head", "mid", "tail", "balanced", "lowest"]
    assert "70.0 [" in row.split("90.0 [")[-1]


def test_in_the_metric_of_evaluate(tmp_path):
    metric = LongTailAccuracy(cache_dir=str(tmp_path))
    result = metric.compute(predictions=PREDICTIONS, references=LABELS, groups=THREE_GROUPS, confidence_intervals=True)
    assert result["lowest_class"] == 70
    assert len(result["confidence_intervals"]["lowest_class"]) == 2


def test_in_comparisons_and_the_analysis_page(tmp_path, monkeypatch):
    analyses = {"a": made_up_analysis(1), "b": made_up_analysis(2)}
    comparison = compare_models(analyses)
    assert comparison["differences"]["b"]["lowest_class"]["value"] is not None
    assert format_comparison(comparison).splitlines()[0].split()[-1] == "lowest"
    monkeypatch.setattr(analysis_page, "SECTIONS", ())
    monkeypatch.setattr(analysis_page, "examples_figure", lambda analysis: None)
    one = made_up_analysis(1)
    experts = {expert: scores | {"lowest_class": 12.5} for expert, scores in one.record["experts"].items()}
    one.record["experts"] = experts
    write_analysis(analyses, tmp_path / "two")
    write_analysis({"a": one}, tmp_path / "one")
    assert "<th>lowest</th>" in (tmp_path / "two" / "index.html").read_text()
    page = (tmp_path / "one" / "index.html").read_text()
    assert "<th>lowest</th>" in page
    assert page.count("<td>12.5</td>") == 3


def test_in_the_trainers_log_and_the_choice_of_the_best_model(tmp_path):
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=24, num_attention_heads=2, num_hidden_layers=1, num_labels=3,
        class_counts=[90, 30, 3], class_groups=THREE_GROUPS,
    )  # fmt: skip
    args = DeiTLTTrainingArguments(str(tmp_path), distillation_type="none", use_cpu=True, report_to="none")
    trainer = DeiTLTTrainer(DeiTLTForImageClassification(config), args)
    logged = trainer.compute_metrics(EvalPrediction(np.stack([PREDICTIONS] * 3, 1), LABELS))
    assert {logged[f"{expert}_lowest_class"] for expert in ("average", "cls", "distillation")} == {70}
    for arguments_class, name in (
        (DeiTLTTrainingArguments, "distillation_lowest_class"),
        (TeacherTrainingArguments, "lowest_class"),
    ):
        options = {"use_cpu": True, "report_to": "none"}
        arguments_class(str(tmp_path), metric_for_best_model=name, **options).check_built_in_measures()
        with pytest.raises(DeiTLTError, match=f"{name}"):
            arguments_class(str(tmp_path), metric_for_best_model="best_class", **options).check_built_in_measures()


def test_in_the_card_and_its_model_index(tmp_path, metrics):
    config = DeiTLTConfig(
        image_size=16, patch_size=8, hidden_size=24, num_attention_heads=2, num_hidden_layers=1, num_labels=3,
        class_counts=[90, 30, 3], class_groups=THREE_GROUPS,
    )  # fmt: skip
    DeiTLTForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    write_model_card(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "|  | overall | head | mid | tail | balanced | lowest |" in card.text
    row = next(line for line in card.text.splitlines() if line.startswith("| DIST expert"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["90.0", "100.0", "70.0", "100.0", "90.0", "70.0"]
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert measured["Accuracy, lowest class (DIST expert)"] == 70
    assert measured["Balanced accuracy (DIST expert)"] == 90


def test_groups_stay_the_four_of_the_paper():
    from deitlt_hf import grouped_accuracy

    assert list(grouped_accuracy(PREDICTIONS, LABELS, THREE_GROUPS)) == ["overall", *GROUPS]
