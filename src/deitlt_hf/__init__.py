"""DeiT-LT for Hugging Face: Vision Transformers for long-tailed images.

Importing this package loads neither torch nor transformers; a name loads its module on first use. The Auto classes of
transformers know the package's models as soon as both are imported, in either order.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deitlt_hf._auto import register_when_transformers_loads
from deitlt_hf._moved import find_moved_modules
from deitlt_hf.errors import DeiTLTError

if TYPE_CHECKING:  # type checkers and editors read the names here; at run time `__getattr__` loads them
    from deitlt_hf.cards.model_card import write_model_card as write_model_card
    from deitlt_hf.data.arguments import TrainingDataArguments as TrainingDataArguments
    from deitlt_hf.data.arguments import load_images as load_images
    from deitlt_hf.data.builders import Cifar10LT as Cifar10LT
    from deitlt_hf.data.builders import Cifar100LT as Cifar100LT
    from deitlt_hf.data.builders import ImageNetLT as ImageNetLT
    from deitlt_hf.data.builders import INaturalist2018 as INaturalist2018
    from deitlt_hf.data.dataset import ViewedDataset as ViewedDataset
    from deitlt_hf.data.dataset import ViewTransform as ViewTransform
    from deitlt_hf.data.dataset import collate as collate
    from deitlt_hf.data.device_augmentation.device_views import device_views as device_views
    from deitlt_hf.data.inspection import inspect_dataset as inspect_dataset
    from deitlt_hf.data.loading import class_counts as class_counts
    from deitlt_hf.data.loading import load_long_tailed_dataset as load_long_tailed_dataset
    from deitlt_hf.data.long_tail import class_counts_for_imbalance as class_counts_for_imbalance
    from deitlt_hf.data.long_tail import class_groups as class_groups
    from deitlt_hf.data.long_tail import long_tailed_indices as long_tailed_indices
    from deitlt_hf.data.suggestion import suggest_recipe as suggest_recipe
    from deitlt_hf.data.views import evaluation_view as evaluation_view
    from deitlt_hf.data.views import image_processor as image_processor
    from deitlt_hf.data.views import strong_view as strong_view
    from deitlt_hf.data.views import weak_view as weak_view
    from deitlt_hf.evaluation.analysis.analyze import analyze_model as analyze_model
    from deitlt_hf.evaluation.analysis.predictions import expected_calibration_error as expected_calibration_error
    from deitlt_hf.evaluation.analysis.tokens import attention_rollout as attention_rollout
    from deitlt_hf.evaluation.analysis.tokens import feature_rank as feature_rank
    from deitlt_hf.evaluation.analysis.tokens import mean_attention_distance as mean_attention_distance
    from deitlt_hf.evaluation.analysis.tokens import token_similarity as token_similarity
    from deitlt_hf.evaluation.attention import draw_attention as draw_attention
    from deitlt_hf.evaluation.attention import token_attention as token_attention
    from deitlt_hf.evaluation.compare import compare_models as compare_models
    from deitlt_hf.evaluation.evaluate import predict_experts as predict_experts
    from deitlt_hf.evaluation.measures import expert_metrics as expert_metrics
    from deitlt_hf.evaluation.measures import format_table as format_table
    from deitlt_hf.evaluation.measures import grouped_accuracy as grouped_accuracy
    from deitlt_hf.evaluation.page import write_analysis as write_analysis
    from deitlt_hf.hub.pushing import model_files as model_files
    from deitlt_hf.hub.pushing import push_model as push_model
    from deitlt_hf.inference.app import build_app as build_app
    from deitlt_hf.inference.app import serve as serve
    from deitlt_hf.inference.app_examples import examples_of_run as examples_of_run
    from deitlt_hf.inference.classifier import ExpertClassifier as ExpertClassifier
    from deitlt_hf.inference.export import export_model as export_model
    from deitlt_hf.long_tail_accuracy.long_tail_accuracy import LongTailAccuracy as LongTailAccuracy
    from deitlt_hf.losses.class_balanced import class_balanced_weights as class_balanced_weights
    from deitlt_hf.losses.cross_entropy import CrossEntropyLoss as CrossEntropyLoss
    from deitlt_hf.losses.cross_entropy import FocalLoss as FocalLoss
    from deitlt_hf.losses.distillation import DistillationLoss as DistillationLoss
    from deitlt_hf.losses.ldam import LDAMLoss as LDAMLoss
    from deitlt_hf.losses.ltkd import rebalanced_divergence as rebalanced_divergence
    from deitlt_hf.losses.paco import PaCoLoss as PaCoLoss
    from deitlt_hf.losses.prior import BalancedBCELoss as BalancedBCELoss
    from deitlt_hf.losses.prior import BalancedSoftmaxLoss as BalancedSoftmaxLoss
    from deitlt_hf.losses.prior import LogitAdjustedLoss as LogitAdjustedLoss
    from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig as CifarResNetConfig
    from deitlt_hf.models.cifar_resnet.modeling_cifar_resnet import (
        CifarResNetForImageClassification as CifarResNetForImageClassification,
    )
    from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig as DeiTLTConfig
    from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification as DeiTLTForImageClassification
    from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTImageClassifierOutput as DeiTLTImageClassifierOutput
    from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTModel as DeiTLTModel
    from deitlt_hf.models.timm_cosine.configuration_timm_cosine import TimmCosineConfig as TimmCosineConfig
    from deitlt_hf.models.timm_cosine.modeling_timm_cosine import (
        TimmCosineForImageClassification as TimmCosineForImageClassification,
    )
    from deitlt_hf.reference.convert import convert_reference_checkpoint as convert_reference_checkpoint
    from deitlt_hf.runs.analyzing import analyze_saved_model as analyze_saved_model
    from deitlt_hf.runs.student_models import StudentArguments as StudentArguments
    from deitlt_hf.runs.training import TeacherArguments as TeacherArguments
    from deitlt_hf.runs.training import train_student as train_student
    from deitlt_hf.runs.training import train_teacher as train_teacher
    from deitlt_hf.training.arguments import DeiTLTTrainingArguments as DeiTLTTrainingArguments
    from deitlt_hf.training.arguments import TeacherTrainingArguments as TeacherTrainingArguments
    from deitlt_hf.training.student import DeiTLTTrainer as DeiTLTTrainer
    from deitlt_hf.training.teacher import TeacherTrainer as TeacherTrainer

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
    "CrossEntropyLoss": "losses.cross_entropy",
    "FocalLoss": "losses.cross_entropy",
    "LogitAdjustedLoss": "losses.prior",
    "BalancedSoftmaxLoss": "losses.prior",
    "BalancedBCELoss": "losses.prior",
    "rebalanced_divergence": "losses.ltkd",
    "PaCoLoss": "losses.paco",
    "DeiTLTTrainer": "training.student",
    "DeiTLTTrainingArguments": "training.arguments",
    "TeacherTrainer": "training.teacher",
    "TeacherTrainingArguments": "training.arguments",
    "grouped_accuracy": "evaluation.measures",
    "expert_metrics": "evaluation.measures",
    "format_table": "evaluation.measures",
    "predict_experts": "evaluation.evaluate",
    "LongTailAccuracy": "long_tail_accuracy.long_tail_accuracy",
    "token_attention": "evaluation.attention",
    "draw_attention": "evaluation.attention",
    "analyze_model": "evaluation.analysis.analyze",
    "mean_attention_distance": "evaluation.analysis.tokens",
    "feature_rank": "evaluation.analysis.tokens",
    "token_similarity": "evaluation.analysis.tokens",
    "attention_rollout": "evaluation.analysis.tokens",
    "expected_calibration_error": "evaluation.analysis.predictions",
    "compare_models": "evaluation.compare",
    "write_analysis": "evaluation.page",
    "ExpertClassifier": "inference.classifier",
    "convert_reference_checkpoint": "reference.convert",
    "export_model": "inference.export",
    "push_model": "hub.pushing",
    "write_model_card": "cards.model_card",
    "train_student": "runs.training",
    "train_teacher": "runs.training",
    "TeacherArguments": "runs.training",
    "StudentArguments": "runs.student_models",
    "TrainingDataArguments": "data.arguments",
    "ViewTransform": "data.dataset",
    "ViewedDataset": "data.dataset",
    "collate": "data.dataset",
    "strong_view": "data.views",
    "weak_view": "data.views",
    "evaluation_view": "data.views",
    "image_processor": "data.views",
    "device_views": "data.device_augmentation.device_views",
    "class_counts": "data.loading",
    "analyze_saved_model": "runs.analyzing",
    "build_app": "inference.app",
    "serve": "inference.app",
    "examples_of_run": "inference.app_examples",
    "model_files": "hub.pushing",
    "load_images": "data.arguments",
}

__all__ = ["DeiTLTError", "__version__", *_MODULE_OF]


if not TYPE_CHECKING:  # to a type checker it would say that every name is there

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


find_moved_modules()
register_when_transformers_loads()
