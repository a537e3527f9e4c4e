"""A built data set as a directory that `datasets.load_dataset` loads, and on the hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from matplotlib.figure import Figure

from deitlt_hf.data.shards import write_shards
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.figures import draw_class_counts, save_figure
from deitlt_hf.hub.dataset_card import PICTURE_FILE, BuiltDataset, dataset_card

DATA_FOLDER = "data"


def check_is_free(directory: str | os.PathLike[str]) -> None:
    """Refuse a directory that holds something already.

    Raises:
        DeiTLTError: it is a file or not empty.

    Example:
        >>> check_is_free("no/such/directory")
    """
    path = Path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty" if path.is_dir() else "is a file"
        raise DeiTLTError(f"{directory} {what}; pass a directory that does not exist yet")


def write_dataset(built: BuiltDataset, directory: str | os.PathLike[str], location: str | None = None) -> None:
    """Write Parquet shards, the card and a picture of the class counts into a new directory, or nothing.

    The files are written into a directory beside it, and renamed at the end.

    Args:
        built: what to write; where it says that the images are embedded, they are.
        directory: to make; it must be absent or empty.
        location: what the card says to load, by default the directory.

    Raises:
        DeiTLTError: the directory is not free or cannot be written, or an image cannot be read.

    Example:
        >>> write_dataset(built, "cifar10-lt")  # doctest: +SKIP
    """
    check_is_free(directory)
    out = Path(directory).absolute()
    unfinished = out.with_name(f".{out.name}.unfinished-{os.getpid()}")
    try:
        (unfinished / DATA_FOLDER).mkdir(parents=True)
        for name, split in built.splits.items():
            write_shards(split, unfinished / DATA_FOLDER, name, embed=built.embedded)
        _draw(built, unfinished / PICTURE_FILE)
        dataset_card(built, location or str(directory)).save(unfinished / "README.md")
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


def check_hub(repo_id: str) -> None:
    """Refuse what could not be pushed before hours are spent on building it.

    Raises:
        DeiTLTError: a malformed id, no token, or a hub that cannot be reached.

    Example:
        >>> check_hub("me/cifar10-lt")  # doctest: +SKIP
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        HfApi().whoami()
    except Exception as error:  # the network and the hub's client each raise their own
        raise _hub_error(repo_id, error) from error


def push_dataset(directory: str | os.PathLike[str], repo_id: str, private: bool = False) -> str:
    """Upload what `write_dataset` wrote, in one commit; shards of an earlier upload go.

    Args:
        directory: the data set's.
        repo_id: on the hub, `owner/name`; made where there is none.
        private: visible to its owner alone, if it is made.

    Returns:
        The data set's address.

    Raises:
        DeiTLTError: whatever the hub answers, in one line.

    Example:
        >>> push_dataset("cifar10-lt", "me/cifar10-lt")  # doctest: +SKIP
        'https://huggingface.co/datasets/me/cifar10-lt'
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=directory,
            delete_patterns=f"{DATA_FOLDER}/*.parquet",
            commit_message="Add the data set",
        )
    except Exception as error:  # the network and the hub's client each raise their own
        raise _hub_error(repo_id, error) from error
    return str(address)


def _hub_error(repo_id: str, error: Exception) -> DeiTLTError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return DeiTLTError(f"cannot push to {repo_id}: {reason}; pass owner/name and log in with `hf auth login`")


def _draw(built: BuiltDataset, path: Path) -> None:
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    metrics = {"class_counts": built.class_counts, "groups": built.groups(), "class_names": built.class_names}
    draw_class_counts(figure.add_subplot(), metrics)
    save_figure(figure, path)
