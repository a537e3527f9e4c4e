"""One training at a time in a directory: a lock file names its process and host.

filelock's `FileLock` does not name its holder, and other hosts do not see it on every shared file system.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import psutil

from deitlt_hf.errors import DeiTLTError, notice

LOCK_FILE = "run.lock"


def check_lock(directory: Path) -> None:
    """Refuse a directory that another training uses; locks of this process and of killed ones on this host are free."""
    holder = _read(directory / LOCK_FILE)
    if holder is None or holder == _this_process() or _is_gone(holder):
        return
    who = f"process {holder.get('pid')} on host {holder.get('host')}"
    if holder.get("host") == socket.gethostname():
        raise DeiTLTError(f"{directory} is in use by {who}; wait for its end, or pass another --output_dir")
    raise DeiTLTError(
        f"{directory} is in use by {who}, and this host cannot tell whether it still runs; if it has ended, remove "
        f"{directory / LOCK_FILE} and start again, or pass another --output_dir"
    )


def take_lock(directory: Path) -> None:
    """Lock an existing directory for this process; a killed process's lock is replaced, with a notice."""
    lock, mine = directory / LOCK_FILE, _this_process()
    check_lock(directory)
    left = _read(lock)
    if left is not None and left != mine:
        notice(f"{directory}: taken over from process {left.get('pid')}, which has ended")
        lock.unlink(missing_ok=True)
    aside = directory / f"{LOCK_FILE}.{os.getpid()}"
    aside.write_text(json.dumps(mine) + "\n")
    try:
        os.link(aside, lock)  # atomic: of two trainings that start together, one is refused
    except FileExistsError:
        check_lock(directory)
    except OSError:  # a file system without links
        os.replace(aside, lock)
    aside.unlink(missing_ok=True)


def release_lock(directory: Path) -> None:
    """Remove this process's lock."""
    if _read(directory / LOCK_FILE) == _this_process():
        (directory / LOCK_FILE).unlink(missing_ok=True)


def _this_process() -> dict[str, Any]:
    # The start time too, because process ids are reused.
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _read(lock: Path) -> dict[str, Any] | None:
    try:
        holder = json.loads(lock.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        holder = None
    return holder if isinstance(holder, dict) else {}


def _is_gone(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) > 1
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return True
