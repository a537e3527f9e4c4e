"""Files that list images and their labels: CSV, TSV, JSON lines, and Parquet, which may hold the images themselves."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow.parquet as pq
from datasets import DatasetDict, Features, Value

from deitlt_hf.data.columns import class_names, find_columns, referenced_images, with_image_and_label
from deitlt_hf.data.splits import SPLITS, known_splits
from deitlt_hf.errors import DeiTLTError

Columns = dict[str, list]

# JSON files that lie beside images are seldom lists of them: a file .json must be given itself.
LISTED_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (*LISTED_SUFFIXES, ".json")

_WHOLE_NUMBER = re.compile("-?(0|[1-9][0-9]*)")


def find_tables(directory: Path) -> dict[str, list[Path]]:
    """The files of each split in a directory and the folders in it.

    The split's name starts a file's name (`train-00000-of-00001.parquet`, `test.csv`) or is its folder's. Where no file
    has such a name, all of them are `train`. Only the first of `LISTED_SUFFIXES` that occurs is looked at.

    Example:
        >>> _ = Path("test.csv").write_text(""), Path("train_1.csv").write_text(""), Path("notes.csv").write_text("")
        >>> {split: [path.name for path in paths] for split, paths in find_tables(Path()).items()}
        {'test': ['test.csv'], 'train': ['train_1.csv']}
    """
    found = sorted(
        Path(folder, name)
        for folder, folders, names in os.walk(directory)
        for name in names
        if name.lower().endswith(LISTED_SUFFIXES) and not any(part.startswith(".") for part in Path(name).parts)
    )
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(directory).parts)]
    suffix = next((suffix for suffix in LISTED_SUFFIXES if any(_suffix(path) == suffix for path in found)), None)
    found = [path for path in found if _suffix(path) == suffix]
    by_split: dict[str, list[Path]] = {}
    for path in found:
        split = _split_in(path.relative_to(directory).parts)
        if split is not None:
            by_split.setdefault(split, []).append(path)
    return by_split or ({"train": found} if found else {})


def read_tables(
    files: Mapping[str, Sequence[Path]],
    image_column: str | None = None,
    label_column: str | None = None,
    needs_train: bool = True,
) -> DatasetDict:
    """Read the files of each split.

    Paths of images are absolute, relative to the file that names them, or addresses. A column `split` tells the splits
    apart where all files are `train`. For `needs_train` see `known_splits`.

    Returns:
        The splits that `known_splits` gives, with columns `image` and `label`.

    Raises:
        DeiTLTError: for files that cannot be read, are empty or are not UTF-8, columns that are missing or cannot be
            told apart, rows without path or label, and labels that are no classes.

    Example:
        >>> _ = Path("list.csv").write_text("file_name,species\\na.jpg,owl\\nb.jpg,lynx\\n")
        >>> read_tables({"train": [Path("list.csv")]})["train"]["label"][:]
        [1, 0]
    """
    first = next(iter(files.values()))[0]
    if _suffix(first) == ".parquet" and not _refers_to_files(first, image_column, label_column):
        by_split = {split: list(map(str, of_split)) for split, of_split in files.items()}
        embedded = datasets.load_dataset("parquet", data_files=by_split)
        return with_image_and_label(embedded, image_column, label_column, needs_train)
    rows: dict[str, Columns] = {}
    for split, of_split in files.items():
        for path in of_split:
            for name, columns in _read_table(path, split, image_column, label_column, len(files) == 1).items():
                merged = rows.setdefault(name, {"image": [], "label": []})
                for column, values in columns.items():
                    merged[column] += values
    rows = known_splits(rows, needs_train)
    labels = {label for columns in rows.values() for label in columns["label"]}
    ids: dict[Any, int] = {label: int(label) for label in labels} if all(map(_is_id, labels)) else {}
    names = class_names(list(set(ids.values()) or labels), len(rows["train"]["label"]))
    ids = ids or {name: index for index, name in enumerate(names)}
    return DatasetDict(
        {
            split: referenced_images(columns["image"], [ids[label] for label in columns["label"]], names)
            for split, columns in rows.items()
        }
    )


def _read_table(
    path: Path, split: str, image_column: str | None, label_column: str | None, may_have_splits: bool
) -> dict[str, Columns]:
    """The columns `image` and `label` of each split in one file."""
    columns = _READERS[_suffix(path)](path)
    try:
        image, label = find_columns(Features(dict.fromkeys(columns, Value("string"))), image_column, label_column)
    except DeiTLTError as error:
        raise DeiTLTError(f"{path}: {error}") from error
    paths, labels = columns[image], columns[label]
    _check_filled(path, image, paths)
    _check_filled(path, label, labels)
    _check_types(path, image, paths, (str,))
    _check_types(path, label, labels, (str, int, float))
    folder = os.path.join(path.parent.absolute(), "")
    paths = [value if "://" in value or os.path.isabs(value) else folder + value for value in paths]
    split_column = next((name for name in columns if name.lower() == "split"), None)
    if split_column is None or not may_have_splits or split_column in (image, label):
        return {split: {"image": paths, "label": labels}}
    rows: dict[str, Columns] = {}
    for value, image_path, image_label in zip(columns[split_column], paths, labels, strict=True):
        name = str(value).strip().lower()
        if name not in SPLITS:
            raise DeiTLTError(f"{path}: the column {split_column!r} holds {value!r}: pass one of {', '.join(SPLITS)}")
        of_split = rows.setdefault(name, {"image": [], "label": []})
        of_split["image"].append(image_path)
        of_split["label"].append(image_label)
    return rows


def _is_id(label: str | float) -> bool:
    """Whether a label is a whole number, or such a number as text; 007 is a name."""
    return type(label) is int or (isinstance(label, str) and bool(_WHOLE_NUMBER.fullmatch(label.strip())))


def _check_filled(path: Path, column: str, values: list) -> None:
    rows = [row for row, value in enumerate(values, 1) if value is None or value == ""]
    if rows:
        raise DeiTLTError(
            f"{path}: {len(rows)} of {len(values)} rows have no {column!r}, the first is row {rows[0]}: fill them in "
            "or remove them"
        )


def _check_types(path: Path, column: str, values: list, types: tuple[type, ...]) -> None:
    other = next((value for value in values if not isinstance(value, types)), None)
    if other is not None:
        raise DeiTLTError(f"{path}: the column {column!r} holds {str(other)[:80]!r}: pass texts")


def _read_separated(path: Path) -> Columns:
    # All text: pandas would make 1 of a class 001, and nothing of a class called NA.
    frame = _readable(
        path,
        lambda: pd.read_csv(
            path,
            sep="\t" if _suffix(path) == ".tsv" else ",",
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
            quoting=csv.QUOTE_MINIMAL,
        ),
    )
    return _filled(path, {str(name): frame[name].tolist() for name in frame.columns})


def _read_json(path: Path) -> Columns:
    text = _readable(path, lambda: path.read_text(encoding="utf-8-sig"))
    if text.lstrip().startswith("["):
        rows = _readable(path, lambda: json.loads(text))
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                rows.append(_readable(f"{path}, line {number}", lambda line=line: json.loads(line)))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DeiTLTError(f'{path}: row {number} is no object such as {{"file_name": "a.jpg", "label": "owl"}}')
    names = dict.fromkeys(name for row in rows for name in row)
    return _filled(path, {name: [row.get(name) for row in rows] for name in names})


def _read_parquet(path: Path) -> Columns:
    return _filled(path, _readable(path, lambda: pq.read_table(path).to_pydict()))


_READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".parquet": _read_parquet,
}


def _refers_to_files(path: Path, image_column: str | None, label_column: str | None) -> bool:
    """Whether a Parquet file's images are paths."""
    features = _readable(path, lambda: Features.from_arrow_schema(pq.read_schema(path)))
    image, _ = find_columns(features, image_column, label_column)
    return features[image] in (Value("string"), Value("large_string"))


def _readable(name: Path | str, read: Callable[[], Any]) -> Any:
    """What `read` returns; whatever it raises becomes one line."""
    try:
        return read()
    except UnicodeDecodeError as error:
        raise DeiTLTError(f"{name} is not UTF-8 text: save it with that encoding") from error
    except Exception as error:  # pandas, json and pyarrow each raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeiTLTError(f"cannot read the data in {str(name)!r}: {reason}") from error


def _filled(path: Path, columns: Columns) -> Columns:
    if not columns or not next(iter(columns.values())):
        raise DeiTLTError(f"{path} has no rows: pass a file with a row for each image")
    return columns


def _split_in(parts: Sequence[str]) -> str | None:
    words = [part.lower().replace("_", "-").split("-")[0].split(".")[0] for part in parts]
    return next((word for word in reversed(words) if word in SPLITS), None)


def _suffix(path: Path) -> str:
    return path.suffix.lower()
