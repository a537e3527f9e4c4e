"""What a data set looks like before a GPU is spent on it: its tail, its images, its damage and its duplicates."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from PIL import Image

from deitlt_hf.data.columns import labels_of
from deitlt_hf.data.duplicates import Duplicates, find_duplicates, hash_of
from deitlt_hf.data.images import BadImage, decode_image
from deitlt_hf.data.loading import load_long_tailed_dataset
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.data.readable import image_name, look_at_images, undecoded
from deitlt_hf.data.sources import Source
from deitlt_hf.errors import counted, printable, some
from deitlt_hf.losses.class_balanced import class_balanced_weights

SHOWN = 5  # unreadable files named, most common sizes listed
SMALL_TEST_SPLIT = 200  # images; a change of one is then half a point of accuracy
QUANTILES = {"min": 0, "lower_quartile": 25, "median": 50, "upper_quartile": 75, "max": 100}
MAX_NAMES_LENGTH = 40
_TWELVE_BITS = "of 12 bits or fewer"
_SEVERAL = "of several pages"


@dataclass
class SplitInspection:
    """The images of one split; pixels are those of upright images, with the keys of `QUANTILES`, or {} for none."""

    images: int  # rows, unreadable ones included
    class_counts: list[int]  # rows, unreadable ones included, in label order
    unreadable: int
    first_unreadable: list[str]  # position, file and reason
    width: dict[str, float]
    height: dict[str, float]
    shorter_side: dict[str, float]
    common_sizes: list[tuple[int, int, int]]  # the most common (width, height, images)
    modes: dict[str, int]  # images of each of Pillow's modes
    formats: dict[str, int]


@dataclass
class Inspection:
    """What `inspect_dataset` found."""

    class_names: list[str]  # in label order
    class_groups: dict[str, list[int]]  # class ids of head, mid and tail
    drw_weights: list[float]  # class-balanced weights of the training counts, which DRW switches on
    splits: dict[str, SplitInspection]  # `train` first
    duplicates: Duplicates  # identical files within and across splits

    @property
    def class_counts(self) -> list[int]:
        """Training images per class, in label order."""
        return self.splits["train"].class_counts

    @property
    def imbalance_factor(self) -> float:
        """Largest class count / smallest."""
        return max(self.class_counts) / min(self.class_counts)

    @property
    def gini(self) -> float:
        """`gini_coefficient` of the training counts."""
        return gini_coefficient(self.class_counts)

    @property
    def unreadable(self) -> int:
        """Images of all splits that cannot be read."""
        return sum(split.unreadable for split in self.splits.values())

    @property
    def first_unreadable(self) -> list[str]:
        """The first images of all splits that cannot be read, with the reasons."""
        return [line for split in self.splits.values() for line in split.first_unreadable][:SHOWN]

    def warnings(self) -> list[str]:
        """What to look at before training, a line each; none for data without these faults."""
        return [*_file_warnings(self), *_class_warnings(self)]

    def to_json(self) -> str:
        """All of it, for machines: the fields, what is derived from them, and the warnings."""
        largest, smallest = int(np.argmax(self.class_counts)), int(np.argmin(self.class_counts))
        derived = {
            "num_classes": len(self.class_names),
            "imbalance_factor": self.imbalance_factor,
            "gini": self.gini,
            "largest_class": {"name": self.class_names[largest], "images": self.class_counts[largest]},
            "smallest_class": {"name": self.class_names[smallest], "images": self.class_counts[smallest]},
            "group_sizes": {name: len(classes) for name, classes in self.class_groups.items()},
            "warnings": self.warnings(),
        }
        return json.dumps(derived | dataclasses.asdict(self), indent=2)


def inspect_dataset(
    splits: Source | Mapping[str, Dataset],
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    beta: float = 0.9999,
    progress: bool = True,
) -> Inspection:
    """Read every image of a data set once and report what it contains.

    Each image is decoded in full, as training would, so that damage is found. Images pass through in small portions,
    on as many threads as there are cores (at most 16); only a few bytes of each are kept: the hash of its file, its
    size and its label.

    Args:
        splits: `train` and others, with columns `image` and `label`, as `load_long_tailed_dataset` gives them; or a
            source that it takes, such as a directory.
        groups: head, mid and tail; None (default) is `class_groups` of the training counts.
        beta: of the class-balanced weights, DRW's default.
        progress: show a progress bar if there is a terminal.

    Returns:
        An `Inspection`; images that cannot be read are counted in it, and no error.

    Raises:
        DeiTLTError: a class without training images, `beta` outside [0, 1), or a source that cannot be loaded.

    Example:
        >>> from deitlt_hf import load_long_tailed_dataset
        >>> inspection = inspect_dataset(load_long_tailed_dataset("digits-lt"))
        >>> inspection.class_counts
        [134, 96, 68, 49, 35, 25, 18, 13, 9, 6]
        >>> round(inspection.gini, 2), inspection.splits["train"].common_sizes
        (0.47, [(8, 8, 453)])
    """
    is_loaded = isinstance(splits, Mapping) and all(
        isinstance(of, Dataset) and {"image", "label"} <= set(of.column_names) for of in splits.values()
    )
    if not is_loaded:
        splits = load_long_tailed_dataset(splits, on_bad_image="keep")
    names = ["train", *(name for name in splits if name != "train")]
    class_names = splits["train"].features["label"].names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF data for instance, which images survive
        read = {name: _read_split(name, splits[name], len(class_names), progress) for name in names}
    counts = read["train"][0].class_counts
    groups = class_groups(counts) if groups is None else groups
    return Inspection(
        class_names=list(class_names),
        class_groups={name: list(classes) for name, classes in groups.items()},
        drw_weights=class_balanced_weights(counts, beta).tolist(),
        splits={name: found for name, (found, _) in read.items()},
        duplicates=find_duplicates(
            {name: images for name, (_, images) in read.items()},
            lambda name, index: image_name(index, name, undecoded(splits[name])[index]["image"]["path"]),
        ),
    )


def gini_coefficient(class_counts: Sequence[int]) -> float:
    """Half the mean absolute difference of two classes' counts, divided by the mean count.

    It is 0 where all classes have as many images, and goes towards 1 where one class has all of them.
    """
    counts = np.sort(np.asarray(class_counts, dtype=np.float64))
    if not counts.sum():
        return 0.0
    ranks = np.arange(1, len(counts) + 1)
    return float(2 * (ranks * counts).sum() / (len(counts) * counts.sum()) - (len(counts) + 1) / len(counts))


def _read_split(name: str, dataset: Dataset, num_classes: int, progress: bool) -> tuple[SplitInspection, pd.DataFrame]:
    """Read every image of a split; of each that can be read stay its hash (`high`, `low`), size and `label`."""
    kept = [("high", np.uint64), ("low", np.uint64), ("width", np.int32), ("height", np.int32), ("readable", bool)]
    seen = np.zeros(dataset.num_rows, kept)
    modes, formats, first_unreadable = Counter(), Counter(), []
    bar = {"desc": f"reading {name} images", "disable": None if progress else True}
    for index, value, image in look_at_images(dataset, _look_at, **bar):
        if isinstance(image, BadImage):
            if len(first_unreadable) < SHOWN:
                first_unreadable.append(f"{image_name(index, name, value and value['path'])}: {image}")
            continue
        digest, size, mode, file_format = image
        seen[index] = (*np.frombuffer(digest, np.uint64), *size, True)
        modes[mode] += 1
        formats[file_format] += 1
    labels = labels_of(dataset)
    images = pd.DataFrame(seen).assign(label=labels)[seen["readable"]]
    sizes = images.groupby(["width", "height"]).size().sort_values(ascending=False, kind="stable")
    found = SplitInspection(
        images=len(labels),
        class_counts=np.bincount(labels[labels >= 0], minlength=num_classes).tolist(),
        unreadable=len(labels) - len(images),
        first_unreadable=first_unreadable,
        width=_quantiles(images["width"]),
        height=_quantiles(images["height"]),
        shorter_side=_quantiles(images[["width", "height"]].min(axis=1)),
        common_sizes=[(*size, number) for size, number in sizes.head(SHOWN).items()],
        modes=dict(modes.most_common()),
        formats=dict(formats.most_common()),
    )
    return found, images


def _look_at(value: Mapping[str, Any] | None) -> tuple[bytes, tuple[int, int], str, str] | BadImage:
    """The hash of an image's file, its size, Pillow's mode, and its format; or why it cannot be read."""
    path = value and value["path"]
    try:
        if path and value["bytes"] is None and os.path.isfile(path):  # so that the file is read once
            value = {"bytes": Path(path).read_bytes(), "path": path}
        decoded = decode_image(value)
        with Image.open(io.BytesIO(value["bytes"])) as image:
            mode, file_format = image.mode, image.format
            if getattr(image, "is_animated", False) and file_format != "MPO":  # a camera's, with previews
                file_format = f"{file_format} {_SEVERAL}"
    except BadImage as error:
        return error
    except OSError as error:
        return BadImage(error.strerror or str(error))
    if mode.startswith("I;16") and decoded.getextrema()[0][1] < 2**12 >> 8:
        mode = f"{mode} {_TWELVE_BITS}"
    return hash_of(value["bytes"]), decoded.size, mode, file_format


def _quantiles(values: pd.Series) -> dict[str, float]:
    return {name: float(np.percentile(values, share)) for name, share in QUANTILES.items()} if len(values) else {}


def _file_warnings(inspection: Inspection) -> Iterator[str]:
    if inspection.unreadable:
        images = counted(inspection.unreadable, "image")
        yield f"{images} cannot be read, and training would stop; the first: {inspection.first_unreadable[0]}"
    modes = [mode_and_images for split in inspection.splits.values() for mode_and_images in split.modes.items()]
    dark = sum(images for mode, images in modes if _TWELVE_BITS in mode)
    if dark:
        yield f"{counted(dark, 'image')} of 16 bits {_is(dark)} {_TWELVE_BITS}, and dark: multiply the levels by 16"
    formats = [format_and_images for split in inspection.splits.values() for format_and_images in split.formats.items()]
    several = sum(images for file_format, images in formats if _SEVERAL in file_format)
    if several:
        yield f"{counted(several, 'image')} {_is(several)} {_SEVERAL} or frames, of which only the first is looked at"
    duplicates = inspection.duplicates
    for split, images in duplicates.in_train.items():
        if images:
            share = 100 * images / inspection.splits[split].images
            yield (
                f"{counted(images, 'image')} of {split} ({share:.1f} %) {_is(images)} in train too: the measured "
                "accuracy will be too high"
            )
    if duplicates.conflicting:
        occur = "occurs" if duplicates.conflicting == 1 else "occur"
        yield (
            f"{counted(duplicates.conflicting, 'image')} {occur} more than once with different labels; for instance "
            f"{duplicates.examples[0][0]} and {duplicates.examples[0][1]}"
        )


def _class_warnings(inspection: Inspection) -> Iterator[str]:
    names = inspection.class_names
    single = [names[label] for label, count in enumerate(inspection.class_counts) if count < 2]
    if single:
        yield f"{counted(len(single), 'class')} with a single training image: {some(single, quoted=False)}"
    for split, found in inspection.splits.items():
        if split == "train":
            continue
        missing = [names[label] for label, count in enumerate(found.class_counts) if not count]
        if missing:
            yield f"{counted(len(missing), 'class')} without images in {split}: {some(missing, quoted=False)}"
        if found.images < SMALL_TEST_SPLIT:
            points = 100 / found.images if found.images else float("nan")
            yield f"{split} has {counted(found.images, 'image')}: one of them is {points:.1f} points of accuracy"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def format_inspection(inspection: Inspection) -> str:
    """An inspection as aligned text: the classes, the images of each split, and the warnings.

    Example:
        >>> from deitlt_hf import load_long_tailed_dataset
        >>> print(format_inspection(inspect_dataset(load_long_tailed_dataset("digits-lt"))))
        classes           10, from 134 images (0) down to 6 (9)
        imbalance factor  22.3; Gini coefficient 0.47
        head, mid, tail   1, 5 and 4 classes; 134, 273 and 46 images
        DRW's weights     0.141 (0) to 3.13 (9)
        duplicates        none
        <BLANKLINE>
                                          train           test
        images                              453            400
        unreadable                            0              0
        width: min, median, max         8, 8, 8        8, 8, 8
        height: min, median, max        8, 8, 8        8, 8, 8
        most common size          8 x 8 (100 %)  8 x 8 (100 %)
        modes                         RGB 100 %      RGB 100 %
        file formats                  PNG 100 %      PNG 100 %
    """
    rows = [*class_summary(inspection), *_duplicates_rows(inspection)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}" for name, text in rows]
    lines += ["", split_summary(inspection).to_string()]
    if found := inspection.warnings():
        lines += ["", *(f"warning: {printable(warning)}" for warning in found)]
    return "\n".join(lines)


def split_summary(inspection: Inspection) -> pd.DataFrame:
    """The images of each split, which are the columns, as texts."""
    return pd.DataFrame({name: _split_column(split) for name, split in inspection.splits.items()})


def class_summary(inspection: Inspection) -> list[tuple[str, str]]:
    """What the training images of the classes are, by what it is called."""
    counts, weights = np.asarray(inspection.class_counts), np.asarray(inspection.drw_weights)
    names = [printable(name) for name in inspection.class_names]
    names = [name if len(name) <= MAX_NAMES_LENGTH else f"{name[: MAX_NAMES_LENGTH - 1]}…" for name in names]
    largest, smallest = counts.argmax(), counts.argmin()
    groups = [inspection.class_groups[name] for name in ("head", "mid", "tail")]
    sizes = "{}, {} and {}".format(*map(len, groups))
    images = "{}, {} and {}".format(*(counts[group].sum() for group in groups))
    return [
        ("classes", f"{len(counts)}, from {counts[largest]} images ({names[largest]}) down to {counts[smallest]} "
         f"({names[smallest]})"),
        ("imbalance factor", f"{inspection.imbalance_factor:.3g}; Gini coefficient {inspection.gini:.2f}"),
        ("head, mid, tail", f"{sizes} classes; {images} images"),
        ("DRW's weights", f"{weights.min():.3g} ({names[weights.argmin()]}) to {weights.max():.3g} "
         f"({names[weights.argmax()]})"),
    ]  # fmt: skip


def _duplicates_rows(inspection: Inspection) -> list[tuple[str, str]]:
    found = inspection.duplicates
    if not found.groups:
        return [("duplicates", "none")]
    places = [f"{number} within {split}" for split, number in found.within.items() if number]
    places += [f"{found.across} across splits"] if found.across else []
    first, second = found.examples[0][:2]
    return [
        ("duplicates", f"{counted(found.groups, 'image')} more than once ({', '.join(places)}), for instance"),
        ("", printable(first)),
        ("", printable(second)),
    ]


def _split_column(split: SplitInspection) -> dict[str, str]:
    size = "-"
    if split.common_sizes:
        width, height, images = split.common_sizes[0]
        size = f"{width} x {height} ({_percent(images, split.images - split.unreadable)})"
    return {
        "images": str(split.images),
        "unreadable": str(split.unreadable),
        "width: min, median, max": _spread(split.width),
        "height: min, median, max": _spread(split.height),
        "most common size": size,
        "modes": _shares(split.modes),
        "file formats": _shares(split.formats),
    }


def _spread(spread: dict[str, float]) -> str:
    return ", ".join(f"{spread[name]:g}" for name in ("min", "median", "max")) if spread else "-"


def _shares(numbers: dict[str, int]) -> str:
    total = sum(numbers.values())
    parts = [f"{name} {_percent(number, total)}" for name, number in list(numbers.items())[:4]]
    return ", ".join(parts + (["..."] if len(numbers) > 4 else [])) or "-"


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.0f} %" if share == round(share) or 1 <= share <= 99 else f"{share:.1f} %"
