"""From the columns of any source to `image` and `label`: which columns they are, and what the classes are called."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from deitlt_hf.data.splits import SPLITS, known_splits, split_named, splits_of_rows
from deitlt_hf.errors import DeiTLTError, notice, some

# Usual names of the columns, in lower case.
IMAGE_COLUMNS = ("image", "img", "picture", "file_name", "path", "file", "filename", "image_id")
GROUP = "group"  # the column of groups (sites, patients) that reading with a `group_column` adds to image and label
_MAY_BE_EMPTY = ("nan", "na", "n/a", "#n/a", "<na>", "null")  # as other programs write a missing label, in lower case
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category", "target", "species")


class ColumnNames(NamedTuple):
    """What the columns of images, labels and groups are called; None where that is to be found, or no group counts."""

    image: str | None = None
    label: str | None = None
    group: str | None = None


NONE_GIVEN = ColumnNames()


def with_image_and_label(splits: DatasetDict, given: ColumnNames = NONE_GIVEN, needs_train: bool = True) -> DatasetDict:
    """Give the splits of `known_splits` only the columns `image` (`datasets.Image`) and `label` (`ClassLabel`).

    For the columns see `find_columns`; the values of one of groups become the texts of a column `group`. No image is
    decoded. A single split is taken apart by its column `split`. Labels that are names become classes in the order of
    the sorted names; labels that are numbers are the class ids.
    """
    splits = _by_column(splits, given)
    splits = DatasetDict(known_splits(splits, needs_train, lambda split: _has_labels(split, given)))
    image, label, group = find_columns(splits["train"].features, given)
    if given.image is None:
        _say_type_wins("image", image, splits["train"].features, IMAGE_COLUMNS)
    if given.label is None:
        _say_type_wins("label", label, splits["train"].features, LABEL_COLUMNS)
    columns = {image: "image", label: "label"} | ({} if group is None else {group: GROUP})
    for name, split in splits.items():
        missing = [column for column in columns if column not in split.column_names]
        if missing:
            raise DeiTLTError(
                f"the {name} split has no column {missing[0]!r}, which train has, only "
                f"{', '.join(split.column_names)}: give all splits the same columns"
            )
    renamed = {column: name for column, name in columns.items() if column != name}
    splits = splits.select_columns(list(columns)).rename_columns(renamed)
    if group is not None:
        splits = DatasetDict({name: _with_groups(split, name, group) for name, split in splits.items()})
    splits = DatasetDict({name: _with_bytes(split) for name, split in splits.items()})
    try:
        splits = splits.cast_column("image", datasets.Image())
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DeiTLTError(
            f"column {image!r} holds {splits['train'].features['image']}, not images or their paths: pass image_column"
        ) from error
    splits = DatasetDict({name: _with_whole_labels(split) for name, split in splits.items()})
    class_label = _class_label(splits)
    for name, split in splits.items():
        feature = split.features["label"]
        if _kind(feature) == "id" and not isinstance(feature, ClassLabel) and not _are_ids(class_label.names):
            split = split.cast_column("label", Value("string"))  # numbers that are names
        if split.features["label"] != class_label:
            splits[name] = split.cast_column("label", class_label)
    return splits


def _by_column(splits: DatasetDict, given: ColumnNames) -> DatasetDict:
    """A single split taken apart by its column `split`; any others, and one without that column, as they are."""
    if len(splits) != 1:
        return splits
    (rows,) = splits.values()
    texts = {}
    for name, feature in rows.features.items():
        if name in given or _kind(feature) is None or not rows.num_rows:
            continue
        names = dict(enumerate(feature.names)) if isinstance(feature, ClassLabel) else {}
        column = selected(rows, rows.data.column(name))
        first = column[0].as_py()
        if name.lower() == "split" or split_named(str(names.get(first, first))):
            words = [str(names.get(value, value)) for value in column.to_pylist()]
            if any(map(split_named, set(words))):
                texts[name] = words
            else:  # not refused as in a list, for at the command line these data cannot be changed
                notice(f"column {name!r} holds {some(sorted(set(words)))}: not splits, so not used")
    of_rows = splits_of_rows(texts)
    if of_rows is None:
        return splits
    of_rows = np.array(of_rows)
    return DatasetDict({name: rows.select(np.flatnonzero(of_rows == name)) for name in SPLITS if name in of_rows})


def referenced_images(
    paths: Sequence[str | bytes], labels: Sequence[int], names: Sequence[str], groups: Sequence[str] | None = None
) -> Dataset:
    """A data set that refers to image files by their paths, or holds their bytes, with labels below `len(names)`."""
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=list(names))})
    try:
        column = pa.array(paths, pa.binary() if any(isinstance(path, bytes) for path in paths[:1]) else pa.string())
    except UnicodeEncodeError as error:
        raise DeiTLTError(f"the file name {error.object!r} is not valid UTF-8: rename the file") from error
    # Half a million rows in a tenth of a second, where Dataset.from_dict encodes them one by one.
    columns = [datasets.Image().cast_storage(column), pa.array(labels, pa.int64())]
    if groups is not None:
        features[GROUP] = Value("string")
        columns.append(pa.array(groups, pa.string()))
    table = pa.table(columns, schema=features.arrow_schema)
    return Dataset(table, info=datasets.DatasetInfo(features=features))


def labels_of(dataset: Dataset) -> np.ndarray:
    """The `label` column as an int64 array `(num_rows,)`, a missing one as -1."""
    return pc.fill_null(selected(dataset, dataset.data.column("label")), -1).to_numpy()


def selected(dataset: Dataset, stored: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A stored column in the data set's order and selection: `select` changes only a list of row numbers.

    Reading the column through `datasets` gathers it row by row, which takes twenty times as long.
    """
    return stored if dataset._indices is None else stored.take(dataset._indices.column(0))


def find_columns(features: Features, given: ColumnNames = NONE_GIVEN) -> ColumnNames:
    """Names of the image and of the label column, unless they are given, and of the group column, if it is given.

    A column is the only one of the right type (images; `ClassLabel`). If several have that type, or none, it is the one
    with a usual name.
    """
    images = [name for name, feature in features.items() if _holds_images(feature)]
    classes = [
        name for name, feature in features.items() if isinstance(feature, ClassLabel) and name.lower() != "split"
    ]
    image = _column("image", given.image, features, images, IMAGE_COLUMNS)
    label = _column("label", given.label, features, classes, LABEL_COLUMNS)
    if image == label:
        raise DeiTLTError(f"column {image!r} cannot be the image and the label: pass image_column and label_column")
    if given.group is None:
        return ColumnNames(image, label)
    group = _column(GROUP, given.group, features, [], ())
    if group in (image, label):
        raise DeiTLTError(f"column {group!r} cannot be the {'image' if group == image else 'label'} and the group")
    return ColumnNames(image, label, group)


def class_names(labels: Sequence[str] | Sequence[int]) -> list[str]:
    """Names of the classes, in label order: the sorted names, or the numbers, smallest first.

    Numbers from 0 up without gaps are class ids. Others, such as 1 to 10, are taken as names, and a notice says so.
    """
    if labels and all(isinstance(label, str) for label in labels):
        return sorted(set(labels))
    if labels and all(isinstance(label, int) and not isinstance(label, bool) for label in labels):
        numbers = sorted(set(labels))
        if numbers[0] < 0:
            raise DeiTLTError(f"the label column holds {numbers[0]}: remove rows without a label, give ids from 0 up")
        names = list(map(str, numbers))
        if not _are_ids(names):
            notice(
                f"labels are {len(numbers)} numbers from {numbers[0]} to {numbers[-1]}, not ids from 0 up without "
                "gaps: they are taken as names of classes"
            )
        return names
    shown = ", ".join(sorted({type(label).__name__ for label in labels})) or "nothing"
    raise DeiTLTError(f"the label column holds {shown}: pass class names, or class ids from 0 up")


def _are_ids(names: Sequence[str]) -> bool:
    """Whether the names of the classes are the numbers from 0 up."""
    return list(names) == list(map(str, range(len(names))))


def similar_form(name: str) -> str:
    """What names have in common that differ only in case, spaces, Unicode form, or a number's zeros (1, 01, 1.0)."""
    form = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return re.sub(r"^0+(?=\d)|\.0*$", "", form) if re.fullmatch(r"\d+(\.0*)?", form) else form


def say_similar(names: Sequence[str]) -> None:
    """Give a notice of classes that may be one, see `similar_form`, and of names that may mean no label."""
    empty = [name for name in names if name.strip().casefold() in _MAY_BE_EMPTY]
    if empty:
        notice(f"{some(empty)} is taken as the name of a class: remove these images if it means that there is no label")
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(similar_form(name), []).append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    if groups:
        shown = "; ".join(", ".join(map(repr, group)) for group in groups[:3]) + ("; ..." if len(groups) > 3 else "")
        notice(
            f"classes that differ only by case, spaces, zeros or encoding ({shown}): give them one name if they are one"
        )


def _column(kind: str, given: str | None, features: Features, of_type: list[str], usual_names: tuple[str, ...]) -> str:
    if given is not None:
        if given not in features:
            raise DeiTLTError(
                f"{kind}_column is {given!r}, but the columns are {', '.join(features)}: pass one of these"
            )
        return given
    usual = [name for name in of_type or features if name.lower() in usual_names]
    fitting = of_type if len(of_type) == 1 else usual or of_type
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DeiTLTError(f"the columns {', '.join(fitting)} could each be the {kind}: pass {kind}_column")
    others = f"only {', '.join(features)}" if features else "nor any other"
    raise DeiTLTError(f"the data have no {kind} column, {others}: pass {kind}_column, or rename one to {kind!r}")


def _say_type_wins(kind: str, taken: str, features: Features, usual_names: tuple[str, ...]) -> None:
    """Give a notice of a column that was taken for its type, beside one with a usual name."""
    usual = [name for name in features if name.lower() in usual_names]
    if usual and taken not in usual:
        notice(f"the {kind} is column {taken!r}, by its type, and not {some(usual)}: pass {kind}_column for another")


def _with_groups(split: Dataset, name: str, group_column: str) -> Dataset:
    """Turn the values of a `group` column into texts; each image must have one."""
    column = selected(split, split.data.column(GROUP))
    try:
        texts = pc.cast(column, pa.string())
    except pa.ArrowException as error:
        raise DeiTLTError(
            f"column {group_column!r} holds {split.features[GROUP]}, not groups: pass a column of texts or numbers"
        ) from error
    if number := pc.sum(pc.fill_null(pc.equal(texts, ""), True)).as_py():
        raise DeiTLTError(
            f"{number} of {split.num_rows} images of {name} have no {group_column!r}: give each image its group, or "
            "remove it"
        )
    return split.cast_column(GROUP, Value("string"))


def _with_bytes(split: Dataset) -> Dataset:
    """Turn images that are lists of numbers, the bytes of their files, into bytes."""
    feature = split.features["image"]
    numbers = getattr(feature, "feature", None)
    if not isinstance(feature, (datasets.List, datasets.LargeList)) or "int" not in getattr(numbers, "dtype", ""):
        return split
    notice("images are lists of numbers: they are taken as the bytes of image files")
    features = Features({**split.features, "image": Value("binary")})
    try:
        return split.map(lambda row: {"image": bytes(row["image"])}, features=features, desc="images as bytes")
    except ValueError as error:  # not in range(0, 256)
        raise DeiTLTError("column 'image' holds numbers that are no bytes, from 0 to 255: pass image files") from error


def _holds_images(feature: object) -> bool:
    if isinstance(feature, dict):  # an image in a Parquet file that `datasets` did not write
        return "bytes" in feature
    return isinstance(feature, datasets.Image) or feature in (Value("binary"), Value("large_binary"))


def _class_label(splits: DatasetDict) -> ClassLabel:
    """Check the labels of all splits, and give their classes."""
    train = splits["train"].features["label"]
    for name, split in splits.items():
        other = split.features["label"]
        if isinstance(train, ClassLabel) != isinstance(other, ClassLabel) or _kind(train) != _kind(other):
            raise DeiTLTError(f"train has the labels {train}, {name} has {other}: give all splits the same label names")
        if isinstance(train, ClassLabel) and train.names != other.names:
            differing = sorted(set(train.names) ^ set(other.names))
            what = f"such as {differing[0]!r}" if differing else "in another order"
            raise DeiTLTError(f"train and {name} have different class names, {what}: give both the same label names")
        rows = _rows_without_label(split, "label")
        if rows.size:
            raise DeiTLTError(
                f"the {name} split has images without a label (-1 or empty), {rows.size} of {split.num_rows}, the "
                f"first in row {rows[0]}: remove them"
            )
    if _kind(train) is None:
        raise DeiTLTError(f"the label column holds {train}: pass class names, or class ids from 0 up")
    if not isinstance(train, ClassLabel):
        values = {value for split in splits.values() for value in split.unique("label")}
        return ClassLabel(names=class_names(list(values)))
    for name, split in splits.items():
        labels = labels_of(split)
        rows = np.flatnonzero(labels >= train.num_classes)
        if rows.size:
            raise DeiTLTError(
                f"row {rows[0]} of the {name} split has the label {labels[rows[0]]}, out of range for "
                f"{train.num_classes} classes, as {rows.size} in all: give labels from 0 to {train.num_classes - 1}"
            )
    return train


def _with_whole_labels(split: Dataset) -> Dataset:
    """Turn the labels true and false into names, and whole numbers that are stored as fractions (1.0) into integers."""
    dtype = getattr(split.features["label"], "dtype", None)
    if dtype == "bool":
        return split.cast_column("label", Value("string"))
    if dtype in ("float16", "float32", "float64"):
        column = pc.drop_null(split.data.column("label"))
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), 2.0**53))  # and finite
        other = pc.filter(column, pc.invert(whole))
        if len(other):
            raise DeiTLTError(f"the label column holds {other[0].as_py():g}: pass class names, or class ids from 0 up")
        return split.cast_column("label", Value("int64"))
    return split


def _kind(feature: object) -> str | None:
    """`"id"` or `"name"` for a column of class ids or class names."""
    dtype = getattr(feature, "dtype", None)
    if not isinstance(dtype, str):
        return None
    return "id" if dtype.startswith(("int", "uint")) else "name" if "string" in dtype else None


def _rows_without_label(split: Dataset, label: str) -> np.ndarray:
    """Rows whose label is missing, a text of nothing but spaces, or the -1 that data sets of the hub write."""
    column, kind = selected(split, split.data.column(label)), _kind(split.features[label])
    absent = column.is_null()
    if kind == "name":
        absent = pc.or_kleene(absent, pc.equal(pc.utf8_trim_whitespace(column), ""))
    elif kind == "id":
        absent = pc.or_kleene(absent, pc.less(column, 0))
    return np.flatnonzero(pc.fill_null(absent, True).to_numpy())


def _has_labels(split: Dataset, given: ColumnNames) -> bool:
    """Whether an image of a split has a label; a published test split may have -1 for all."""
    try:
        label = find_columns(split.features, given._replace(group=None)).label
    except DeiTLTError:
        return True  # another error, whose message names the columns
    return split.num_rows == 0 or _rows_without_label(split, label).size < split.num_rows
