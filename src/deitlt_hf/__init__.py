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
    from deitlt_hf.data.views import Resizing as Resizing
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
    from deitlt_hf.evaluation.fusion import fit_fusion as fit_fusion
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
    from deitlt_hf.runs.adapting import load_adapted_student as load_adapted_student
    from deitlt_hf.runs.analyzing import analyze_saved_model as analyze_saved_model
    from deitlt_hf.runs.calibrating import calibrate as calibrate
    from deitlt_hf.runs.calibrating import undo_calibration as undo_calibration
    from deitlt_hf.runs.student_models import StudentArguments as StudentArguments
    from deitlt_hf.runs.training import TeacherArguments as TeacherArguments
    from deitlt_hf.runs.training import train_student as train_student
    from deitlt_hf.runs.training import train_teacher as train_teacher
    from deitlt_hf.training.arguments import DeiTLTTrainingArguments as DeiTLTTrainingArguments
    from deitlt_hf.training.arguments import TeacherTrainingArguments as TeacherTrainingArguments
    from deitlt_hf.training.student import DeiTLTTrainer as DeiTLTTrainer
    from deitlt_hf.training.teacher import TeacherTrainer as TeacherTrainer

__version__ = "0.1.0"

_NAMES_OF = {
    "cards.model_card": "write_model_card",
    "data.arguments": "TrainingDataArguments load_images",
    "data.builders": "Cifar10LT Cifar100LT ImageNetLT INaturalist2018",
    "data.dataset": "ViewTransform ViewedDataset collate",
    "data.device_augmentation.device_views": "device_views",
    "data.inspection": "inspect_dataset",
    "data.loading": "load_long_tailed_dataset class_counts",
    "data.long_tail": "class_counts_for_imbalance class_groups long_tailed_indices",
    "data.suggestion": "suggest_recipe",
    "data.views": "strong_view weak_view evaluation_view image_processor Resizing",
    "evaluation.analysis.analyze": "analyze_model",
    "evaluation.analysis.predictions": "expected_calibration_error",
    "evaluation.analysis.tokens": "mean_attention_distance feature_rank token_similarity attention_rollout",
    "evaluation.attention": "token_attention draw_attention",
    "evaluation.compare": "compare_models",
    "evaluation.evaluate": "predict_experts",
    "evaluation.fusion": "fit_fusion",
    "evaluation.measures": "grouped_accuracy expert_metrics format_table",
    "evaluation.page": "write_analysis",
    "hub.pushing": "push_model model_files",
    "inference.app": "build_app serve",
    "inference.app_examples": "examples_of_run",
    "inference.classifier": "ExpertClassifier",
    "inference.export": "export_model",
    "long_tail_accuracy.long_tail_accuracy": "LongTailAccuracy",
    "losses.class_balanced": "class_balanced_weights",
    "losses.cross_entropy": "CrossEntropyLoss FocalLoss",
    "losses.distillation": "DistillationLoss",
    "losses.ldam": "LDAMLoss",
    "losses.ltkd": "rebalanced_divergence",
    "losses.paco": "PaCoLoss",
    "losses.prior": "LogitAdjustedLoss BalancedSoftmaxLoss BalancedBCELoss",
    "models.cifar_resnet.configuration_cifar_resnet": "CifarResNetConfig",
    "models.cifar_resnet.modeling_cifar_resnet": "CifarResNetForImageClassification",
    "models.deit_lt.configuration_deit_lt": "DeiTLTConfig",
    "models.deit_lt.modeling_deit_lt": "DeiTLTModel DeiTLTForImageClassification DeiTLTImageClassifierOutput",
    "models.timm_cosine.configuration_timm_cosine": "TimmCosineConfig",
    "models.timm_cosine.modeling_timm_cosine": "TimmCosineForImageClassification",
    "reference.convert": "convert_reference_checkpoint",
    "runs.adapting": "load_adapted_student",
    "runs.analyzing": "analyze_saved_model",
    "runs.calibrating": "calibrate undo_calibration",
    "runs.student_models": "StudentArguments",
    "runs.training": "train_student train_teacher TeacherArguments",
    "training.arguments": "DeiTLTTrainingArguments TeacherTrainingArguments",
    "training.student": "DeiTLTTrainer",
    "training.teacher": "TeacherTrainer",
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names.split()}

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
