"""iNaturalist-2018: the competition's JSON files, or lists made from them, over its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json

from deitlt_hf.data.class_names import are_numbers, read_categories, unique_names
from deitlt_hf.data.finding import find_beside, images_directory, places_searched
from deitlt_hf.data.lists import ImageList, ListedImages, ListFacts, check_facts, check_labels, read_list
from deitlt_hf.errors import DeiTLTError

IMAGES = "train_val2018"
# The validation images are what the paper tests on: the labels of the competition's test images are not published.
JSON_FILES = {"train": "train2018.json", "test": "val2018.json"}
LIST_FILES = {"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"}
CATEGORIES_FILE = "categories.json"
PUBLISHED = {
    "train": ListFacts(lines=437_513, classes=8142, largest=1000, smallest=2),
    "test": ListFacts(lines=24_426, classes=8142, largest=3, smallest=3),
}

_JSON_SCHEMA = pa.schema(
    {
        "images": pa.list_(pa.struct({"id": pa.int64(), "file_name": pa.string()})),
        "annotations": pa.list_(pa.struct({"image_id": pa.int64(), "category_id": pa.int64()})),
        "categories": pa.list_(pa.struct({"id": pa.int64(), "name": pa.string()})),
    }
)


def inaturalist_2018_files(data_dir: Path, lists_dir: Path | None) -> dict[str, Path]:
    """The JSON files of train and test or, without both, the lists; and a `categories.json` under `names`.

    Raises:
        DeiTLTError: `data_dir` has no images of the competition, or neither kind of file is there.
    """
    directory = images_directory(data_dir, IMAGES, f"the directory with iNaturalist-2018's folder {IMAGES}")
    for names in (JSON_FILES, LIST_FILES):
        files = {split: find_beside(directory, lists_dir, [name]) for split, name in names.items()}
        if all(files.values()):
            names_file = find_beside(directory, lists_dir, [CATEGORIES_FILE])
            files["names"] = names_file or find_beside(directory, None, [CATEGORIES_FILE])
            return {name: file for name, file in files.items() if file is not None}
    raise DeiTLTError(
        f"neither {' and '.join(JSON_FILES.values())} nor {' and '.join(LIST_FILES.values())} are in "
        f"{places_searched(directory, lists_dir)}: put either there, or pass lists_dir, the directory with them"
    )


def read_inaturalist_2018(data_dir: Path, lists_dir: Path | None, check_lists: bool = True) -> ListedImages:
    """Read and check the JSON files or lists, and name the species.

    The names are those of `categories.json`, or else of `train2018.json`; of lists alone, the ids.

    Args:
        data_dir: the directory with `train_val2018/SUPERCATEGORY/ID/HASH.jpg`.
        lists_dir: where the JSON files or lists are; None looks in `data_dir` and above it.
        check_lists: refuse files whose numbers of images are not the published ones.

    Raises:
        DeiTLTError: files that are missing, or lists that are wrong.
    """
    files = inaturalist_2018_files(data_dir, lists_dir)
    names_file = files.pop("names", None)
    if files["train"].suffix == ".json":
        splits, names = _read_json_splits(files)
    else:
        splits = {split: read_list(file) for split, file in files.items()}
        names = dict.fromkeys(range(int(splits["train"].labels.max()) + 1), "")
    if check_lists:
        check_facts(splits.values(), [PUBLISHED[split] for split in splits])
    check_labels(splits, len(names))
    if names_file is not None and are_numbers(names.values() if any(names.values()) else ["0"]):
        better = read_categories(names_file)
        lacking = names.keys() - better.keys()
        if lacking:
            raise DeiTLTError(
                f"{names_file} has no category {min(lacking)}, one of {len(lacking)} that {files['train'].name} has: "
                "pass the categories of the same data set, or move it away"
            )
        names = {category: better[category] for category in names}
    class_names = unique_names([name.strip() for name in names.values()], [str(category) for category in names])
    return ListedImages(images_directory(data_dir, IMAGES, ""), class_names, splits)


def _read_json_splits(files: dict[str, Path]) -> tuple[dict[str, ImageList], dict[int, str]]:
    """The list of each split, with labels that count the categories in the order of their ids, and the names by id."""
    tables = {split: _read_json(file) for split, file in files.items()}
    categories = tables["train"]["categories"]
    names = dict(sorted(zip(categories["id"].to_pylist(), categories["name"].to_pylist(), strict=True)))
    ids = np.fromiter(names, np.int64, len(names))
    splits = {}
    for split, table in tables.items():
        of_image = _category_of_each_image(files[split], table["images"]["id"], table["annotations"])
        labels = np.searchsorted(ids, of_image)
        unknown = np.flatnonzero(ids[np.minimum(labels, len(ids) - 1)] != of_image)
        if len(unknown):
            raise DeiTLTError(
                f"{files[split]} has images of the category {of_image[unknown[0]]}, which it does not list"
            )
        splits[split] = ImageList(files[split].name, table["images"]["file_name"], labels)
    return splits, names


def _read_json(file: Path) -> dict[str, dict[str, pa.Array]]:
    """The columns of `images`, `annotations` and `categories`.

    Arrow reads the file as one row of a table, in a tenth of the memory that Python's objects would take.
    """
    try:
        table = arrow_json.read_json(
            file,
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=file.stat().st_size + 1),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=_JSON_SCHEMA, newlines_in_values=True, unexpected_field_behavior="ignore"
            ),
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise DeiTLTError(f"cannot read {file}: {str(error).splitlines()[0]}") from error
    tables = {}
    for name in _JSON_SCHEMA.names:
        records = table[name].combine_chunks().flatten()
        columns = dict(zip([field.name for field in records.type], records.flatten(), strict=True))
        lacking = next((column for column, values in columns.items() if values.null_count), None)
        if lacking is not None or len(records) == 0:
            what = f"{name} without {lacking}" if lacking else f"no {name}"
            raise DeiTLTError(f"{file} has {what}: pass the JSON file of iNaturalist-2018")
        tables[name] = columns
    return tables


def _category_of_each_image(file: Path, image_ids: pa.Array, annotations: dict[str, pa.Array]) -> np.ndarray:
    """One category id for each image, whatever the order of the annotations."""
    ids, annotated = image_ids.to_numpy(), annotations["image_id"].to_numpy()
    by_image, by_annotation = np.argsort(ids, kind="stable"), np.argsort(annotated, kind="stable")
    if not np.array_equal(ids[by_image], annotated[by_annotation]) or (np.diff(ids[by_image]) == 0).any():
        raise DeiTLTError(
            f"{file} does not have one annotation for each of its {len(ids)} images ({len(annotated)} annotations): "
            "pass the JSON file of iNaturalist-2018"
        )
    categories = np.empty(len(ids), np.int64)
    categories[by_image] = annotations["category_id"].to_numpy()[by_annotation]
    return categories
