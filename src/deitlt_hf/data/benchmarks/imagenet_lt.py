"""ImageNet-LT: the published lists over a local tree of ILSVRC2012."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import DatasetDict

from deitlt_hf.data.benchmarks import lists
from deitlt_hf.data.benchmarks.benchmark import Benchmark
from deitlt_hf.data.benchmarks.lists import ImageList, ListFacts
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
# Each names the synsets of ILSVRC2012; the first found is taken.
SYNSET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "classnames.txt", "imagenet_class_index.json")


def imagenet_lt_files(data_dir: str | Path | None, lists_dir: str | Path | None = None) -> dict[str, Path]:
    """The tree as `images`, the lists by split and, if found, its folder `val` and the synsets' names as `names`."""
    what = "the ILSVRC2012 tree with its folders train and val"
    directory = lists.images_directory("imagenet-lt", data_dir, "train", what)
    files = {split: lists.find_beside(directory, lists_dir, [name]) for split, name in LIST_FILES.items()}
    for split in ("train", "test"):
        if files[split] is None:
            raise DeiTLTError(
                f"{LIST_FILES[split]} is not in {lists.places_searched(directory, lists_dir)}: put ImageNet-LT's "
                "published lists there, or pass lists_dir, the directory with them"
            )
    files["names"] = lists.find_beside(directory, lists_dir, SYNSET_FILES, also_above=True)
    files["val"] = directory / "val" if (directory / "val").is_dir() else None
    return {"images": directory, **{name: file for name, file in files.items() if file is not None}}


def read_imagenet_lt(
    data_dir: str | Path | None, lists_dir: str | Path | None = None, check_lists: bool = True
) -> DatasetDict:
    """Read and check the lists, name the classes, and point images of `val` to where the tree has them."""
    files = imagenet_lt_files(data_dir, lists_dir)
    splits = {split: lists.read_list(files[split]) for split in LIST_FILES if split in files}
    if check_lists:
        lists.check_published(splits, PUBLISHED)
    num_classes = int(splits["train"].labels.max()) + 1
    check_class_counts(np.bincount(splits["train"].labels))
    synsets = _synsets(splits["train"])
    lists.check_labels(splits, num_classes)
    by_synset = "val" in files and any(entry.is_dir() for entry in files["val"].glob("n*"))
    splits = {name: _as_in_the_tree(images, synsets if by_synset else None) for name, images in splits.items()}
    return lists.referenced_splits(files["images"], splits, synset_names(synsets, files.get("names")))


def _synsets(train: ImageList) -> list[str]:
    """The synset of each label, which is the folder of its training images."""
    folders = lists.file_names_of(lists.directories_of(train.paths)).dictionary_encode()
    pairs = pd.DataFrame({"label": train.labels, "synset": folders.to_pandas()}).drop_duplicates()
    second = pairs[pairs["label"].duplicated()]
    if len(second):
        label = second["label"].iloc[0]
        first = pairs.loc[pairs["label"] == label, "synset"].iloc[0]
        raise DeiTLTError(
            f"{train.name} gives {train.paths[second.index[0]].as_py()} the label {label}, which is that of {first} "
            "too: each label needs one synset"
        )
    if pairs["synset"].duplicated().any():
        raise DeiTLTError(f"{train.name} gives one synset two labels: each synset needs one label")
    return pairs.sort_values("label")["synset"].tolist()


def _as_in_the_tree(images: ImageList, synsets: list[str] | None) -> ImageList:
    """The list with images of `val/` in their synset's folder, or without synsets right in `val/`."""
    in_val = pc.starts_with(images.paths, "val/")
    if synsets is None:
        folders = pa.repeat("val", len(images.paths))
    else:
        folders = pa.array([f"val/{synset}" for synset in synsets]).take(pa.array(images.labels))
    paths = pc.binary_join_element_wise(folders, lists.file_names_of(images.paths), "/")
    return ImageList(images.name, pc.if_else(in_val, paths, images.paths), images.labels)


def synset_names(synsets: Sequence[str], file: Path | None) -> list[str]:
    """Unique names of ImageNet's synsets, from one of `SYNSET_FILES` or, without one, from timm's own table."""
    if file is None:
        from timm.data import ImageNetInfo  # loads torch, which reading lists does without

        table = ImageNetInfo().label_descriptions(as_dict=True)
    else:
        try:
            text = file.read_text(encoding="utf-8")
            if file.suffix == ".json":  # {"0": ["n01440764", "tench"], ...}
                table = {synset: name.replace("_", " ") for synset, name in json.loads(text).values()}
            else:  # n01440764 tench, Tinca tinca
                table = dict(line.split(maxsplit=1) for line in text.splitlines() if line.strip())
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DeiTLTError(
                f"cannot read the names of synsets in {file}: mend it, or move it away for the usual names"
            ) from error
    unknown = [synset for synset in synsets if synset not in table]
    if unknown:
        where = "timm's table" if file is None else str(file)
        raise DeiTLTError(
            f"{where} has no name for {len(unknown)} of {len(synsets)} synsets, first {unknown[0]}: put a "
            f"{SYNSET_FILES[0]} that has beside the lists"
        )
    return lists.unique_names([table[synset].strip() for synset in synsets], synsets)


BENCHMARKS = [
    Benchmark(
        name="imagenet-lt",
        title="ImageNet-LT",
        about="The train and validation splits are taken from the training images of ILSVRC2012 by the published "
        "lists; the test split is ILSVRC2012's validation set. Labels are in the lists' order.",
        homepage="https://www.image-net.org/",
        licence="other",
        licence_note="ImageNet's terms of access allow non-commercial research and education only, and do not "
        "allow passing the images on.",
        origin="--data_dir DIR with the tree of ILSVRC2012 (train/, val/), its lists there or in --lists_dir",
        read=read_imagenet_lt,
        boundaries=(390, 835),
        published=PUBLISHED,
        citation="""@article{russakovsky2015imagenet,
  author = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean and
            Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. and
            Fei-Fei, Li},
  title = {{ImageNet} Large Scale Visual Recognition Challenge},
  journal = {International Journal of Computer Vision},
  volume = {115},
  number = {3},
  pages = {211--252},
  year = {2015}
}

@inproceedings{liu2019large,
  author = {Liu, Ziwei and Miao, Zhongqi and Zhan, Xiaohang and Wang, Jiayun and Gong, Boqing and Yu, Stella X.},
  title = {Large-Scale Long-Tailed Recognition in an Open World},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019}
}""",
    )
]
