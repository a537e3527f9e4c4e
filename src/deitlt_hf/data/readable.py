"""Which images of a data set can be read, found out before a run depends on them."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm

from deitlt_hf.data.columns import selected
from deitlt_hf.data.images import REMOTE_HINT, BadImage, decode_image, read_bytes
from deitlt_hf.errors import DeiTLTError, counted, first_line
from deitlt_hf.files import whole_file

SKIP_HINT = "pass on_bad_image='skip' (--on_bad_image skip) to leave such images out"

_AT_ONCE = 64  # images in memory, undecoded
_MAX_THREADS = 16
_NAMED = 3  # how many images a message names

logger = logging.getLogger("deitlt_hf")
Seen = TypeVar("Seen")


def undecoded(dataset: Dataset) -> Dataset:
    """The data set with an `image` column of `{"bytes": ..., "path": ...}`, which nothing has tried to decode."""
    return dataset.with_format(None).cast_column("image", datasets.Image(decode=False))


def image_name(index: int, split: str, path: str | None) -> str:
    """How messages name an image: `image 17 of train (cats/x.jpg)`."""
    return f"image {index} of {split}" + (f" ({path})" if path else "")


def referenced_files(dataset: Dataset) -> Iterator[tuple[int, str]]:
    """Index and path of the images that are not embedded."""
    # Reading rows would copy embedded images.
    chunks = dataset.data.column("image").chunks
    outside = [pc.if_else(chunk.field("bytes").is_null(), chunk.field("path"), None) for chunk in chunks]
    paths = selected(dataset, pa.chunked_array(outside, pa.string()))
    for index, path in enumerate(paths.to_pylist()):
        if path is not None:
            yield index, path


def image_paths(dataset: Dataset) -> list[str | None]:
    """The path of each image, also that which an embedded one came from; None where there is none."""
    chunks = [chunk.field("path") for chunk in dataset.data.column("image").chunks]
    return selected(dataset, pa.chunked_array(chunks, pa.string())).to_pylist()


def look_at_images(
    dataset: Dataset, look: Callable[[dict[str, Any] | None], Seen], **bar: Any
) -> Iterator[tuple[int, dict[str, Any] | None, Seen]]:
    """Index and undecoded value of every image, and what `look`, called in several threads, returns for it.

    `bar` are arguments of the progress bar. Only a few images are in memory at a time.
    """
    rows = undecoded(dataset).select_columns("image")
    # Reading a file, hashing it and decoding it with Pillow do not hold the interpreter's lock.
    with (
        ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool,
        tqdm(total=rows.num_rows, unit="image", leave=False, **bar) as progress,
    ):
        for start in range(0, rows.num_rows, _AT_ONCE):
            images = rows[start : start + _AT_ONCE]["image"]
            yield from zip(range(start, start + len(images)), images, pool.map(look, images), strict=True)
            progress.update(len(images))


def check_files_exist(splits: DatasetDict, advice: str = f"correct the paths, or {SKIP_HINT}") -> None:
    """Refuse files of an `image` column that are missing; the message names the first ones and ends with the advice."""
    missing = []
    files_in = functools.cache(_files_in)  # listing a folder once takes a tenth of asking for each of its files
    for split, dataset in splits.items():
        for index, path in referenced_files(dataset):
            folder, name = os.path.split(path)
            if "://" not in path and name not in files_in(folder):
                missing.append(image_name(index, split, path))
    if missing:
        do = "does" if len(missing) == 1 else "do"
        raise DeiTLTError(f"{counted(len(missing), 'image file')} {do} not exist: {_first(missing)}; {advice}")


def refuse_addresses(splits: DatasetDict) -> None:
    """Refuse images at addresses: data may come from strangers, and fetching an image tells them who reads it."""
    found = [
        image_name(index, split, path)
        for split, dataset in splits.items()
        for index, path in referenced_files(dataset)
        if "://" in path
    ]
    if found:
        one, many = "1 image lies at an address and is", f"{len(found)} images lie at addresses and are"
        raise DeiTLTError(f"{one if len(found) == 1 else many} not fetched: {_first(found)}; {REMOTE_HINT}")


def fetch_images(splits: DatasetDict, on_bad_image: str = "error") -> DatasetDict:
    """The splits with images at addresses fetched, once: the result is kept in the cache of `datasets`.

    An image that cannot be fetched is an error with `"error"`. Otherwise it stays an address, which no reader takes,
    and nothing is kept: the next call asks for all of them again.
    """
    fetched = DatasetDict()
    for split, dataset in splits.items():
        if any("://" in path for _, path in referenced_files(dataset)):
            rows = undecoded(dataset).map(
                _fetch,
                fn_kwargs={"is_needed": on_bad_image == "error"},
                load_from_cache_file=on_bad_image == "error",  # else a host that was down once would stay unreachable
                desc=f"fetching {split} images",
            )
            dataset = rows.cast_column("image", datasets.Image())
        fetched[split] = dataset
    return fetched


def _fetch(row: dict, is_needed: bool) -> dict:
    path = row["image"]["path"] or ""
    if row["image"]["bytes"] is None and "://" in path:
        try:
            row["image"] = {"bytes": read_bytes(path), "path": None}
        except Exception as error:  # the network and fsspec each raise their own
            if is_needed:
                raise DeiTLTError(
                    f"cannot fetch {path}: {first_line(error)}; correct the address, or {SKIP_HINT}"
                ) from error
    return row


def leave_out_unreadable(splits: DatasetDict) -> DatasetDict:
    """The splits without the images that cannot be read; a warning says how many they were and names the first."""
    kept, left_out = DatasetDict(), []
    for split, dataset in splits.items():
        bad = unreadable_images(dataset, split)
        left_out += [f"{name}: {reason}" for name, reason in bad.values()]
        readable = np.setdiff1d(np.arange(dataset.num_rows), list(bad))
        kept[split] = dataset.select(readable) if bad else dataset
    if left_out:
        total = sum(dataset.num_rows for dataset in splits.values())
        logger.warning("left out %d of %d images that cannot be read: %s", len(left_out), total, _first(left_out))
    return kept


def unreadable_images(dataset: Dataset, split: str) -> dict[int, tuple[str, str]]:
    """The name of each image that cannot be read, and why, by its index.

    Every image is decoded once; the result is kept in the cache of `datasets` until the data change.
    """
    cache = cache_file(dataset, "unreadable", ".json")
    if not cache.is_file():
        looked = look_at_images(dataset, _why_unreadable, desc=f"checking {split} images")
        found = [(index, image and image["path"], reason) for index, image, reason in looked if reason is not None]
        with whole_file(cache) as unfinished:  # several processes may check at once
            unfinished.write_text(json.dumps(found))
    return {index: (image_name(index, split, path), reason) for index, path, reason in json.loads(cache.read_text())}


def _why_unreadable(image: dict | None) -> str | None:
    try:
        decode_image(image)
    except BadImage as error:
        return str(error)
    return None


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder or os.curdir) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # ValueError: a path with a null in it
        return set()


def cache_file(dataset: Dataset, kind: str, suffix: str) -> Path:
    """The file for a result about all images; its name changes with the rows and with the files that they refer to.

    `Dataset.map` would keep no result for data in memory, and would not notice that a file has changed.
    """
    digest = hashlib.sha256(dataset._fingerprint.encode())
    for _, path in referenced_files(dataset):
        try:
            status = os.stat(path)
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
        except (OSError, ValueError):  # ValueError: a path with a null in it
            digest.update(f"{path} missing\n".encode())
    return Path(datasets.config.HF_DATASETS_CACHE) / "deitlt_hf" / f"{kind}-{digest.hexdigest()[:32]}{suffix}"


def _first(names: list[str]) -> str:
    return "; ".join(names[:_NAMED]) + ("; ..." if len(names) > _NAMED else "")
