"""Hashes of images, by which identical ones are known."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from deitlt_hf.data.readable import cache_file, undecoded
from deitlt_hf.files import whole_file

_SIZE = 16  # bytes of a hash
_CHUNK = 256  # images in memory at a time
_WORTH_KEEPING = 1.0  # seconds that hashing took
_BAR_AFTER = 2.0  # seconds


def digest_of(content: bytes) -> bytes:
    """The 16 bytes that stand for the file of an image.

    Example:
        >>> digest_of(b"").hex()
        'cae66941d9efbd404e4d88758ea67670'
    """
    return hashlib.blake2b(content, digest_size=_SIZE).digest()


def image_hashes(dataset: Dataset, split: str) -> np.ndarray:
    """Hash what is stored of each image: its file, or the bytes in the table. No image is decoded.

    An image at an address, or whose file cannot be read, has the hash of its path. What took more than a second is kept
    in the cache of `datasets` until the data change: the rows, or the size or time of a file that they refer to.

    Args:
        dataset: rows with an `image` column.
        split: its name, for the progress bar, which appears after two seconds.

    Returns:
        `(images, 2)` uint64: 16 bytes of each image's hash.

    Example:
        >>> import datasets
        >>> rows = Dataset.from_dict({"image": [{"bytes": part, "path": None} for part in (b"1", b"2", b"1")]})
        >>> hashes = image_hashes(rows.cast_column("image", datasets.Image()), "train")
        >>> (hashes == hashes[0]).all(axis=1).tolist()
        [True, False, True]
    """
    cache = cache_file(dataset, "hashes", ".npy")
    if cache.is_file():
        return np.load(cache)
    started = time.perf_counter()
    hashes = _hash_all(dataset, split)
    if time.perf_counter() - started > _WORTH_KEEPING:
        with whole_file(cache) as unfinished:  # several processes may hash at once
            np.save(unfinished, hashes)
    return hashes


def _hash_all(dataset: Dataset, split: str) -> np.ndarray:
    rows = undecoded(dataset).select_columns("image")
    digests = bytearray()
    # Neither reading nor hashing a file holds the interpreter's lock.
    with (
        ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool,
        tqdm(total=rows.num_rows, desc=f"hashing {split} images", unit="image", leave=False, delay=_BAR_AFTER) as bar,
    ):
        for start in range(0, rows.num_rows, _CHUNK):
            images = rows[start : start + _CHUNK]["image"]
            digests += b"".join(pool.map(_digest_of_image, images))
            bar.update(len(images))
    return np.frombuffer(bytes(digests), np.uint64).reshape(-1, 2)


def _digest_of_image(image: Mapping[str, Any] | None) -> bytes:
    image = image or {}
    if image.get("bytes") is not None:
        return digest_of(image["bytes"])
    path = image.get("path") or ""
    try:
        if os.path.isfile(path):  # a named pipe would wait for ever
            with open(path, "rb") as file:
                return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_SIZE)).digest()
    except (OSError, ValueError):  # ValueError: a path with a null in it
        pass
    return digest_of(b"path " + os.fsencode(path))
