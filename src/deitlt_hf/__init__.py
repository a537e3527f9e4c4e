"""DeiT-LT for Hugging Face: Vision Transformers for long-tailed images.

Importing this package loads neither torch nor transformers; a name loads its module on first use. The Auto classes of
transformers know the package's models as soon as both are imported, in either order.
"""

from __future__ import annotations

import importlib
from typing import Any

from deitlt_hf._auto import register_when_transformers_loads
from deitlt_hf.errors import DeiTLTError

__version__ = "0.1.0"

_MODULE_OF = {
    "DeiTLTConfig": "models.deit_lt.configuration_deit_lt",
    "DeiTLTModel": "models.deit_lt.modeling_deit_lt",
    "DeiTLTForImageClassification": "models.deit_lt.modeling_deit_lt",
    "DeiTLTImageClassifierOutput": "models.deit_lt.modeling_deit_lt",
    "CifarResNetConfig": "models.cifar_resnet.configuration_cifar_resnet",
    "CifarResNetForImageClassification": "models.cifar_resnet.modeling_cifar_resnet",
    "TimmCosineConfig": "models.timm_cosine.configuration_timm_cosine",
    "TimmCosineForImageClassification": "models.timm_cosine.modeling_timm_cosine",
    "class_counts_for_imbalance": "data.long_tail",
    "class_groups": "data.long_tail",
    "long_tailed_indices": "data.long_tail",
    "load_long_tailed_dataset": "data.loading",
    "Cifar10LT": "data.builders",
    "Cifar100LT": "data.builders",
    "ImageNetLT": "data.builders",
    "INaturalist2018": "data.builders",
    "inspect_dataset": "data.inspection",
    "suggest_recipe": "data.suggestion",
    "class_balanced_weights": "losses.class_balanced",
    "DistillationLoss": "losses.distillation",
    "LDAMLoss": "losses.ldam",
    "PaCoLoss": "losses.paco",
    "DeiTLTTrainer": "training.trainer",
    "DeiTLTTrainingArguments": "training.arguments",
    "TeacherTrainer": "training.teacher",
    "TeacherTrainingArguments": "training.arguments",
    "grouped_accuracy": "evaluation.accuracy",
    "LongTailAccuracy": "evaluation.long_tail_accuracy.long_tail_accuracy",
    "token_attention": "evaluation.attention",
    "analyze_model": "evaluation.analysis.analyze",
    "mean_attention_distance": "evaluation.analysis.attention_distance",
    "feature_rank": "evaluation.analysis.feature_rank",
    "token_similarity": "evaluation.analysis.token_similarity",
    "attention_rollout": "evaluation.analysis.rollout",
    "expected_calibration_error": "evaluation.analysis.calibration",
    "compare_models": "evaluation.comparing",
    "write_analysis": "evaluation.analysis_page",
    "ExpertClassifier": "hub.expert_classifier",
    "convert_reference_checkpoint": "hub.conversion",
    "export_model": "hub.export",
    "push_model": "hub.pushing",
    "write_model_card": "hub.cards.model_card",
}

__all__ = ["DeiTLTError", "__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


register_when_transformers_loads()
