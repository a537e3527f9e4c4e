"""The record of an analysis: one dict that `json.dump` writes, from which tables, figures and the page are made.

    model               source, model_type, prediction (which expert the model's own logits are), image_size,
                        patch_size, layers, heads, parameters
    num_images, class_names, class_counts, groups, experts
                        as in `expert_metrics`; a model with one head has the CLS expert alone
    crossing            see `find_crossing`; None throughout for a model with one head
    attention_distance  pixels, for readers all, cls, distillation: a list of heads per layer
    feature_rank        variance, the share; for tokens cls, distillation: a number per layer
    spectrum            for tokens: per layer the components' shares of the variance, falling
    token_similarity    per layer the mean cosine; None for a model with one head
    calibration         for each expert overall and by group: see `reliability`
    agreement           percent overall and by group for cls-distillation and, with a teacher, teacher-cls,
                        teacher-distillation; teacher holds the teacher's own accuracies
    confusion           for each expert: see `group_confusions`

Layers are numbered from the first; tokens are those that have a head. What cannot be measured is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from deitlt_hf.evaluation.analysis.agreement import grouped_agreement
from deitlt_hf.evaluation.analysis.calibration import grouped_reliability
from deitlt_hf.evaluation.analysis.confusions import group_confusions
from deitlt_hf.evaluation.analysis.crossing import NO_CROSSING, find_crossing
from deitlt_hf.evaluation.analysis.streaming import Stream
from deitlt_hf.evaluation.measures import EXPERTS, expert_metrics, grouped_accuracy, none_for_nan


def make_record(
    model: PreTrainedModel,
    source: str,
    stream: Stream,
    class_names: Sequence[str],
    class_counts: Sequence[int],
    groups: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """The record of what went through a stream.

    Raises:
        DeiTLTError: names, counts, groups and labels that do not fit together.
    """
    predictions, labels, teachers = stream.class_ids()
    metrics = expert_metrics(predictions, labels, class_counts, groups, class_names, experts=stream.experts)
    groups = metrics["groups"]
    of_expert = dict(zip(stream.experts, predictions.T, strict=True))
    confidence_of = dict(zip(stream.experts, stream.confidences().T, strict=True))
    record = {
        "model": _describe(model, source, stream),
        **metrics,
        "crossing": _crossing(metrics),
        **stream.layer_measures(),
        "calibration": {
            expert: grouped_reliability(confidence_of[expert], ids == labels, labels, groups)
            for expert, ids in of_expert.items()
        },
        "agreement": _agreements(of_expert, labels, teachers, groups),
        "confusion": {expert: group_confusions(ids, labels, groups) for expert, ids in of_expert.items()},
    }
    return none_for_nan(record)


def _describe(model: PreTrainedModel, source: str, stream: Stream) -> dict[str, Any]:
    config = model.config
    both = len(stream.experts) == len(EXPERTS)
    return {
        "source": source,
        "model_type": config.model_type,
        # A plain DeiT with two heads gives their mean, and has no setting for it.
        "prediction": getattr(config, "expert", "average") if both else "cls",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _crossing(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    experts = metrics["experts"]
    if "distillation" not in experts:
        return dict(NO_CROSSING)
    per_class = (experts[expert]["per_class"] for expert in ("cls", "distillation"))
    return find_crossing(*per_class, metrics["class_counts"])


def _agreements(
    of_expert: Mapping[str, np.ndarray],
    labels: np.ndarray,
    teachers: np.ndarray | None,
    groups: Mapping[str, Sequence[int]],
) -> dict[str, dict[str, float]]:
    of_token = {token: ids for token, ids in of_expert.items() if token != "average"}
    agreements = {}
    if "distillation" in of_token:
        agreements["cls-distillation"] = grouped_agreement(of_token["cls"], of_token["distillation"], labels, groups)
    if teachers is not None:
        for token, ids in of_token.items():
            agreements[f"teacher-{token}"] = grouped_agreement(teachers, ids, labels, groups)
        agreements["teacher"] = grouped_accuracy(teachers, labels, groups)
    return agreements
