"""The card of a built data set: where it comes from, whose it is, how long its tail is, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData

from deitlt_hf.cards.class_counts import group_row, labels_to_list
from deitlt_hf.cards.markdown import escape, table
from deitlt_hf.data.benchmarks import Benchmark
from deitlt_hf.data.long_tail import class_groups

PICTURE_FILE = "class_counts.png"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class BuiltDataset:
    """A benchmark's splits with what is said of them.

    Args:
        benchmark: where they come from.
        splits: `train`, `test` and perhaps `validation`, each with `image` and `label`.
        class_counts: training images per class, in label order.
        embedded: whether the images are in the files; else these hold paths.
        selection: how the train split was made long-tailed, such as `imbalance factor 100, profile exp, seed 0`;
            empty where the source is long-tailed itself.
    """

    benchmark: Benchmark
    splits: Mapping[str, Dataset]
    class_counts: Sequence[int]
    embedded: bool
    selection: str = ""

    @property
    def class_names(self) -> list[str]:
        return self.splits["train"].features["label"].names

    def groups(self) -> dict[str, list[int]]:
        """Head, mid and tail as in the paper's tables; for fewer classes than it has, by training images."""
        if self.benchmark.boundaries[1] <= len(self.class_counts):
            return class_groups(self.class_counts, boundaries=self.benchmark.boundaries)
        return class_groups(self.class_counts)


def dataset_card(built: BuiltDataset, location: str) -> DatasetCard:
    """The `README.md` of a built data set.

    Args:
        built: what it is about.
        location: a hub id or directory, for the line that loads it.

    Returns:
        A card of huggingface_hub; its header names the Parquet files of each split.

    Example:
        >>> card = dataset_card(built, "me/cifar10-lt")  # doctest: +SKIP
        >>> card.data.pretty_name  # doctest: +SKIP
        'CIFAR-10-LT'
    """
    benchmark = built.benchmark
    sections = [
        f"---\n{_header(built).to_yaml()}\n---\n\n# {benchmark.title}",
        f"{benchmark.about} Columns: `image`, and `label` with the classes' names. {_where_the_images_are(built)}",
        _long_tail(built),
        f"![Training images per class]({PICTURE_FILE})",
        _groups(built),
        _class_table(built),
        "## How to load it",
        f"```python\nfrom datasets import load_dataset\n\ndata = load_dataset({location!r})\n```",
        f"Or train on it: `deitlt train --data {location}`.",
        f"## Source and licence\n\nSource: {benchmark.homepage}. {benchmark.licence_note} "
        "This copy adds no terms of its own; cite the source:",
        f"```bibtex\n{benchmark.citation}\n```",
    ]
    return DatasetCard("\n\n".join(sections) + "\n")


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
        source_datasets=[benchmark.source] if benchmark.source else None,
        tags=["long-tailed", "class-imbalance", "deit-lt"],
        configs=[{"config_name": "default", "data_files": data_files}],
    )


def _where_the_images_are(built: BuiltDataset) -> str:
    if built.embedded:
        return "The files hold the images as the source encoded them."
    return "The files hold the images' absolute paths, so they are of use on this machine alone."


def _long_tail(built: BuiltDataset) -> str:
    counts = built.class_counts
    sizes = ", ".join(f"{name} {split.num_rows:,}" for name, split in built.splits.items())
    facts = [
        ("images", sizes),
        ("classes", f"{len(counts):,}"),
        ("largest, smallest class", f"{max(counts):,}, {min(counts):,} training images"),
        ("imbalance factor (largest / smallest)", f"{max(counts) / min(counts):g}"),
    ]
    if built.selection:
        facts.append(("selection", built.selection))
    return table(("of the data set", ""), facts)


def _groups(built: BuiltDataset) -> str:
    counts = built.class_counts
    rows = [group_row(name, [counts[label] for label in labels]) for name, labels in built.groups().items()]
    return "## Head, mid and tail\n\n" + table(("group", "classes", "training images per class", "together"), rows)


def _class_table(built: BuiltDataset) -> str:
    """Training images per class, the largest first; of many classes the largest and the smallest."""
    counts, names = built.class_counts, built.class_names
    labels, which = labels_to_list(counts)
    rows = [(str(label), escape(names[label]), f"{counts[label]:,}") for label in labels]
    return f"## Training images per class{which}\n\n" + table(("label", "class", "images"), rows)
