"""Files and directories that appear only when they are complete, and careful reading of files that others wrote."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from deitlt_hf.errors import DeiTLTError

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.png"
RUN_FILE = "run.json"
CALIBRATION_FILE = "calibration.json"

# Types of the values in a run's files: others may have written them, and a wrong type would fail late.
_TYPES: dict[str, dict[str, Any]] = {
    RECIPE_FILE: {
        **dict.fromkeys(("data", "data_dir", "teacher", "init_from", "teacher_pixels", "distillation_type"), str),
        "imbalance_factor": int | float,
    },
    RUN_FILE: {
        **dict.fromkeys(("data", "hub_ids", "versions", "teacher", "training"), dict),
        **dict.fromkeys(("data.name", "data.kind"), str),
        "data.benchmark_tasks": list,
    },
    CALIBRATION_FILE: {
        "split": str,
        **dict.fromkeys(("validation", "test", "test.calibration_error", "test.precision", "test.coverage"), dict),
    },
    METRICS_FILE: {
        **dict.fromkeys(("experts", "averaged_weights", "teacher", "against_teacher", "accuracy", "groups"), dict),
        "class_counts": list,
    },
}
_MOST_BYTES = 2**25  # a hundred thousand classes with names and counts fit


def check_is_directory(directory: str | os.PathLike[str]) -> None:
    """Refuse a directory of a model that does not exist."""
    if not Path(directory).is_dir():
        raise DeiTLTError(f"there is no directory {directory}; pass the output of `deitlt train`, or a saved model")


def check_is_free(directory: str | os.PathLike[str]) -> None:
    """Refuse a directory that is not empty, or that cannot be made."""
    path = Path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty" if path.is_dir() else "is a file"
        raise DeiTLTError(f"{directory} {what}; pass a directory that does not exist yet")
    check_is_writable(path)


def check_is_writable(directory: Path, flag: str = "") -> None:
    """Refuse a directory that cannot be made or written; `flag` is the option that named it, for the message."""
    another = f"pass another {flag}".strip()
    try:
        existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long
        raise DeiTLTError(f"cannot write {directory}: {error.strerror}; {another}") from error
    try:
        os.rmdir(tempfile.mkdtemp(dir=existing))  # only trying is certain: /proc has the mode of a writable one
    except OSError as error:
        raise DeiTLTError(f"cannot write {directory}: {existing} is no directory to write into; {another}") from error


def check_is_new(file: Path, flag: str) -> None:
    """Refuse a file that exists, or that has no directory; `flag` is the option that named it, for the message."""
    if file.exists():
        raise DeiTLTError(f"{file} exists; pass another {flag}")
    if not file.parent.is_dir():
        raise DeiTLTError(f"{file.parent} is no directory; make it, or pass another {flag}")


@contextmanager
def new_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary directory to write into, which becomes `directory` at the end, or vanishes after an error."""
    check_is_free(directory)
    out = Path(directory).absolute()
    unfinished = out.with_name(f".{out.name}.unfinished-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if out.exists():  # then it is empty; keep it, since a shell may be in it
            for entry in unfinished.iterdir():
                entry.rename(out / entry.name)
        else:
            unfinished.rename(out)
    except OSError as error:
        raise DeiTLTError(
            f"cannot write {directory}: {error.strerror or error}; pass a directory that can be"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def whole_file(path: str | os.PathLike[str], instead: str = "pass a path that can be written") -> Iterator[Path]:
    """Give a temporary path to write to, which replaces `path` in one step at the end, or vanishes after an error."""
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise DeiTLTError(f"cannot write {path}: {error.strerror or error}; {instead}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def read_settings(file: Path) -> dict[str, Any] | None:
    """The settings in a YAML file; None without the file."""
    return _read(file, partial(yaml.load, Loader=_WithoutAliases), "settings such as `num_train_epochs: 100`")


class _WithoutAliases(yaml.SafeLoader):
    """Reads YAML without aliases, since a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"it has the alias *{self.peek_event().anchor}, and settings are written out")
        return super().compose_node(parent, index)


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None without the file."""
    return _read(file, json.loads, "a JSON object")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")


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
        value: Any = content
        for part in name.split("."):
            value = (value or {}).get(part)
        if not isinstance(value, of | None):
            raise DeiTLTError(f"{file}: {name} is {value!r:.60}, which this package never writes; mend it")
    return content


def is_hub_id(source: str) -> bool:
    """Whether it is `owner/name`, and neither an existing path nor in an existing folder."""
    owner, slash, name = source.partition("/")
    if not (slash and name) or Path(source).exists() or Path(owner).is_dir():
        return False
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def last_part(path: str) -> str:
    """The name of a file or directory without its folders, for a path of any operating system."""
    return PureWindowsPath(path).name or PureWindowsPath(os.path.abspath(path)).name or path


def public_name(source: str) -> str:
    """What a file that may be sent around calls a source: its hub id, or its name without a place of this machine."""
    return source if is_hub_id(source) else last_part(source)
