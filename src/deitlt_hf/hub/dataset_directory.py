"""A built data set as a directory that `datasets.load_dataset` loads, and on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.figure import Figure

from deitlt_hf.cards.dataset_card import PICTURE_FILE, BuiltDataset, dataset_card
from deitlt_hf.data.shards import write_shards
from deitlt_hf.evaluation.figures.run import draw_class_counts
from deitlt_hf.evaluation.figures.style import save_figure
from deitlt_hf.files import new_directory
from deitlt_hf.hub.repository import check_hub, commit_folder, make_repository

DATA_FOLDER = "data"


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
    with new_directory(directory) as unfinished:
        (unfinished / DATA_FOLDER).mkdir()
        for name, split in built.splits.items():
            write_shards(split, unfinished / DATA_FOLDER, name, embed=built.embedded)
        _draw(built, unfinished / PICTURE_FILE)
        dataset_card(built, location or str(directory)).save(unfinished / "README.md")


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
    repo_id = check_hub(repo_id, kind="dataset", private=private)
    address = make_repository(repo_id, kind="dataset", private=private)
    shards = f"{DATA_FOLDER}/*.parquet"
    commit_folder(directory, repo_id, "Add the data set", kind="dataset", stale=[shards])
    return address


def _draw(built: BuiltDataset, path: Path) -> None:
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    metrics = {"class_counts": built.class_counts, "groups": built.groups(), "class_names": built.class_names}
    draw_class_counts(figure.add_subplot(), metrics)
    save_figure(figure, path)
