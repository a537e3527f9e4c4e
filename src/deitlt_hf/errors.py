"""The one exception for what a user can put right."""

from __future__ import annotations

from pathlib import Path


class DeiTLTError(ValueError):
    """A wrong input: the message is one line that says what was wrong, with the value, and what to pass instead.

    The command line prints it without a traceback and exits with status 2. Raised in a worker of a torch `DataLoader`,
    it arrives in the main process with the same line.

    Args:
        message: line breaks in it, such as those in a file's name, become spaces.

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
        # torch makes a worker's exception anew from its traceback, as text; the last line is the message.
        if len(lines) > 1 and lines[0].startswith("Caught ") and "Traceback" in lines[1]:
            lines = [lines[-1].split(": ", 1)[-1]]
        super().__init__(" ".join(lines))


def loading_reason(source: str, error: Exception) -> str:
    """Why a model could not be loaded, in one line; transformers takes a path that does not exist for a bad hub id."""
    is_path = source.startswith(("/", ".", "~")) or source.count("/") > 1 or Path(source.split("/")[0]).is_dir()
    if is_path and not Path(source).exists():
        return "there is no such directory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The line after one that ends in a colon is the hub's own reason, such as a token that it refuses.
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")
