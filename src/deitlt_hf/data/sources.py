"""Reads a source that has no name: files, directories, data sets of the hub, and data sets that are loaded already."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import datasets
import PIL.Image
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict
from datasets.table import CastError

from deitlt_hf.data.columns import find_columns, with_image_and_label
from deitlt_hf.data.folders import class_folders_certain, has_class_folders, read_image_folder, split_folders
from deitlt_hf.data.images import REMOTE_HINT, read_bytes
from deitlt_hf.data.splits import some
from deitlt_hf.data.tables import TABLE_SUFFIXES, by_split, find_tables, holds_predictions, read_tables
from deitlt_hf.errors import DeiTLTError, notice

Result = TypeVar("Result")
Source = str | Path | Dataset | DatasetDict | IterableDataset | IterableDatasetDict

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def read_source(
    source: Source,
    names: Iterable[str] = (),
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    data_config: str | None = None,
    allow_remote_images: bool = False,
    needs_train: bool = True,
) -> DatasetDict:
    """Read a source and give it the columns `image` and `label`; no image is opened.

    Args:
        source: see `load_long_tailed_dataset`.
        names: what the user could have meant, for the message about an unknown source.
        image_column: the column of images or their paths; by default found.
        label_column: the column of class names or ids; by default found.
        data_config: configuration of a data set of the hub.
        allow_remote_images: read images of streams that lie at other addresses than those of the hub.
        needs_train: see `known_splits`.

    Returns:
        The splits that `known_splits` gives.

    Raises:
        DeiTLTError: for a source that is unknown or cannot be read, and for columns as in `with_image_and_label`.

    Example:
        >>> read_source(Dataset.from_dict({"image": ["a.png"], "label": [0]}))["train"].features["label"].names
        ['0']
    """
    columns = {"image_column": image_column, "label_column": label_column}
    how = columns | {"needs_train": needs_train}
    on_hub = isinstance(source, str) and _is_hub_id(source)
    if data_config is not None and not on_hub:
        raise DeiTLTError(f"data_config {data_config!r} goes with a data set of the hub, owner/name: leave it out")
    if on_hub:
        return with_image_and_label(load_from_hub(source, data_config), **how)
    if isinstance(source, (str, Path)):
        return _read_path(Path(source).expanduser(), names, how)
    if isinstance(source, Dataset):
        return with_image_and_label(DatasetDict(train=source), **how)
    if isinstance(source, DatasetDict):
        return with_image_and_label(source, **how)
    if isinstance(source, IterableDataset):
        return with_image_and_label(
            read_streams({"train": source}, allow_remote_images=allow_remote_images, **columns), **how
        )
    if isinstance(source, IterableDatasetDict):
        return with_image_and_label(read_streams(source, allow_remote_images=allow_remote_images, **columns), **how)
    raise DeiTLTError(
        f"source has type {type(source).__name__}: pass a name, a file, a directory, a data set of the hub, or one "
        "that datasets has loaded"
    )


def _read_path(path: Path, names: Iterable[str], how: dict[str, Any]) -> DatasetDict:
    if path.is_dir():
        return read_directory(path, **how)
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        if holds_predictions(path):
            raise DeiTLTError(f"{str(path)!r} holds predictions, no labels: pass the images with their classes")
        return _read(path, lambda: read_tables({"train": [path]}, **how))
    if path.exists():
        raise DeiTLTError(f"{str(path)!r} is no list of images: pass a file with one of {', '.join(TABLE_SUFFIXES)}")
    near = difflib.get_close_matches(str(path), list(names), cutoff=0.8)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the names are {', '.join(names)}"
    raise DeiTLTError(
        f"unknown data source {str(path)!r}, which is neither a name, a file, a directory, nor a data set of the hub "
        f"(owner/name): {hint}"
    )


def read_directory(
    directory: str | Path,
    image_column: str | None = None,
    label_column: str | None = None,
    needs_train: bool = True,
) -> DatasetDict:
    """Read what `save_to_disk` wrote, class folders, or tables of images, the first of them that is there.

    Tables beside class folders count only if they are called `metadata`; a notice says which was taken. For
    `needs_train` see `known_splits`.

    Returns:
        The splits that `known_splits` gives, with columns `image` and `label`.

    Raises:
        DeiTLTError: for a directory that is missing or holds none of them, files that cannot be read, and for columns
            as in `with_image_and_label`.

    Example:
        >>> Dataset.from_dict({"img": ["a.png", "b.png"], "species": ["owl", "lynx"]}).save_to_disk("saved")
        >>> read_directory("saved")["train"]["label"][:]
        [1, 0]
    """
    directory = Path(directory).expanduser()
    if not directory.is_dir():
        raise DeiTLTError(f"data directory {str(directory)!r} does not exist: pass a directory that does")
    if any((directory / name).is_file() for name in ("dataset_dict.json", "state.json")):
        saved = _read(directory, lambda: datasets.load_from_disk(str(directory)))
        saved = saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)
        return with_image_and_label(saved, image_column, label_column, needs_train)
    if tables := _read(directory, lambda: _tables_that_count(directory)):
        files = by_split(tables, directory)
        return _read(directory, lambda: read_tables(files, image_column, label_column, needs_train))
    if not _read(directory, lambda: has_class_folders(directory)):
        raise DeiTLTError(
            f"data directory {str(directory)!r} holds no data: pass one with a folder of images per class, with "
            "Parquet files such as train-00000-of-00001.parquet, or with lists such as train.csv"
        )
    for name, column in {"image_column": image_column, "label_column": label_column}.items():
        if column is not None:
            raise DeiTLTError(
                f"{name} {column!r} is of a table, and {str(directory)!r} has class folders: leave it out, or "
                "pass a list of images"
            )
    return _read(directory, lambda: read_image_folder(directory, needs_train))


def _tables_that_count(directory: Path) -> list[Path]:
    """The tables of a directory; beside class folders only those called `metadata`, right in it or in a split's."""
    tables = find_tables(directory)
    if not tables or not class_folders_certain(directory):
        return tables
    places = {directory, *split_folders(directory)}
    metadata = [path for path in tables if path.parent in places and "metadata" in path.stem.lower()]
    shown = some(str(path.relative_to(directory)) for path in metadata or tables)
    if metadata:
        notice(f"{str(directory)!r}: {shown} is read and gives the classes, not the folders")
    else:
        notice(f"{str(directory)!r}: the class folders are read, not {shown}; pass a list itself to read that")
    return metadata


def load_from_hub(name: str, config: str | None = None) -> DatasetDict:
    """Load a data set of the hub, from the cache where it is there already.

    Raises:
        DeiTLTError: for one that does not exist or cannot be reached, and a configuration that is missing or unknown,
            with those that there are.

    Example:
        >>> load_from_hub("uoft-cs/cifar10")["train"].num_rows  # doctest: +SKIP
        50000
    """
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
    return reason(error)


def reason(error: BaseException) -> str:
    """The first line of an error's root cause.

    Example:
        >>> reason(ValueError("first\\nsecond"))
        'first'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, CastError):
        return "its files do not have the same columns"
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _is_hub_id(source: str) -> bool:
    """`owner/name`, unless it is a path or starts with a folder that is here."""
    return bool(_HUB_ID.fullmatch(source)) and not Path(source).exists() and not Path(source.split("/")[0]).is_dir()


def _read(place: Path, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except DeiTLTError:
        raise
    except Exception as error:  # datasets, pyarrow and fsspec each raise their own
        raise DeiTLTError(f"cannot read the data in {str(place)!r}: {reason(error)}") from error


def read_streams(
    streams: Mapping[str, IterableDataset],
    image_column: str | None = None,
    label_column: str | None = None,
    allow_remote_images: bool = False,
) -> DatasetDict:
    """Read streams once into the local cache: epochs and class counts need random access, memory stays as it is.

    Args:
        streams: by split.
        image_column: the column of images; by default found.
        label_column: the column of labels; by default found.
        allow_remote_images: read images at other addresses than those of the hub, where the stream comes from.

    Returns:
        The same splits with these two columns.

    Raises:
        DeiTLTError: for a stream without rows or one that cannot be read, and for columns as in `find_columns`.

    Example:
        >>> stream = Dataset.from_dict({"image": ["a.png"], "label": [3]}).to_iterable_dataset()
        >>> read_streams({"train": stream})["train"]["label"][:]
        [3]
    """
    read = DatasetDict()
    for split, of_split in streams.items():
        features = of_split.features or _first_features(of_split, split)
        columns = list(find_columns(features, image_column, label_column))
        of_split = of_split.select_columns(columns)
        if of_split.features is not None and isinstance(features[columns[0]], datasets.Image):
            # Undecoded, so that bytes are stored as they are and a bad image is no matter yet.
            of_split = of_split.cast_column(columns[0], datasets.Image(decode=False))
        kept = Features({columns[0]: datasets.Image(), columns[1]: features[columns[1]]})
        try:
            read[split] = Dataset.from_generator(
                _rows,
                features=kept,
                gen_kwargs={"stream": of_split, "image": columns[0], "allow_remote": allow_remote_images},
            )
        except Exception as error:  # the network, the hub's client and datasets each raise their own
            raise DeiTLTError(f"cannot read the stream of {split}: {reason(error)}") from error
    return read


def _first_features(stream: IterableDataset, split: str) -> Features:
    """The types of a stream that does not tell them, by its first row."""
    row = next(iter(stream), None)
    if row is None:
        raise DeiTLTError(f"the stream of {split} has no rows: pass one with images")
    return Dataset.from_list([row]).features


def _is_of_the_hub(path: str) -> bool:
    """Whether it is a file of the hub, alone or in an archive there (`zip://cat.jpg::hf://datasets/...`)."""
    return path.split("::")[-1].startswith("hf://")


def _rows(stream: IterableDataset, image: str, allow_remote: bool) -> Iterator[dict[str, Any]]:
    for row in stream:
        value = row[image]
        if isinstance(value, dict) and value.get("bytes") is None and "://" in (value.get("path") or ""):
            if not allow_remote and not _is_of_the_hub(value["path"]):
                raise DeiTLTError(f"an image lies at {value['path']}, from which nothing is fetched; {REMOTE_HINT}")
            row = row | {image: {"bytes": read_bytes(value["path"]), "path": value["path"]}}
        elif isinstance(value, PIL.Image.Image):
            row = row | {image: value.copy()}  # a copy knows of no JPEG, which it would be made into once more
        yield row
