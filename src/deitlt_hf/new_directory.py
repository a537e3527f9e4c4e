"""A directory that appears when it is complete, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deitlt_hf.errors import DeiTLTError


def check_is_free(directory: str | os.PathLike[str]) -> None:
    """Refuse a directory that holds something already, or that cannot be made where it is to be.

    Raises:
        DeiTLTError: it is a file or not empty, or lies in what is no directory or cannot be written.

    Example:
        >>> check_is_free("no/such/directory")
    """
    path = Path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty" if path.is_dir() else "is a file"
        raise DeiTLTError(f"{directory} {what}; pass a directory that does not exist yet")
    check_is_writable(path)


def check_is_writable(directory: Path, flag: str = "") -> None:
    """Refuse a directory that cannot be written, or not be made where it is to be.

    Args:
        directory: that is to be written.
        flag: that names it, for the message.

    Raises:
        DeiTLTError: it is a file, lies in one, or may not be written.

    Example:
        >>> check_is_writable(Path("no/such/directory"))
    """
    another = f"pass another {flag}".strip()
    try:
        there = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long
        raise DeiTLTError(f"cannot write {directory}: {error.strerror}; {another}") from error
    try:
        os.rmdir(tempfile.mkdtemp(dir=there))  # only trying tells: /proc may be written, says its mode
    except OSError as error:
        raise DeiTLTError(f"cannot write {directory}: {there} is no directory to write into; {another}") from error


@contextmanager
def new_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """A directory to write into, beside the one that is to be made; it takes that one's place at the end.

    Args:
        directory: to make; it must be absent or empty.

    Raises:
        DeiTLTError: it is not free, or cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with new_directory(f"{parent}/new") as unfinished:
        ...         _ = (unfinished / "file.txt").write_text("text")
        ...     print((Path(parent) / "new" / "file.txt").read_text())
        text
    """
    check_is_free(directory)
    out = Path(directory).absolute()
    unfinished = out.with_name(f".{out.name}.unfinished-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if out.exists():  # it stays the directory that it is: a shell may be in it
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
