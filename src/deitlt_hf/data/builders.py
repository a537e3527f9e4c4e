"""Builders of the paper's four benchmarks, in the form of the `datasets` library.

`datasets` puts versions of `open`, `os.path` and `Path` for remote files into the module of a builder; so nothing here
opens a file or makes a path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ArrowBasedBuilder, BuilderConfig, ClassLabel, Dataset, DatasetDict, Features, SplitGenerator
from datasets.builder import Key

from deitlt_hf.data.benchmarks import BENCHMARKS, Benchmark
from deitlt_hf.data.cifar_lt import (
    CIFAR10_NAMES,
    CIFAR100_NAMES,
    class_names,
    download_parquet,
    labels_of,
    parquet_files,
    read_images,
    select_long_tailed,
)
from deitlt_hf.data.finding import absolute, fingerprint
from deitlt_hf.data.imagenet_lt import imagenet_lt_files, read_imagenet_lt
from deitlt_hf.data.inaturalist_2018 import inaturalist_2018_files, read_inaturalist_2018
from deitlt_hf.data.lists import ImageList, ListedImages, check_files
from deitlt_hf.data.long_tail import check_imbalance_factor
from deitlt_hf.errors import DeiTLTError

ROWS_PER_TABLE = 10_000


@dataclass
class CifarLTConfig(BuilderConfig):
    """How CIFAR is made long-tailed; `data_dir` is a directory of its Parquet files, None downloads them.

    Args:
        imbalance_factor: largest class count / smallest, at least 1.
        profile: `"exp"` or `"step"`, see `class_counts_for_imbalance`.
        seed: of the selection, see `long_tailed_indices`.
        sources: fingerprint of the source files, for the cache's key.
    """

    imbalance_factor: float = 100
    profile: str = "exp"
    seed: int = 0
    sources: str = ""


@dataclass
class ListedImagesConfig(BuilderConfig):
    """Where the images and their lists are; `data_dir` holds the images.

    Args:
        lists_dir: directory of the lists; None looks in `data_dir` and above it.
        check_lists: refuse lists that are not the published ones.
        sources: fingerprint of the source files, for the cache's key.
    """

    lists_dir: str | None = None
    check_lists: bool = True
    sources: str = ""


class BenchmarkBuilder(ArrowBasedBuilder):
    """What the builders have in common: columns `image` and `label`, and facts about the source."""

    VERSION = datasets.Version("1.0.0")
    BENCHMARK: ClassVar[Benchmark]

    def __init__(self, sources: Iterable[Path], **kwargs: Any) -> None:
        # Every setting is passed on, defaults too: the cache's key is made of what is passed.
        name = self.BENCHMARK.name.replace("-", "_")
        try:
            super().__init__(dataset_name=name, sources=fingerprint(sources), **kwargs)
        except OSError as error:
            raise DeiTLTError(f"cannot prepare {self.BENCHMARK.name}: {error}; pass a cache_dir that can be") from error

    def _info(self) -> datasets.DatasetInfo:
        benchmark = self.BENCHMARK
        return datasets.DatasetInfo(
            description=benchmark.about,
            homepage=benchmark.homepage,
            license=benchmark.licence_note,
            citation=benchmark.citation,
        )

    def _set_names(self, names: list[str]) -> None:
        self.info.features = Features({"image": datasets.Image(), "label": ClassLabel(names=names)})


class Cifar10LT(BenchmarkBuilder):
    """CIFAR-10-LT: a long-tailed selection of CIFAR-10's training images, and its test images.

    Encoded images are selected as they are, never decoded; they come in the order of `long_tailed_indices`.

    Args:
        imbalance_factor: largest class count / smallest, 100 by default.
        profile: `"exp"` (default) or `"step"`.
        seed: of the selection, 0 by default.
        data_dir: directory with the Parquet files of the hub's `uoft-cs/cifar10`; None downloads them.
        cache_dir: where `datasets` keeps what it prepared.

    Raises:
        DeiTLTError: settings or files that cannot work.

    Example:
        >>> builder = Cifar10LT(imbalance_factor=50, data_dir="cifar10")  # doctest: +SKIP
        >>> builder.download_and_prepare()  # doctest: +SKIP
        >>> builder.as_dataset(split="train").num_rows  # doctest: +SKIP
        13996
    """

    BUILDER_CONFIG_CLASS = CifarLTConfig
    BENCHMARK = BENCHMARKS["cifar10-lt"]
    STANDARD_NAMES = CIFAR10_NAMES

    def __init__(
        self,
        imbalance_factor: float = 100,
        profile: str = "exp",
        seed: int = 0,
        data_dir: str | os.PathLike[str] | None = None,
        cache_dir: str | None = None,
    ) -> None:
        check_imbalance_factor(imbalance_factor)
        data_dir = _absolute(data_dir)
        super().__init__(
            () if data_dir is None else chain.from_iterable(parquet_files(absolute(data_dir)).values()),
            imbalance_factor=float(imbalance_factor),
            profile=profile,
            seed=seed,
            data_dir=data_dir,
            cache_dir=cache_dir,
        )

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        config = self.config
        directory = download_parquet(self.BENCHMARK.source) if config.data_dir is None else absolute(config.data_dir)
        files = parquet_files(directory)
        images = {split: read_images(paths) for split, paths in files.items()}
        names = class_names(files["train"][0], self.STANDARD_NAMES)
        self._set_names(names)
        self._check_source(images["train"], names, str(directory))
        images["train"] = select_long_tailed(images["train"], config.imbalance_factor, config.profile, config.seed)
        return [SplitGenerator(name=split, gen_kwargs={"images": table}) for split, table in images.items()]

    def _check_source(self, train: pa.Table, names: list[str], directory: str) -> None:
        """Refuse another data set, and one that is long-tailed already: its tail would be cut a second time."""
        title, expected = self.BENCHMARK.title, len(self.STANDARD_NAMES)
        labels, counts = np.unique(labels_of(train), return_counts=True)
        if len(names) != expected or not np.array_equal(labels, np.arange(expected)):
            raise DeiTLTError(
                f"the train split in {directory!r} does not have images of just the {expected} classes that {title} "
                "is made from: pass the directory with its own Parquet files"
            )
        if counts.min() != counts.max():
            raise DeiTLTError(
                f"the train split in {directory!r} has from {counts.min()} to {counts.max()} images of a class, but "
                f"{title} is made from as many of each: pass the directory with the whole source"
            )

    def _generate_tables(self, images: pa.Table) -> Iterator[tuple[Key, pa.Table]]:
        for index, start in enumerate(range(0, len(images), ROWS_PER_TABLE)):
            yield Key(0, index), images.slice(start, ROWS_PER_TABLE)


class Cifar100LT(Cifar10LT):
    """CIFAR-100-LT, with CIFAR-100's hundred fine labels; takes what `Cifar10LT` takes.

    Example:
        >>> builder = Cifar100LT(imbalance_factor=100, data_dir="cifar100")  # doctest: +SKIP
        >>> builder.download_and_prepare()  # doctest: +SKIP
        >>> builder.as_dataset(split="train").num_rows  # doctest: +SKIP
        10847
    """

    BENCHMARK = BENCHMARKS["cifar100-lt"]
    STANDARD_NAMES = CIFAR100_NAMES


class ListedImagesBuilder(BenchmarkBuilder):
    """Images that lie in files, and lists of them: the lists are checked, the images only referenced."""

    BUILDER_CONFIG_CLASS = ListedImagesConfig
    FIND_FILES: ClassVar[Callable[[Path, Path | None], dict[str, Path]]]
    READ_LISTS: ClassVar[Callable[[Path, Path | None, bool], ListedImages]]

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        lists_dir: str | os.PathLike[str] | None = None,
        check_lists: bool = True,
        cache_dir: str | None = None,
    ) -> None:
        if data_dir is None:
            raise DeiTLTError(f"{self.BENCHMARK.name} is not downloaded: pass data_dir, the directory with its images")
        data_dir, lists_dir = _absolute(data_dir), _absolute(lists_dir)
        super().__init__(
            self.FIND_FILES(absolute(data_dir), None if lists_dir is None else absolute(lists_dir)).values(),
            data_dir=data_dir,
            lists_dir=lists_dir,
            check_lists=check_lists,
            cache_dir=cache_dir,
        )

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        config = self.config
        lists_dir = None if config.lists_dir is None else absolute(config.lists_dir)
        listed = self.READ_LISTS(absolute(config.data_dir), lists_dir, config.check_lists)
        self._set_names(listed.class_names)
        return [
            SplitGenerator(name=split, gen_kwargs={"directory": str(listed.directory), "images": images})
            for split, images in listed.splits.items()
        ]

    def as_dataset(self, *args: Any, **kwargs: Any) -> Dataset | DatasetDict:
        """As `datasets` has it; each time, the images are looked for, as the cache may be older than their folders."""
        prepared = super().as_dataset(*args, **kwargs)
        splits = prepared.values() if isinstance(prepared, DatasetDict) else [prepared]
        paths = [pc.struct_field(split.data.column("image"), "path").combine_chunks() for split in splits]
        check_files(paths)
        return prepared

    def _generate_tables(self, directory: str, images: ImageList) -> Iterator[tuple[Key, pa.Table]]:
        for index, start in enumerate(range(0, len(images.labels), ROWS_PER_TABLE)):
            yield Key(0, index), _referenced(directory, images, start)


class ImageNetLT(ListedImagesBuilder):
    """ImageNet-LT from a local tree of ILSVRC2012 and the published lists: train, validation and test.

    Before an image is looked for, the lists are checked: lines, classes, largest and smallest class. Images are
    referenced by their absolute path. Classes are named by the synset names beside the lists or the tree
    (`LOC_synset_mapping.txt` and the like), else by WordNet's; where two share a name, the synset is appended.

    Args:
        data_dir: the tree, with `train/nXXXXXXXX/*.JPEG` and `val/`, which is flat or by synset.
        lists_dir: directory with `ImageNet_LT_train.txt`, `ImageNet_LT_test.txt` and, for a validation split,
            `ImageNet_LT_val.txt`. None (default) looks in the tree and up to three folders above it.
        check_lists: refuse lists that are not the published ones (default).
        cache_dir: where `datasets` keeps what it prepared.

    Raises:
        DeiTLTError: a missing directory or list, lists that differ from the published ones, missing images.

    Example:
        >>> builder = ImageNetLT(data_dir="ILSVRC2012", lists_dir="ImageNet_LT")  # doctest: +SKIP
        >>> builder.download_and_prepare()  # doctest: +SKIP
        >>> builder.as_dataset(split="train").num_rows  # doctest: +SKIP
        115846
    """

    BENCHMARK = BENCHMARKS["imagenet-lt"]
    FIND_FILES = staticmethod(imagenet_lt_files)
    READ_LISTS = staticmethod(read_imagenet_lt)


class INaturalist2018(ListedImagesBuilder):
    """iNaturalist-2018 from its images and its JSON files or lists: train, and as test the competition's val2018.

    The files are checked and the images referenced as in `ImageNetLT`. Labels are the category ids, the names those of
    `categories.json` or `train2018.json`; where two share a name, the id is appended.

    Args:
        data_dir: the directory with `train_val2018/SUPERCATEGORY/ID/HASH.jpg`.
        lists_dir: directory with `train2018.json` and `val2018.json`, or with `iNaturalist18_train.txt` and
            `iNaturalist18_val.txt`. None (default) looks in `data_dir` and up to three folders above it.
        check_lists: refuse files whose numbers of images are not the published ones (default).
        cache_dir: where `datasets` keeps what it prepared.

    Raises:
        DeiTLTError: as `ImageNetLT`.

    Example:
        >>> builder = INaturalist2018(data_dir="inaturalist")  # doctest: +SKIP
        >>> builder.download_and_prepare()  # doctest: +SKIP
        >>> builder.as_dataset(split="train").features["label"].num_classes  # doctest: +SKIP
        8142
    """

    BENCHMARK = BENCHMARKS["inaturalist-2018"]
    FIND_FILES = staticmethod(inaturalist_2018_files)
    READ_LISTS = staticmethod(read_inaturalist_2018)


BUILDERS: dict[str, type[BenchmarkBuilder]] = {
    builder.BENCHMARK.name: builder for builder in (Cifar10LT, Cifar100LT, ImageNetLT, INaturalist2018)
}


def build(builder: BenchmarkBuilder) -> DatasetDict:
    """All splits of a builder, prepared on first use and taken from the cache from then on.

    Raises:
        DeiTLTError: what the builder refuses, or a cache that cannot be written.
    """
    try:
        builder.download_and_prepare()
        return builder.as_dataset()
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise DeiTLTError(f"cannot prepare {builder.BENCHMARK.name} in {builder.cache_dir}: {reason}") from error


def build_imagenet_lt(data_dir: str | os.PathLike[str] | None) -> DatasetDict:
    """The splits of `ImageNetLT`; the lists lie in `data_dir` or above it."""
    return build(ImageNetLT(data_dir=data_dir))


def build_inaturalist_2018(data_dir: str | os.PathLike[str] | None) -> DatasetDict:
    """The splits of `INaturalist2018`; the JSON files or lists lie in `data_dir` or above it."""
    return build(INaturalist2018(data_dir=data_dir))


def _absolute(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else str(absolute(path))


def _referenced(directory: str, images: ImageList, start: int) -> pa.Table:
    """Rows whose images are absolute paths without bytes."""
    paths = images.paths.slice(start, ROWS_PER_TABLE)
    image = pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), pc.binary_join_element_wise(directory, paths, "/")],
        names=["bytes", "path"],
    )
    return pa.table({"image": image, "label": images.labels[start : start + ROWS_PER_TABLE]})
