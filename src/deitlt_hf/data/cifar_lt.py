"""CIFAR-10 and CIFAR-100 as Parquet, of which a long-tailed train split is selected without decoding an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from deitlt_hf.data.long_tail import long_tailed_indices
from deitlt_hf.errors import DeiTLTError

_COLUMNS = {"image": ("image", "img"), "label": ("label", "fine_label")}

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


def parquet_files(directory: Path) -> dict[str, list[Path]]:
    """The Parquet files of train and test: `train-00000-of-00001.parquet`, or any in a folder of that name.

    Raises:
        DeiTLTError: the directory is missing, or has none of either split.
    """
    if not directory.is_dir():
        raise DeiTLTError(f"data directory {str(directory)!r} does not exist: pass a directory of Parquet files")
    files: dict[str, list[Path]] = {"train": [], "test": []}
    for path in sorted(directory.rglob("*.parquet")):
        split = next((name for name in files if path.name.startswith(name) or path.parent.name == name), None)
        if split is not None:
            files[split].append(path)
    empty = next((split for split, paths in files.items() if not paths), None)
    if empty is not None:
        raise DeiTLTError(
            f"data directory {str(directory)!r} has no Parquet files of the {empty} split: "
            f"pass one with files such as {empty}-00000-of-00001.parquet"
        )
    return files


def download_parquet(repo_id: str) -> Path:
    """The directory to which the hub's Parquet files of a data set are downloaded, once.

    Raises:
        DeiTLTError: the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, repo_type="dataset", allow_patterns="*.parquet"))
    except Exception as error:  # the network and the hub's client each raise their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DeiTLTError(
            f"cannot load {repo_id} from the hub ({reason}): pass data_dir, a directory with its Parquet files"
        ) from error


def read_images(files: list[Path]) -> pa.Table:
    """The columns `image` (struct of encoded bytes and path) and `label` (int64) of Parquet files, rows in file order.

    Raises:
        DeiTLTError: a file that cannot be read, or one without images or labels.
    """
    tables = []
    for file in files:
        try:
            present = pq.read_schema(file).names
            columns = {
                name: next((column for column in known if column in present), None) for name, known in _COLUMNS.items()
            }
            if None in columns.values():
                lacking = next(name for name, column in columns.items() if column is None)
                raise DeiTLTError(
                    f"{file} has no column {lacking!r}, only {', '.join(present)}: pass CIFAR's own files"
                )
            table = pq.ParquetFile(file).read(columns=list(columns.values()))
        except (OSError, pa.ArrowException) as error:
            raise DeiTLTError(f"cannot read {file}: {str(error).splitlines()[0]}") from error
        tables.append(table.select(list(columns.values())).rename_columns(list(columns)).replace_schema_metadata(None))
    return pa.concat_tables(tables)


def class_names(file: Path, standard: tuple[str, ...]) -> list[str]:
    """The names that the Parquet file keeps with its labels, or the standard ones."""
    features = Features.from_arrow_schema(pq.read_schema(file))
    label = next((features[name] for name in _COLUMNS["label"] if name in features), None)
    return list(label.names if isinstance(label, ClassLabel) else standard)


def select_long_tailed(train: pa.Table, imbalance_factor: float, profile: str, seed: int) -> pa.Table:
    """The rows that `long_tailed_indices` selects, in its order; their bytes are not looked at."""
    return train.take(pa.array(long_tailed_indices(labels_of(train), imbalance_factor, profile, seed)))


def labels_of(images: pa.Table) -> np.ndarray:
    """The label column, int64."""
    return images["label"].to_numpy()
