"""A teacher, its student and the student's calibration as one run in one directory, which goes on where it stopped."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deitlt_hf.cards.model_card import CARD_FILE
from deitlt_hf.data.arguments import Images, TrainingDataArguments
from deitlt_hf.data.loading import class_counts
from deitlt_hf.data.record import DATA_FILE
from deitlt_hf.data.suggestion import format_setting
from deitlt_hf.durable.checkpoints import newest_complete, remove, tidy
from deitlt_hf.errors import DeiTLTError, counted
from deitlt_hf.files import RUN_FILE, check_is_writable, read_json, write_json
from deitlt_hf.runs.calibrating import Calibration, NoBetterFusionError, calibrate
from deitlt_hf.runs.directory import refuse_within
from deitlt_hf.runs.images import DataChoice, data_record, load_images_to_train
from deitlt_hf.runs.lock import LOCK_FILE, check_lock, release_lock, take_lock
from deitlt_hf.runs.training import StudentArguments, TeacherArguments
from deitlt_hf.runs.validation_images import load_validation
from deitlt_hf.training.arguments import DeiTLTTrainingArguments, TeacherTrainingArguments

PLAN_FILE = "fit.json"
TEACHER, STUDENT, CALIBRATION = "teacher", "student", "calibration"
DONE = "done"
VALIDATION_FRACTION = 0.1  # taken where the data have no validation split
FEWEST_VALIDATION_IMAGES = 10  # for a calibration; and two classes need two of them, or cross-validation shows nothing
_ENTRIES = (TEACHER, STUDENT, DATA_FILE, PLAN_FILE)  # of the directory; the plan is written and removed last

_IT_TAKES = f"it takes {FEWEST_VALIDATION_IMAGES}, with two of at least two classes"

TeacherSettings = tuple[TrainingDataArguments, TeacherArguments, TeacherTrainingArguments]
StudentSettings = tuple[TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments]


@dataclass
class Plan:
    """What `fit.json` holds: the flags of the command, and the settings that were chosen when it was first started."""

    given: dict[str, Any]
    settings: dict[str, dict[str, Any]]  # of the student, and of the teacher where one is trained
    calibration: str | None = None  # `done`, or why it is left out; None as long as it is to be done

    def write(self, directory: Path) -> None:
        """Write it, whole or not at all."""
        write_json(directory / PLAN_FILE, dataclasses.asdict(self))


def earlier_plan(
    directory: Path, given: Mapping[str, Any], overwrite: bool, sources: Mapping[str, str | None]
) -> Plan | None:
    """The plan of the run that a directory holds, if that is to go on; refuses what is no such run, and other flags.

    Args:
        directory: of the whole run.
        given: the flags, without those of the machine.
        overwrite: whether an earlier run is to be replaced.
        sources: settings that may name data or models, which must not lie in a directory that is replaced.
    """
    check_is_writable(directory, "--output_dir")
    check_lock(directory)
    content = read_json(directory / PLAN_FILE)
    if content is None:
        others = [path.name for path in _entries(directory) if path.name != DATA_FILE]
        if others:
            raise DeiTLTError(
                f"{directory} holds {others[0]!r} and is no run of `deitlt fit`; pass another --output_dir"
            )
        return None
    if overwrite:
        refuse_within(str(directory), True, **sources)
        return None
    if content.keys() != {field.name for field in dataclasses.fields(Plan)}:
        raise DeiTLTError(f"{directory / PLAN_FILE} is not what `deitlt fit` writes; pass --overwrite to start anew")
    plan = Plan(**content)
    changed = [
        f"{name} {_shown(plan.given, name)}, now {_shown(given, name)}"
        for name in dict.fromkeys([*plan.given, *given])
        if plan.given.get(name) != given.get(name) or (name in plan.given) != (name in given)
    ]
    if changed:
        raise DeiTLTError(
            f"{directory} was begun with other flags: {'; '.join(changed)}; pass the same to go on, --overwrite to "
            "start anew, or another --output_dir"
        )
    return plan


def begin(
    directory: Path,
    given: dict[str, Any],
    settings: dict[str, dict[str, Any]],
    no_calibration: str | None,
    images: Images,
    sources: Mapping[str, str | None],
) -> Plan:
    """Record what a run that is begun now was given and chose, and its data."""
    plan = Plan(given, settings, no_calibration)
    data_record(images, sources).write(directory)
    plan.write(directory)
    return plan


def check_data(directory: Path, student: StudentSettings) -> None:
    """Refuse data that are not those of the plan, before a stage goes on with them."""
    load_images_to_train(student[0], str(directory))


def _shown(given: Mapping[str, Any], name: str) -> str:
    return format_setting(given[name]) if name in given else "not given"


def _entries(directory: Path) -> Iterator[Path]:
    """What is in a directory, without locks and what a killed process had not finished writing."""
    if directory.is_dir():
        yield from (path for path in directory.iterdir() if not path.name.startswith((".", LOCK_FILE)))


@contextmanager
def locked(directory: Path, replaced: bool = False) -> Iterator[None]:
    """Lock a directory for this process; an earlier run in it is removed if it is to be replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    take_lock(directory)
    try:
        if replaced:
            for name in _ENTRIES:
                path = directory / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        yield
    finally:
        release_lock(directory)


def with_validation(data: TrainingDataArguments, may_hold_out: bool) -> tuple[Images, str | None]:
    """A run's images, and why they do not allow a calibration; None if they do.

    A tenth of train is held out for validation where the data have no such split and that is enough for a calibration.

    Args:
        data: which images.
        may_hold_out: whether images may be held out for it.
    """
    if not may_hold_out or data.validation_fraction is not None:
        images = load_images_to_train(data)
        return images, _too_few(images)
    try:
        images = load_images_to_train(replace(data, validation_fraction=VALIDATION_FRACTION))
    except DeiTLTError:  # nothing would be held out, or there is another mistake, which comes again now
        return load_images_to_train(data), f"a tenth of the training images is too few; {_IT_TAKES}"
    reason = _too_few(images)
    if images.held_for_validation is None or reason is None:
        return images, reason
    return load_images_to_train(data), f"a tenth of train would be {reason}"


def _too_few(images: Images) -> str | None:
    counts = [] if images.validation is None else class_counts(images.validation)
    if not counts:
        return f"there is no validation split; {_IT_TAKES}"
    if sum(counts) >= FEWEST_VALIDATION_IMAGES and sum(count > 1 for count in counts) > 1:
        return None
    return f"{counted(sum(counts), 'validation image')}; {_IT_TAKES}"


def is_trained(directory: str) -> bool:
    """Whether a training in a directory has come to its end: the card is written last."""
    return all((Path(directory) / name).is_file() for name in ("config.json", RUN_FILE, CARD_FILE))


def train_rest(train: Callable[..., Any], settings: Sequence[Any]) -> Any:
    """Train from the newest checkpoint in the stage's directory, or from the start if there is none."""
    args, directory = settings[-1], Path(settings[-1].output_dir)
    check_lock(directory)
    if directory.is_dir():
        tidy(directory)
        for left in directory.glob(".*.part*"):  # files that were not written to their end
            remove(left)
    args.resume = newest_complete(directory) is not None
    args.overwrite = not args.resume  # what was stopped before its first checkpoint
    return train(*settings)


def calibrate_student(student: StudentSettings) -> Calibration | str:
    """Calibrate a run's student as `deitlt calibrate` does; returns the reason where no fusion is good enough."""
    data, source = student[0], student[2].output_dir
    validation, images, taken = load_validation(data, DataChoice(True, ()), source)
    try:
        return calibrate(source, validation, images, data, taken=taken)
    except NoBetterFusionError as reason:
        return str(reason)
