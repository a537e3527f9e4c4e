"""What an image classifier does on a test set: every measure of the paper's analysis in one pass over the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import PreTrainedConfig, PreTrainedModel

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.analysis.predictions import (
    NO_CROSSING,
    class_confusions,
    find_crossing,
    group_confusions,
    grouped_agreement,
    grouped_reliability,
)
from deitlt_hf.evaluation.analysis.streaming import Example, Stream, spread_classes
from deitlt_hf.evaluation.analysis.vit import eager_attention, has_tokens, run_classifier
from deitlt_hf.evaluation.analysis.wrong_images import WrongImage
from deitlt_hf.evaluation.attention import patches_of
from deitlt_hf.evaluation.evaluate import Teacher, run_over
from deitlt_hf.evaluation.measures import expert_metrics, grouped_accuracy, none_for_nan


@dataclass
class Analysis:
    """What `analyze_model` found."""

    record: dict[str, Any]  # all measures, as `json.dump` writes them; see `_make_record`
    experts: tuple[str, ...]  # in the order of the columns of `predictions`
    predictions: np.ndarray  # class ids int64 `(N, number of experts)`
    labels: np.ndarray  # true class ids int64 `(N,)`
    examples: list[Example]  # a few of the images
    teacher: np.ndarray | None = None  # class ids int64 `(N,)` that the teacher predicts
    errors: list[WrongImage] = field(default_factory=list)  # the most confident ones of the model's own prediction


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
    agrees with whom, and which classes are confused. The images are read once and batch by batch; what is kept of them
    is their class ids and confidences, and small pictures of the 24 most confident errors. The model runs in evaluation
    mode with eager attention, and keeps its own mode and attention implementation. Of a classifier without tokens that
    can be read, such as a CNN, what is about predictions is measured, and the rest is left out.

    Args:
        model: a `DeiTLTForImageClassification`, or transformers' `DeiTForImageClassificationWithTeacher`,
            `DeiTForImageClassification` or `ViTForImageClassification`; the latter two have a CLS expert alone. Or any
            other image classifier, which has one row, `model`.
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
        dist_is_trained: False for a student whose second head was not trained, as that of the ViT baselines: it says
            nothing, and the student is analyzed as a model with one. Default True.
        image_mean, image_std: of the pixels' normalisation, to show the images; ImageNet's by default.

    Returns:
        An `Analysis`.

    Raises:
        DeiTLTError: names, counts, groups, labels and the model's classes that do not fit together; or a dataloader
            without a batch.

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
    patches = patches_of(model.config) if has_tokens(model.config) else None
    if model.config.num_labels != len(class_names):
        raise DeiTLTError(
            f"the model has {model.config.num_labels} classes and class_names {len(class_names)}; pass those of the "
            "model's own data"
        )
    # A plain DeiT with two heads gives their mean, and has no setting for it.
    own = getattr(model.config, "expert", "average")
    stream = Stream(patches, spread_classes(class_counts, num_examples), (image_mean, image_std), own)

    def use(pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
        teachers_logits = None if teacher is None else teacher(pixel_values)
        found = run_classifier(model, pixel_values.to(model.dtype), dist_is_trained)
        stream.add(pixel_values, labels, found, teachers_logits)

    with eager_attention(model):
        run_over(model, dataloader, use, "analyzing", device)
    record = _make_record(model, source, stream, class_names, class_counts, groups)
    found = stream.predictions
    return Analysis(
        record, found.rows, found.class_ids, found.labels, stream.examples(), found.teacher, stream.errors()
    )


def _make_record(
    model: PreTrainedModel,
    source: str,
    stream: Stream,
    class_names: Sequence[str],
    class_counts: Sequence[int],
    groups: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """What the analysis measured, as one dict, from which tables, figures and the page are made.

        model               source, model_type, prediction (which expert the model's own logits are), parameters;
                            image_size, patch_size, layers, heads of a model with tokens
        num_images, class_names, class_counts, test_counts, groups, experts
                            as in `expert_metrics`; a model with one head has the CLS expert alone, one without tokens
                            the row model
        teacher, against_teacher
                            as in `expert_metrics`, if there is a teacher
        crossing            see `find_crossing`; None throughout for a model with one head
        attention_distance  pixels, for readers all, cls, distillation: a list of heads per layer
        feature_rank        variance, the share; for tokens cls, distillation: a number per layer
        spectrum            for tokens: per layer the components' shares of the variance, falling
        token_similarity    per layer the mean cosine; None for a model with one head
        calibration         for each expert overall and by group: see `reliability`
        agreement           percent overall and by group for cls-distillation and, with a teacher, teacher-cls,
                            teacher-distillation; teacher holds the teacher's own accuracies, as above
        confusion           for each expert: see `group_confusions`
        class_confusion     of the model's own prediction: see `class_confusions`
        confident_errors    the wrong predictions with the largest probability: row in the data, true, predicted,
                            probability

    Layers are numbered from the first; tokens are those that have a head. What cannot be measured is None; of a model
    without tokens, attention_distance, feature_rank, spectrum and token_similarity are left out.
    """
    found = stream.predictions
    rows, predictions, labels, teachers = found.rows, found.class_ids, found.labels, found.teacher
    metrics = expert_metrics(
        predictions,
        labels,
        class_counts,
        groups,
        class_names,
        experts=rows,
        teacher=teachers,
        in_top=found.in_top,
        ranked=found.ranked,
    )
    experts, groups = metrics["experts"], metrics["groups"]
    ids_of = dict(zip(rows, predictions.T, strict=True))
    confidence_of = dict(zip(rows, found.confidences.T, strict=True))
    both, own = "distillation" in ids_of, stream.own_of(rows)
    per_class = [experts[expert]["per_class"] for expert in ("cls", "distillation") if both]
    record = {
        "model": {
            "source": source,
            "model_type": model.config.model_type,
            "prediction": own,
            **_shape(model.config),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        **metrics,
        "crossing": find_crossing(*per_class, metrics["class_counts"]) if both else dict(NO_CROSSING),
        **stream.layer_measures(),
        "calibration": {
            expert: grouped_reliability(confidence_of[expert], ids == labels, labels, groups)
            for expert, ids in ids_of.items()
        },
        "agreement": _agreements(ids_of, labels, teachers, groups),
        "confusion": {expert: group_confusions(ids, labels, groups) for expert, ids in ids_of.items()},
        "class_confusion": class_confusions(ids_of[own], labels, metrics["class_counts"]),
        "confident_errors": [
            {"row": of.row, "true": of.label, "predicted": of.predicted, "probability": of.probability}
            for of in stream.errors()
        ],
    }
    return none_for_nan(record)


def _shape(config: PreTrainedConfig) -> dict[str, Any]:
    """What a model with tokens has of them."""
    if not has_tokens(config):
        return {}
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
    }


def _agreements(
    ids_of: Mapping[str, np.ndarray],
    labels: np.ndarray,
    teachers: np.ndarray | None,
    groups: Mapping[str, Sequence[int]],
) -> dict[str, dict[str, float]]:
    of_token = {token: ids for token, ids in ids_of.items() if token != "average"}
    agreements = {}
    if "distillation" in of_token:
        agreements["cls-distillation"] = grouped_agreement(of_token["cls"], of_token["distillation"], labels, groups)
    if teachers is not None:
        for token, ids in of_token.items():
            agreements[f"teacher-{token}"] = grouped_agreement(teachers, ids, labels, groups)
        agreements["teacher"] = grouped_accuracy(teachers, labels, groups)
    return agreements
