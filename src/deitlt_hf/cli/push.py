"""`deitlt push`: a saved model on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deitlt_hf.cli.console import OneLineParser
from deitlt_hf.cli.next_steps import say_next
from deitlt_hf.files import check_is_directory


def run(argv: Sequence[str]) -> None:
    parser = OneLineParser(
        prog="deitlt push",
        description="Put a model with its card, metrics, pictures and recipe on the hub, in one commit. An interrupted "
        "push is repeated with the same command.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "directory",
        metavar="DIR",
        help="a run, a checkpoint-N in it, its averaged weights (ema), a converted or exported model, or an adapter",
    )
    parser.add_argument("repo", metavar="REPO", help="owner/name on the hub; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--branch", metavar="NAME", help="made if it does not exist (default: main)")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit")
    options = parser.parse_args(argv)
    check_is_directory(options.directory)

    from deitlt_hf.hub.pushing import push_model

    address = push_model(options.directory, options.repo, options.private, options.branch, options.message)
    print("pushed to", address)
    if not any(any(Path(options.directory).glob(name)) for name in ("model*.safetensors", "model.onnx")):
        return  # a program of torch.export or an adapter, which predict does not take from the hub
    repo = "/".join(address.partition("/tree/")[0].split("/")[-2:])  # with its owner, where none was passed
    revision = [] if options.branch is None else ["--revision", options.branch]
    say_next(["predict", repo, "photo.jpg", *revision])
