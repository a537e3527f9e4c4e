"""The record that a model's card is filled from, read from the files of the model and of its run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig

import deitlt_hf
from deitlt_hf.cards.descriptions import DataDescription, describe_architecture, describe_data, kind_of_data
from deitlt_hf.data.arguments import names_of
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.data.record import read_data_record
from deitlt_hf.errors import DeiTLTError, loading_reason
from deitlt_hf.evaluation.measures import EXPERTS, MEASURES, TEACHER, format_difference
from deitlt_hf.files import (
    CALIBRATION_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    REPORT_FILE,
    RUN_FILE,
    is_hub_id,
    last_part,
    public_name,
    read_json,
    read_settings,
)
from deitlt_hf.foreign.configurations import check_config
from deitlt_hf.long_tail_accuracy.scores import USUAL_THRESHOLDS
from deitlt_hf.models import MODEL_TYPES

if TYPE_CHECKING:
    from deitlt_hf.cards.paper_settings import PaperSetting

ONLY_ROW = "model"  # of the results of a network with one head

# Where a run's files go, and by whose account: useless to others, or private.
PRIVATE_SETTINGS = {
    *("output_dir", "run_name", "logging_dir", "push_to_hub", "hub_model_id", "hub_token", "hub_strategy"),
    *("hub_private_repo", "hub_always_push", "hub_revision"),
}

_STUDENT = "deit_lt"
_RUNTIME_FILES = {"onnx": "model.onnx", "exported": "model.pt2"}
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_DEFAULT_DATA = "digits-lt"  # a recipe leaves defaults out
_NOT_LEARNED = ("running_mean", "running_var", "num_batches_tracked")  # statistics of batch normalisation


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A saved model and its run; what the files do not tell is None or empty, and the card leaves it out."""

    title: str
    location: str  # what the snippets load
    revision: str | None = None  # branch of `location`, unless it is the main one
    on_hub: bool = False  # whether `location` is a hub id

    config: PreTrainedConfig
    has_code: bool = False  # whether transformers finds modeling files beside the weights
    runtime: str = "torch"  # or "onnx" or "exported", where there are no weights of PyTorch
    num_weights: int | None = None  # numbers that were learned
    step: int | None = None  # of a checkpoint in the middle of a run
    averaged: bool = False  # whether these are the averaged weights (EMA)
    has_picture: bool = False  # whether report.png lies beside the weights

    settings: Mapping[str, Any] | None = None  # of the run, as they may be published
    hub_ids: Mapping[str, str] = field(default_factory=dict)  # those of `data`, `teacher`, `init_from` on the hub
    run: Mapping[str, Any] = field(default_factory=dict)  # run.json
    data: DataDescription | None = None

    class_counts: Sequence[int] | None = None  # training images per class, in label order
    totals: tuple[int, int, int] | None = None  # training images: all, of the largest class, of the smallest
    groups: Mapping[str, Sequence[int]] | None = None  # labels of head, mid and tail
    test_counts: Sequence[int] | None = None  # test images per class

    calibration: Mapping[str, Any] = field(default_factory=dict)  # calibration.json
    difference: str | None = None  # of the default expert from the teacher, in words
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # percentages by expert, or by ONLY_ROW
    averaged_results: Mapping[str, Mapping[str, Any]] | None = None  # of the averaged weights beside these
    results_step: int | None = None  # where the Trainer measured them in the middle of a run
    measured_split: str = "test"  # or "validation", where the Trainer measured them on that
    num_test_images: int | None = None
    paper: PaperSetting | None = None  # where there are no weights, and the results are the paper's

    @property
    def is_student(self) -> bool:
        return self.config.model_type == _STUDENT

    @property
    def needs_code(self) -> bool:
        """Whether transformers alone does not know the model."""
        return self.config.model_type in MODEL_TYPES

    @property
    def class_names(self) -> list[str]:
        return names_of(self.config)

    def counts_of(self, group: str) -> list[int]:
        """Training images of each class of a group."""
        return [self.class_counts[label] for label in self.groups[group]]

    @property
    def groups_are_thirds(self) -> bool:
        """Whether the usual thresholds would have left a group empty."""
        counts = self.class_counts
        return bool(counts) and class_groups(counts) != class_groups(counts, USUAL_THRESHOLDS)

    @property
    def rarest(self) -> int | None:
        """Label of the class with the fewest training images."""
        counts = self.class_counts
        return None if counts is None else min(range(len(counts)), key=counts.__getitem__)

    @property
    def per_class(self) -> dict[str, Sequence[float | None]]:
        """Accuracies in label order, of the rows of the results that have them."""
        return {row: values["per_class"] for row, values in self.results.items() if values.get("per_class")}

    @property
    def best(self) -> dict[str, list[str]]:
        """The best rows of the results by column, without columns in which all are equal or none is measured."""
        best = {}
        for column in ("head", "tail", "overall"):
            measured = {row: value[column] for row, value in self.results.items() if value.get(column) is not None}
            rows = [row for row, value in measured.items() if value == max(measured.values())]
            if 0 < len(rows) < len(self.results):
                best[column] = rows
        return best

    @property
    def expected(self) -> dict[str, float]:
        """Each row's accuracy on images that are spread over the classes as the training images are."""
        counts, per_class = self.class_counts, self.per_class
        if not counts or per_class.keys() != self.results.keys() or any(None in of for of in per_class.values()):
            return {}
        return {row: float(np.average(values, weights=counts)) for row, values in per_class.items()}


def read_record(directory: str | os.PathLike[str], repo_id: str | None = None, branch: str | None = None) -> RunRecord:
    """Read a model's record; of averaged weights and checkpoints, the directory above holds the run's files."""
    given, path = str(directory), Path(directory)
    if not path.is_dir():
        raise DeiTLTError(f"{given} is no directory; pass one with config.json and weights")
    config = _read_config(path)
    run_path, checkpoint, step, averaged = _place_in_run(path.absolute())
    run = read_json(run_path / RUN_FILE) or {}
    hub_ids = {name: str(id) for name, id in (run.get("hub_ids") or {}).items() if _HUB_ID.fullmatch(str(id))}
    metrics = read_json(run_path / METRICS_FILE) or {}
    settings = read_settings(run_path / RECIPE_FILE)
    results, results_step = _measured_results(config, metrics, averaged) if step is None else {}, None
    has_difference = TEACHER in results and config.expert in (metrics.get("against_teacher") or {})
    if not results and (step is not None or not averaged):
        state = read_json(checkpoint / "trainer_state.json") or {}
        results = _logged_results(state, EXPERTS if config.model_type == _STUDENT else (), "ema_" * averaged)
        results_step = state.get("global_step")

    shapes = read_shapes(path, "model*.safetensors")  # without the state of PaCo beside them
    exports = [name for name, file in _RUNTIME_FILES.items() if not shapes and (path / file).is_file()]
    counts = getattr(config, "class_counts", None) or metrics.get("class_counts")
    counts = counts if counts is not None and len(counts) == config.num_labels else None
    test_counts = (run.get("data") or {}).get("test_counts") or ()
    title = f"{run_path.name or 'model'}{'' if step is None else f', step {step:,}'}"
    return RunRecord(
        title=repo_id.split("/")[-1] if repo_id is not None else title + ", averaged weights" * averaged,
        location=repo_id or (path.name if path.is_absolute() else given),
        revision=None if branch == "main" else branch,
        on_hub=repo_id is not None,
        config=config,
        has_code="AutoModelForImageClassification" in (getattr(config, "auto_map", None) or {}),
        runtime=(*exports, "torch")[0],
        num_weights=sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(_NOT_LEARNED)) or None,
        step=step,
        averaged=averaged,
        has_picture=(path / REPORT_FILE).is_file(),
        settings=None if settings is None else public_settings(settings, hub_ids),
        hub_ids=hub_ids,
        run=run,
        data=_data(settings, run.get("data") or {}, hub_ids.get("data")),
        class_counts=counts,
        totals=None if counts is None else (sum(counts), max(counts), min(counts)),
        groups=getattr(config, "class_groups", None) or metrics.get("groups"),
        test_counts=test_counts if len(test_counts) == config.num_labels else None,
        calibration=read_json(path / CALIBRATION_FILE) or {},
        results=results,
        difference=format_difference(metrics, config.expert) if has_difference else None,
        averaged_results=None if averaged or step is not None else metrics.get("averaged_weights"),
        results_step=results_step,
        measured_split="validation" if results_step is not None and _has_validation(run, run_path) else "test",
        num_test_images=metrics.get("num_images") if results and results_step is None else None,
    )


@contextmanager
def files_of_a_run(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the error that a wrong value deep in one of a run's files causes into one line."""
    try:
        yield
    except DeiTLTError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, jinja2.TemplateError) as error:
        raise DeiTLTError(
            f"{directory}: {METRICS_FILE}, {RUN_FILE} or {RECIPE_FILE} holds what this package never writes "
            f"({type(error).__name__}: {error}); mend it or remove it"
        ) from error


def _read_config(path: Path) -> PreTrainedConfig:
    if not (path / "config.json").is_file():
        raise DeiTLTError(f"{path} has no config.json; pass the directory of a model, such as a run's output")
    check_config(str(path))
    classes = (read_json(path / "config.json") or {}).get("architectures") or ()
    if classes and not any("ForImageClassification" in name for name in classes):
        raise DeiTLTError(f"{path} holds a {classes[0]}, which is no image classifier; pass the directory of one")
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a file of others can raise an error of any type
        raise DeiTLTError(
            f"{path / 'config.json'} is of no model that transformers or this package knows: "
            f"{loading_reason(str(path), error)}"
        ) from error


def _place_in_run(path: Path) -> tuple[Path, Path, int | None, bool]:
    """The run that a model belongs to, the directory of its checkpoint in it and its step, and whether it is averaged.

    Of a finished run, the run's directory stands for the checkpoint, without a step.
    """
    checkpoint, averaged = path, False
    if path.name == "ema" and not (path / RECIPE_FILE).is_file():
        checkpoint, averaged = path.parent, True
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    if match and not (checkpoint / RECIPE_FILE).is_file():
        return checkpoint.parent, checkpoint, int(match[1]), averaged
    return checkpoint, checkpoint, None, averaged


def _measured_results(
    config: PreTrainedConfig, metrics: Mapping[str, Any], averaged: bool
) -> dict[str, Mapping[str, Any]]:
    """The rows of a finished run's metrics that are about its weights or its averaged ones."""
    if averaged:
        return metrics.get("averaged_weights") or {}
    results = {ONLY_ROW: metrics["accuracy"]} if metrics.get("accuracy") else metrics.get("experts") or {}
    has_teacher = results and TEACHER in metrics and config.model_type == _STUDENT
    return results | {TEACHER: metrics[TEACHER]} if has_teacher else results


def _data(settings: Mapping[str, Any] | None, of_run: Mapping[str, Any], hub_id: str | None) -> DataDescription | None:
    if hub_id is not None:
        return describe_data(hub_id, "hub")
    if settings is None and not of_run:
        return None
    source = str((settings or {}).get("data", _DEFAULT_DATA))
    name, kind = of_run.get("name") or last_part(source), of_run.get("kind") or kind_of_data(source)
    if not isinstance(name, str) or kind not in ("named", "hub", "local"):
        raise ValueError(f"data {name!r} of kind {kind!r}")
    return describe_data(name, kind)


def _has_validation(run: Mapping[str, Any], run_path: Path) -> bool:
    """Whether the Trainer evaluated a validation split; until a run's end, only `data.json` tells."""
    if run:
        return bool((run.get("data") or {}).get("validation_images"))
    record = read_data_record(run_path)
    return record is not None and bool(record.validation_counts)


def _logged_results(state: Mapping[str, Any], experts: Sequence[str], prefix: str) -> dict[str, dict[str, Any]]:
    """What the Trainer measured at the step at which it saved."""
    logged: dict[str, float] = {}
    for entry in state.get("log_history", ()):
        logged |= entry if entry.get("step") == state.get("global_step") else {}
    known = {name: value for name, value in logged.items() if isinstance(value, (int, float)) and not math.isnan(value)}
    starts = {expert: f"eval_{prefix}{expert}_" for expert in experts} or {ONLY_ROW: f"eval_{prefix}"}
    rows = {row: {measure.key: known.get(start + measure.key) for measure in MEASURES} for row, start in starts.items()}
    return rows if all(row["overall"] is not None for row in rows.values()) else {}


def read_shapes(path: Path, pattern: str) -> dict[str, list[int]]:
    """The shapes of the tensors in a directory's safetensors files, by name."""
    shapes = {}
    for file in sorted(path.glob(pattern)):
        try:
            with safe_open(file, framework="numpy") as tensors:
                shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DeiTLTError(f"{file} cannot be read ({error}); pass a directory with complete weights") from error
    return shapes


def installed_versions() -> dict[str, str]:
    """Versions of this package and of those that training depends on, without importing them."""
    versions = {"deitlt_hf": deitlt_hf.__version__}
    for package in ("torch", "transformers", "datasets", "accelerate", "timm"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # some builds register no metadata
            continue
    return versions


def find_hub_ids(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings `data`, `teacher` and `init_from`, as far as they are hub ids."""
    named = {name: settings.get(name) for name in ("data", "teacher", "init_from")}
    return {name: source for name, source in named.items() if isinstance(source, str) and is_hub_id(source)}


def public_settings(settings: Mapping[str, Any], hub_ids: Mapping[str, str]) -> dict[str, Any]:
    """Settings as they may be published: without accounts, and with only the last part of paths that are no hub ids.

    Example:
        >>> public_settings({"data": "/home/me/pets", "hub_token": "hf_x", "learning_rate": 0.1}, {})
        {'data': 'pets', 'learning_rate': 0.1}
    """
    shown = {name: value for name, value in settings.items() if name not in PRIVATE_SETTINGS}
    for name, value in shown.items():
        is_path = (
            name != "group_column"
            and isinstance(value, str)
            and (re.search(r"[/\\]", value) or value.startswith((".", "~")))
        )
        if is_path and hub_ids.get(name) != value:
            shown[name] = last_part(value)
    return shown


def teacher_record(source: str, config: PreTrainedConfig) -> dict[str, Any]:
    """What `run.json` says about a teacher, from its configuration and the files of its own run."""
    directory = Path(source)
    settings = read_settings(directory / RECIPE_FILE)
    run = read_json(directory / RUN_FILE) or {}
    metrics = read_json(directory / METRICS_FILE) or {}
    measured = metrics.get("accuracy") or (metrics.get("experts") or {}).get("average")
    return {
        "name": public_name(source),
        "model_type": config.model_type,
        "architecture": describe_architecture(config),
        "accuracy": measured and {one.key: measured[one.key] for one in MEASURES if one.key in measured},
        "settings": None if settings is None else public_settings(settings, run.get("hub_ids") or {}),
    }
