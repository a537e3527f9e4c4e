"""Reads sources that have no name: files, directories, data sets of the hub, and streams."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict

from deitlt_hf.data.columns import NONE_GIVEN, ColumnNames, find_columns, with_image_and_label
from deitlt_hf.data.folders import (
    LEVELS,
    class_folders_certain,
    files_in,
    full_folders,
    read_image_folder,
    split_folders,
)
from deitlt_hf.data.images import IMAGE_SUFFIXES, REMOTE_HINT, read_bytes
from deitlt_hf.data.tables import (
    LISTED_SUFFIXES,
    TABLE_SUFFIXES,
    by_split,
    holds_predictions,
    read_tables,
    reading,
    root_reason,
)
from deitlt_hf.errors import DeiTLTError, counted, notice, some, unknown_source

Source = str | Path | Dataset | DatasetDict | IterableDataset | IterableDatasetDict


def read_path(path: Path, names: Iterable[str], given: ColumnNames, needs_train: bool) -> DatasetDict:
    """Read a table or a directory; `names` are what the user could have meant, for the message about neither."""
    if path.is_dir():
        return read_directory(path, given, needs_train)
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        if holds_predictions(path):
            raise DeiTLTError(f"{str(path)!r} holds predictions, no labels: pass the images with their classes")
        with reading(path):
            return read_tables({"train": [path]}, given, needs_train)
    if path.exists():
        raise DeiTLTError(f"{str(path)!r} is no list of images: pass a file with one of {', '.join(TABLE_SUFFIXES)}")
    raise unknown_source(path, names)


def read_directory(directory: str | Path, given: ColumnNames = NONE_GIVEN, needs_train: bool = True) -> DatasetDict:
    """Read what `save_to_disk` wrote, else tables of images, else class folders.

    Tables beside class folders are read only if they are called `metadata`; a notice says which was taken.
    """
    directory = Path(directory).expanduser()
    if not directory.is_dir():
        raise DeiTLTError(f"data directory {str(directory)!r} does not exist: pass a directory that does")
    with reading(directory):
        if any((directory / name).is_file() for name in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(str(directory))
            saved = saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)
            return with_image_and_label(saved, given, needs_train)
        if tables := _tables_that_count(directory):
            return read_tables(by_split(tables, directory), given, needs_train)
        if not any(full_folders(directory)):
            images = sum(path.name.lower().endswith(IMAGE_SUFFIXES) for path in directory.iterdir())
            what = f"holds {counted(images, 'image')} but no class folders" if images else "holds no data"
            raise DeiTLTError(
                f"data directory {str(directory)!r} {what}: pass one with a folder of images per class, with Parquet "
                "files such as train-00000-of-00001.parquet, or with lists such as train.csv"
            )
        for name, column in {"image_column": given.image, "label_column": given.label}.items():
            if column is not None:
                raise DeiTLTError(
                    f"{name} {column!r} is of a table, and {str(directory)!r} has class folders: leave it out, or "
                    "pass a list of images"
                )
        if given.group not in (None, *LEVELS):
            raise DeiTLTError(
                f"group_column {given.group!r} is of a table, and {str(directory)!r} has class folders: pass "
                "class/group where each class folder holds a folder per group, or group/class"
            )
        return read_image_folder(directory, needs_train, given.group)


def _tables_that_count(directory: Path) -> list[Path]:
    """The tables to read; beside class folders only those called `metadata`, in the directory or a split's folder."""
    paths = sorted(map(Path, files_in(directory, LISTED_SUFFIXES)))
    tables = [path for path in paths if not holds_predictions(path)]
    if not tables or not class_folders_certain(directory):
        return tables
    places = {directory, *split_folders(directory)}
    metadata = [path for path in tables if path.parent in places and "metadata" in path.stem.lower()]
    shown = some(path.relative_to(directory) for path in metadata or tables)
    if metadata:
        notice(f"{str(directory)!r}: {shown} is read and gives the classes, not the folders; rename it to read these")
    else:
        notice(f"{str(directory)!r}: the class folders are read, not {shown}; pass a list itself to read that")
    return metadata


def load_from_hub(name: str, config: str | None = None) -> DatasetDict:
    """Load a data set of the hub, or of the cache if it was downloaded before."""
    try:
        loaded = datasets.load_dataset(name, config)
    except Exception as error:  # the network, the hub's client and datasets each raise their own
        raise DeiTLTError(f"cannot load {name} from the hub: {_hub_reason(error)}") from error
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded)


def _hub_reason(error: Exception) -> str:
    lines = str(error).splitlines()
    available = re.search(r"(?:configs|Available):? *\[(.*?)\]", " ".join(lines))
    if available and ("Config name is missing" in lines[0] or "BuilderConfig" in lines[0]):
        what = "it needs a configuration" if "missing" in lines[0] else "it has no such configuration"
        return f"{what}; pass data_config (--data_config), one of {available[1].replace(chr(39), '')}"
    reason = root_reason(error)
    if "401 Unauthorized" in reason:
        return "the hub refused the token; log in with `hf auth login`, or correct HF_TOKEN where that is set"
    return reason


def read_streams(
    source: IterableDataset | IterableDatasetDict, given: ColumnNames, allow_remote_images: bool = False
) -> DatasetDict:
    """Read streams once into the local cache: epochs and class counts need random access, memory stays as it is.

    The image, the label and the group column are kept, and the column `split` of a single stream. Images at addresses
    outside the hub are read only with `allow_remote_images`.
    """
    streams = {"train": source} if isinstance(source, IterableDataset) else source
    read = DatasetDict()
    for split, stream in streams.items():
        features = stream.features
        if features is None:  # unknown to the stream; its first row shows them
            first = next(iter(stream), None)
            if first is None:
                raise DeiTLTError(f"the stream of {split} has no rows: pass one with images")
            features = Dataset.from_list([first]).features
        image, label, group = find_columns(features, given)
        others = [label] if group is None else [label, group]
        if len(streams) == 1:
            others += [name for name in features if name.lower() == "split" and name not in (image, *others)]
        rows = stream.select_columns([image, *others])
        if rows.features is not None and isinstance(features[image], datasets.Image):
            # Not decoded: bytes are stored unchanged, and an unreadable image raises no error yet.
            rows = rows.cast_column(image, datasets.Image(decode=False))
        try:
            read[split] = Dataset.from_generator(
                _rows,
                features=Features({image: datasets.Image()} | {column: features[column] for column in others}),
                gen_kwargs={"stream": rows, "image": image, "allow_remote": allow_remote_images},
            )
        except Exception as error:  # the network, the hub's client and datasets each raise their own
            raise DeiTLTError(f"cannot read the stream of {split}: {root_reason(error)}") from error
    return read


def _rows(stream: IterableDataset, image: str, allow_remote: bool) -> Iterator[dict[str, Any]]:
    for row in stream:
        value = row[image]
        if isinstance(value, dict) and value.get("bytes") is None and "://" in (value.get("path") or ""):
            # A file of the hub may be in an archive there, zip://cat.jpg::hf://datasets/...
            if not allow_remote and not value["path"].split("::")[-1].startswith("hf://"):
                raise DeiTLTError(f"an image lies at {value['path']} and is not fetched; {REMOTE_HINT}")
            row = row | {image: {"bytes": read_bytes(value["path"]), "path": value["path"]}}
        elif isinstance(value, PIL.Image.Image):
            row = row | {image: value.copy()}  # without its format, or a JPEG would be compressed again
        yield row
