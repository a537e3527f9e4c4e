"""The paper's four benchmarks as builders of the `datasets` library, which keeps what they prepared in its cache.

`datasets` puts versions of `open`, `os.path` and `Path` for remote files into the module of a builder; so nothing here
opens a file or makes a path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa
from datasets import ArrowBasedBuilder, BuilderConfig, Dataset, DatasetDict, SplitGenerator
from datasets.builder import Key

from deitlt_hf.data.benchmarks import BENCHMARKS, Benchmark
from deitlt_hf.data.benchmarks.benchmark import COMPLETE_HINT
from deitlt_hf.data.benchmarks.cifar_lt import source_files
from deitlt_hf.data.benchmarks.imagenet_lt import imagenet_lt_files
from deitlt_hf.data.benchmarks.inaturalist_2018 import inaturalist_2018_files
from deitlt_hf.data.benchmarks.lists import absolute, fingerprint
from deitlt_hf.data.long_tail import check_imbalance_factor
from deitlt_hf.data.readable import check_files_exist
from deitlt_hf.errors import DeiTLTError

ROWS_PER_TABLE = 10_000

PathLike = str | os.PathLike[str]


@dataclass
class BenchmarkConfig(BuilderConfig):
    """The settings of `Benchmark.build`, and a fingerprint of the source's files: they are the cache's key."""

    settings: dict[str, Any] = field(default_factory=dict)
    sources: str = ""


class BenchmarkBuilder(ArrowBasedBuilder):
    """Prepares what `Benchmark.build` returns."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = BenchmarkConfig
    BENCHMARK: ClassVar[Benchmark]

    def __init__(
        self, sources: Iterable[Path], data_dir: PathLike | None, cache_dir: str | None, **settings: Any
    ) -> None:
        try:
            super().__init__(
                dataset_name=self.BENCHMARK.name.replace("-", "_"),
                data_dir=None if data_dir is None else str(absolute(data_dir)),
                cache_dir=cache_dir,
                settings=settings,
                sources=fingerprint(sources),
            )
        except OSError as error:
            raise DeiTLTError(f"cannot prepare {self.BENCHMARK.name}: {error}; pass a cache_dir that can be") from error

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self.BENCHMARK.about,
            homepage=self.BENCHMARK.homepage,
            license=self.BENCHMARK.licence_note,
            citation=self.BENCHMARK.citation,
        )

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        splits = self.BENCHMARK.build(self.config.data_dir, **self.config.settings)
        self.info.features = splits["train"].features
        return [SplitGenerator(name=name, gen_kwargs={"split": split}) for name, split in splits.items()]

    def _generate_tables(self, split: Dataset) -> Iterator[tuple[Key, pa.Table]]:
        for index, table in enumerate(split.with_format("arrow").iter(ROWS_PER_TABLE)):
            yield Key(0, index), table

    def as_dataset(self, *args: Any, **kwargs: Any) -> Dataset | DatasetDict:
        """As in `datasets`; images in files are looked for each time, as the cache may be older than their folders."""
        prepared = super().as_dataset(*args, **kwargs)
        splits = prepared if isinstance(prepared, DatasetDict) else DatasetDict({str(prepared.split): prepared})
        check_files_exist(splits, COMPLETE_HINT)
        return prepared


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

    BENCHMARK = BENCHMARKS["cifar10-lt"]

    def __init__(
        self,
        imbalance_factor: float = 100,
        profile: str = "exp",
        seed: int = 0,
        data_dir: PathLike | None = None,
        cache_dir: str | None = None,
    ) -> None:
        check_imbalance_factor(imbalance_factor)
        sources = () if data_dir is None else source_files(data_dir)
        settings = {"imbalance_factor": float(imbalance_factor), "profile": profile, "seed": seed}
        super().__init__(sources, data_dir, cache_dir, **settings)


class Cifar100LT(Cifar10LT):
    """CIFAR-100-LT, with CIFAR-100's hundred fine labels; takes what `Cifar10LT` takes.

    Example:
        >>> builder = Cifar100LT(imbalance_factor=100, data_dir="cifar100")  # doctest: +SKIP
        >>> builder.download_and_prepare()  # doctest: +SKIP
        >>> builder.as_dataset(split="train").num_rows  # doctest: +SKIP
        10847
    """

    BENCHMARK = BENCHMARKS["cifar100-lt"]


class ListedImagesBuilder(BenchmarkBuilder):
    """A builder of images that lie in files, and of published lists of them."""

    FILES: ClassVar[Callable[..., dict[str, Path]]]

    def __init__(
        self,
        data_dir: PathLike | None = None,
        lists_dir: PathLike | None = None,
        check_lists: bool = True,
        cache_dir: str | None = None,
    ) -> None:
        lists = None if lists_dir is None else str(absolute(lists_dir))
        sources = self.FILES(data_dir, lists).values()
        super().__init__(sources, data_dir, cache_dir, lists_dir=lists, check_lists=check_lists)


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
    FILES = staticmethod(imagenet_lt_files)


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
    FILES = staticmethod(inaturalist_2018_files)
