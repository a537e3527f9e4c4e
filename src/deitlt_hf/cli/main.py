"""The `deitlt` command: finds the subcommand's module, and turns a user's mistake into one line and status 2."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import select
import sys
from collections.abc import Sequence

from deitlt_hf import __version__
from deitlt_hf.cli.console import notices_once
from deitlt_hf.cli.offline import offline_where_the_hub_is_silent
from deitlt_hf.cli.resuming import resume_command, same_command
from deitlt_hf.durable.signals import Stopped, signals_end_runs
from deitlt_hf.errors import DeiTLTError

COMMANDS = {
    "demo": "train and evaluate on handwritten digits, in under five minutes on two cores",
    "fit": "from a folder of images to a calibrated student: plan, teacher, student, evaluation, card",
    "teacher": "train a CNN teacher",
    "train": "train a DeiT-LT student",
    "evaluate": "accuracy of a student's experts on head, mid and tail classes",
    "analyze": "what a model's experts are good at and where its tokens look: numbers, figures and a page",
    "compare": "models side by side: accuracies with intervals, their differences, and the same figures",
    "calibrate": "weigh both experts on validation images, so that probabilities can be trusted",
    "predict": "what both experts say of images",
    "set-expert": "change which expert a saved student answers with by default",
    "app": "a page in the browser: upload a picture, see what both experts say and where they look",
    "export": "write a student for ONNX Runtime, or as a torch.export program",
    "push": "put a model with its card on the hub",
    "data": "build the paper's data sets, or inspect one's own",
    "convert": "turn a checkpoint of the reference into a model of this package",
    "recipes": "list the settings that come with the package, or print one",
}

_TRAINING = ("teacher", "train", "fit")
# Errors of a disk that is full, read-only or of another user: one line tells the user what to fix.
_OF_THE_DISK = {getattr(errno, name) for name in "ENOSPC EDQUOT EFBIG EROFS EACCES ENOTDIR EPERM EBUSY".split()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    command = arguments[0]
    if command not in (*COMMANDS, *_ABOUT):
        near = difflib.get_close_matches(command, COMMANDS)
        hint = f"did you mean {' or '.join(near)}?" if near else f"pass one of {', '.join(COMMANDS)}"
        print(f"deitlt: unknown command {command!r}; {hint}", file=sys.stderr)
        return 2
    try:
        with signals_end_runs(), offline_where_the_hub_is_silent(arguments), notices_once():
            _run(command, arguments[1:])
    except DeiTLTError as error:
        print(f"deitlt {command}: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":
            saved = f"; saved {stop.checkpoint}" if stop.checkpoint and command in _TRAINING else ""
            print(f"deitlt {command}: {stop}{saved}{_way_back(stop, arguments)}", file=sys.stderr)
        if stop.checkpoint is not None:  # then all processes of a launch leave
            _leave_process_group()
        return stop.code
    except KeyboardInterrupt as interrupt:
        print(f"deitlt {command}: interrupted{_way_back(interrupt, arguments)}", file=sys.stderr)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_has_enough():
            return 128 + 13
        if error.errno not in _OF_THE_DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"deitlt {command}: {where}{error.strerror}{_way_back(error, arguments)}", file=sys.stderr)
        return 2
    _leave_process_group()
    return 0


def _run(command: str, flags: Sequence[str]) -> None:
    """Run a command, and flush its output here, where an error shows that nobody reads it any more."""
    try:
        if command in _ABOUT:
            print(_ABOUT[command]())
        else:
            importlib.import_module(f"deitlt_hf.cli.{command.replace('-', '_')}").run(flags)
    except SystemExit as end:  # argparse has shown its help
        if not isinstance(end, Stopped):
            sys.stdout.flush()
        raise
    sys.stdout.flush()


def _reader_has_enough() -> bool:
    """Whether the reader of standard output has closed it, as in `deitlt predict ... | head`."""
    output = select.poll()  # systems whose pipes break have poll
    output.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still wants to write at its end
    return True


def _way_back(error: BaseException, arguments: Sequence[str]) -> str:
    """How to continue a stopped training."""
    if arguments[0] == "fit" and not isinstance(error, OSError):
        return f"; go on with: {same_command(arguments)}"
    remains = getattr(error, "remains", None)
    if remains is None or arguments[0] not in _TRAINING:
        return ""
    checkpoint = getattr(error, "checkpoint", None) or remains.checkpoint
    if checkpoint is not None:
        return f"; go on with: {resume_command(arguments, checkpoint)}"
    return f"; {remains.model} holds the trained model, but not its evaluation" if remains.model else ""


def _leave_process_group() -> None:
    """Let the processes of a launch end together: if one ends early, the launcher stops those that still write."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _help() -> str:
    commands = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    return f"""usage: deitlt COMMAND [options]

Vision Transformers for long-tailed images: DeiT-LT on the Hugging Face stack.

{commands}

`deitlt COMMAND --help` says more. On several devices: accelerate launch -m deitlt_hf COMMAND ..."""


_ABOUT = {"-h": _help, "--help": _help, "--version": lambda: f"deitlt {__version__}"}
