"""Checkpoints on disk, complete or absent.

A checkpoint is written into a hidden directory beside it and renamed at the end. A checkpoint that is removed is
renamed first. So whenever a process is killed, every directory named `checkpoint-N` is whole.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints

logger = logging.getLogger(__name__)

SAVING = "saving"  # where the trained model is written before it is put into the run's directory
REMOVING = ".removing-"  # prefix of what is being removed
_SAVING, _REPLACED = ".saving-", ".replaced-"
_SAVED_BY_TORCH = (".pt", ".pth", ".bin")
_BESIDE_WEIGHTS = ("optimizer*", "scheduler.pt", "rng_state*.pth")  # without them transformers resumes with new ones


def unfinished(checkpoint: Path) -> Path:
    """The hidden directory that `checkpoint` is written to; the same in all processes."""
    return checkpoint.with_name(_SAVING + checkpoint.name)


def finish(checkpoint: Path) -> None:
    """Flush the unfinished checkpoint to the disk, and rename it."""
    written = unfinished(checkpoint)
    for path in written.rglob("*"):
        _flush(path)
    _flush(written)
    replaced = checkpoint.with_name(_REPLACED + checkpoint.name)
    if checkpoint.exists():  # the same step is saved twice at the end of an epoch or after a rewind
        checkpoint.rename(replaced)
    written.rename(checkpoint)
    _flush(checkpoint.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _flush(path: Path) -> None:
    """Write to the disk now: after a power failure the name could be kept and the content lost."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def tidy(directory: Path) -> None:
    """Remove what killed processes left in a run's directory, and bring back a checkpoint that was being replaced."""
    for left in directory.glob(f"{_REPLACED}*"):
        name = left.with_name(left.name.removeprefix(_REPLACED))
        if not name.exists():
            left.rename(name)
    # safetensors writes to a file named .tmp and six letters, and renames it.
    for pattern in (f"{_SAVING}checkpoint-*", f"{_REPLACED}checkpoint-*", f"{REMOVING}*", SAVING, ".tmp" + "?" * 6):
        for left in directory.glob(pattern):
            remove(left)


def remove(path: Path) -> None:
    """Remove a file or a directory; errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def rotate(directory: str, limit: int | None, best: str | None) -> None:
    """Keep the newest `limit` checkpoints, and the best; the newest is kept whatever the limit."""
    # transformers' `rotate_checkpoints` removes the files under the checkpoint's own name.
    if not limit or limit < 0:
        return
    checkpoints = [Path(checkpoint) for checkpoint in sort_checkpoints(directory, use_mtime=True)]
    kept = {checkpoints[-1]} | ({Path(best)} if best is not None else set())
    others = [checkpoint for checkpoint in checkpoints if checkpoint not in kept]
    for checkpoint in others[: max(0, len(checkpoints) - max(limit, len(kept)))]:
        removed = checkpoint.rename(checkpoint.with_name(REMOVING + checkpoint.name))
        shutil.rmtree(removed, ignore_errors=True)


def newest_complete(directory: str | Path) -> str | None:
    """The complete checkpoint of the highest step in a run's directory, with a warning for newer ones that are not."""
    found = {}  # transformers' `get_last_checkpoint` takes the highest step, complete or not
    for path in Path(directory).glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if path.is_dir() and step.isdecimal():
            found[int(step)] = path
    broken = []
    for _, checkpoint in sorted(found.items(), reverse=True):
        if is_complete(checkpoint):
            if broken:
                logger.warning(f"{', '.join(broken)}: not complete; going on from {checkpoint}")
            return str(checkpoint)
        broken.append(str(checkpoint))
    return None


def is_complete(checkpoint: str | Path) -> bool:
    """Whether a run can go on from a directory: no file is missing or cut off, as after `save_only_model` or a copy."""
    checkpoint = Path(checkpoint)
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["global_step"]
        files = [path for path in checkpoint.rglob("*") if path.is_file()]
        by_deepspeed = any(path.name == "latest" for path in files)  # which has directories of its own
        has_weights = by_deepspeed or any(path.suffix in (".safetensors", ".distcp") for path in files)
        return (
            (has_weights or any(path.name.startswith("pytorch_model") for path in files))
            and (by_deepspeed or all(any(checkpoint.glob(name)) for name in _BESIDE_WEIGHTS))
            and all(_is_whole(path) for path in files)
            # Shards of several processes are listed in a file that is written after them.
            and all((path.parent / ".metadata").is_file() for path in files if path.suffix == ".distcp")
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return False


def _is_whole(path: Path) -> bool:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt"):  # refuses a file of another size than its header says
            return True
    if path.name.endswith(".safetensors.index.json"):
        return all((path.parent / name).is_file() for name in json.loads(path.read_text())["weight_map"].values())
    return path.suffix not in _SAVED_BY_TORCH or zipfile.is_zipfile(path)
