"""Classifier re-training (cRT), the second stage of decoupled training (Kang et al., 2020, section 4)."""

from __future__ import annotations

from copy import deepcopy
from itertools import dropwhile, takewhile

import torch
from torch import nn
from transformers import PreTrainedModel

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.teachers.build import maps_to_classes


def start_retraining(model: PreTrainedModel, seed: int) -> None:
    """Give the classifier new weights, which `seed` determines, and freeze all others.

    Raises:
        DeiTLTError: the model does not end in a linear or cosine classifier, or has adapters.
    """
    if hasattr(model, "peft_config"):
        raise DeiTLTError("retrain_classifier freezes all weights but the classifier's; pass a model without adapters")
    layers = _classifier_layers(model)
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in layers:
            # Of a copy, because transformers marks loaded weights and then leaves them as they are.
            new = deepcopy(layer).cpu()
            model._init_weights(new)
            layer.load_state_dict(new.state_dict())
            layer.requires_grad_(True)


def _classifier_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The last layers with a row per class: one, or a head for each of a student's tokens."""
    layers = [layer for layer in model.modules() if any(True for _ in layer.parameters(recurse=False))]
    are_last = dropwhile(lambda layer: not maps_to_classes(layer, model.config.num_labels), reversed(layers))
    found = list(takewhile(lambda layer: maps_to_classes(layer, model.config.num_labels), are_last))
    if not found:
        raise DeiTLTError(
            f"retrain_classifier needs a classifier that ends in a linear layer; {type(model).__name__} has none"
        )
    return found
