"""Puts the code of this package's models beside weights that were saved without it.

`save_pretrained` does so too, see the ends of the files in `models/`, but directories of older versions lack the code.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import whole_file
from deitlt_hf.models import MODEL_TYPES

_MODELS = Path(__file__).parents[1] / "models"
_REGISTRATION = re.compile(r'^(\w+)\.register_for_auto_class\((?:"(\w+)")?\)$', re.MULTILINE)


def code_files(directory: str | os.PathLike[str]) -> list[Path]:
    """The code files that a directory's `config.json` names, and the files beside them that they import."""
    from transformers.dynamic_module_utils import get_relative_import_files

    directory = Path(directory)
    places = (_read_config(directory).get("auto_map") or {}).values()
    named = {directory / f"{place.split('.')[0]}.py" for place in places if isinstance(place, str)}
    imported = {Path(file) for path in named if path.is_file() for file in get_relative_import_files(path)}
    return sorted(path for path in named | imported if path.parent == directory and path.is_file())


def add_remote_code(directory: str | os.PathLike[str]) -> None:
    """Copy the code of a model of this package into its directory, unless `config.json` names some already."""
    directory = Path(directory)
    config = _read_config(directory)
    model_type = config.get("model_type")
    if config.get("auto_map") or model_type not in MODEL_TYPES:
        return
    # Not transformers' `custom_object_save`, which needs an object of each class.
    auto_map = {}
    for file in _modules(model_type):
        source = file.read_text(encoding="utf-8")
        (directory / file.name).write_text(source, encoding="utf-8")
        for name, auto_class in _REGISTRATION.findall(source):
            auto_map[auto_class or "AutoConfig"] = f"{file.stem}.{name}"
    with whole_file(directory / "config.json") as unfinished:
        unfinished.write_text(json.dumps(config | {"auto_map": auto_map}, indent=2, sort_keys=True) + "\n")


def refresh_remote_code(directory: str | os.PathLike[str]) -> list[str]:
    """Bring the code of a model of this package in its directory up to date; returns the names of changed files.

    An older version of it may not know a field of `config.json`.
    """
    changed = []
    for file in _modules(_read_config(Path(directory)).get("model_type")):
        own = Path(directory) / file.name
        if own.is_file() and own.read_bytes() != file.read_bytes():
            with whole_file(own) as unfinished:
                unfinished.write_bytes(file.read_bytes())
            changed.append(file.name)
    return changed


def _modules(model_type: str) -> list[Path]:
    """The modules of a model of this package."""
    return [_MODELS / model_type / f"{part}_{model_type}.py" for part in ("configuration", "modeling")]


def _read_config(directory: Path) -> dict:
    file = directory / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeiTLTError(f"{file} cannot be read ({error}); pass the directory of a model") from error
    if not isinstance(config, dict):
        raise DeiTLTError(f"{file} holds no settings; pass the directory of a model")
    return config
