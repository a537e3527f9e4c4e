"""The command that goes on with a run which was stopped."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

# Flags that a run's recipe.yaml does not hold, because another machine has others, or because they say where it is.
_REPEATED = {
    *("bf16", "dataloader_pin_memory", "report_to", "use_cpu", "disable_tqdm"),
    *("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
    *("run_name", "logging_dir"),
}
_NEVER_SHOWN = {"hub_token"}


def resume_command(arguments: Sequence[str], output_dir: str) -> str:
    """The command line to type, for a shell.

    Args:
        arguments: the subcommand and its flags, as they were given.
        output_dir: the directory of the run, whose recipe.yaml holds its other settings.

    Example:
        >>> resume_command(["train", "--recipe", "digits-lt", "--use_cpu", "true"], "runs/digits-lt")
        'deitlt train --output_dir runs/digits-lt --resume --use_cpu true'
        >>> resume_command(["train", "--output_dir", "a", "--resume", "--learning_rate", "1e-4"], "a")
        'deitlt train --output_dir a --resume --learning_rate 1e-4'
    """
    command, *flags = arguments
    options = _options(flags)
    # What was changed when the run was resumed before is in no recipe.
    was_resumed = any(name in ("resume", "resume_from_checkpoint") for name, _ in options)
    ours = {"output_dir", "resume", "resume_from_checkpoint", "overwrite"} | _NEVER_SHOWN
    kept = [words for name, words in options if name not in ours and (was_resumed or name in _REPEATED)]
    program = ["deitlt"] if os.environ.get("WORLD_SIZE", "1") == "1" else ["accelerate", "launch", "-m", "deitlt_hf"]
    return shlex.join(
        [*program, command, "--output_dir", output_dir, "--resume", *(word for words in kept for word in words)]
    )


def _options(flags: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each flag's name, and its words with those that follow it."""
    options: list[tuple[str, list[str]]] = []
    for word in flags:
        if word.startswith("--"):
            options.append((word[2:].split("=")[0].replace("-", "_"), [word]))
        elif options:
            options[-1][1].append(word)
    return options
