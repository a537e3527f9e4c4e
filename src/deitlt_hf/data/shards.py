"""Parquet shards of a split, written as they are read, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from tqdm import tqdm

from deitlt_hf.errors import DeiTLTError

SHARD_BYTES = 500_000_000
# Embedded images are read and written in small groups, which viewers and shuffled reading like too.
EMBEDDED_ROWS = 100
REFERENCED_ROWS = 10_000


def write_shards(
    split: Dataset, directory: Path, name: str, embed: bool = False, shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write a split as `NAME-00000-of-0000N.parquet`, which `datasets.load_dataset` loads with its named labels.

    Args:
        split: with columns `image` and `label`.
        directory: where to, it exists.
        name: of the split.
        embed: put the bytes of images that are only referenced into the shards, as they lie in their files.
        shard_bytes: a new shard begins when one holds as many bytes of images.

    Returns:
        The shards, in order.

    Raises:
        DeiTLTError: an image's file that cannot be read.

    Example:
        >>> write_shards(splits["train"], Path("data"), "train")  # doctest: +SKIP
        [PosixPath('data/train-00000-of-00001.parquet')]
    """
    schema = split.features.arrow_schema
    parts: list[Path] = []
    writer, written = None, 0
    try:
        for table in _tables(split, embed):
            if writer is None or written >= shard_bytes:
                if writer is not None:
                    writer.close()
                parts.append(directory / f"{name}-{len(parts):05d}.part")
                writer, written = pq.ParquetWriter(parts[-1], schema, write_page_index=True), 0
            writer.write_table(table.cast(schema))
            written += table.nbytes
    finally:
        if writer is not None:
            writer.close()
    shards = [directory / f"{name}-{index:05d}-of-{len(parts):05d}.parquet" for index in range(len(parts))]
    for part, shard in zip(parts, shards, strict=True):
        part.rename(shard)
    return shards


def has_references(split: Dataset) -> bool:
    """Whether the first image is a path without bytes, as in all of a split's images or in none."""
    return split.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"] is None


def _tables(split: Dataset, embed: bool) -> Iterator[pa.Table]:
    rows = REFERENCED_ROWS if has_references(split) and not embed else EMBEDDED_ROWS
    # Reading a million files takes a while: a terminal sees how it goes.
    with tqdm(total=split.num_rows, unit=" images", disable=None if embed else True, leave=False) as bar:
        for table in split.with_format("arrow").iter(batch_size=rows):
            yield _embedded(table) if embed else table
            bar.update(len(table))


def _embedded(table: pa.Table) -> pa.Table:
    """The rows with every image's bytes; of its path the file's name is kept."""
    image = table["image"].combine_chunks()
    encoded, paths = image.field("bytes").to_pylist(), image.field("path").to_pylist()
    encoded = [_read(path) if content is None else content for content, path in zip(encoded, paths, strict=True)]
    names = [None if path is None else Path(path).name for path in paths]
    filled = pa.StructArray.from_arrays(
        [pa.array(encoded, pa.binary()), pa.array(names, pa.string())], image.type.names
    )
    return table.set_column(table.schema.get_field_index("image"), "image", filled)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DeiTLTError(f"cannot read the image {path}: {error.strerror}") from error
