"""What a Vision Transformer does on a test set: every measure of the paper's analysis in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.analysis.examples import Example, spread_classes
from deitlt_hf.evaluation.analysis.record import make_record
from deitlt_hf.evaluation.analysis.streaming import Stream
from deitlt_hf.evaluation.analysis.vit import eager_attention, patches_of, run_vit
from deitlt_hf.evaluation.evaluate import evaluation_mode

Teacher = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Analysis:
    """What `analyze_model` found.

    Args:
        record: all measures, as `json.dump` writes them; see `deitlt_hf.evaluation.analysis.record`.
        experts: the model's experts, in the order of the columns of `predictions`.
        predictions: class ids int64 `(N, number of experts)`.
        labels: true class ids int64 `(N,)`.
        examples: a few of the images.
    """

    record: dict[str, Any]
    experts: tuple[str, ...]
    predictions: np.ndarray
    labels: np.ndarray
    examples: list[Example]


def analyze_model(
    model: PreTrainedModel,
    dataloader: Iterable[Mapping[str, torch.Tensor]],
    *,
    class_names: Sequence[str],
    class_counts: Sequence[int],
    groups: Mapping[str, Sequence[int]],
    source: str = "",
    teacher: Teacher | None = None,
    device: torch.device | str | None = None,
    num_examples: int = 6,
    dist_is_trained: bool = True,
    image_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    image_std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> Analysis:
    """Measure what a Vision Transformer's experts are good at, and what its tokens do in each layer.

    Besides accuracies by group these are attention distance, feature rank, the tokens' similarity, calibration, who
    agrees with whom, and confusions between head and tail. The images are read once and batch by batch; what is kept of
    them is their class ids and confidences. The model runs in evaluation mode with eager attention, and keeps its own
    mode and attention implementation.

    Args:
        model: a `DeiTLTForImageClassification`, or transformers' `DeiTForImageClassificationWithTeacher`,
            `DeiTForImageClassification` or `ViTForImageClassification`; the latter two have a CLS expert alone.
        dataloader: yields dicts with `pixel_values` `(batch, 3, height, width)`, normalised, and `labels` `(batch,)`.
        class_names: names of the classes, in label order.
        class_counts: training images per class, in label order.
        groups: `{"head": [...], "mid": [...], "tail": [...]}`, lists of class ids.
        source: the model's name for the record, such as its directory. Default "".
        teacher: takes the same pixel values and gives logits `(batch, classes)` in the model's order of classes, as
            `deitlt_hf.teachers.frozen.FrozenTeacher` does. Default None, no teacher.
        device: where to run, the model is moved there; by default where the model is.
        num_examples: images to keep with maps of attention and rollout: the first of each of so many classes, evenly
            spaced from the most frequent to the rarest. Default 6.
        dist_is_trained: False for a student that was trained without distillation, as the ViT baselines are: it has a
            second head that says nothing, and is analyzed as a model with one. Default True.
        image_mean, image_std: of the pixels' normalisation, to show the examples; ImageNet's by default.

    Returns:
        An `Analysis`.

    Raises:
        DeiTLTError: a model without patches or attention weights; names, counts, groups, labels and the model's classes
            that do not fit together; or a dataloader without a batch.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> config = ViTConfig(
        ...     image_size=16, patch_size=8, hidden_size=24, intermediate_size=48, num_hidden_layers=2,
        ...     num_attention_heads=2, num_labels=3,
        ... )
        >>> batch = {"pixel_values": torch.randn(4, 3, 16, 16), "labels": torch.tensor([0, 1, 2, 2])}
        >>> analysis = analyze_model(
        ...     ViTForImageClassification(config),
        ...     [batch],
        ...     class_names=["cat", "lynx", "puma"],
        ...     class_counts=[500, 50, 5],
        ...     groups={"head": [0], "mid": [1], "tail": [2]},
        ... )
        >>> analysis.record["num_images"], len(analysis.record["feature_rank"]["cls"]), len(analysis.examples)
        (4, 2, 3)
    """
    patches = patches_of(model.config)
    if model.config.num_labels != len(class_names):
        raise DeiTLTError(
            f"the model has {model.config.num_labels} classes and class_names {len(class_names)}; pass those of the "
            "model's own data"
        )
    device = next(model.parameters()).device if device is None else device
    model.to(device)
    stream = Stream(patches, spread_classes(class_counts, num_examples), (image_mean, image_std))
    with evaluation_mode(model), eager_attention(model), torch.inference_mode():
        for batch in tqdm(dataloader, desc="analyzing", unit="batch", leave=False):
            pixel_values = batch["pixel_values"].to(device, non_blocking=True)
            teachers_logits = None if teacher is None else teacher(pixel_values)
            output = run_vit(model, pixel_values, dist_is_trained)
            stream.add(pixel_values, batch["labels"].to(device), output, teachers_logits)
    if len(stream) == 0:
        raise DeiTLTError("the dataloader yields no batch: pass one with at least one image")
    record = make_record(model, source, stream, class_names, class_counts, groups)
    predictions, labels, _ = stream.class_ids()
    return Analysis(record, stream.experts, predictions, labels, stream.examples())
