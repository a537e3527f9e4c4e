"""The directory of a run: its lock, its settings, and the model, record and card at its end."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from deitlt_hf.cards.descriptions import kind_of_data
from deitlt_hf.cards.eval_results import write_eval_results
from deitlt_hf.cards.model_card import write_model_card
from deitlt_hf.cards.record import find_hub_ids, installed_versions, public_settings
from deitlt_hf.data.arguments import Images
from deitlt_hf.data.groups import groups_of
from deitlt_hf.data.holdout import HeldOut
from deitlt_hf.data.loading import class_counts
from deitlt_hf.data.record import DATA_FILE, DataRecord, read_data_record
from deitlt_hf.durable.checkpoints import REMOVING, SAVING, newest_complete, remove, tidy
from deitlt_hf.durable.signals import Stopped
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import (
    RECIPE_FILE,
    RUN_FILE,
    check_is_writable,
    last_part,
    read_json,
    read_settings,
    whole_file,
    write_json,
)
from deitlt_hf.hub.benchmark_tasks import benchmark_tasks
from deitlt_hf.runs.features import FEATURES_FILE
from deitlt_hf.runs.lock import LOCK_FILE, check_lock, release_lock, take_lock
from deitlt_hf.runs.profiling import TRACE_FILE, device_name
from deitlt_hf.runs.settings import changed_by_resuming, recipe_of
from deitlt_hf.training.arguments import LongTailTrainingArguments
from deitlt_hf.training.long_tail import LongTailTrainer

FEATURES = FEATURES_FILE.format(split="*")
_SETTINGS = (RECIPE_FILE, DATA_FILE)
RESUMED_FILE = "resumed.json"  # which settings changed when the run was resumed, and at which step


def check_output_directory(args: LongTailTrainingArguments) -> str | None:
    """Refuse a directory that holds a run, unless it is resumed or replaced; returns the checkpoint to resume from."""
    directory = Path(args.output_dir)
    check_is_writable(directory, "--output_dir")
    if not args.profile:  # profiling only adds a trace file
        check_lock(directory)
    if args.resume or args.resume_from_checkpoint:
        return _checkpoint_to_resume(directory, args)
    if _is_occupied(directory) and not args.profile:
        if not args.overwrite:
            raise DeiTLTError(f"{directory} is not empty; pass --resume, --overwrite, or another --output_dir")
        if not (directory / RECIPE_FILE).is_file():
            raise DeiTLTError(f"{directory} holds files that are no run of this package; pass another --output_dir")
    return None


def _checkpoint_to_resume(directory: Path, args: LongTailTrainingArguments) -> str:
    checkpoint = args.resume_from_checkpoint
    if not isinstance(checkpoint, str):
        if args.should_save and not args.profile:
            tidy(directory)
        PartialState().wait_for_everyone()  # all processes must find the same one
        checkpoint = newest_complete(directory)
    if checkpoint is None or not Path(checkpoint).is_dir():
        instead = "pass --overwrite to start anew" if _is_occupied(directory) else "leave resume out"
        raise DeiTLTError(f"{checkpoint or directory} holds no checkpoint to resume from; {instead}")
    return checkpoint


class Remains(NamedTuple):
    """What a stopped run leaves: its newest checkpoint, and its directory if that holds the trained model."""

    checkpoint: str | None
    model: str | None


@contextmanager
def claimed_directory(
    trainer: LongTailTrainer, settings: Sequence[object], checkpoint: str | None, record: DataRecord | None = None
) -> Iterator[None]:
    """Lock the run's directory for the trainer; an exception that stops it gets a `Remains` as attribute `remains`.

    The files of a replaced run stay until the new run has made a step, or has to write. A run that is refused before
    its first step, as by a tracker without a login, leaves no settings, so that the next one needs no `overwrite`.
    """
    args, directory = trainer.args, Path(trainer.args.output_dir)
    PartialState().wait_for_everyone()  # other processes must not find what the main one writes now
    is_replaced = checkpoint is None and _is_occupied(directory)
    _take_in_all_processes(directory, args.should_save)
    try:
        if args.should_save:
            _write_settings(trainer, settings, checkpoint, record, is_replaced)
        yield
    except DeiTLTError:
        is_new = checkpoint is None and not is_replaced and not trainer.state.global_step
        if args.should_save and is_new and not _is_occupied(directory, but=_SETTINGS):
            for name in _SETTINGS:
                (directory / name).unlink(missing_ok=True)
        raise
    except (Stopped, KeyboardInterrupt, OSError) as error:
        if trainer.state.global_step or not is_replaced:  # otherwise the files are the older run's
            is_trained = trainer.state.global_step > 0 and (directory / "config.json").is_file()
            error.remains = Remains(newest_complete(directory), str(directory) if is_trained else None)
        raise
    finally:
        if args.should_save:
            release_lock(directory)


def _take_in_all_processes(directory: Path, should_save: bool) -> None:
    """Lock the directory for all processes of a launch, or stop all of them with the same line."""
    refusal: list[str | None] = [None]
    if should_save:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            take_lock(directory)
        except DeiTLTError as error:
            refusal = [str(error)]
    broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise DeiTLTError(refusal[0])


def _write_settings(
    trainer: LongTailTrainer,
    settings: Sequence[object],
    checkpoint: str | None,
    record: DataRecord | None,
    is_replaced: bool,
) -> None:
    """Write `recipe.yaml` and `data.json`; in a directory with an older run, the first step writes them."""
    directory = Path(trainer.args.output_dir)
    recipe = recipe_of(settings)
    if is_replaced:
        replacement = _Replacement(directory, recipe, record)
        trainer.add_callback(replacement)
        trainer.before_saving = replacement.take_over
        return
    before = None if checkpoint is None else read_settings(directory / RECIPE_FILE)
    earlier = None if checkpoint is None else read_data_record(directory)
    places = {} if earlier is None else earlier.places
    if before is None:
        _write_recipe(directory, recipe)
    else:
        # Resumed from an older checkpoint, the run leaves out later steps, and the settings that they changed.
        step = (read_json(Path(checkpoint) / TRAINER_STATE_NAME) or {}).get("global_step", 0)
        resumes = (read_json(directory / RESUMED_FILE) or {}).get("resumed", [])
        kept = [resume for resume in resumes if resume["step"] < step]
        for left_out in reversed(resumes[len(kept) :]):
            before |= {name: old for name, (old, _) in left_out["changed"].items()}
        # The same data under another path are not a changed setting.
        same = {name for name, path in recipe.items() if _is_same_place(before.get(name), path, places)}
        recipe |= {name: before[name] for name in same}
        changes = changed_by_resuming(before, recipe, settings)
        if changes or kept != resumes:
            now = [{"step": step, "changed": changes}] if changes else []
            trainer.add_callback(_OtherSettings(directory, recipe, [*kept, *now]))
    if record is not None:
        # recipe.yaml may still have the paths that the run began with.
        dataclasses.replace(record, places=places | record.places).write(directory)


def _write_recipe(directory: Path, recipe: Mapping[str, Any]) -> None:
    with whole_file(directory / RECIPE_FILE) as unfinished:
        unfinished.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))


def _is_same_place(before: Any, now: Any, places: Mapping[str, str]) -> bool:
    return isinstance(before, str) and isinstance(now, str) and os.path.abspath(now) == places.get(before)


class _OtherSettings(TrainerCallback):
    """Writes the new settings of a resumed run after its first step with them, and which of them changed when."""

    def __init__(self, directory: Path, recipe: dict[str, Any], resumes: list[dict[str, Any]]):
        self._directory, self._recipe, self._resumes = directory, recipe, resumes
        self._is_written = False

    def on_step_end(self, args, state, control, **kwargs):
        if not self._is_written:
            # The old values first: recipe.yaml then holds the new ones only.
            write_json(self._directory / RESUMED_FILE, {"resumed": self._resumes})
            _write_recipe(self._directory, self._recipe)
            self._is_written = True


class _Replacement(TrainerCallback):
    """Removes an older run from the directory, at the new run's first step or first write."""

    def __init__(self, directory: Path, recipe: dict[str, Any], record: DataRecord | None):
        self._directory, self._recipe, self._record = directory, recipe, record
        self._old = {path: path.lstat().st_ino for path in _entries(directory)}

    def on_step_end(self, args, state, control, **kwargs):
        self.take_over()

    def take_over(self) -> None:
        """Remove the older run's files; if this is interrupted, checkpoints and settings still belong to one run."""
        if not self._old:
            return
        # Checkpoints first, and the recipe only when the new one replaces it.
        old = [path for path, inode in self._old.items() if os.path.lexists(path) and path.lstat().st_ino == inode]
        old = sorted(
            set(old) - {self._directory / RECIPE_FILE}, key=lambda path: not path.name.startswith("checkpoint-")
        )
        self._old, removed = {}, {}
        try:
            for path in old:
                removed[path] = path.rename(path.with_name(f"{REMOVING}{path.name}"))
        except OSError:
            for path, renamed in removed.items():
                renamed.rename(path)
            raise
        _write_recipe(self._directory, self._recipe)
        if self._record is not None:
            self._record.write(self._directory)
        for path in removed.values():
            remove(path)


def _entries(directory: Path) -> Iterator[Path]:
    """The entries of a run's directory; of TensorBoard's folder its files, because the new run writes into it too."""
    for path in directory.iterdir():
        if path.name != LOCK_FILE and not fnmatch(path.name, FEATURES):  # features say what they are of
            yield from path.iterdir() if path.name == "runs" and path.is_dir() else (path,)


def refuse_within(directory: str, replaced: bool, **sources: str | None) -> None:
    """Refuse data or models inside a directory that this run replaces."""
    here = Path(directory).resolve()
    for name, source in sources.items():
        if replaced and source is not None and Path(source).exists() and Path(source).resolve().is_relative_to(here):
            raise DeiTLTError(
                f"{name} {source} lies in {directory}, which is to be replaced; pass another --output_dir"
            )


def _is_occupied(directory: Path, but: Sequence[str] = ()) -> bool:
    # A profile leaves its trace, a killed run its lock, and features are there before a run begins.
    return directory.is_dir() and any(
        path.name not in (TRACE_FILE, LOCK_FILE, *but) and not fnmatch(path.name, FEATURES)
        for path in directory.iterdir()
    )


def save_model(trainer: LongTailTrainer) -> None:
    """Put the trained model into the run's directory; it appears there only once it is written completely."""
    directory = Path(trainer.args.output_dir)
    staging = directory / SAVING
    try:
        trainer.save_model(str(staging), _internal_call=True)  # an external call would push, without card and results
    except SafetensorError as error:  # what safetensors raises when the disk is full
        shutil.rmtree(staging, ignore_errors=True)
        instead = "resume" if newest_complete(directory) else "train again, for there is no checkpoint"
        raise DeiTLTError(f"cannot write the model into {directory}: {error}; make room, and {instead}") from error
    if not trainer.args.should_save:
        return
    (staging / "training_args.bin").unlink()  # a pickle; recipe.yaml says the same in text
    # config.json last, because loading looks for it.
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "config.json"):
        target = directory / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    staging.rmdir()


def finish_run(
    trainer: LongTailTrainer,
    images: Images,
    sources: Mapping[str, str | None],
    seconds: float,
    checkpoint: str | None,
    taught_by: dict[str, Any] | None = None,
) -> None:
    """Write `run.json` and the card, and push everything if `push_to_hub` is on."""
    args = trainer.args
    if args.should_save:
        hub_ids = find_hub_ids(sources)
        record = {
            "versions": installed_versions(),
            "python": platform.python_version(),
            "data": {
                "name": last_part(sources["data"]),
                "kind": kind_of_data(sources["data"], "data" in hub_ids),
                "train_images": len(images.train),
                "test_images": len(images.test),
                "test_counts": class_counts(images.test),
                "test_images_in_train": images.test_images_in_train,
                "test_split": _split_of(images.test, images.held_out),
                "group_column": images.group_column,
                "groups": None if images.group_column is None else _number_of_groups(images),
                "dropped": images.dropped and dataclasses.asdict(images.dropped),
                "validation_images": None if images.validation is None else len(images.validation),
                "validation_split": _split_of(images.validation, images.held_for_validation),
                "benchmark_tasks": _benchmark_tasks(hub_ids.get("data"), Path(args.output_dir)),
            },
            "hub_ids": hub_ids,
            "teacher": taught_by,
            "training": _what_it_took(trainer, seconds, checkpoint),
        }
        write_json(Path(args.output_dir) / RUN_FILE, record)
        write_eval_results(args.output_dir)
        # The card last: `deitlt fit` takes a run with a card as one that came to its end.
        write_model_card(args.output_dir, trainer.hub_model_id if args.push_to_hub else None, args.hub_revision)
    if args.push_to_hub:
        trainer.push_to_hub()


def _benchmark_tasks(hub_id: str | None, directory: Path) -> list[str]:
    if hub_id is None:
        return []
    return benchmark_tasks(hub_id, (read_settings(directory / RECIPE_FILE) or {}).get("data_config"))


def _split_of(split: Dataset | None, draw: HeldOut | None) -> str | None:
    """Where a split comes from; None where there is none."""
    return None if split is None else "given" if draw is None else "held out of train"


def _number_of_groups(images: Images) -> dict[str, int]:
    splits = {"train": images.train, "test": images.test, "validation": images.validation}
    return {name: len(np.unique(groups_of(split))) for name, split in splits.items() if split is not None}


def _what_it_took(trainer: LongTailTrainer, seconds: float, checkpoint: str | None) -> dict[str, Any]:
    args, steps = trainer.args, trainer.state.global_step
    # Not by the steps: the last of an epoch may have fewer accumulated batches than the others.
    batches = round((trainer.state.epoch or 0) * len(trainer.callback_handler.train_dataloader))
    return {
        "epochs": round(trainer.state.epoch or 0, 2),
        "steps": steps,
        "images_seen": batches * args.train_batch_size * args.world_size,
        "processes": args.world_size,
        "device": device_name(args.device),
        "hours": round(seconds / 3600, 4),
        "resumed": _public_changes(Path(args.output_dir)),
        "hours_of": "the whole run" if checkpoint is None else "the part after it was resumed",
        "seed": args.seed,
    }


def _public_changes(directory: Path) -> list[dict[str, Any]]:
    """The settings that resumes changed, without anything private."""

    def public(name: str, value: Any) -> Any:
        setting = {name: value}
        return public_settings(setting, find_hub_ids(setting))[name]

    entries = (read_json(directory / RESUMED_FILE) or {}).get("resumed", [])
    return [
        entry | {"changed": {name: [public(name, value) for value in pair] for name, pair in entry["changed"].items()}}
        for entry in entries
    ]
