"""Accuracy overall and on head, mid and tail classes, for the average of the two heads and for each expert alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deitlt_hf.errors import DeiTLTError

EXPERTS = ("average", "cls", "distillation")
GROUPS = ("head", "mid", "tail")
EXPERT_LABELS = {"average": "average", "cls": "CLS expert", "distillation": "DIST expert"}


def grouped_accuracy(predictions: Any, labels: Any, groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Accuracy over all images and on each group of classes, in percent, as in the paper's tables.

    `overall` counts images. A group's accuracy is the mean of its classes' accuracies, as in the reference, so every
    class weighs the same even where the test set is not balanced; classes without test images are left out.

    Args:
        predictions: class ids, integers of shape `(N,)`, or logits of shape `(N, C)`, whose largest is taken; numpy
            array, torch tensor on any device, or list.
        labels: true class ids, integers of shape `(N,)`, of the same kinds.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, lists of class ids, as `class_groups` gives them.

    Returns:
        `{"overall", "head", "mid", "tail"}` as floats in 0 to 100; nan for a group without classes or without images.

    Raises:
        DeiTLTError: no images; predictions and labels of different lengths or of a wrong shape or type; a group is
            missing; a label is negative or in none of the groups.

    Example:
        >>> groups = {"head": [0], "mid": [1], "tail": [2]}
        >>> grouped_accuracy([0, 0, 1, 2], [0, 0, 1, 1], groups)
        {'overall': 75.0, 'head': 100.0, 'mid': 50.0, 'tail': nan}
    """
    predictions, labels = _as_class_ids(predictions, labels)
    members = {name: _group_members(groups, name) for name in GROUPS}
    classes = np.concatenate(list(members.values()))
    outside = labels[~np.isin(labels, classes)]
    if outside.size:
        raise DeiTLTError(
            f"label {outside[0]} is in none of the groups head, mid and tail: pass labels that belong to the groups' "
            f"{classes.size} classes"
        )
    per_class = per_class_accuracy(predictions, labels, num_classes=int(classes.max()) + 1)
    overall = 100.0 * float(np.mean(predictions == labels))
    return {"overall": overall} | {name: _mean_of_tested(per_class[members[name]]) for name in GROUPS}


def per_class_accuracy(predictions: Any, labels: Any, num_classes: int) -> np.ndarray:
    """Accuracy on each class (its recall), in percent.

    Args:
        predictions: class ids `(N,)` or logits `(N, C)`; numpy array, torch tensor or list.
        labels: true class ids `(N,)`, in `0 .. num_classes - 1`.
        num_classes: length of the result.

    Returns:
        float64 array `(num_classes,)` in 0 to 100; nan for a class without test images.

    Raises:
        DeiTLTError: as for `grouped_accuracy`; a label is outside `0 .. num_classes - 1`.

    Example:
        >>> per_class_accuracy([0, 1, 1], [0, 0, 1], num_classes=3)
        array([ 50., 100.,  nan])
    """
    predictions, labels = _as_class_ids(predictions, labels)
    if labels.max() >= num_classes:
        raise DeiTLTError(f"label {labels.max()} is outside 0 .. {num_classes - 1}: pass num_classes above every label")
    images = np.bincount(labels, minlength=num_classes)
    correct = np.bincount(labels[predictions == labels], minlength=num_classes)
    return np.divide(100.0 * correct, images, out=np.full(num_classes, np.nan), where=images > 0)


def expert_metrics(
    predictions: Any,
    labels: Any,
    class_counts: Sequence[int],
    groups: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """The one result of an evaluation, from which the table, the figures and the model card are made.

    Args:
        predictions: class ids of the three predictions, integers of shape `(N, 3)`, columns in the order of `EXPERTS`
            (average, cls, distillation), as `predict_experts` gives them.
        labels: true class ids `(N,)`.
        class_counts: training images per class, in label order.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, lists of class ids.
        class_names: names of the classes, in label order.

    Returns:
        A dict that `json.dump` writes as it is: `num_images`, `class_names`, `class_counts`, `groups`, and `experts`,
        which holds for each of `EXPERTS` the percentages `overall`, `head`, `mid`, `tail` and the list `per_class`;
        None where there is no test image.

    Raises:
        DeiTLTError: as for `grouped_accuracy`; `predictions` is not `(N, 3)`; `class_names`, `class_counts` and
            `groups` speak of different numbers of classes.

    Example:
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> metrics = expert_metrics([[0, 0, 0], [1, 0, 1]], [0, 1], [90, 3], groups, ["cat", "lynx"])
        >>> metrics["experts"]["cls"]
        {'overall': 50.0, 'head': 100.0, 'mid': None, 'tail': 0.0, 'per_class': [100.0, 0.0]}
    """
    predictions = _to_numpy(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != len(EXPERTS):
        raise DeiTLTError(
            f"predictions have shape {predictions.shape}: pass class ids of shape (N, 3), columns {', '.join(EXPERTS)}"
        )
    members = {name: _group_members(groups, name).tolist() for name in GROUPS}
    grouped = sorted(class_id for group in members.values() for class_id in group)
    if len(class_names) != len(class_counts) or grouped != list(range(len(class_counts))):
        raise DeiTLTError(
            f"{len(class_names)} class names, {len(class_counts)} class counts and groups over {len(grouped)} classes "
            "do not fit together: pass one name and one count per class, and each class in exactly one group"
        )
    experts = {}
    for column, expert in enumerate(EXPERTS):
        accuracies = grouped_accuracy(predictions[:, column], labels, members)
        per_class = per_class_accuracy(predictions[:, column], labels, len(class_counts))
        experts[expert] = {name: _none_for_nan(value) for name, value in accuracies.items()}
        experts[expert]["per_class"] = [_none_for_nan(value) for value in per_class.tolist()]
    return {
        "num_images": len(predictions),
        "class_names": [str(name) for name in class_names],
        "class_counts": [int(count) for count in class_counts],
        "groups": members,
        "experts": experts,
    }


def format_table(metrics: Mapping[str, Any]) -> str:
    """The result of `expert_metrics` as aligned text: a row per expert, accuracies in percent with one decimal.

    A group without test images shows "-". The last line says what the groups are.

    Args:
        metrics: what `expert_metrics` returned, or the same read back from JSON.

    Returns:
        Lines joined by newlines, without one at the end.

    Example:
        >>> groups = {"head": [0], "mid": [], "tail": [1]}
        >>> print(format_table(expert_metrics([[0, 0, 0], [1, 0, 1]], [0, 1], [90, 3], groups, ["cat", "lynx"])))
                     overall    head     mid    tail
        average        100.0   100.0       -   100.0
        CLS expert      50.0   100.0       -     0.0
        DIST expert    100.0   100.0       -   100.0
        head: 1 class with 90 training images, mid: no classes, tail: 1 class with 3 training images
    """
    columns = ("overall", *GROUPS)
    lines = [" " * 12 + "".join(f"{column:>8}" for column in columns)]
    for expert in EXPERTS:
        values = [metrics["experts"][expert][column] for column in columns]
        cells = ["-" if value is None else f"{value:.1f}" for value in values]
        lines.append(f"{EXPERT_LABELS[expert]:<12}" + "".join(f"{cell:>8}" for cell in cells))
    lines.append(", ".join(f"{name}: {_describe_group(metrics, name)}" for name in GROUPS))
    return "\n".join(lines)


def _describe_group(metrics: Mapping[str, Any], name: str) -> str:
    counts = [metrics["class_counts"][class_id] for class_id in metrics["groups"][name]]
    if not counts:
        return "no classes"
    classes = "1 class" if len(counts) == 1 else f"{len(counts)} classes"
    images = f"{max(counts)}" if max(counts) == min(counts) else f"{max(counts)}-{min(counts)}"
    return f"{classes} with {images} training images"


def _to_numpy(values: Any) -> np.ndarray:
    # A torch tensor is recognised by what it can do, so that this module works where torch is not loaded.
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _as_class_ids(predictions: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both arguments as int64 class ids of shape `(N,)`, after the checks that every caller needs."""
    if getattr(predictions, "ndim", 1) == 2:  # before leaving torch: numpy has no bfloat16
        predictions = predictions.argmax(-1)
    predictions, labels = _to_numpy(predictions), _to_numpy(labels)
    if predictions.ndim == 2:
        predictions = predictions.argmax(-1)
    if predictions.ndim != 1 or labels.ndim != 1 or len(predictions) != len(labels):
        raise DeiTLTError(
            f"predictions of shape {predictions.shape} do not fit labels of shape {labels.shape}: pass one class id or "
            "one row of logits per label"
        )
    if len(labels) == 0:
        raise DeiTLTError("there are no images to evaluate: pass at least one prediction and its label")
    for name, values in (("predictions", predictions), ("labels", labels)):
        if not np.issubdtype(values.dtype, np.integer):
            raise DeiTLTError(f"{name} have type {values.dtype}: pass class ids as integers, or predictions as logits")
    if labels.min() < 0:
        raise DeiTLTError(f"label {labels.min()} is negative: pass class ids from 0 and leave unlabelled images out")
    return predictions.astype(np.int64), labels.astype(np.int64)


def _group_members(groups: Mapping[str, Sequence[int]], name: str) -> np.ndarray:
    if name not in groups:
        raise DeiTLTError(f"groups {sorted(groups)} lack {name!r}: pass lists of class ids for head, mid and tail")
    members = np.asarray(groups[name], dtype=np.int64)
    if members.size and members.min() < 0:
        raise DeiTLTError(f"group {name} holds class id {members.min()}: pass class ids from 0")
    return members


def _mean_of_tested(per_class: np.ndarray) -> float:
    tested = per_class[~np.isnan(per_class)]
    return float(tested.mean()) if tested.size else float("nan")


def _none_for_nan(value: float) -> float | None:
    return None if np.isnan(value) else value
