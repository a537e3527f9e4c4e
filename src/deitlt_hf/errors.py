"""Messages for users: the one exception for mistakes that they can correct, and notices of how data were read."""

from __future__ import annotations

import difflib
import logging
import os
import pickle
import unicodedata
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger("deitlt_hf")

_MOST_CHARACTERS = 400  # of a library's message
_NOT_THERE = "there is no such directory"
_ADVICE = {
    "a model": "pass a directory with config.json and model.safetensors, such as the output of `deitlt train`, or a "
    "hub id",
    "a teacher": "pass the directory of an image classifier, such as the output of `deitlt teacher`, or a hub id",
}

# Marks that make a terminal or a browser write from right to left: a name could pose as another.
_DIRECTION_MARKS = set("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  # control characters, parts of broken UTF-8, line and paragraph separators


def printable(text: object) -> str:
    """Text in one line that is safe to print, for names from people's files: control characters become escapes.

    Example:
        >>> printable("owl\\x1b[2J\\nbarn"), printable("Schleiereule, мышь")
        ('owl\\\\x1b[2J\\\\nbarn', 'Schleiereule, мышь')
    """
    return "".join(char.encode("unicode_escape").decode() if is_control(char) else char for char in str(text))


def is_control(char: str) -> bool:
    """Whether a character could break a line, control a terminal, or change the direction of the text."""
    return unicodedata.category(char) in _CONTROLS or char in _DIRECTION_MARKS


def notice(message: str) -> None:
    """Log in one line how unclear data or settings were understood; only the main process logs."""
    if os.environ.get("RANK", "0") == "0":
        logger.warning("%s", printable(message))


def some(names: Iterable[object], shown: int = 3, quoted: bool = True) -> str:
    """The first of several names, for a message.

    Example:
        >>> some(["a", "b", "c", "d", "e"])
        "'a', 'b', 'c' and 2 more"
    """
    names = [repr(str(name)) if quoted else str(name) for name in names]
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def counted(number: int, what: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "image"), counted(2, "class"), counted(3, "directory")
        ('1 image', '2 classes', '3 directories')
    """
    many = what[:-1] + "ies" if what.endswith("y") else what + ("es" if what.endswith("s") else "s")
    return f"{number} {what if number == 1 else many}"


class DeiTLTError(ValueError):
    """A wrong input: the message is one line that says what was wrong, with the value, and what to pass instead.

    The command line prints it without a traceback and exits with status 2. Raised in a worker of a torch `DataLoader`,
    it arrives in the main process with the same line.

    Args:
        message: line breaks at its ends are removed, others become spaces, and control characters, such as those in a
            file's name, are written as escapes; see `printable`.

    Example:
        >>> from deitlt_hf import DeiTLTError, class_counts_for_imbalance
        >>> try:
        ...     class_counts_for_imbalance(num_classes=10, max_per_class=500, imbalance_factor=0.01)
        ... except DeiTLTError as error:
        ...     print(type(error).__name__)
        DeiTLTError
    """

    def __init__(self, message: str) -> None:
        lines = str(message).strip().splitlines()
        # torch rebuilds a worker's exception from the text of its traceback, whose last line is the message.
        if len(lines) > 1 and lines[0].startswith("Caught ") and "Traceback" in lines[1]:
            lines = [lines[-1].split(": ", 1)[-1]]
        super().__init__(printable(" ".join(lines)))


def unknown_source(path: Path, names: Iterable[str]) -> DeiTLTError:
    """The error about data that do not exist; `names` are the data sets that the user could have meant."""
    near = difflib.get_close_matches(str(path), list(names), cutoff=0.8)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the names are {', '.join(names)}"
    return DeiTLTError(
        f"unknown data source {str(path)!r}, which is neither a name, a file, a directory, nor a data set of the hub "
        f"(owner/name): {hint}"
    )


def check_is_there(source: str | None) -> None:
    """Refuse a model's directory that does not exist before anything else is loaded; hub ids pass."""
    if source is not None and _is_missing_path(source):
        raise DeiTLTError(f"{source}: {_NOT_THERE}; pass the directory of a model, or a hub id")


def check_model_is_there(source: str) -> None:
    """Refuse a directory that does not exist as loading a model would, before the libraries for that are loaded."""
    if _is_missing_path(source):
        raise cannot_load("a model", source, _NOT_THERE)


def cannot_load(what: str, source: str, reason: str) -> DeiTLTError:
    """The error about "a model" or "a teacher" that cannot be loaded."""
    return DeiTLTError(f"cannot load {what} from {source}: {reason}; {_ADVICE[what]}")


def _is_missing_path(source: str) -> bool:
    """Whether it can only be a path, and that path does not exist."""
    is_path = source.startswith(("/", ".", "~")) or source.count("/") > 1 or Path(source.split("/")[0]).is_dir()
    return is_path and not Path(source).exists()


def loading_reason(source: str, error: Exception) -> str:
    """Why a model could not be loaded, in one line."""
    if _is_missing_path(source):  # transformers would call it a bad hub id
        return _NOT_THERE
    if isinstance(error, pickle.UnpicklingError):  # whose text advises to let the file run what it likes
        return "its weights are a damaged pickle, or one of more than tensors, of which nothing was run"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # The line after one that ends in a colon is the hub's own reason, such as a token that it refuses.
    reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")
    if len(reason) > _MOST_CHARACTERS:  # such as a list of every model that transformers knows
        reason = f"{reason[:_MOST_CHARACTERS]}..."
    # Their text is unclear without their type: a KeyError's is only the key.
    return f"{type(error).__name__}: {reason}" if isinstance(error, LookupError | TypeError) else reason
