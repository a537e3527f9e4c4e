"""Makes models of this package from `.pth` files of the paper's published implementation and of its teachers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import new_directory
from deitlt_hf.foreign.weights import check_finite
from deitlt_hf.reference.checkpoint_file import State, read_reference_file
from deitlt_hf.reference.class_order import find_class_order
from deitlt_hf.reference.normalisation import reference_image_processor
from deitlt_hf.reference.student import convert_student
from deitlt_hf.reference.teacher import convert_teacher


def convert_reference_checkpoint(
    path: str | os.PathLike[str],
    *,
    use_ema: bool = False,
    num_attention_heads: int | None = None,
    label_names: Sequence[str] | None = None,
    class_counts: Sequence[int] | None = None,
    class_order: Sequence[int] | None = None,
) -> PreTrainedModel:
    """Turn a checkpoint of the reference into a model for transformers, in evaluation mode, in float32.

    What a file holds is found out from its tensors:

    - a DeiT-LT student becomes a `DeiTLTForImageClassification`;
    - a ResNet for CIFAR, trained with PaCo, LDAM or cross-entropy, a `CifarResNetForImageClassification`;
    - a ResNet-18, 34, 50, 101 or 152 in torchvision's layout, trained with PaCo or with a linear classifier,
      transformers' `TimmWrapperForImageClassification`, and with LDAM's cosine classifier a
      `TimmCosineForImageClassification`.

    Sizes are read from the shapes of the tensors, and `class_counts` of a student from the training arguments kept in
    the file. Nothing that the file pickles is run: other than tensors it may hold a `Namespace`, paths and numbers.

    Classes are named by their index in the data set (`LABEL_0`, `LABEL_1`, ...) or by `label_names`, so that teacher
    and student match by name although their orders differ: on ImageNet-LT and iNaturalist-2018 the reference's students
    and LDAM teachers count classes by falling training frequency, while its PaCo teachers keep the data set's order. A
    student's own `class_map` settles the order where the file has one. Where it has none, `class_counts` or
    `class_order` is needed; classes with equal counts are ordered as NumPy 1.24 does (see `frequency_order`), and
    `class_order` is the way to be certain.

    Args:
        path: The `.pth` or `.pth.tar` file.
        use_ema: Take the exponential moving average of a student's weights (`model_ema`) instead of the weights.
        num_attention_heads: Attention heads of a student, which no tensor's shape tells; by default those of the size
            (tiny, small, base) in the model's name in the file, or else its hidden size / 64.
        label_names: Names of the classes, in the data set's order.
        class_counts: Training images per class, in the data set's order.
        class_order: The data set's index of each of the file's classes.

    Raises:
        DeiTLTError: no such file, not a checkpoint or a truncated one, a pickled call in it, none of these kinds,
            tensors that are left over, missing, of the wrong shape, NaN or infinite, no EMA weights, unknown number of
            heads, unknown order of the classes, or names, counts or an order that do not fit the file's classes.

    Example:
        >>> from deitlt_hf import convert_reference_checkpoint
        >>> model = convert_reference_checkpoint("checkpoint.pth", use_ema=True)  # doctest: +SKIP
        >>> model.config.class_counts  # doctest: +SKIP
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    return convert_and_describe(path, use_ema, num_attention_heads, label_names, class_counts, class_order)[0]


def convert_and_describe(
    path: str | os.PathLike[str],
    use_ema: bool = False,
    num_attention_heads: int | None = None,
    label_names: Sequence[str] | None = None,
    class_counts: Sequence[int] | None = None,
    class_order: Sequence[int] | None = None,
) -> tuple[PreTrainedModel, str]:
    """`convert_reference_checkpoint`, and a description of the file."""
    file = read_reference_file(Path(path), use_ema)
    model, state, description = convert_student(file, num_attention_heads) if file.is_student else convert_teacher(file)
    _load_all(model, state, file.path)
    check_finite(state, os.fspath(path))
    order = find_class_order(file, model.config.num_labels, class_counts, class_order)
    if file.is_student and class_counts is not None:
        model.config.class_counts = _counts_in_file_order(model.config.class_counts, class_counts, order, file.path)
    _name_classes(model.config, order, label_names)
    return model.eval(), description


def save_model_and_processor(model: PreTrainedModel, out_dir: str | os.PathLike[str]) -> None:
    """Write a converted model and the image processor that it was trained with into a new directory, or nothing."""
    with new_directory(out_dir) as unfinished:
        model.save_pretrained(unfinished)
        if model.config.model_type != "timm_wrapper":  # its config.json has the image processor's settings
            reference_image_processor(model.config).save_pretrained(unfinished)


def _load_all(model: torch.nn.Module, converted: State, path: Path) -> None:
    """Load the file's tensors, which must be exactly those of the model."""
    # Not the errors of `load_state_dict`, which have a line for each tensor.
    wanted = model.state_dict()
    for problem, names in (
        ("left over", converted.keys() - wanted.keys()),
        ("missing", wanted.keys() - converted.keys()),
        ("of another shape", {n for n in wanted.keys() & converted.keys() if wanted[n].shape != converted[n].shape}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise DeiTLTError(
                f"{path}: {len(names)} tensors {problem} after conversion to {type(model).__name__}: {shown}; pass an "
                "unchanged checkpoint of the reference"
            )
    model.load_state_dict(converted)


def _counts_in_file_order(
    in_file: list[int] | None, class_counts: Sequence[int], order: list[int], path: Path
) -> list[int]:
    counts = [int(class_counts[index]) for index in order]
    if in_file is not None and in_file != counts:
        wrong = next(position for position in range(len(order)) if in_file[position] != counts[position])
        raise DeiTLTError(
            f"{path} was trained with {in_file[wrong]} images of class {order[wrong]}, where class_counts has "
            f"{counts[wrong]}; pass the counts of the data set that it was trained on, in the data set's order"
        )
    return counts


def _name_classes(config: PreTrainedConfig, order: list[int], label_names: Sequence[str] | None) -> None:
    names = [f"LABEL_{index}" for index in range(len(order))] if label_names is None else list(label_names)
    if len(names) != len(order):
        raise DeiTLTError(f"{len(names)} label names were given for {len(order)} classes; pass one for each")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DeiTLTError(f"the label name {name!r} was given twice; pass a different name for each class")
    config.id2label = {position: names[index] for position, index in enumerate(order)}
    config.label2id = {name: position for position, name in config.id2label.items()}
