"""Loading a student from a directory or the hub, with errors that a user can act on."""

from __future__ import annotations

from pathlib import Path

import yaml
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor

from deitlt_hf.errors import DeiTLTError, loading_reason
from deitlt_hf.hub.run_record import RECIPE_FILE
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification


def load_student(source: str, revision: str | None = None) -> DeiTLTForImageClassification:
    """The student in a directory or a hub repository, in evaluation mode.

    Args:
        source: directory or hub id.
        revision: branch, tag or commit of a hub repository, by default its main branch.

    Raises:
        DeiTLTError: there is no model, or one of another type.

    Example:
        >>> model = load_student("demo-output/student")  # doctest: +SKIP
    """
    load_student_config(source, revision)
    try:
        return DeiTLTForImageClassification.from_pretrained(source, revision=revision).eval()
    except (OSError, ValueError, SafetensorError) as error:
        raise _no_model(source, error) from error


def load_student_config(source: str, revision: str | None = None) -> DeiTLTConfig:
    """The configuration of the student in a directory or a hub repository.

    Raises:
        DeiTLTError: there is no model, or one of another type.

    Example:
        >>> load_student_config("demo-output/student").image_size  # doctest: +SKIP
        16
    """
    config = load_any_config(source, revision)
    if config.model_type != DeiTLTConfig.model_type:
        raise DeiTLTError(
            f"{source} is a {config.model_type} model, not a DeiT-LT student; pass the output of `deitlt train`"
        )
    return config


def load_any_classifier(source: str, revision: str | None = None) -> PreTrainedModel:
    """The image classifier in a directory or a hub repository, a student or any other, in evaluation mode.

    Args:
        source: directory or hub id.
        revision: branch, tag or commit of a hub repository, by default its main branch.

    Raises:
        DeiTLTError: there is no image classifier.

    Example:
        >>> load_any_classifier("google/vit-base-patch16-224").config.model_type  # doctest: +SKIP
        'vit'
    """
    try:
        return AutoModelForImageClassification.from_pretrained(source, revision=revision).eval()
    except (OSError, ValueError, SafetensorError) as error:
        raise _no_model(source, error) from error


def load_any_config(source: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of the model in a directory or a hub repository.

    Raises:
        DeiTLTError: there is none.

    Example:
        >>> load_any_config("google/vit-base-patch16-224").model_type  # doctest: +SKIP
        'vit'
    """
    try:
        return AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise _no_model(source, error) from error


def _no_model(source: str, error: Exception) -> DeiTLTError:
    return DeiTLTError(
        f"cannot load a model from {source}: {loading_reason(source, error)}; pass a directory with config.json "
        "and model.safetensors, such as the output of `deitlt train`, or a hub id"
    )


def load_image_processor(source: str, revision: str | None = None) -> BaseImageProcessor:
    """The image processor beside a model.

    Raises:
        DeiTLTError: there is none.
    """
    try:
        return AutoImageProcessor.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        reason = "" if Path(source).is_dir() else f": {loading_reason(source, error)}"
        raise DeiTLTError(
            f"{source} has no image processor (preprocessor_config.json){reason}; save one with the model"
        ) from error


def load_run_settings(source: str) -> dict:
    """The settings of the run that wrote a local directory, empty where there are none."""
    directories = (Path(source), Path(source).parent)  # averaged weights lie in a directory of their run
    recipe = next((path for path in (directory / RECIPE_FILE for directory in directories) if path.is_file()), None)
    return {} if recipe is None else yaml.safe_load(recipe.read_text()) or {}
