"""The CNNs that can become teachers: from scratch, or from the weights of another image classifier."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from deitlt_hf.data.views import reference_resizing
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.inference.loading import load_any_config, load_model
from deitlt_hf.models import MODEL_TYPES
from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CLASSIFIERS, CifarResNetConfig
from deitlt_hf.models.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.timm_cosine.configuration_timm_cosine import TimmCosineConfig
from deitlt_hf.models.timm_cosine.modeling_timm_cosine import TimmCosineForImageClassification
from deitlt_hf.ranges import one_of

CIFAR_RESNET = CifarResNetConfig.model_type


def make_classifier(
    architecture: str, image_size: int, label_maps: Mapping[str, dict], *, classifier: str = "linear", depth: int = 32
) -> PreTrainedModel:
    """An image classifier with random weights, for images of `image_size` pixels.

    `architecture` is `"cifar_resnet"` (with `depth` layers), a timm model such as `"resnet50"`, or a model type of
    transformers or of `models/` in its default configuration. `"cosine"` classifiers go with the first two.
    """
    check_architecture(architecture, classifier, depth)
    if architecture == CIFAR_RESNET:
        config = CifarResNetConfig(depth=depth, classifier=classifier, image_size=image_size, **label_maps)
        return CifarResNetForImageClassification(config)
    if architecture not in timm.list_models():
        config = AutoConfig.for_model(architecture, image_size=image_size, **label_maps)
        return AutoModelForImageClassification.from_config(config)
    if classifier == "cosine":
        config = TimmCosineConfig(architecture=architecture, image_size=image_size, **label_maps)
        return TimmCosineForImageClassification(config)
    config = TimmWrapperConfig(architecture=architecture, pretrained_cfg=_timm_data(image_size), **label_maps)
    model = TimmWrapperForImageClassification(config)
    # The wrapper draws all weights as a Transformer's, with a standard deviation of 0.02; this is timm's own start.
    model.timm_model = timm.create_model(architecture, pretrained=False, num_classes=config.num_labels)
    return model


def check_architecture(architecture: str, classifier: str, depth: int) -> None:
    """Refuse an architecture, classifier or depth that `make_classifier` cannot make."""
    one_of("classifier", classifier, CLASSIFIERS)
    if architecture == CIFAR_RESNET:
        CifarResNetConfig(depth=depth)
    elif architecture not in timm.list_models() and architecture not in _model_types():
        raise DeiTLTError(f"unknown architecture {architecture!r}; {_hint(architecture)}")
    elif architecture not in timm.list_models() and classifier == "cosine":
        raise DeiTLTError(
            f"{architecture} has a linear classifier; a cosine one goes with {CIFAR_RESNET} and timm models, such as "
            "resnet50"
        )


def load_classifier(source: str, image_size: int, label_maps: Mapping[str, dict]) -> PreTrainedModel:
    """An image classifier with the weights of a directory or hub id, and a new head for other classes."""
    config = load_any_config(source)
    config.id2label, config.label2id = label_maps["id2label"], label_maps["label2id"]
    if config.model_type == TimmWrapperConfig.model_type:
        vars(config).pop("label_names", None)  # the wrapper's own record of the old names, which it would save again
        config.pretrained_cfg = (getattr(config, "pretrained_cfg", None) or {}) | _timm_data(image_size)
    else:
        config.image_size = image_size
    # In full precision, whatever the file's: a teacher is trained.
    options = {"dtype": torch.float32, "ignore_mismatched_sizes": True}
    model, report = load_model(AutoModelForImageClassification, config, source, **options)
    _accept_only_a_new_head(model, report, source)
    return model


def maps_to_classes(layer: nn.Module, num_labels: int) -> bool:
    """Whether the layer has a matrix with a row per class, as linear and cosine classifiers have."""
    weight = getattr(layer, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 2 and len(weight) == num_labels


def _timm_data(image_size: int) -> dict:
    """`evaluation_view` as timm's settings, from which a timm model's image processor is made."""
    resizing = reference_resizing(image_size)
    return {
        "input_size": [3, image_size, image_size],
        "test_input_size": None,
        "interpolation": resizing.interpolation,
        "crop_pct": resizing.crop_ratio,
        "crop_mode": "center" if resizing.keeps_shape else "squash",
        "mean": list(IMAGENET_DEFAULT_MEAN),
        "std": list(IMAGENET_DEFAULT_STD),
    }


def _model_types() -> list[str]:
    """Model types of this package and of transformers, without the student's and without those of timm models."""
    others = {DeiTLTConfig.model_type, TimmCosineConfig.model_type, TimmWrapperConfig.model_type}
    return [name for name in (*MODEL_TYPES, *MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES) if name not in others]


def _hint(architecture: str) -> str:
    near = difflib.get_close_matches(architecture, [*timm.list_models(), *_model_types()])
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"pass {CIFAR_RESNET}, a timm model such as resnet50, or a model type of transformers such as resnet"


def _accept_only_a_new_head(model: PreTrainedModel, report: dict, source: str) -> None:
    """Refuse missing or mismatched weights other than the head's, which is a matrix with a row per class."""
    heads = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if maps_to_classes(module, model.config.num_labels)
        for part in ("weight", "bias")
    }
    for key, in_file, in_model in report["mismatched_keys"]:
        if key not in heads or in_file[1:] != in_model[1:]:
            raise DeiTLTError(
                f"{source}: its {key} has the shape {tuple(in_file)}, where {tuple(in_model)} is needed; pass the "
                "image size that it was made for, or another model"
            )
    missing = sorted(set(report["missing_keys"]) - heads)
    if missing:
        raise DeiTLTError(
            f"{source}: its file lacks {len(missing)} weights, among them {missing[0]}; pass one that is complete"
        )
