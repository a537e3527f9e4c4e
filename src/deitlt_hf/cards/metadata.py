"""The header of a model's card, in the form that the hub reads."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from deitlt_hf.cards.data import row_label
from deitlt_hf.cards.facts import ONLY_ROW, ModelFacts
from deitlt_hf.evaluation.measures import MEASURES, Measure

TASK = "image-classification"


def card_metadata(facts: ModelFacts) -> ModelCardData:
    """Library, task, tags, data, the weights that training began from, and every accuracy as `model-index`.

    No `license`: whose the weights are and what they may be used for, their owner says.

    Example:
        >>> card_metadata(facts).pipeline_tag  # doctest: +SKIP
        'image-classification'
    """
    data = facts.data
    results = _eval_results(facts)
    kind = ["deit-lt", "vision-transformer", "distillation"] if facts.is_student else ["deit-lt-teacher"]
    return ModelCardData(
        library_name="transformers" if facts.runtime == "torch" else "deitlt_hf",
        pipeline_tag=TASK,
        tags=[*kind, "long-tailed", "class-imbalance", *(["onnx"] if facts.runtime == "onnx" else [])],
        datasets=[data.hub_id] if data is not None and data.hub_id else None,
        metrics=["accuracy"] if results else None,
        base_model=facts.hub_ids.get("init_from"),
        model_name=facts.title if results else None,
        eval_results=results or None,
    )


def _eval_results(facts: ModelFacts) -> list[EvalResult]:
    if facts.results is None:
        return []
    data = facts.data
    index_type = data.model_index_type if data is not None else "unknown"
    name = data.title if data is not None else "test split of the run"
    if facts.settings and facts.settings.get("imbalance_factor") is not None:
        name += f" (imbalance factor {facts.settings['imbalance_factor']:g})"
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=index_type,
            dataset_name=name,
            dataset_split=data.test_split if data is not None else None,
            metric_type="accuracy",
            metric_name=_metric_name(row, measure),
            metric_value=round(accuracies[measure.key], 2),
            source_name=facts.results.published_in,
            source_url=facts.results.published_at,
        )
        for row, accuracies in facts.results.rows.items()
        for measure in MEASURES
        if accuracies.get(measure.key) is not None
    ]


def _metric_name(row: str, measure: Measure) -> str:
    return measure.name + ("" if row == ONLY_ROW else f" ({row_label(row)})")
