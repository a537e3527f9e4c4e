"""CIFAR-10-LT and CIFAR-100-LT, from the hub's Parquet files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from datasets import ClassLabel, DatasetDict

from deitlt_hf.data.benchmarks.benchmark import Benchmark
from deitlt_hf.data.benchmarks.lists import absolute
from deitlt_hf.data.sources import load_from_hub, read_directory
from deitlt_hf.errors import DeiTLTError

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_NAMES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
    shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
_CITATION = """@techreport{krizhevsky2009learning,
  author = {Krizhevsky, Alex},
  title = {Learning Multiple Layers of Features from Tiny Images},
  institution = {University of Toronto},
  year = {2009}
}

@inproceedings{cao2019learning,
  author = {Cao, Kaidi and Wei, Colin and Gaidon, Adrien and Arechiga, Nikos and Ma, Tengyu},
  title = {Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019}
}"""


def read_cifar(hub_id: str, class_names: tuple[str, ...], data_dir: str | Path | None = None) -> DatasetDict:
    """The balanced splits, from the hub or from a directory of Parquet files; the bytes of the images stay."""
    if data_dir is None:
        try:
            return load_from_hub(hub_id)
        except DeiTLTError as error:
            raise DeiTLTError(f"{error}; pass data_dir, a directory with its Parquet files") from error
    splits = read_directory(data_dir)
    if splits["train"].features["label"].names == [str(label) for label in range(len(class_names))]:
        splits = splits.cast_column("label", ClassLabel(names=list(class_names)))  # the files have bare numbers
    return splits


def source_files(directory: str | Path) -> list[Path]:
    """The files in a directory that `read_cifar` may read."""
    directory = absolute(directory)
    if not directory.is_dir():
        raise DeiTLTError(f"data directory {str(directory)!r} does not exist: pass a directory of Parquet files")
    return [path for path in directory.rglob("*") if path.is_file()]


def _benchmark(classes: int, class_names: tuple[str, ...], boundaries: tuple[int, int]) -> Benchmark:
    hub_id = f"uoft-cs/cifar{classes}"
    return Benchmark(
        name=f"cifar{classes}-lt",
        title=f"CIFAR-{classes}-LT",
        about=f"The train split is a long-tailed selection of CIFAR-{classes}'s 50,000 training images, the test split "
        "is the whole one.",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="unknown",
        licence_note="CIFAR's authors name no licence; the images come from the withdrawn Tiny Images collection.",
        origin="downloaded from the hub, or --data_dir DIR with its Parquet files",
        read=partial(read_cifar, hub_id, class_names),
        imbalance_factor=100,
        boundaries=boundaries,
        class_names=class_names,
        citation=_CITATION,
        hub_id=hub_id,
    )


BENCHMARKS = [_benchmark(10, CIFAR10_NAMES, (3, 7)), _benchmark(100, CIFAR100_NAMES, (36, 71))]
