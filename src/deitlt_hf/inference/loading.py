"""Loads models and what lies beside them from a directory or the hub; others made them, so everything is checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor

from deitlt_hf.data.arguments import names_of
from deitlt_hf.data.record import at_recorded_places
from deitlt_hf.errors import DeiTLTError, cannot_load, loading_reason
from deitlt_hf.evaluation.answer_rules import AnswerRules
from deitlt_hf.evaluation.selective import Validation
from deitlt_hf.files import CALIBRATION_FILE, RECIPE_FILE, is_hub_id, read_json, read_settings
from deitlt_hf.foreign.adapters import is_adapter
from deitlt_hf.foreign.configurations import check_config, check_processor, find_file
from deitlt_hf.foreign.weights import check_finite, check_size
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

_PLACES = {"data_dir", "teacher", "init_from"}  # paths on the machine where the model was trained


def load_student(source: str, revision: str | None = None) -> DeiTLTForImageClassification:
    """The student in a directory or hub repository, in evaluation mode, with every weight taken from its file."""
    config = load_student_config(source, revision)
    model, report = load_model(DeiTLTForImageClassification, config, source, revision)
    _check_whole(source, report, "a student")
    return model


def load_any_classifier(source: str, revision: str | None = None, what: str = "a model") -> PreTrainedModel:
    """The image classifier in a directory or hub repository, a student or any other, in evaluation mode.

    Every weight is taken from its file: without its classifier, as a pretrained body is, its predictions are random.
    """
    config = load_any_config(source, revision, what)
    model, report = load_model(AutoModelForImageClassification, config, source, revision, what)
    _check_whole(source, report, "a student" if config.model_type == DeiTLTConfig.model_type else what)
    return model


def _check_whole(source: str, report: dict[str, Any], what: str) -> None:
    lost = sorted(report["missing_keys"]) or sorted(key for key, *_ in report["mismatched_keys"])
    if lost:  # a training may start with new weights, but predictions would be random
        raise DeiTLTError(f"{source} has no {lost[0]} that fits its configuration; pass {what} that is whole")


def load_model(
    auto_class: Any,
    config: PreTrainedConfig,
    source: str,
    revision: str | None = None,
    what: str = "a model",
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """A checked model in evaluation mode, and the loading report; `options` are for `auto_class.from_pretrained`."""
    with loading(source, what):
        check_size(auto_class, config, source, revision)
        model, report = auto_class.from_pretrained(
            source, config=config, revision=revision, trust_remote_code=False, output_loading_info=True, **options
        )
    check_finite(model, source)
    return model.eval(), report


def load_student_config(source: str, revision: str | None = None) -> DeiTLTConfig:
    """The configuration of the student in a directory or hub repository."""
    config = load_any_config(source, revision)
    if config.model_type != DeiTLTConfig.model_type:
        raise DeiTLTError(
            f"{source} is a {config.model_type} model, not a DeiT-LT student; pass the output of `deitlt train`"
        )
    return config


def load_any_config(source: str, revision: str | None = None, what: str = "a model") -> PreTrainedConfig:
    """The configuration of the model in a directory or hub repository, after `check_config`."""
    if is_adapter(source):
        raise DeiTLTError(
            f"{source} holds adapters and no whole model; pass the directory of their finished run, where they are "
            "merged (in Python, load_adapted_student merges them)"
        )
    check_config(source, revision)
    with loading(source, what):
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)


@contextmanager
def loading(source: str, what: str = "a model") -> Iterator[None]:
    """Turn every error inside into "cannot load a model": files of others can raise errors of any type."""
    try:
        yield
    except DeiTLTError:
        raise
    except Exception as error:
        raise cannot_load(what, source, loading_reason(source, error)) from error


def load_image_processor(source: str, revision: str | None = None) -> BaseImageProcessor:
    """The image processor that is saved with a model."""
    try:
        check_processor(source, revision)
        return AutoImageProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # a file of others can raise an error of any type
        has_file = Path(source, "preprocessor_config.json").is_file()
        reason = "" if Path(source).is_dir() and not has_file else f": {loading_reason(source, error)}"
        what = "an image processor that cannot be read" if has_file else "no image processor"
        raise DeiTLTError(f"{source} has {what} (preprocessor_config.json){reason}; save one with the model") from error


def load_run_settings(source: str, revision: str | None = None) -> dict[str, Any]:
    """The settings of the run that made a model, with paths that are valid here; empty for a model without a recipe."""
    if is_hub_id(source):
        try:
            file = find_file(source, RECIPE_FILE, revision)
            settings = read_settings(file) if file else None
        except DeiTLTError:  # a model can be used without its recipe
            settings = None
        return {name: value for name, value in (settings or {}).items() if name not in _PLACES}
    directories = (Path(source), Path(source).parent)  # averaged weights are in a folder of their run
    found = (read_settings(directory / RECIPE_FILE) for directory in directories)
    return at_recorded_places(next((settings for settings in found if settings is not None), {}), source)


def load_answer_rules(
    source: str,
    config: PreTrainedConfig,
    revision: str | None = None,
    precision: float | None = None,
    coverage: float | None = None,
) -> AnswerRules | None:
    """The rules of a calibrated student for a precision of its answers and a coverage of its sets; None without both.

    Raises:
        DeiTLTError: the model was not calibrated, or its validation images do not reach what is asked.
    """
    if precision is None and coverage is None:
        return None
    file = find_file(source, CALIBRATION_FILE, revision)
    content = None if file is None or getattr(config, "fusion", None) is None else read_json(file)
    if not content and getattr(config, "exported_precision", None) == "int8":
        raise DeiTLTError(
            f"a precision and a coverage need thresholds of validation images, and {source} is in 8 bits, which "
            "changes the probabilities that they were found on; pass the student, or an export of it without int8"
        )
    if not content:
        raise DeiTLTError(
            f"a precision and a coverage need thresholds of validation images, and {source} has no {CALIBRATION_FILE} "
            "that fits it; run `deitlt calibrate` on the student"
        )
    names = names_of(config)
    groups = getattr(config, "class_groups", None)
    validation = Validation.read(content.get("validation"), len(names), groups)
    rules = AnswerRules.found(validation, precision, coverage)
    rules.say(names)
    return rules
