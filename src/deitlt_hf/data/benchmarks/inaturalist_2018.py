"""iNaturalist-2018: the competition's JSON files, or lists made from them, over its images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import DatasetDict
from pyarrow import json as arrow_json

from deitlt_hf.data.benchmarks import lists
from deitlt_hf.data.benchmarks.benchmark import Benchmark
from deitlt_hf.data.benchmarks.lists import ImageList, ListFacts
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


def inaturalist_2018_files(data_dir: str | Path | None, lists_dir: str | Path | None = None) -> dict[str, Path]:
    """The directory as `images`, the JSON files or else the lists by split, and any `categories.json` as `names`."""
    what = f"the directory with iNaturalist-2018's folder {IMAGES}"
    directory = lists.images_directory("inaturalist-2018", data_dir, IMAGES, what)
    for names in (JSON_FILES, LIST_FILES):
        files = {split: lists.find_beside(directory, lists_dir, [name]) for split, name in names.items()}
        if all(files.values()):
            files["names"] = lists.find_beside(directory, lists_dir, [CATEGORIES_FILE], also_above=True)
            return {"images": directory, **{name: file for name, file in files.items() if file is not None}}
    raise DeiTLTError(
        f"neither {' and '.join(JSON_FILES.values())} nor {' and '.join(LIST_FILES.values())} are in "
        f"{lists.places_searched(directory, lists_dir)}: put either there, or pass lists_dir, the directory with them"
    )


def read_inaturalist_2018(
    data_dir: str | Path | None, lists_dir: str | Path | None = None, check_lists: bool = True
) -> DatasetDict:
    """Read and check the JSON files or lists; `categories.json` names the species if these have only numbers."""
    files = inaturalist_2018_files(data_dir, lists_dir)
    sources = {split: files[split] for split in JSON_FILES}
    if sources["train"].suffix == ".json":
        splits, names = _read_json_splits(sources)
    else:
        splits = {split: lists.read_list(file) for split, file in sources.items()}
        names = {label: str(label) for label in range(int(splits["train"].labels.max()) + 1)}
    if check_lists:
        lists.check_published(splits, PUBLISHED)
    lists.check_labels(splits, len(names))
    if "names" in files and all(name.isdecimal() or not name for name in names.values()):
        better = read_categories(files["names"])
        lacking = names.keys() - better.keys()
        if lacking:
            raise DeiTLTError(
                f"{files['names']} has no category {min(lacking)}, one of {len(lacking)} that {sources['train'].name} "
                "has: pass the categories of the same data set, or move it away"
            )
        names = {category: better[category] for category in names}
    class_names = lists.unique_names([name.strip() for name in names.values()], [str(category) for category in names])
    return lists.referenced_splits(files["images"], splits, class_names)


def read_categories(file: Path) -> dict[int, str]:
    """Names by id of a `categories.json`: a list of categories with `id` and `name`, or a dict that holds it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = content["categories"] if isinstance(content, dict) else content
        return {int(category["id"]): str(category["name"]) for category in categories}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DeiTLTError(
            f"cannot read {file}: pass categories as JSON, each with an `id` and a `name`, or move it away"
        ) from error


def _read_json_splits(files: dict[str, Path]) -> tuple[dict[str, ImageList], dict[int, str]]:
    """The list of each split, with labels that count the categories in the order of their ids, and the names by id."""
    tables = {split: _read_json(file) for split, file in files.items()}
    categories = tables["train"]["categories"]
    names = dict(sorted(zip(categories["id"].to_pylist(), categories["name"].to_pylist(), strict=True)))
    splits = {}
    for split, table in tables.items():
        images, annotations = table["images"], table["annotations"]
        ids, annotated = images["id"].to_numpy(), annotations["image_id"].to_numpy()
        if len(ids) != len(annotated) or not np.array_equal(np.unique(ids), np.sort(annotated)):
            raise DeiTLTError(
                f"{files[split]} does not have one annotation for each of its {len(ids)} images ({len(annotated)} "
                "annotations): pass the JSON file of iNaturalist-2018"
            )
        # The annotations may be in another order than the images.
        of_image = pd.Series(annotations["category_id"].to_numpy(), index=annotated).loc[ids].to_numpy()
        labels = pd.Index(list(names)).get_indexer(of_image)
        if labels.min() < 0:
            unknown = of_image[labels < 0][0]
            raise DeiTLTError(f"{files[split]} has images of the category {unknown}, which it does not list")
        splits[split] = ImageList(files[split].name, images["file_name"], labels)
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


BENCHMARKS = [
    Benchmark(
        name="inaturalist-2018",
        title="iNaturalist-2018",
        about="The train split is the competition's. The test split is its validation set (val2018), on which the "
        "paper tests: the labels of the competition's own test images are not public. Labels are the category ids.",
        homepage="https://github.com/visipedia/inat_comp/tree/master/2018",
        licence="other",
        licence_note="The competition's terms allow non-commercial research and education only; each image has the "
        "licence that its photographer chose.",
        origin="--data_dir DIR with train_val2018/, its JSON files or lists there or in --lists_dir",
        read=read_inaturalist_2018,
        boundaries=(842, 4543),
        published=PUBLISHED,
        citation="""@inproceedings{vanhorn2018inaturalist,
  author = {Van Horn, Grant and Mac Aodha, Oisin and Song, Yang and Cui, Yin and Sun, Chen and Shepard, Alex and
            Adam, Hartwig and Perona, Pietro and Belongie, Serge},
  title = {The {iNaturalist} Species Classification and Detection Dataset},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2018}
}""",
    )
]
