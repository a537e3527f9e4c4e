"""Loading a student from a directory or the hub, with errors that a user can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
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
from deitlt_hf.hub.data_record import at_recorded_places
from deitlt_hf.hub.run_record import RECIPE_FILE, is_hub_id, read_settings
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

_PLACES = {"data_dir", "teacher", "init_from"}  # where a run found these: a path in a stranger's recipe is none of ours


def load_student(source: str, revision: str | None = None) -> DeiTLTForImageClassification:
    """The student in a directory or a hub repository, in evaluation mode.

    Args:
        source: directory or hub id.
        revision: branch, tag or commit of a hub repository, by default its main branch.

    Raises:
        DeiTLTError: there is no model, or one of another type, or one that lacks a head.

    Example:
        >>> model = load_student("demo-output/student")  # doctest: +SKIP
    """
    load_student_config(source, revision)
    try:
        model, report = DeiTLTForImageClassification.from_pretrained(
            source, revision=revision, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _no_model(source, error) from error
    lost = sorted(report["missing_keys"]) or sorted(key for key, *_ in report["mismatched_keys"])
    if lost:  # training may begin so, predictions would be random
        raise DeiTLTError(f"{source} has no {lost[0]} that fits its configuration; pass a student that is whole")
    return model.eval()


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
        is_there = Path(source, "preprocessor_config.json").is_file()
        reason = "" if Path(source).is_dir() and not is_there else f": {loading_reason(source, error)}"
        what = "an image processor that cannot be read" if is_there else "no image processor"
        raise DeiTLTError(f"{source} has {what} (preprocessor_config.json){reason}; save one with the model") from error


def load_run_settings(source: str, revision: str | None = None) -> dict[str, Any]:
    """The settings of the run that made a model, empty where there are none.

    Of a model on the hub those are left out that name something on the machine where it was trained. Relative paths of
    a run on this machine are those that it was trained with, see `at_recorded_places`.

    Args:
        source: directory or hub id of the model.
        revision: branch, tag or commit of a model on the hub.

    Raises:
        DeiTLTError: they are there and cannot be read.

    Example:
        >>> load_run_settings("demo-output/student")["data"]  # doctest: +SKIP
        'digits-lt'
    """
    if is_hub_id(source):
        return _settings_on_hub(source, revision)
    directories = (Path(source), Path(source).parent)  # averaged weights lie in a directory of their run
    found = (read_settings(directory / RECIPE_FILE) for directory in directories)
    return at_recorded_places(next((settings for settings in found if settings is not None), {}), source)


def _settings_on_hub(source: str, revision: str | None) -> dict[str, Any]:
    try:
        settings = read_settings(Path(hf_hub_download(source, RECIPE_FILE, revision=revision))) or {}
    except (OSError, ValueError):  # no run's model, or no hub, of which loading the model will speak
        return {}
    return {name: value for name, value in settings.items() if name not in _PLACES}
