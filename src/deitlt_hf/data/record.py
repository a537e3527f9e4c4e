"""What a run records of its data: their paths, classes and counts, so that a later command notices a change.

The file is never pushed: `run.json` and the card hold what others may know.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deitlt_hf.data.loading import is_named
from deitlt_hf.errors import DeiTLTError, notice, some
from deitlt_hf.files import read_json, write_json

DATA_FILE = "data.json"

_PLACES = ("data", "data_dir", "teacher", "init_from")  # settings that may name a path
_NAMED = 3  # how many classes a message names


@dataclass(frozen=True)
class DataRecord:
    """The data of a run when its training began; lists are in label order."""

    class_names: list[str]
    train_counts: list[int]
    test_counts: list[int]
    places: dict[str, str] = field(default_factory=dict)  # the absolute path of each path that the settings have
    test_fraction: float | None = None  # of a held-out test split
    split_seed: int | None = None  # of held-out splits
    kept: list[str] = field(default_factory=list)  # hash of a training image of each class; if held out, of `HeldOut`
    validation_counts: list[int] = field(default_factory=list)  # empty without a validation split
    group_column: str | None = None
    train_groups: list[str] = field(default_factory=list)  # where a split was held out, as the other two
    test_groups: list[str] = field(default_factory=list)
    validation_groups: list[str] = field(default_factory=list)
    drop_duplicates: bool = False
    validation_fraction: float | None = None  # of a held-out validation split, as is `kept_in_train`
    kept_in_train: list[str] = field(default_factory=list)  # hash of a training image of each class, of its draw
    tested: list[str] = field(default_factory=list)  # hashes that `HeldOut.given` has of the draw of the test split
    validated: list[str] = field(default_factory=list)  # and of the validation split

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write `data.json` into the directory of a run."""
        write_json(Path(directory) / DATA_FILE, dataclasses.asdict(self))


def _is_list(value: object, of: type) -> bool:
    return isinstance(value, list) and all(type(member) is of for member in value)


_are_texts, _are_numbers = partial(_is_list, of=str), partial(_is_list, of=int)
_IS_SOUND: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("class_names", "kept", "kept_in_train", "tested", "validated"), _are_texts),
    **dict.fromkeys(("train_groups", "test_groups", "validation_groups"), _are_texts),
    **dict.fromkeys(("train_counts", "test_counts", "validation_counts"), _are_numbers),
    **dict.fromkeys(("test_fraction", "validation_fraction"), lambda value: isinstance(value, float | None)),
    "split_seed": lambda value: isinstance(value, int | None),
    "group_column": lambda value: isinstance(value, str | None),
    "drop_duplicates": lambda value: isinstance(value, bool),
    "places": lambda value: isinstance(value, dict) and _are_texts([*value.values()]),
}
_ALWAYS_WRITTEN = ("class_names", "train_counts", "test_counts", "kept", "places")  # by earlier versions too


def read_data_record(source: str | os.PathLike[str]) -> DataRecord | None:
    """The record of the run that a model, a checkpoint or averaged weights belong to; None where there is none."""
    files = [directory / DATA_FILE for directory in (Path(source), Path(source).parent)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    content = read_json(file)
    for name, is_sound in _IS_SOUND.items():
        is_missing = name not in content
        if (is_missing and name in _ALWAYS_WRITTEN) or not (is_missing or is_sound(content[name])):
            raise DeiTLTError(f"{file} holds no {name} as this package writes it; mend it or remove it")
    known = {part.name for part in dataclasses.fields(DataRecord)}
    return DataRecord(**{name: value for name, value in content.items() if name in known})


def places_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The absolute path of each setting that names an existing path, by the path as the setting has it."""
    paths = [value for name, value in settings.items() if name in _PLACES and isinstance(value, str)]
    places = {path: os.path.abspath(os.path.expanduser(path)) for path in paths if not is_named(path)}
    return {path: place for path, place in places.items() if os.path.exists(place)}


def at_recorded_places(settings: Mapping[str, Any], source: str | os.PathLike[str]) -> dict[str, Any]:
    """A run's settings with the recorded absolute paths for relative ones, which depend on the current directory.

    If the recorded path is gone, or there is no record, a relative path is taken from the current directory, and a
    notice says so.
    """
    record = read_data_record(source)
    places = {} if record is None else record.places
    found = dict(settings)
    for name in _PLACES:
        path = settings.get(name)
        if not isinstance(path, str) or os.path.isabs(path) or is_named(path):
            continue
        recorded = places.get(path)
        if recorded is not None and (os.path.exists(recorded) or not os.path.exists(path)):
            found[name] = recorded
        elif os.path.exists(path):
            did = "recorded no path of it" if recorded is None else f"had {recorded}, which is gone"
            notice(f"{name} {path}: the run {source} {did}; {os.path.abspath(path)} is taken")
    return found


def differing_classes(then: Sequence[str], now: Sequence[str]) -> str | None:
    """How the class names have changed, such as "'lynx' is missing, 'owl' is new"; None for no change."""
    missing = sorted(set(then) - set(now), key=then.index)
    new = sorted(set(now) - set(then), key=now.index)
    parts = [f"{some(missing)} {'is' if len(missing) == 1 else 'are'} missing"] if missing else []
    parts += [f"{some(new)} {'is' if len(new) == 1 else 'are'} new"] if new else []
    if not parts and list(then) != list(now):
        pairs = enumerate(zip(then, now, strict=False))
        label, (old, other) = next((label, pair) for label, pair in pairs if pair[0] != pair[1])
        parts = [f"class {label} is {other!r} in place of {old!r}"]
    return ", ".join(parts) or None


def differing_counts(names: Sequence[str], counts: Mapping[str, tuple[Sequence[int], Sequence[int]]]) -> str | None:
    """How the images per class have changed, in words; None for no change.

    `counts` has those of then and of now, in the order of `names`, by what the images are; unknown ones are empty.
    """
    parts = []
    for what, (then, now) in counts.items():
        changed = [
            f"{name!r} {new} in place of {old}" for name, old, new in zip(names, then, now, strict=False) if old != new
        ]
        if changed:
            more = [f"{len(changed) - _NAMED} classes more"] if len(changed) > _NAMED else []
            listed = ", ".join(changed[:_NAMED] + more)
            parts.append(f"{sum(now)} {what} images in place of {sum(then)} ({listed})")
    return " and ".join(parts) or None


def moved_classes(names: Sequence[str], then: Sequence[str], now: Sequence[str]) -> str | None:
    """Which classes have swapped images, in words; None for no change. `then` and `now` have one hash per class."""
    name_now = {image: name for name, image in zip(names, now, strict=False)}
    moved = [
        f"images of {name!r} are in {name_now[image]!r}"
        for name, image, same in zip(names, then, now, strict=False)
        if image in name_now and image != same  # a copy may stand for two classes
    ]
    more = [f"and {len(moved) - _NAMED} classes more"] if len(moved) > _NAMED else []
    return ", ".join(moved[:_NAMED] + more) or None
