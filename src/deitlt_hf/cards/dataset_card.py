"""The card of a built data set: its source, licence and class counts, and how to load it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData

from deitlt_hf.cards.markdown import escape, listed_labels
from deitlt_hf.data.benchmarks import Benchmark

PICTURE_FILE = "class_counts.png"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class BuiltDataset:
    """A benchmark's splits and what its card says about them."""

    benchmark: Benchmark
    splits: Mapping[str, Dataset]  # `train`, `test` and perhaps `validation`, each with `image` and `label`
    class_counts: Sequence[int]  # training images per class, in label order
    embedded: bool  # whether the files hold the images; else they hold paths
    selection: str = ""  # of the train split, such as `imbalance factor 100, profile exp, seed 0`; empty for all images

    @property
    def class_names(self) -> list[str]:
        return self.splits["train"].features["label"].names


def dataset_card(built: BuiltDataset, location: str) -> DatasetCard:
    """The `README.md` of a built data set; `location` is the hub id or directory that it says to load."""
    groups = built.benchmark.groups(built.class_counts)
    values = {
        "built": built,
        "groups": {name: [built.class_counts[label] for label in labels] for name, labels in groups.items()},
        "shown": listed_labels(built.class_counts),
        "location": location,
        "picture_file": PICTURE_FILE,
        "text": escape,
        "literal": repr,
        "shell": shlex.quote,
        "number": "{:,}".format,
    }
    template = Path(__file__).with_name("dataset.md.jinja")
    return DatasetCard.from_template(_header(built), template_path=str(template), **values)


def _header(built: BuiltDataset) -> DatasetCardData:
    benchmark = built.benchmark
    total = sum(split.num_rows for split in built.splits.values())
    named = {"license_name": f"{benchmark.name}-terms", "license_link": benchmark.homepage}
    data_files = [{"split": name, "path": f"data/{name}-*"} for name in built.splits]
    return DatasetCardData(
        pretty_name=benchmark.title,
        license=benchmark.licence,
        **(named if benchmark.licence == "other" else {}),
        task_categories=["image-classification"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), "1M<n<10M")],
        source_datasets=[benchmark.hub_id] if benchmark.hub_id else None,
        tags=["long-tailed", "class-imbalance", "deit-lt"],
        configs=[{"config_name": "default", "data_files": data_files}],
    )
