"""What a run leaves beside its weights for the card: `run.json`, and settings that may be shown to anybody."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig

import deitlt_hf
from deitlt_hf.cards.descriptions import describe_architecture
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.accuracy import GROUPS

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.png"
RUN_FILE = "run.json"

# Where a run's files go, and with whose account: of no use to others, or not theirs to know.
PRIVATE_SETTINGS = {
    "output_dir",
    "run_name",
    "logging_dir",
    "push_to_hub",
    "hub_model_id",
    "hub_token",
    "hub_strategy",
    "hub_private_repo",
    "hub_always_push",
    "hub_revision",
}

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "timm")
# What others than this package may have written into a run's files, where commands would fail late at another type.
_TYPES: dict[str, dict[str, Any]] = {
    RECIPE_FILE: {
        **dict.fromkeys(("data", "data_dir", "teacher", "init_from", "teacher_pixels", "distillation_type"), str),
        "imbalance_factor": int | float,
    },
    RUN_FILE: dict.fromkeys(("data", "hub_ids", "versions", "teacher", "training"), dict),
    METRICS_FILE: {
        **dict.fromkeys(("experts", "averaged_weights", "accuracy", "groups"), dict),
        "class_counts": list,
    },
}
_MOST_BYTES = 2**25  # a hundred thousand classes with names and counts fit
_SOURCES = ("data", "teacher", "init_from")


def installed_versions() -> dict[str, str]:
    """Versions of this package and of those that training depends on; none of them is imported.

    Example:
        >>> list(installed_versions())[:2]
        ['deitlt_hf', 'torch']
    """
    versions = {"deitlt_hf": deitlt_hf.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a build that registers no metadata
            continue
    return versions


def find_hub_ids(settings: Mapping[str, Any]) -> dict[str, str]:
    """Those of the settings `data`, `teacher` and `init_from` that name something on the hub and no path here.

    Example:
        >>> find_hub_ids({"data": "uoft-cs/cifar10", "teacher": "../teacher"})
        {'data': 'uoft-cs/cifar10'}
    """
    named = {name: settings[name] for name in _SOURCES if isinstance(settings.get(name), str)}
    return {name: source for name, source in named.items() if is_hub_id(source)}


def is_hub_id(source: str) -> bool:
    """Whether it is `owner/name`, and neither a path nor starts with a folder that is here.

    Example:
        >>> is_hub_id("google/vit-base-patch16-224"), is_hub_id("./teacher")
        (True, False)
    """
    owner, slash, name = source.partition("/")
    if not (slash and name) or Path(source).exists() or Path(owner).is_dir():
        return False
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def public_settings(settings: Mapping[str, Any], hub_ids: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a run as they may be published: of paths the last part, and nothing about accounts.

    Args:
        settings: what `recipe.yaml` holds.
        hub_ids: what `find_hub_ids` found when the run ended; these stay as they are.

    Example:
        >>> public_settings({"data": "/home/me/pets", "hub_token": "hf_x", "learning_rate": 0.1}, {})
        {'data': 'pets', 'learning_rate': 0.1}
    """
    shown = {name: value for name, value in settings.items() if name not in PRIVATE_SETTINGS}
    return {name: value if hub_ids.get(name) == value else _without_folders(value) for name, value in shown.items()}


def last_part(path: str) -> str:
    """The name of a file or directory without its folders, written for this system or another.

    Example:
        >>> last_part("/home/me/pets/"), last_part("me\\\\pets")
        ('pets', 'pets')
    """
    return PureWindowsPath(path).name or PureWindowsPath(os.path.abspath(path)).name or path


def teacher_record(source: str, config: PreTrainedConfig) -> dict[str, Any]:
    """What is known of a teacher: of what it is from its configuration, the rest from its own run's files.

    Args:
        source: directory or hub id.
        config: its configuration.

    Returns:
        `name` (hub id or a directory's name), `model_type`, `architecture` in words, `accuracy` (percentages
        `overall`, `head`, `mid`, `tail`) and `settings`; None for what its directory does not tell.

    Example:
        >>> teacher_record("runs/teacher", model.config)["architecture"]  # doctest: +SKIP
        'CIFAR ResNet-32, for images of 32 pixels'
    """
    directory = Path(source)
    settings = read_settings(directory / RECIPE_FILE)
    run = read_json(directory / RUN_FILE) or {}
    return {
        "name": find_hub_ids({"teacher": source}).get("teacher") or last_part(source),
        "model_type": config.model_type,
        "architecture": describe_architecture(config),
        "accuracy": _accuracy(read_json(directory / METRICS_FILE) or {}),
        "settings": None if settings is None else public_settings(settings, run.get("hub_ids") or {}),
    }


def read_settings(file: Path) -> dict[str, Any] | None:
    """The settings in a YAML file; None where there is no file.

    Raises:
        DeiTLTError: it does not hold settings.

    Example:
        >>> read_settings(Path("no-such-file.yaml")) is None
        True
    """
    return _read(file, load_settings, "settings such as `num_train_epochs: 100`")


def load_settings(text: str) -> Any:
    """The value of a YAML text without aliases, which in a few lines can stand for gigabytes.

    Example:
        >>> load_settings("num_train_epochs: 100")
        {'num_train_epochs': 100}
    """
    return yaml.load(text, _WithoutAliases)


class _WithoutAliases(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"it has the alias *{self.peek_event().anchor}, and settings are written out")
        return super().compose_node(parent, index)


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file.

    Raises:
        DeiTLTError: it does not hold an object.

    Example:
        >>> read_json(Path("no-such-file.json")) is None
        True
    """
    return _read(file, json.loads, "a JSON object")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON, whole or not at all.

    Example:
        >>> write_json(Path("numbers.json"), {"overall": 81.0})  # doctest: +SKIP
    """
    aside = path.with_name(f"{path.name}.part")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(aside, path)


def _read(file: Path, parse: Any, what: str) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    if file.stat().st_size > _MOST_BYTES:
        raise DeiTLTError(f"{file} has more than {_MOST_BYTES // 2**20} MB, so it does not hold {what}; remove it")
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DeiTLTError(f"{file} cannot be read ({reason}); mend it or remove it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise DeiTLTError(f"{file} does not hold {what}; mend it or remove it")
    for name, of in _TYPES.get(file.name, {}).items():
        if not isinstance(content.get(name), of | None):
            raise DeiTLTError(f"{file}: {name} is {content[name]!r:.60}, as this package never writes it; mend it")
    return content


def _without_folders(value: Any) -> Any:
    is_path = isinstance(value, str) and (re.search(r"[/\\]", value) or value.startswith((".", "~")))
    return last_part(value) if is_path else value


def _accuracy(metrics: Mapping[str, Any]) -> dict[str, float | None] | None:
    measured = metrics.get("accuracy") or (metrics.get("experts") or {}).get("average")
    return None if measured is None else {group: measured.get(group) for group in ("overall", *GROUPS)}
