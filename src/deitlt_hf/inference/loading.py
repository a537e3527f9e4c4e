"""Loading a student from a directory or the hub, with errors that a user can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor

from deitlt_hf.data.record import at_recorded_places
from deitlt_hf.errors import DeiTLTError, loading_reason
from deitlt_hf.files import RECIPE_FILE, is_hub_id, read_settings
from deitlt_hf.foreign.configurations import check_config, check_processor
from deitlt_hf.foreign.weights import check_finite, check_size
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

_ADVICE = {
    "a model": "pass a directory with config.json and model.safetensors, such as the output of `deitlt train`, or a "
    "hub id",
    "a teacher": "pass the directory of an image classifier, such as the output of `deitlt teacher`, or a hub id",
}
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
    config = load_student_config(source, revision)
    with loading(source):
        check_size(DeiTLTForImageClassification, config, source, revision)
        model, report = DeiTLTForImageClassification.from_pretrained(
            source, revision=revision, output_loading_info=True
        )
    lost = sorted(report["missing_keys"]) or sorted(key for key, *_ in report["mismatched_keys"])
    if lost:  # training may begin so, predictions would be random
        raise DeiTLTError(f"{source} has no {lost[0]} that fits its configuration; pass a student that is whole")
    check_finite(model, source)
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


def load_any_classifier(source: str, revision: str | None = None, what: str = "a model") -> PreTrainedModel:
    """The image classifier in a directory or a hub repository, a student or any other, in evaluation mode.

    Args:
        source: directory or hub id.
        revision: branch, tag or commit of a hub repository, by default its main branch.
        what: is loaded, for messages.

    Raises:
        DeiTLTError: there is no image classifier, or one with values or weights that nothing can be classified with.

    Example:
        >>> load_any_classifier("google/vit-base-patch16-224").config.model_type  # doctest: +SKIP
        'vit'
    """
    config = load_any_config(source, revision, what)
    with loading(source, what):
        check_size(AutoModelForImageClassification, config, source, revision)
        model = AutoModelForImageClassification.from_pretrained(source, revision=revision, trust_remote_code=False)
    check_finite(model, source)
    return model.eval()


def load_any_config(source: str, revision: str | None = None, what: str = "a model") -> PreTrainedConfig:
    """The configuration of the model in a directory or a hub repository.

    Raises:
        DeiTLTError: there is none, or one with values that no image classifier has; see `check_config`.

    Example:
        >>> load_any_config("google/vit-base-patch16-224").model_type  # doctest: +SKIP
        'vit'
    """
    check_config(source, revision)
    with loading(source, what):
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)


@contextmanager
def loading(source: str, what: str = "a model") -> Iterator[None]:
    """Inside, every error is that the model cannot be loaded: a stranger's files can make the loader fail in any way.

    Example:
        >>> try:
        ...     with loading("student"):
        ...         raise KeyError("hidden_size")
        ... except DeiTLTError as error:
        ...     print(str(error)[:71])
        cannot load a model from student: KeyError: 'hidden_size'; pass a direc
    """
    try:
        yield
    except DeiTLTError:
        raise
    except Exception as error:
        raise DeiTLTError(
            f"cannot load {what} from {source}: {loading_reason(source, error)}; {_ADVICE[what]}"
        ) from error


def load_image_processor(source: str, revision: str | None = None) -> BaseImageProcessor:
    """The image processor beside a model.

    Raises:
        DeiTLTError: there is none.
    """
    try:
        check_processor(source, revision)
        return AutoImageProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # a stranger's file can make the loader fail in any way
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
