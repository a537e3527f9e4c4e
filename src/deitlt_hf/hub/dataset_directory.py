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
    """Write Parquet shards, the card and a picture of the class counts into a new directory, or nothing."""
    with new_directory(directory) as unfinished:
        (unfinished / DATA_FOLDER).mkdir()
        for name, split in built.splits.items():
            write_shards(split, unfinished / DATA_FOLDER, name, embed=built.embedded)
        _draw(built, unfinished / PICTURE_FILE)
        dataset_card(built, location or str(directory)).save(unfinished / "README.md")


def push_dataset(directory: str | os.PathLike[str], repo_id: str, private: bool = False) -> str:
    """Upload what `write_dataset` wrote, in one commit; shards of an earlier upload go."""
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
