"""Writes a built data set as a directory that `datasets.load_dataset` loads, and pushes it to the hub."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset
from datasets.table import embed_table_storage
from matplotlib.figure import Figure
from tqdm import tqdm

from deitlt_hf.cards.dataset_card import PICTURE_FILE, BuiltDataset, dataset_card
from deitlt_hf.cards.eval_results import BENCHMARK_FILE, benchmark_file
from deitlt_hf.data.readable import undecoded
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.figures.run import draw_class_counts
from deitlt_hf.evaluation.figures.style import save_figure
from deitlt_hf.files import new_directory
from deitlt_hf.hub.repository import check_hub, commit_folder, make_repository

logger = logging.getLogger(__name__)

DATA_FOLDER = "data"
SHARD_BYTES = 500_000_000
# Small groups for embedded images: less memory here, faster viewers and shuffled reading later.
EMBEDDED_ROWS = 100
REFERENCED_ROWS = 10_000


def write_dataset(built: BuiltDataset, directory: str | os.PathLike[str], location: str | None = None) -> None:
    """Write Parquet shards, the card, a picture of the class counts and `eval.yaml`, whole or not at all.

    The card says to load `location`, by default the directory.
    """
    with new_directory(directory) as unfinished:
        (unfinished / DATA_FOLDER).mkdir()
        for name, split in built.splits.items():
            write_shards(split, unfinished / DATA_FOLDER, name, embed=built.embedded)
        figure = Figure(figsize=(9, 4.8), layout="constrained")
        groups = built.benchmark.groups(built.class_counts)
        metrics = {"class_counts": built.class_counts, "groups": groups, "class_names": built.class_names}
        draw_class_counts(figure.add_subplot(), metrics)
        save_figure(figure, unfinished / PICTURE_FILE)
        (unfinished / BENCHMARK_FILE).write_text(benchmark_file(built), encoding="utf-8")
        dataset_card(built, location or str(directory)).save(unfinished / "README.md")


def write_shards(split: Dataset, directory: Path, name: str, embed: bool, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a split as `NAME-00000-of-0000N.parquet`, with about `shard_bytes` of images in each.

    With `embed`, the shards hold the bytes of the images' files, else their paths.
    """
    rows_at_once = EMBEDDED_ROWS if embed or not has_references(split) else REFERENCED_ROWS
    with _reading_images():
        count = max(1, math.ceil(_image_bytes(split, embed) / shard_bytes))
    # Reading a million files takes a while, so a terminal shows the progress.
    for index in tqdm(range(count), desc=name, unit=" files", disable=None if embed else True, leave=False):
        shard = split.shard(count, index).with_format("arrow")
        if embed:
            with _reading_images():
                shard = shard.map(embed_table_storage, batched=True, batch_size=rows_at_once, keep_in_memory=True)
        shard.to_parquet(directory / f"{name}-{index:05d}-of-{count:05d}.parquet", batch_size=rows_at_once)


@contextmanager
def _reading_images() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeiTLTError(f"cannot read the image {error.filename}: {error.strerror}") from error


def has_references(split: Dataset) -> bool:
    """Whether the first image is a path without bytes: in a split all images are, or none."""
    return undecoded(split)[0]["image"]["bytes"] is None


def _image_bytes(split: Dataset, embed: bool) -> int:
    """Bytes of the images in the split, and with `embed` of those in files."""
    total = 0
    for rows in undecoded(split).select_columns("image").with_format("arrow").iter(REFERENCED_ROWS):
        image = rows["image"].combine_chunks()
        total += pc.sum(pc.binary_length(image.field("bytes"))).as_py() or 0
        if embed:
            paths = pc.if_else(image.field("bytes").is_null(), image.field("path"), None).drop_null()
            total += sum(os.path.getsize(path) for path in paths.to_pylist())
    return total


def push_dataset(directory: str | os.PathLike[str], repo_id: str, private: bool = False) -> str:
    """Upload what `write_dataset` wrote in one commit, which deletes older shards; returns the data set's address.

    `eval.yaml` follows in a commit of its own: the hub checks it, and its refusal is a warning, not the end of a build.
    """
    repo_id = check_hub(repo_id, kind="dataset", private=private)
    address = make_repository(repo_id, kind="dataset", private=private)
    benchmark = Path(directory) / BENCHMARK_FILE
    stale = [f"{DATA_FOLDER}/*.parquet"]
    commit_folder(directory, repo_id, "Add the data set", "dataset", stale=stale, takes=lambda path: path != benchmark)
    try:
        commit_folder(directory, repo_id, f"Add {BENCHMARK_FILE}", "dataset", takes=lambda path: path == benchmark)
    except DeiTLTError as error:
        logger.warning(f"{error}; the data set is there, without its {BENCHMARK_FILE}")
    return address
