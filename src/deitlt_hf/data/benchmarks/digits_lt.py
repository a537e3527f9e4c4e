"""digits-lt: the handwritten digits that come with scikit-learn; small, and nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image

from deitlt_hf.data.benchmarks.benchmark import Benchmark
from deitlt_hf.errors import DeiTLTError

TEST_IMAGES_PER_CLASS = 40
CLASS_NAMES = tuple(str(digit) for digit in range(10))


def read_digits(data_dir: str | Path | None = None) -> DatasetDict:
    """Balanced train and test splits of the 8x8 digits: 134 and 40 images a class, always the same ones."""
    if data_dir is not None:
        raise DeiTLTError("digits-lt is embedded and reads no data: leave data_dir out")
    from sklearn.datasets import load_digits  # takes over a second, and only this source needs it

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    by_class = [np.flatnonzero(digits.target == label) for label in range(10)]
    generator = np.random.RandomState(0)
    for positions in by_class:
        generator.shuffle(positions)
    rarest = min(map(len, by_class))
    selected = {
        "train": np.concatenate([positions[TEST_IMAGES_PER_CLASS:rarest] for positions in by_class]),
        "test": np.concatenate([positions[:TEST_IMAGES_PER_CLASS] for positions in by_class]),
    }
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=list(CLASS_NAMES))})
    splits = DatasetDict()
    for split, positions in selected.items():
        images = [Image.fromarray(grey[position]).convert("RGB") for position in positions]
        rows = {"image": images, "label": digits.target[positions]}
        splits[split] = Dataset.from_dict(rows, features=features)
    return splits


BENCHMARKS = [
    Benchmark(
        name="digits-lt",
        title="digits-lt",
        about="The handwritten digits that come with scikit-learn, 8 by 8 pixels. The test split has "
        f"{TEST_IMAGES_PER_CLASS} images of each digit, the train split a long-tailed selection of the others.",
        homepage="https://doi.org/10.24432/C50P49",
        licence="cc-by-4.0",
        licence_note="The UCI Machine Learning Repository publishes the digits under the licence CC BY 4.0.",
        origin="part of scikit-learn",
        read=read_digits,
        imbalance_factor=20,
        boundaries=(3, 7),
        class_names=CLASS_NAMES,
        citation="""@misc{alpaydin1998optical,
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  title = {Optical Recognition of Handwritten Digits},
  publisher = {UCI Machine Learning Repository},
  year = {1998},
  doi = {10.24432/C50P49}
}""",
    )
]
