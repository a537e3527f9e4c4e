"""What the package says about a data set that it knows by name, and how it is built from its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from deitlt_hf.data.benchmarks.lists import ListFacts
from deitlt_hf.data.columns import labels_of, with_image_and_label
from deitlt_hf.data.long_tail import check_imbalance_factor, class_groups, long_tailed_indices
from deitlt_hf.data.readable import check_files_exist, refuse_addresses
from deitlt_hf.errors import DeiTLTError

COMPLETE_HINT = "complete them, or pass the data_dir that has them all"  # here no image may be left out


@dataclass(frozen=True)
class Benchmark:
    """A data set with a name, for the commands, the loader, the builders and the cards."""

    name: str  # as in `--data NAME` and `deitlt data build NAME`
    title: str  # as people write it
    about: str  # what its splits are, in one or two sentences
    homepage: str  # of the source
    licence: str  # the hub's word for the source's terms; "other" if they are its own
    licence_note: str  # the terms in a sentence
    origin: str  # where the images come from, for the help of the commands
    # Called with `data_dir`, None if the user gave none; returns the splits of the source, at least `train` and `test`.
    # With `published` lists it also takes `lists_dir` and `check_lists`.
    read: Callable[..., DatasetDict]
    citation: str = ""  # BibTeX
    # Where mid and tail begin in the classes sorted by frequency, as in the paper's tables; None groups the classes by
    # their number of training images.
    boundaries: tuple[int, int] | None = None
    # The default for making the train split of a balanced source long-tailed; None for data that are long-tailed.
    imbalance_factor: float | None = None
    class_names: tuple[str, ...] = ()  # of the source, in label order, if they are always the same
    published: Mapping[str, ListFacts] = field(default_factory=dict)  # what the published list of each split has
    hub_id: str | None = None  # of the source

    def build(
        self,
        data_dir: str | Path | None = None,
        *,
        imbalance_factor: float | None = None,
        profile: str = "exp",
        seed: int = 0,
        **reading: object,
    ) -> DatasetDict:
        """The checked splits with columns `image` and `label`; `train` of a balanced source is made long-tailed.

        `imbalance_factor`, `profile` and `seed` have no effect on other sources; `reading` are arguments of `read`.
        """
        if imbalance_factor is not None:
            check_imbalance_factor(imbalance_factor)  # before anything is read
        splits = self.read(data_dir, **reading)
        named = with_image_and_label(splits)
        splits = DatasetDict({name: named[name] for name in (*splits, *named) if name in named})  # the source's order
        place = str(data_dir or self.hub_id or self.name)
        if "test" not in splits:
            raise DeiTLTError(f"{place!r} has no test split: pass the directory with the whole source")
        if self.imbalance_factor is not None:
            self._check_whole(splits["train"], place)
        refuse_addresses(splits)
        check_files_exist(splits, COMPLETE_HINT)
        if self.imbalance_factor is not None:
            factor = self.imbalance_factor if imbalance_factor is None else imbalance_factor
            indices = long_tailed_indices(labels_of(splits["train"]), factor, profile, seed)
            splits["train"] = splits["train"].select(indices)
        return splits

    def groups(self, class_counts: list[int]) -> dict[str, list[int]]:
        """Head, mid and tail as in the paper's tables; with fewer classes than it has, by training images."""
        if self.boundaries is not None and self.boundaries[1] <= len(class_counts):
            return class_groups(class_counts, boundaries=self.boundaries)
        return class_groups(class_counts)

    def _check_whole(self, train: Dataset, place: str) -> None:
        """Refuse another data set, and one that is long-tailed already: its tail would be cut a second time."""
        labels, counts = np.unique(labels_of(train), return_counts=True)
        expected = len(self.class_names) or train.features["label"].num_classes
        if train.features["label"].num_classes != expected or len(labels) != expected:
            raise DeiTLTError(
                f"the train split in {place!r} does not have images of just the {expected} classes that {self.title} "
                "is made from: pass the directory with its own files"
            )
        if counts.min() != counts.max():
            raise DeiTLTError(
                f"the train split in {place!r} has from {counts.min()} to {counts.max()} images of a class, but "
                f"{self.title} is made from as many of each: pass the directory with the whole source"
            )
