"""Files that list images and their labels: CSV, TSV, JSON lines, and Parquet, which may hold the images themselves."""

from __future__ import annotations

import csv
import datetime
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import DatasetDict, Features, Value
from datasets.table import CastError

from deitlt_hf.data.columns import (
    GROUP,
    ColumnNames,
    class_names,
    find_columns,
    referenced_images,
    with_image_and_label,
)
from deitlt_hf.data.folders import files_in
from deitlt_hf.data.images import IMAGE_SUFFIXES, from_base64
from deitlt_hf.data.splits import SPLITS, known_splits, split_named, splits_of_rows
from deitlt_hf.errors import DeiTLTError, first_line, notice, some

Columns = dict[str, list]

# A JSON file beside images is seldom a list of them: a .json file is read only if it is the source itself.
LISTED_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (*LISTED_SUFFIXES, ".json")

# The columns that `deitlt predict` writes; a model's predictions are not used as labels.
# A row per file and class, of a student or of a network with one head.
RANKED_COLUMNS = ("file", "rank", "class")  # and one of the following, in which the probabilities are
PROBABILITY_COLUMNS = (
    ("probability",),
    ("average", "cls", "distillation"),
    ("average", "cls", "distillation", "fused"),
)
# A row per image; with a threshold, the class is followed by the one that is most probable; with a coverage, the last
# column is the image's set of classes.
IMAGE_COLUMNS = ("file", "class", "probability")
EXPERT_COLUMNS = ("cls_class", "cls_probability", "distillation_class", "distillation_probability", "experts_agree")
BEST_CLASS = "best_class"
SET_COLUMN = "set"

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_NO_LABEL = (-1, "-1")

MAX_COLUMNS = 1000  # a list of images has a handful
MAX_UNPACKED = 2**30  # bytes
MAX_RATIO = 50  # of unpacked to packed bytes; images, which are packed already, have about 1
MAX_TEXT = 50_000_000  # letters of a field, which may be an image in base64

_WHOLE_NUMBER = re.compile("-?(0|[1-9][0-9]*)")


@contextmanager
def reading(place: Path | str) -> Iterator[None]:
    """Turn any error of datasets, csv, json, pyarrow or fsspec into one line that names the file or directory."""
    try:
        yield
    except DeiTLTError:
        raise
    except UnicodeDecodeError as error:
        raise DeiTLTError(f"{place} is not UTF-8 text: save it with that encoding") from error
    except Exception as error:
        raise DeiTLTError(f"cannot read the data in {str(place)!r}: {root_reason(error)}") from error


def root_reason(error: BaseException) -> str:
    """The first line of an error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return "its files do not have the same columns" if isinstance(error, CastError) else first_line(error)


def holds_predictions(path: Path) -> bool:
    """Whether a table is one that `deitlt predict` wrote, by its first line."""
    if _suffix(path) != ".csv":
        return False
    try:
        with open(path, "rb") as file:
            header = tuple(file.readline(1000).decode(errors="replace").strip().split(","))
    except OSError:
        return False  # reading the table gives the reason
    always = tuple(name for name in header if name not in (BEST_CLASS, SET_COLUMN))
    ranked = [RANKED_COLUMNS + columns for columns in PROBABILITY_COLUMNS]
    return always in (*ranked, IMAGE_COLUMNS, IMAGE_COLUMNS + EXPERT_COLUMNS)


def by_split(tables: Sequence[Path], directory: Path) -> dict[str, list[Path]]:
    """The tables of each split, by their names (`train-00000-of-00001.parquet`, `birds_test.csv`) or folders.

    If no name means a split, all tables are `train`. Of several kinds of file, the one that comes first in
    `LISTED_SUFFIXES` is read. Notices say what was taken and what was not, unless names are as plain as `train.csv`.
    """
    suffix = next(suffix for suffix in LISTED_SUFFIXES if any(_suffix(path) == suffix for path in tables))
    of_suffix = [path for path in tables if _suffix(path) == suffix]
    named: dict[str | None, list[Path]] = {split: [] for split in (*SPLITS, None)}
    for path in of_suffix:
        inner = path.relative_to(directory)
        names = (path.stem, *reversed(inner.parent.parts))  # the innermost folder first
        named[next(filter(None, map(split_named, names)), None)].append(path)
    found = {split: named[split] for split in SPLITS if named[split]} or {"train": of_suffix}
    taken = [path for paths in found.values() for path in paths]
    left = [str(path.relative_to(directory)) for path in tables if path not in taken]
    family = {path: _SHARD.sub("", path.stem) for path in of_suffix}  # the name without the number of the part
    plain = all(split in (family[path], path.parent.name) for split, paths in found.items() for path in paths)
    if left or not (plain or len(set(family.values())) == 1):
        shown = ", ".join(
            f"{some(path.relative_to(directory) for path in paths)} as {split}" for split, paths in found.items()
        )
        notice(f"tables: {shown}" + (f"; passed over: {some(left)}" if left else ""))
    return found


def read_tables(files: Mapping[str, Sequence[Path]], given: ColumnNames, needs_train: bool = True) -> DatasetDict:
    """Read the files of each split into the splits of `known_splits`, with columns `image` and `label`.

    The values of a given column of groups become the texts of a column `group`.

    Paths of images are absolute, relative to the file that names them, or addresses. If all files are `train`, a column
    `split` says which split a row belongs to.
    """
    paths = [path for of_split in files.values() for path in of_split]
    if _suffix(paths[0]) == ".parquet":  # as are all of them then
        for path in paths:
            _check_unpacked_size(path)
        features = Features.from_arrow_schema(pq.read_schema(paths[0]))
        image = find_columns(features, given._replace(group=None)).image
        if features[image] not in (Value("string"), Value("large_string")):  # the images themselves
            names = {split: list(map(str, of_split)) for split, of_split in files.items()}
            embedded = datasets.load_dataset("parquet", data_files=names)
            return with_image_and_label(embedded, given, needs_train)
    advice = "; or pass the right list itself" if len(paths) > 1 else ""
    rows = pd.concat(
        _read_table(path, split, given, may_have_splits=len(files) == 1, advice=advice)
        for split, of_split in files.items()
        for path in of_split
    )
    by_name = {str(name): of_name for name, of_name in rows.groupby("split", sort=False)}
    splits = known_splits(by_name, needs_train, is_labelled=lambda of_split: not _all_missing(of_split["label"]))
    labels = {label for of_split in splits.values() for label in of_split["label"]}
    classes: dict[Any, Any] = {label: _whole_number(label) for label in labels}
    if None in classes.values():
        classes = {label: label for label in labels}  # names
    names = class_names(list(set(classes.values())))
    index = {name: place for place, name in enumerate(names)}
    return DatasetDict(
        {
            split: referenced_images(
                list(of.image),
                [index[str(classes[label])] for label in of.label],
                names,
                None if given.group is None else list(of.group),
            )
            for split, of in splits.items()
        }
    )


def _read_table(path: Path, split: str, given: ColumnNames, may_have_splits: bool, advice: str) -> pd.DataFrame:
    """The `split`, `image` (a path, an address, or bytes) and `label` of each row of a file; its `group` if asked."""
    readers = {".parquet": _read_parquet, ".csv": _read_separated, ".tsv": _read_separated}
    with reading(path):
        columns = readers.get(_suffix(path), _read_json)(path)
    if not columns or not next(iter(columns.values())):
        raise DeiTLTError(f"{path} has no rows: pass a file with a row for each image")
    features = Features(dict.fromkeys(columns, Value("string")))
    try:
        image, label, group = find_columns(features, given)
    except DeiTLTError as error:
        raise DeiTLTError(f"{path}: {error}{advice}") from error
    splits = None
    if may_have_splits:
        others = {name: values for name, values in columns.items() if name not in (image, label, group)}
        try:
            splits = splits_of_rows(others)
        except DeiTLTError as error:
            raise DeiTLTError(f"{path}: {error}") from error
    splits = splits or [split] * len(columns[label])
    rows = pd.DataFrame({"split": splits, "image": columns[image], "label": columns[label]}, dtype=object)
    # A published test split may have no labels: `known_splits` leaves it out.
    unlabelled = {name for name, of in rows.groupby("split") if name != "train" and _all_missing(of["label"])}
    _check_column(path, image, rows["image"], (str,))
    _check_column(path, label, rows["label"].mask(rows["split"].isin(unlabelled), "unknown"), (str, int, float))
    labels = [str(label).lower() if isinstance(label, bool) else label for label in rows["label"]]  # as in Parquet
    images = _embedded_or_found(path, columns[image])
    read = pd.DataFrame({"split": splits, "image": images, "label": labels}, dtype=object)
    if group is not None:
        _check_column(path, group, columns[group], (str, int, float, datetime.date))
        read[GROUP] = list(map(str, columns[group]))
    return read


def _all_missing(labels: Iterable) -> bool:
    return all(_is_missing(label) or label in _NO_LABEL for label in labels)


def _is_missing(value: object) -> bool:
    """Whether a field is null, not a number, or a text of nothing but spaces."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _check_column(path: Path, column: str, values: Collection, types: tuple[type, ...]) -> None:
    rows = [row for row, value in enumerate(values, 1) if _is_missing(value)]
    if rows:
        raise DeiTLTError(
            f"{path}: {len(rows)} of {len(values)} rows have no {column!r}, the first is row {rows[0]}: fill them in "
            "or remove them"
        )
    other = next((value for value in values if not isinstance(value, types)), None)
    if other is not None:
        raise DeiTLTError(f"{path}: the column {column!r} holds {str(other)[:80]!r}: pass texts")


def _whole_number(label: str | float) -> int | None:
    """The number of a label such as 7, 7.0 or "7", which are one class; None for a name, such as "007"."""
    if isinstance(label, str):
        return int(label) if _WHOLE_NUMBER.fullmatch(label.strip()) else None
    return int(label) if isinstance(label, int) or label.is_integer() else None


def _embedded_or_found(path: Path, values: list[str]) -> list[str | bytes]:
    """The paths of a list's images, or their bytes if the list holds them as base64 text."""
    if from_base64(values[0]) is not None:
        images = [from_base64(value) for value in values]
        if None in images:
            raise DeiTLTError(f"{path}: row {images.index(None) + 1} holds no image in base64, as row 1 does: mend it")
        return images
    folder = os.path.join(path.parent.absolute(), "")
    places = [value if "://" in value or os.path.isabs(value) else folder + value for value in values]
    # Backslashes separate folders on Windows, but may also be part of a name.
    places = [place.replace("\\", "/") if "\\" in place and not os.path.exists(place) else place for place in places]
    if places[0].lower().endswith(IMAGE_SUFFIXES) or "://" in places[0] or os.path.exists(places[0]):
        return places
    return _with_suffixes(path, values, places)


def _with_suffixes(path: Path, values: list[str], places: list[str]) -> list[str]:
    """The files of a list that names images without suffixes, such as HAM10000's `image_id`."""
    by_stem: dict[str, list[str]] = {}
    for file in files_in(path.parent.absolute(), IMAGE_SUFFIXES):
        by_stem.setdefault(Path(file).stem, []).append(file)
    found = [by_stem.get(os.path.basename(value), []) for value in values]
    several = next((index for index, files in enumerate(found) if len(files) > 1), None)
    if several is not None:
        raise DeiTLTError(
            f"{path}: {values[several]!r} could be {found[several][0]} or {found[several][1]}: write the file's path"
        )
    number = sum(map(len, found))
    if number:
        notice(f"{path}: images are named without a suffix: {number} of {len(values)} are found beside the list")
    return [files[0] if files else place for files, place in zip(found, places, strict=True)]


# CSV and JSON are not read by pandas or `datasets`: labels stay text (001 is another class than 1, and NA is one), a
# field may hold a whole image, and messages name the line.
def _read_separated(path: Path) -> Columns:
    before = csv.field_size_limit(MAX_TEXT)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            # Not strict, it would take all lines from a quote that is not closed up to the next one as one text.
            lines = csv.reader(file, delimiter="\t" if _suffix(path) == ".tsv" else ",", strict=True)
            header = _without_empty_end(next(lines, []), 0)
            _check_header(path, header)
            rows = []
            for row in filter(None, _lines(path, lines)):
                fields = _without_empty_end(row, len(header))
                if len(fields) != len(header):  # a label with a comma must not be cut at it
                    advice = 'put texts with a comma in quotes, as in "owl, barn"'
                    raise DeiTLTError(
                        f"{path}, line {lines.line_num}: {len(fields)} fields where the header has {len(header)}: "
                        + (advice if len(fields) > len(header) else "fill in the others")
                    )
                rows.append(fields)
    finally:
        csv.field_size_limit(before)
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}


def _lines(path: Path, lines: Any) -> Iterator[list[str]]:
    """The fields of each line of a csv.reader; an error of the quotes names the line in which the text begins."""
    while True:
        first = lines.line_num + 1
        try:
            row = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise DeiTLTError(
                f"{path}, line {first}: {error}: close each quote at the end of its text, and write a quote within a "
                "text in quotes twice"
            ) from error
        yield row


def _check_header(path: Path, header: list[str]) -> None:
    if len(header) > MAX_COLUMNS:
        raise DeiTLTError(
            f"{path} has {len(header)} columns, more than {MAX_COLUMNS}: pass a list with a column of paths and one of "
            "labels"
        )
    data = next((name for name in header if name.lower().endswith(IMAGE_SUFFIXES)), None)
    if data is not None:
        raise DeiTLTError(
            f"{path} has no header, for its first line holds {data!r}: add a first line such as file_name,label"
        )
    separators = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
    other = next((name for letter, name in separators.items() if len(header) == 1 and letter in header[0]), None)
    if other is not None:
        raise DeiTLTError(f"{path} separates its columns by {other}: save it as .csv with commas, or as .tsv with tabs")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DeiTLTError(f"{path} has two columns called {twice!r}: rename one of them")


def _without_empty_end(fields: list[str], at_least: int) -> list[str]:
    """The fields without empty ones at the line's end, which spreadsheets write for empty columns."""
    while len(fields) > at_least and not fields[-1].strip():
        fields = fields[:-1]
    return fields


def _read_json(path: Path) -> Columns:
    text = path.read_text(encoding="utf-8-sig")
    rows = []
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        if text.lstrip().startswith("["):
            raise
        whole = None
    if isinstance(whole, list):
        rows = whole
    elif isinstance(whole, dict):
        if {"images", "annotations"} <= whole.keys():
            raise DeiTLTError(
                f"{path} is a COCO file, whose annotations may give an image several classes: pass a list with a row "
                'for each image, such as {"file_name": "a.jpg", "label": "owl"}'
            )
        rows = [whole]
    else:
        for number, line in enumerate(text.split("\n"), 1):
            with reading(f"{path}, line {number}"):
                rows += [json.loads(line)] if line.strip() else []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DeiTLTError(f'{path}: row {number} is no object such as {{"file_name": "a.jpg", "label": "owl"}}')
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> Columns:
    """The columns of a Parquet file, if it holds no text that is repeated into gigabytes."""
    texts = [field.name for field in pq.read_schema(path) if pa.types.is_string(field.type)]
    table = pq.read_table(path, read_dictionary=texts)  # each different text once
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            longest = max(
                (pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0 for chunk in column.chunks), default=0
            )
            if longest * table.num_rows > MAX_UNPACKED:
                raise DeiTLTError(
                    f"the column {name!r} has texts of {longest:,} letters in {table.num_rows:,} rows, too much to "
                    "read at once: pass paths of images"
                )
    return table.to_pydict()


def _check_unpacked_size(path: Path) -> None:
    """Refuse a Parquet file that is made to fill the memory: small, and gigabytes when it is unpacked."""
    with reading(path):
        metadata = pq.read_metadata(path)
    unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    packed = path.stat().st_size
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * packed) or metadata.num_columns > MAX_COLUMNS:
        raise DeiTLTError(
            f"{path} of {packed / 1e6:.1f} MB unpacks to {unpacked / 1e9:.1f} GB in {metadata.num_columns} columns and "
            f"{metadata.num_rows:,} rows: pass a file of images, or of their paths and labels"
        )


def _suffix(path: Path) -> str:
    return path.suffix.lower()
