"""The command that continues a stopped run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress

_NEVER_SHOWN = {"hub_token"}
_MODULE = "deitlt_hf"
_LAUNCHERS = {"accelerate", "accelerate.commands.launch", "torchrun", "torch.distributed.run"}


def resume_command(arguments: Sequence[str], checkpoint: str) -> str:
    """The command line to type, for a shell."""
    from deitlt_hf.cards.record import PRIVATE_SETTINGS
    from deitlt_hf.durable.checkpoints import newest_complete
    from deitlt_hf.runs.settings import OF_THE_MACHINE

    command, *flags = arguments
    directory, name = os.path.split(checkpoint)
    newest = newest_complete(directory)
    # After a rewind to an older checkpoint, newer ones may still be there.
    is_newest = newest is None or os.path.basename(newest) == name
    resume = ["--resume"] if is_newest else ["--resume_from_checkpoint", checkpoint]
    options = _options(flags)
    in_no_recipe = OF_THE_MACHINE | PRIVATE_SETTINGS
    # A resumed run keeps its first recipe, which does not hold the flags of the later command.
    was_resumed = any(name in ("resume", "resume_from_checkpoint") for name, _ in options)
    ours = {"output_dir", "resume", "resume_from_checkpoint", "overwrite"} | _NEVER_SHOWN
    kept = [words for name, words in options if name not in ours and (was_resumed or name in in_no_recipe)]
    return shlex.join(
        [*_program(), command, "--output_dir", directory, *resume, *(word for words in kept for word in words)]
    )


def same_command(arguments: Sequence[str]) -> str:
    """A command line for a shell that does the same again, but replaces nothing; for `deitlt fit`."""
    kept, drops = [], False
    for word in arguments:
        if word.startswith("--"):
            drops = word[2:].split("=")[0].replace("-", "_") in {"overwrite"} | _NEVER_SHOWN
        if not drops:
            kept.append(word)
    return shlex.join([*_program(), *kept])


def _program() -> list[str]:
    """The words before the subcommand: a launcher's with all of its options, such as the number of processes."""
    import psutil

    words = []
    with suppress(psutil.Error, AttributeError):  # the parent is hidden, or there is none, as in a container
        words = psutil.Process().parent().cmdline()
    program = words[: words.index(_MODULE) + 1] if _MODULE in words else []
    if any(os.path.basename(word) in _LAUNCHERS for word in program):  # and not only a wrapper such as nohup
        return program if program[1].startswith("-") else [os.path.basename(program[1]), *program[2:]]
    return ["deitlt"] if os.environ.get("WORLD_SIZE", "1") == "1" else ["accelerate", "launch", "-m", _MODULE]


def _options(flags: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each flag's name, and its words with those that follow it."""
    options: list[tuple[str, list[str]]] = []
    for word in flags:
        if word.startswith("--"):
            options.append((word[2:].split("=")[0].replace("-", "_"), [word]))
        elif options:
            options[-1][1].append(word)
    return options
