"""Where a benchmark's images, lists and names lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from deitlt_hf.errors import DeiTLTError

# Kaggle's ILSVRC2012 has its tree in ILSVRC/Data/CLS-LOC and the names of the synsets three folders above.
LEVELS_ABOVE = 3


def images_directory(data_dir: Path, folder: str, what: str) -> Path:
    """The directory that holds `folder`: `data_dir`, or the one above where `data_dir` is that folder itself.

    Raises:
        DeiTLTError: neither holds it; `what` says what was wanted.

    Example:
        >>> Path("tree/train").mkdir(parents=True)
        >>> images_directory(Path("tree/train"), "train", "a tree").name
        'tree'
    """
    data_dir = absolute(data_dir)
    for directory in (data_dir, *([data_dir.parent] if data_dir.name == folder else [])):
        if (directory / folder).is_dir():
            return directory
    if not data_dir.is_dir():
        raise DeiTLTError(f"data directory {str(data_dir)!r} does not exist: pass {what} as data_dir")
    raise DeiTLTError(f"{str(data_dir)!r} has no folder {folder}: pass {what} as data_dir")


def find_beside(directory: Path, lists_dir: Path | None, names: Sequence[str]) -> Path | None:
    """The first of the files: in `lists_dir` or, without one, in `directory` or up to three folders above it.

    Raises:
        DeiTLTError: `lists_dir` is no directory.

    Example:
        >>> _ = Path("list.txt").write_text("")
        >>> find_beside(Path().absolute(), None, ["other.txt", "list.txt"]).name
        'list.txt'
    """
    if lists_dir is None:
        places = [directory, *list(directory.parents)[:LEVELS_ABOVE]]
    else:
        places = [absolute(lists_dir)]
        if not places[0].is_dir():
            raise DeiTLTError(f"lists directory {str(places[0])!r} does not exist: pass the directory with the lists")
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def places_searched(directory: Path, lists_dir: Path | None) -> str:
    """Where `find_beside` looks, for messages.

    Example:
        >>> places_searched(Path("tree"), None)
        "'tree' or above it"
    """
    return f"{str(directory)!r} or above it" if lists_dir is None else repr(str(lists_dir))


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path from the root on, with `~` replaced; links stay.

    Example:
        >>> absolute("data").is_absolute()
        True
    """
    return Path(os.path.abspath(os.path.expanduser(path)))


def fingerprint(files: Iterable[Path]) -> str:
    """Text that changes when one of the files does: paths, sizes and times of change.

    Example:
        >>> file = Path("list.txt")
        >>> _ = file.write_text("a.jpg 0")
        >>> before = fingerprint([file])
        >>> _ = file.write_text("a.jpg 10")
        >>> fingerprint([file]) == before
        False
    """
    facts = [(path, path.stat()) for path in sorted(files)]
    return ",".join(f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in facts)
