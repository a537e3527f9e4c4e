"""Loads the weights of a checkpoint into a model, with or without adapters."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.foreign.weights import check_finite


def wraps_adapters(model: nn.Module) -> bool:
    """Whether the model is peft's wrapper, which saves adapters only."""
    return hasattr(model, "peft_config") and not isinstance(model, PreTrainedModel)


def _load_added_adapter(model: PreTrainedModel, directory: str | Path) -> None:
    """Load a checkpoint into the active adapter; `model.load_adapter` would add a second one."""
    from peft import load_peft_weights, set_peft_model_state_dict

    if not Path(directory, ADAPTER_CONFIG_NAME).is_file():
        raise OSError(f"it has no {ADAPTER_CONFIG_NAME}")
    saved = load_peft_weights(str(directory), device="cpu")
    # peft 0.19 does not remove the prefix that it saves with, and then loads nothing without an error.
    weights = {name.removeprefix("base_model.model."): weight for name, weight in saved.items()}
    result = set_peft_model_state_dict(model, weights, model.active_adapters()[0])
    if result.unexpected_keys:
        raise OSError(f"it has {result.unexpected_keys[0]}, which the model lacks")


def load_weights(model: PreTrainedModel, directory: str | Path) -> None:
    """Give `model`, which may wrap adapters, the weights that `save_pretrained` wrote to `directory`.

    `save_pretrained` writes the old names of weights that transformers has renamed, such as those of DeiT's layers.
    The Trainer's own loading knows only the new names: it skips these weights with a warning, and the training would
    continue from random layers. It also takes averaged adapters in a checkpoint for one more adapter to train.
    """
    try:
        if wraps_adapters(model):
            model.load_adapter(directory, model.active_adapter, is_trainable=True)
        elif getattr(model, "_hf_peft_config_loaded", False):  # `model.add_adapter` was called: only adapters are saved
            _load_added_adapter(model, directory)
        else:
            model.load_state_dict(type(model).from_pretrained(directory).state_dict())
    except (OSError, ValueError) as error:
        raise DeiTLTError(
            f"cannot load the checkpoint {directory}: {str(error).splitlines()[0]}; pass one that is complete"
        ) from error
    except RuntimeError as error:
        raise DeiTLTError(
            f"the checkpoint {directory} is of a model of another size; resume with the settings it was trained with"
        ) from error
    check_finite(model, str(directory))
