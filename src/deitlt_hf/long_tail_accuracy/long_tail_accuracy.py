"""Accuracy on head, mid and tail classes as a metric of `evaluate`.

`evaluate.load` reads the import lines of this file as text, and copies it and `scores.py` to a place where `deitlt_hf`
may be missing: nothing else of the package can be imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .intervals import Bootstrap
from .scores import Counter, grouped_class_ids, groups_by_count, measured, percent

DESCRIPTION = (
    "Accuracy of a classifier that was trained on long-tailed data: over all test images, on head, mid and tail "
    "classes, balanced over classes, and per class; macro-F1 and the worst class; with bootstrap intervals on request."
)

CITATION = """\
@inproceedings{rangwani2024deitlt,
  title = {{DeiT-LT}: Distillation Strikes Back for Vision Transformer Training on Long-Tailed Datasets},
  author = {Rangwani, Harsh and Mondal, Pradipto and Mishra, Mayank and Asokan, Ashish Ramayee and Babu, R. Venkatesh},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2024},
}
"""


class LongTailAccuracy(evaluate.Metric):
    """Accuracy overall, on head, mid and tail classes, balanced and per class, macro-F1 and worst class, in percent.

    `overall` counts images. A group's accuracy and the balanced one are means of their classes' accuracies, so that
    every class weighs the same; classes without test images are left out. A class that is never predicted has F1 0.

    Args of `compute`:
        predictions: class ids, ints of shape `(N,)`; an id that is no class counts as wrong. `evaluate` cuts fractions
            off.
        references: true class ids, ints of shape `(N,)`.
        class_counts: training images per class, in label order; they make the groups.
        thresholds: `(high, low)`: head classes have more than `high` training images, tail classes fewer than `low`.
            By default `(100, 20)`, or thirds of the classes by frequency where that would leave a group empty.
        boundaries: `(first, second)`: in order of falling class counts the first `first` classes are head, those up to
            `second` mid, the rest tail. Overrides `thresholds`.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, lists of class ids, in place of `class_counts`.
        confidence_intervals: add 95 % intervals, see Returns. Default False.
        num_resamples: of each class's test images, for the intervals. Default 1000.
        seed: of the resamples, at least 0. Default 0.

    Returns:
        A dict of floats in 0 to 100: `overall`, `head`, `mid`, `tail`, `balanced_accuracy`, `macro_f1`, `worst_class`,
        and `per_class`, a list in label order; nan for a group or class without test images. With
        `confidence_intervals` also `confidence_intervals`, a list `[low, high]` for each of the former but `per_class`,
        see `Bootstrap`; for `worst_class` only where each tested class has 50 images or more. On processes other than
        the first, None.

    Raises:
        ValueError: neither or both of `class_counts` and `groups`; wrong groups, counts or numbers; no images; a
            reference that is in none of the groups; inputs that are no numbers or differ in length.

    Example:
        >>> metric = LongTailAccuracy(keep_in_memory=True)  # or evaluate.load("path/to/long_tail_accuracy")
        >>> result = metric.compute(predictions=[0, 0, 1, 2], references=[0, 0, 1, 1], class_counts=[500, 60, 5])
        >>> result["overall"], result["head"], result["mid"], result["tail"]
        (75.0, 100.0, 50.0, nan)
        >>> result["balanced_accuracy"], result["per_class"]
        (75.0, [100.0, 50.0, nan])
    """

    def _info(self) -> evaluate.MetricInfo:
        class_id = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=type(self).__doc__,
            features=datasets.Features({"predictions": class_id, "references": class_id}),
            format="numpy",
            reference_urls=["https://arxiv.org/abs/2404.02900"],
        )

    def _compute(
        self,
        predictions: np.ndarray,
        references: np.ndarray,
        class_counts: Sequence[int] | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        thresholds: tuple[int, int] | None = None,
        boundaries: tuple[int, int] | None = None,
        confidence_intervals: bool = False,
        num_resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, Any]:
        if (class_counts is None) == (groups is None):
            raise ValueError("pass either class_counts or groups, which say what head, mid and tail are")
        if groups is None:
            groups = groups_by_count(class_counts, thresholds, boundaries)
        predictions, references, members, num_classes = grouped_class_ids(predictions, references, groups)
        counter = Counter(predictions, references, num_classes)
        tally = counter.count()
        result = {name: float(value) for name, value in measured(tally, members).items()}
        result["per_class"] = percent(tally.correct, tally.images).tolist()
        if confidence_intervals:
            bootstrap = Bootstrap({"": counter}, references, members, num_resamples, seed)
            result["confidence_intervals"] = bootstrap.intervals("")
        return result
