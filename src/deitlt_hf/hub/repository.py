"""A repository on the hub: checked, made, and changed in one commit, with errors that a user can act on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from deitlt_hf.errors import DeiTLTError, notice

logger = logging.getLogger(__name__)

_REASONS = {
    401: "the hub refused the token; log in with `hf auth login`, or correct HF_TOKEN where that is set",
    403: "the token may not write there; pass a repository of your own, or log in with a token that may write",
    404: "there is no such repository, or the token may not see it; pass owner/name",
}


def check_hub(repo_id: str, kind: str = "model", private: bool = False, token: str | None = None) -> str:
    """Refuse what could not be pushed before time is spent on it.

    Args:
        repo_id: on the hub, `owner/name`, or a name, for the owner of the token.
        kind: `"model"` or `"dataset"`.
        private: whether nobody but its owner should see it.
        token: by default the one that `hf auth login` or `HF_TOKEN` left.

    Returns:
        The repository's `owner/name`.

    Raises:
        DeiTLTError: a malformed id, no token or a wrong one, a hub that cannot be reached, or a repository that is
            there and public where a private one is asked for.

    Example:
        >>> check_hub("cifar10-lt", kind="dataset")  # doctest: +SKIP
        'me/cifar10-lt'
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    api = HfApi(token=token)
    try:
        validate_repo_id(repo_id)
        owner = api.whoami()["name"]
        repo_id = repo_id if "/" in repo_id else f"{owner}/{repo_id}"
        try:
            is_private = api.repo_info(repo_id, repo_type=kind).private
        except RepositoryNotFoundError:
            return repo_id
    except Exception as error:  # the network and the hub's client each raise their own
        raise hub_error(repo_id, error) from error
    if private and not is_private:
        raise DeiTLTError(f"{repo_id} is there already and public; make it private on its page, or pass another name")
    if is_private and not private:
        logger.warning(f"{repo_id} is private and stays so")
    return repo_id


def make_repository(
    repo_id: str, kind: str = "model", private: bool = False, branch: str | None = None, token: str | None = None
) -> str:
    """Make a repository, and a branch of it, where there is none.

    Args:
        repo_id: `owner/name`.
        kind: `"model"` or `"dataset"`.
        private: make it visible to its owner alone.
        branch: made from the main branch.
        token: by default the one that `hf auth login` or `HF_TOKEN` left.

    Returns:
        Its address.

    Raises:
        DeiTLTError: whatever the hub answers, in one line.

    Example:
        >>> make_repository("me/student")  # doctest: +SKIP
        'https://huggingface.co/me/student'
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        # Without a wish, an organisation's own default stands.
        address = api.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True)
        if branch is not None and branch != "main":
            api.create_branch(repo_id, branch=branch, repo_type=kind, exist_ok=True)
    except Exception as error:
        raise hub_error(repo_id, error) from error
    return str(address)


def address_of(repo_id: str, branch: str | None = None) -> str:
    """The page of a model's repository, or of a branch of it.

    Example:
        >>> address_of("me/student", "step-500")  # doctest: +SKIP
        'https://huggingface.co/me/student/tree/step-500'
    """
    from huggingface_hub import HfApi

    return f"{HfApi().endpoint}/{repo_id}" + ("" if branch in (None, "main") else f"/tree/{branch}")


def list_files(repo_id: str, kind: str = "model", branch: str | None = None, token: str | None = None) -> list[str]:
    """Names of the files of a repository, by default of its main branch.

    Raises:
        DeiTLTError: whatever the hub answers, in one line.

    Example:
        >>> list_files("me/student")  # doctest: +SKIP
        ['README.md', 'config.json', 'model.safetensors']
    """
    from huggingface_hub import HfApi

    try:
        return HfApi(token=token).list_repo_files(repo_id, repo_type=kind, revision=branch)
    except Exception as error:
        raise hub_error(repo_id, error) from error


def is_inside(file: Path, directory: Path) -> bool:
    """Whether a file lies in a directory, and is no link to another place of this machine.

    Example:
        >>> _ = Path("inside").mkdir(), Path("secret.png").write_bytes(b""), Path("inside/a.png").write_bytes(b"")
        >>> Path("inside/leak.png").symlink_to("../secret.png")
        >>> is_inside(Path("inside/a.png"), Path("inside")), is_inside(Path("inside/leak.png"), Path("inside"))
        (True, False)
    """
    return file.resolve().is_relative_to(directory.resolve())


def say_left_out(links: Iterable[Path]) -> None:
    """Name links that are not uploaded, if there are any."""
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
):
    """Upload the files of a folder in one commit, so that the repository is complete or as it was before.

    Files in large file storage arrive before the commit; after an interruption, those that arrived are not sent again.

    Args:
        folder: whose files take their names in the repository, subfolders included; links out of it stay behind.
        repo_id: of a repository that is there.
        message: of the commit.
        kind: `"model"` or `"dataset"`.
        branch: by default the main one.
        stale: patterns of files in the repository that go unless the folder has them.
        token: by default the one that `hf auth login` or `HF_TOKEN` left.

    Returns:
        huggingface_hub's `CommitInfo`.

    Raises:
        DeiTLTError: whatever the hub answers, in one line.

    Example:
        >>> commit_folder("cifar10-lt", "me/cifar10-lt", "Add the data set", kind="dataset")  # doctest: +SKIP
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    folder = Path(folder)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    say_left_out(path for path in found if not is_inside(path, folder))
    files = {path.relative_to(folder).as_posix(): path for path in found if is_inside(path, folder)}
    there = list_files(repo_id, kind, branch, token)
    gone = [name for name in there if name not in files and any(fnmatch(name, pattern) for pattern in stale)]
    try:
        # Not `upload_folder`, which may make several commits of one folder.
        return HfApi(token=token).create_commit(
            repo_id,
            [*map(CommitOperationDelete, gone), *(CommitOperationAdd(name, path) for name, path in files.items())],
            commit_message=message,
            repo_type=kind,
            revision=branch,
        )
    except Exception as error:
        raise hub_error(repo_id, error) from error


def hub_error(repo_id: str, error: Exception) -> DeiTLTError:
    """The error to raise where pushing to `repo_id` failed with another one.

    Example:
        >>> from huggingface_hub.errors import LocalTokenNotFoundError
        >>> print(hub_error("me/student", LocalTokenNotFoundError("Token is required ...")))
        cannot push to me/student: there is no token; log in with `hf auth login`, or set HF_TOKEN
    """
    return DeiTLTError(f"cannot push to {repo_id}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    text = " ".join(str(error).split()).rstrip(".:") or type(error).__name__
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # names the file; its cause is the reason
        return f"{text}: {_reason(error.__cause__)}"
    if isinstance(error, HFValidationError):
        return f"{text}; pass owner/name"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token; log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, HfHubHTTPError):
        status, said = error.response.status_code, error.server_message or text
        return _REASONS.get(status, f"the hub answered {status}, {said}; nothing was committed, so push again later")
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx"):
        return (
            f"no answer from {constants.ENDPOINT} ({text}); check the network, and HF_ENDPOINT where that is set; "
            "nothing was committed, so push again"
        )
    return text
