"""ImageNet-LT: the published lists over a local tree of ILSVRC2012."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deitlt_hf.data.class_names import SYNSET_FILES, synset_names
from deitlt_hf.data.finding import find_beside, images_directory, places_searched
from deitlt_hf.data.lists import (
    ImageList,
    ListedImages,
    ListFacts,
    check_facts,
    check_labels,
    directories_of,
    file_names_of,
    read_list,
)
from deitlt_hf.data.long_tail import check_class_counts
from deitlt_hf.errors import DeiTLTError

LIST_FILES = {
    "train": "ImageNet_LT_train.txt",
    "validation": "ImageNet_LT_val.txt",
    "test": "ImageNet_LT_test.txt",
}
PUBLISHED = {
    "train": ListFacts(lines=115_846, classes=1000, largest=1280, smallest=5),
    "validation": ListFacts(lines=20_000, classes=1000, largest=20, smallest=20),
    "test": ListFacts(lines=50_000, classes=1000, largest=50, smallest=50),
}


def imagenet_lt_files(data_dir: Path, lists_dir: Path | None) -> dict[str, Path]:
    """The lists by split; where they exist, the file with the synsets' names as `names`, the folder `val` as `val`.

    Raises:
        DeiTLTError: `data_dir` is no tree of ILSVRC2012, or a list of train or test is nowhere.
    """
    directory = images_directory(data_dir, "train", "the ILSVRC2012 tree with its folders train and val")
    files = {split: find_beside(directory, lists_dir, [name]) for split, name in LIST_FILES.items()}
    for split in ("train", "test"):
        if files[split] is None:
            raise DeiTLTError(
                f"{LIST_FILES[split]} is not in {places_searched(directory, lists_dir)}: put ImageNet-LT's published "
                "lists there, or pass lists_dir, the directory with them"
            )
    files["names"] = find_beside(directory, lists_dir, SYNSET_FILES) or find_beside(directory, None, SYNSET_FILES)
    files["val"] = directory / "val" if (directory / "val").is_dir() else None
    return {name: file for name, file in files.items() if file is not None}


def read_imagenet_lt(data_dir: Path, lists_dir: Path | None, check_lists: bool = True) -> ListedImages:
    """Read and check the lists, name the classes, and see how the tree has its folder `val`.

    Args:
        data_dir: the tree: `train/nXXXXXXXX/*.JPEG`, and `val/` either flat or by synset.
        lists_dir: where the lists are; None looks in the tree and above it.
        check_lists: refuse lists that are not the published ones.

    Raises:
        DeiTLTError: files that are missing, or lists that are wrong.
    """
    files = imagenet_lt_files(data_dir, lists_dir)
    names_file, val = files.pop("names", None), files.pop("val", None)
    splits = {split: read_list(file) for split, file in files.items()}
    if check_lists:
        check_facts(splits.values(), [PUBLISHED[split] for split in splits])
    num_classes = int(splits["train"].labels.max()) + 1
    check_class_counts(splits["train"].class_counts(num_classes))
    synsets = _synsets(splits["train"])
    check_labels(splits, num_classes)
    by_synset = val is not None and any(entry.is_dir() for entry in val.glob("n*"))
    return ListedImages(
        images_directory(data_dir, "train", ""),
        synset_names(synsets, names_file),
        {split: _as_in_the_tree(images, synsets if by_synset else None) for split, images in splits.items()},
    )


def _synsets(train: ImageList) -> list[str]:
    """The synset of each label, which is the folder of its training images."""
    folders = pc.dictionary_encode(file_names_of(directories_of(train.paths)))
    of_image = folders.indices.to_numpy()
    of_label = np.zeros(train.labels.max() + 1, dtype=of_image.dtype)
    of_label[train.labels] = of_image
    other = np.flatnonzero(of_label[train.labels] != of_image)
    if len(other):
        names = folders.dictionary
        raise DeiTLTError(
            f"{train.name} gives {train.paths[other[0]].as_py()} the label {train.labels[other[0]]}, which is that of "
            f"{names[of_label[train.labels[other[0]]]].as_py()} too: each label needs one synset"
        )
    if len(np.unique(of_label)) < len(of_label):
        raise DeiTLTError(f"{train.name} gives one synset two labels: each synset needs one label")
    return folders.dictionary.take(pa.array(of_label)).to_pylist()


def _as_in_the_tree(images: ImageList, synsets: list[str] | None) -> ImageList:
    """Point images of `val/` to where the tree has them: in their synset's folder, or without synsets in `val/`."""
    in_val = pc.starts_with(images.paths, "val/")
    if synsets is None:
        folders = pa.repeat("val", len(images.paths))
    else:
        folders = pa.array([f"val/{synset}" for synset in synsets]).take(pa.array(images.labels))
    paths = pc.binary_join_element_wise(folders, file_names_of(images.paths), "/")
    return ImageList(images.name, pc.if_else(in_val, paths, images.paths), images.labels)
