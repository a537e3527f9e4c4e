"""Tiny copies of the published data sets: real naming and file structure, images of a few pixels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

# A tench and ImageNet's two cranes, the bird and the machine.
SYNSETS = ("n01440764", "n02012849", "n03126707")
SPECIES = ("Grus grus", "Tinca tinca", "Grus grus")

Rows = list[tuple[str, int]]


def encoded(seed: int, image_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.RandomState(seed).randint(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def write_images(root: Path, paths: list[str]) -> None:
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded(seed))


def write_list(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image} {label}\n" for image, label in rows))


def write_imagenet_lt(root: Path, lists: Path, val_is_flat: bool = False, lists_are_flat: bool = False) -> dict:
    """A tree of ILSVRC2012 with 5, 3 and 1 training images, and ImageNet-LT's lists; returns these by split.

    The images of ImageNet-LT's validation list are training images of ILSVRC2012; its test list has those of val.
    """
    of_train = {label: range(10, 12 + count) for label, count in enumerate((5, 3, 1))}
    image = "train/{0}/{0}_{1}.JPEG".format
    train = [(image(SYNSETS[label], n), label) for label in (1, 0, 2) for n in of_train[label][:-2]]
    validation = [(image(SYNSETS[label], n), label) for label in range(3) for n in of_train[label][-2:]]
    names = [(f"ILSVRC2012_val_{293 + number:08d}.JPEG", number % 3) for number in range(6)]
    flat = [(f"val/{name}", label) for name, label in names]
    by_synset = [(f"val/{SYNSETS[label]}/{name}", label) for name, label in names]
    stored = flat if val_is_flat else by_synset
    write_images(root, [path for path, _ in (*train, *validation, *stored)])
    listed = {"train": train, "val": validation, "test": flat if lists_are_flat else by_synset}
    for name, rows in listed.items():
        write_list(lists / f"ImageNet_LT_{name}.txt", rows)
    return {"train": train, "validation": validation, "test": stored}


def inaturalist_rows() -> dict[str, Rows]:
    """4, 2 and 2 training images, one test image of each species."""
    kingdoms = ("Aves", "Actinopterygii", "Plantae")
    path = "train_val2018/{}/{}/{:032x}.jpg".format
    train = [(path(kingdoms[label], label, n), label) for n, label in enumerate((2, 0, 0, 1, 0, 2, 0, 1))]
    return {"train": train, "test": [(path(kingdoms[label], label, 100 + label), label) for label in (1, 2, 0)]}


def write_inaturalist_json(root: Path, names: tuple[str, ...] = ("0", "1", "2"), indent: int | None = None) -> dict:
    """Images, and the competition's JSON files, whose category names are the ids as in their first release."""
    rows = inaturalist_rows()
    write_images(root, [path for split in rows.values() for path, _ in split])
    for split, name in (("train", "train2018.json"), ("test", "val2018.json")):
        (root / name).write_text(json.dumps(inaturalist_json(rows[split], names), indent=indent))
    return rows


def inaturalist_json(rows: Rows, names: tuple[str, ...]) -> dict:
    images, annotations = [], []
    for number, (path, label) in enumerate(rows):
        of_image = {"license": 3, "file_name": path, "rights_holder": "Ruth Ripley", "height": 6, "width": 8}
        images.append(of_image | {"id": 70 + number})
        annotations.append({"id": 70 + number, "image_id": 70 + number, "category_id": label})
    return {
        "info": {"description": "This is the 2018 competition.", "year": 2018, "version": 1.0},
        "images": images,
        "licenses": [{"id": 3, "name": "Attribution-NonCommercial License", "url": "http://example.org"}],
        "annotations": annotations[::-1],
        "categories": [{"id": id, "name": name, "supercategory": "x"} for id, name in enumerate(names)],
    }


def write_cifar(directory: Path, train: np.ndarray, test: np.ndarray, columns: tuple[str, str] = ("img", "label")):
    """The hub's Parquet files; the bytes of a training image are its row's number, as nothing may decode them."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, labels in (("train", train), ("test", test)):
        images = [{"bytes": f"{split} {row}".encode(), "path": None} for row in range(len(labels))]
        table = pa.table({columns[0]: images, columns[1]: labels})
        pq.write_table(table, directory / f"{split}-00000-of-00001.parquet")
