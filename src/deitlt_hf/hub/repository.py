"""Checks, makes and changes a repository on the hub, in one commit, with errors that a user can act on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from deitlt_hf.errors import DeiTLTError, notice

logger = logging.getLogger(__name__)

_REASONS = {
    401: "the hub refused the token; log in with `hf auth login`, or correct HF_TOKEN where that is set",
    403: "the token may not write there; pass a repository of your own, or log in with a token that may write",
    404: "there is no such repository, or the token may not see it; pass owner/name",
}


def check_hub(repo_id: str, kind: str = "model", private: bool = False, token: str | None = None) -> str:
    """Refuse, before the work starts, what could not be pushed; returns `owner/name`, by default the token's owner."""
    api = HfApi(token=token)
    with _hub_errors(repo_id):
        validate_repo_id(repo_id)
        owner = api.whoami()["name"]
    repo_id = repo_id if "/" in repo_id else f"{owner}/{repo_id}"
    with _hub_errors(repo_id):
        try:
            is_private = api.repo_info(repo_id, repo_type=kind).private
        except RepositoryNotFoundError:
            return repo_id
    if private and not is_private:
        raise DeiTLTError(f"{repo_id} is there already and public; make it private on its page, or pass another name")
    if is_private and not private:
        logger.warning(f"{repo_id} is private and stays so")
    return repo_id


def make_repository(
    repo_id: str, kind: str = "model", private: bool = False, branch: str | None = None, token: str | None = None
) -> str:
    """Make a repository, and a branch of it, unless they exist; returns its address."""
    api = HfApi(token=token)
    with _hub_errors(repo_id):
        # None rather than False, so that an organisation's own default decides.
        address = api.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True)
        if branch is not None and branch != "main":
            api.create_branch(repo_id, branch=branch, repo_type=kind, exist_ok=True)
    return str(address)


def address_of(repo_id: str, branch: str | None = None) -> str:
    """The page of a model's repository, or of a branch of it."""
    return f"{HfApi().endpoint}/{repo_id}" + ("" if branch in (None, "main") else f"/tree/{branch}")


def list_files(repo_id: str, kind: str = "model", branch: str | None = None, token: str | None = None) -> list[str]:
    """Names of the files of a repository, by default of its main branch."""
    with _hub_errors(repo_id):
        return HfApi(token=token).list_repo_files(repo_id, repo_type=kind, revision=branch)


def is_inside(file: Path, directory: Path) -> bool:
    """Whether a file is in a directory, and not a link to a place outside it."""
    return file.resolve().is_relative_to(directory.resolve())


def say_left_out(links: Iterable[Path]) -> None:
    """Say which links are not uploaded: the user did not ask to send the files that they lead to."""
    names = [str(link) for link in links]
    if names:
        what = "it is a link" if len(names) == 1 else "they are links"
        notice(f"not uploaded, for {what} to another place of this machine: {', '.join(names)}")


def commit_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    message: str,
    kind: str = "model",
    branch: str | None = None,
    stale: Sequence[str] = (),
    token: str | None = None,
    takes: Callable[[Path], bool] = Path.is_file,
) -> CommitInfo:
    """Upload a folder in one commit, which also deletes files that match `stale` and are not in the folder.

    `takes` says which of the folder's files are uploaded, by default all.
    """
    folder = Path(folder)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and takes(path)]
    say_left_out(path for path in found if not is_inside(path, folder))
    files = {path.relative_to(folder).as_posix(): path for path in found if is_inside(path, folder)}
    on_hub = list_files(repo_id, kind, branch, token)
    gone = [name for name in on_hub if name not in files and any(fnmatch(name, pattern) for pattern in stale)]
    with _hub_errors(repo_id):
        # Not `upload_folder`, which may make several commits of one folder, and follows links out of it.
        return HfApi(token=token).create_commit(
            repo_id,
            [*map(CommitOperationDelete, gone), *(CommitOperationAdd(name, path) for name, path in files.items())],
            commit_message=message,
            repo_type=kind,
            revision=branch,
        )


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turn every error inside into one line; the network and the hub's client raise errors of different types."""
    try:
        yield
    except Exception as error:
        raise DeiTLTError(f"cannot push to {repo_id}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".:") or type(error).__name__
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # it names the file, its cause the reason
        return f"{text}: {_reason(error.__cause__)}"
    if isinstance(error, HFValidationError):
        return f"{text}; pass owner/name"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token; log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, HfHubHTTPError):
        status, reason = error.response.status_code, error.server_message or text
        return _REASONS.get(status, f"the hub answered {status}, {reason}; nothing was committed, so push again later")
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx"):
        return (
            f"no answer from {constants.ENDPOINT} ({text}); check the network, and HF_ENDPOINT where that is set; "
            "nothing was committed, so push again"
        )
    return text
