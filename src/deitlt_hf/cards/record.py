"""What a run leaves beside its weights for the card: `run.json`, and settings that may be shown to anybody."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

import deitlt_hf
from deitlt_hf.cards.descriptions import describe_architecture
from deitlt_hf.evaluation.measures import MEASURES
from deitlt_hf.files import METRICS_FILE, RECIPE_FILE, RUN_FILE, is_hub_id, last_part, read_json, read_settings

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


def _without_folders(value: Any) -> Any:
    is_path = isinstance(value, str) and (re.search(r"[/\\]", value) or value.startswith((".", "~")))
    return last_part(value) if is_path else value


def _accuracy(metrics: Mapping[str, Any]) -> dict[str, float | None] | None:
    measured = metrics.get("accuracy") or (metrics.get("experts") or {}).get("average")
    return None if measured is None else {of.key: measured[of.key] for of in MEASURES if of.key in measured}
