"""What is known of a saved model, read from the files of its directory and of its run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig

from deitlt_hf.cards.descriptions import DataDescription, describe_data, kind_of_data
from deitlt_hf.cards.record import public_settings
from deitlt_hf.errors import DeiTLTError, loading_reason
from deitlt_hf.evaluation.measures import EXPERTS, MEASURES
from deitlt_hf.files import METRICS_FILE, RECIPE_FILE, REPORT_FILE, RUN_FILE, last_part, read_json, read_settings
from deitlt_hf.foreign.configurations import check_config

EMA_DIRECTORY = "ema"
STATE_FILE = "trainer_state.json"
STUDENT = "deit_lt"
WITH_CODE = (STUDENT, "cifar_resnet", "timm_cosine")  # whose modeling files lie beside their weights
RUNTIME_FILES = {"onnx": "model.onnx", "exported": "model.pt2"}
MAIN = "main"  # the branch that is meant where none is named
ONLY_ROW = "model"  # of a network with one head

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_DEFAULT_DATA = "digits-lt"  # which a run's recipe leaves out, as all defaults


@dataclass(frozen=True)
class Classes:
    """The classes and how many images they have.

    Args:
        number: of classes.
        names: in label order, or None.
        counts: training images per class in label order, or None.
        groups: ids of head, mid and tail classes, or None.
        test_counts: test images per class in label order, or None.
        images, largest, smallest: training images together, of the largest and of the smallest class, or None.
    """

    number: int
    names: Sequence[str] | None = None
    counts: Sequence[int] | None = None
    groups: Mapping[str, Sequence[int]] | None = None
    test_counts: Sequence[int] | None = None
    images: int | None = None
    largest: int | None = None
    smallest: int | None = None

    @classmethod
    def counted(cls, counts: Sequence[int], **known: Any) -> Classes:
        """Classes whose training images are counted one by one.

        Example:
            >>> Classes.counted([90, 3]).images
            93
        """
        return cls(len(counts), counts=counts, images=sum(counts), largest=max(counts), smallest=min(counts), **known)

    @property
    def rarest(self) -> int | None:
        """Label of the class with the fewest training images."""
        return None if self.counts is None else min(range(self.number), key=lambda label: self.counts[label])


@dataclass(frozen=True)
class Results:
    """Accuracies in percent.

    Args:
        rows: `overall`, `head`, `mid`, `tail`, and where known the list `per_class`, by expert, or by `ONLY_ROW`.
        num_images: test images.
        averaged_weights: the same of the averaged weights (EMA).
        after_step: set where the Trainer measured them in the middle of a run.
        published_in, published_at: title and address of a publication, where they are its numbers and no run's.
    """

    rows: Mapping[str, Mapping[str, Any]]
    num_images: int | None = None
    averaged_weights: Mapping[str, Mapping[str, Any]] | None = None
    after_step: int | None = None
    published_in: str | None = None
    published_at: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What a card is written from; whatever is not known is None or empty, and is left out of the card.

    Args:
        title: the model's name.
        location: what the card's snippets load.
        revision: branch of `location`, where that is on the hub and the branch is not the main one.
        on_hub: whether `location` is there, and no directory.
        config: the model's configuration.
        classes: see `Classes`.
        data: what it was trained on.
        settings: of the run, as they may be published; None where there is no recipe.
        hub_ids: those settings among `data`, `teacher` and `init_from` that name something on the hub.
        run: what `run.json` holds.
        results: see `Results`.
        step: of a checkpoint in the middle of a run.
        averaged: whether these are the averaged weights (EMA) of a run.
        num_weights: how many numbers were learned.
        has_picture: whether `report.png` lies beside the weights.
        runtime: `"torch"`, or `"onnx"` or `"exported"` for a directory without PyTorch's weights.
        recipe: name of the package's recipe, where there is no run's `recipe.yaml`.
        processes: devices that `recipe` is meant for.
    """

    title: str
    location: str
    config: PreTrainedConfig
    classes: Classes
    data: DataDescription | None = None
    settings: Mapping[str, Any] | None = None
    hub_ids: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    results: Results | None = None
    step: int | None = None
    averaged: bool = False
    num_weights: int | None = None
    has_picture: bool = False
    runtime: str = "torch"
    recipe: str | None = None
    processes: int = 1
    revision: str | None = None
    on_hub: bool = False

    @property
    def is_student(self) -> bool:
        return self.config.model_type == STUDENT

    @property
    def has_code(self) -> bool:
        """Whether transformers finds the modeling files in the directory, with `trust_remote_code=True`."""
        return "AutoModelForImageClassification" in (getattr(self.config, "auto_map", None) or {})


def read_facts(directory: str | os.PathLike[str], repo_id: str | None = None, branch: str | None = None) -> ModelFacts:
    """Read what a directory tells of its model.

    Of averaged weights (`ema`) and of a `checkpoint-N`, the directory above tells of the run.

    Args:
        directory: with a `config.json`.
        repo_id: what the card's snippets load; by default the directory, of an absolute path its last part.
        branch: of that repository, by default its main one.

    Raises:
        DeiTLTError: no such directory, no model in it, or a file of it that cannot be read.

    Example:
        >>> read_facts("demo-output/student").title  # doctest: +SKIP
        'student'
    """
    given, path = str(directory), Path(directory)
    if not path.is_dir():
        raise DeiTLTError(f"{given} is no directory; pass one with config.json and weights")
    config = _read_config(path)
    part = _find_part(path)
    run = read_json(part.run / RUN_FILE) or {}
    metrics = read_json(part.run / METRICS_FILE) or {}
    settings = read_settings(part.run / RECIPE_FILE)
    hub_ids = run.get("hub_ids") or {}
    return ModelFacts(
        title=repo_id.split("/")[-1] if repo_id is not None else part.title,
        location=repo_id or (path.name if path.is_absolute() else given),
        config=config,
        classes=_classes(config, metrics, run),
        data=_data(settings, run),
        settings=None if settings is None else public_settings(settings, hub_ids),
        hub_ids=hub_ids,
        run=run,
        results=_results(part, metrics, config),
        step=part.step,
        averaged=part.averaged,
        num_weights=_count_weights(path),
        has_picture=(path / REPORT_FILE).is_file(),
        runtime=_runtime(path),
        revision=None if branch == MAIN else branch,
        on_hub=repo_id is not None,
    )


@dataclass(frozen=True)
class _Part:
    """Which weights of which run a directory holds."""

    run: Path
    checkpoint: Path
    step: int | None
    averaged: bool

    @property
    def title(self) -> str:
        step = "" if self.step is None else f", step {self.step:,}"
        return f"{self.run.name or 'model'}{step}{', averaged weights' if self.averaged else ''}"


def _find_part(path: Path) -> _Part:
    """Averaged weights lie in `ema` of a run or of a checkpoint, a checkpoint in its run."""
    run, averaged = path.absolute(), False
    if run.name == EMA_DIRECTORY and not (run / RECIPE_FILE).is_file():
        run, averaged = run.parent, True
    checkpoint, step = run, _CHECKPOINT.fullmatch(run.name)
    if step and not (run / RECIPE_FILE).is_file():
        run = run.parent
    return _Part(run, checkpoint, int(step[1]) if step else None, averaged)


def _read_config(path: Path) -> PreTrainedConfig:
    if not (path / "config.json").is_file():
        raise DeiTLTError(f"{path} has no config.json; pass the directory of a model, such as a run's output")
    check_config(str(path))
    classes = (read_json(path / "config.json") or {}).get("architectures") or ()
    if classes and not any("ForImageClassification" in name for name in classes):
        raise DeiTLTError(f"{path} holds a {classes[0]}, which is no image classifier; pass the directory of one")
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a stranger's file can make the loader fail in any way
        raise DeiTLTError(
            f"{path / 'config.json'} is of no model that transformers or this package knows: "
            f"{loading_reason(str(path), error)}"
        ) from error


def _data(settings: Mapping[str, Any] | None, run: Mapping[str, Any]) -> DataDescription | None:
    of_run = run.get("data") or {}
    if settings is None and not of_run:
        return None
    hub_id = (run.get("hub_ids") or {}).get("data")
    if hub_id is not None:
        return describe_data(hub_id, "hub")
    source = str((settings or {}).get("data", _DEFAULT_DATA))
    return describe_data(of_run.get("name") or last_part(source), of_run.get("kind") or kind_of_data(source))


def _classes(config: PreTrainedConfig, metrics: Mapping[str, Any], run: Mapping[str, Any]) -> Classes:
    names = [str(name) for _, name in sorted(config.id2label.items())]
    counts = getattr(config, "class_counts", None) or metrics.get("class_counts")
    groups = getattr(config, "class_groups", None) or metrics.get("groups")
    test_counts = (run.get("data") or {}).get("test_counts")
    known = {
        "names": names,
        "groups": groups,
        "test_counts": test_counts if len(test_counts or ()) == len(names) else None,
    }
    if counts is None or len(counts) != len(names):
        return Classes(len(names), **known)
    return Classes.counted(counts, **known)


def _results(part: _Part, metrics: Mapping[str, Any], config: PreTrainedConfig) -> Results | None:
    """What was measured with these weights, and not with others of the same run."""
    if part.step is None and part.averaged:
        rows = metrics.get("averaged_weights")
        return None if rows is None else Results(rows, metrics.get("num_images"))
    if part.step is None and "experts" in metrics:
        return Results(metrics["experts"], metrics.get("num_images"), metrics.get("averaged_weights"))
    if part.step is None and "accuracy" in metrics:
        return Results({ONLY_ROW: metrics["accuracy"]})
    return _logged_results(read_json(part.checkpoint / STATE_FILE) or {}, config, "ema_" if part.averaged else "")


def _logged_results(state: Mapping[str, Any], config: PreTrainedConfig, prefix: str) -> Results | None:
    """What the Trainer evaluated at the very step that it saved."""
    step = state.get("global_step")
    prefixes = {ONLY_ROW: f"eval_{prefix}"}
    if config.model_type == STUDENT:
        prefixes = {expert: f"eval_{prefix}{expert}_" for expert in EXPERTS}
    logged: dict[str, float] = {}
    for entry in state.get("log_history", ()):
        logged |= entry if entry.get("step") == step else {}
    rows = {
        row: {group: _finite(logged.get(f"{start}{group}")) for group in (of.key for of in MEASURES)}
        for row, start in prefixes.items()
    }
    if any(row["overall"] is None for row in rows.values()):
        return None
    return Results(rows, after_step=step)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _count_weights(path: Path) -> int | None:
    """Numbers that were learned: those of the files without the statistics of batch normalisation."""
    total = 0
    for file in sorted(path.glob("model*.safetensors")):  # not the state of PaCo beside them
        try:
            with safe_open(file, framework="numpy") as tensors:
                learned = [name for name in tensors.keys() if not name.endswith(_STATISTICS)]  # noqa: SIM118
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in learned)
        except (OSError, SafetensorError) as error:
            raise DeiTLTError(f"{file} cannot be read ({error}); pass a directory with complete weights") from error
    return total or None


def _runtime(path: Path) -> str:
    if any(path.glob("model*.safetensors")):
        return "torch"
    return next((runtime for runtime, file in RUNTIME_FILES.items() if (path / file).is_file()), "torch")
