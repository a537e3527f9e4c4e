"""Measures a saved model, with the pixels that it was made for and the teacher of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from deitlt_hf.data.arguments import DataArguments, Images, images_for_model
from deitlt_hf.data.dataset import ViewedDataset, collate
from deitlt_hf.data.images import upright_rgb
from deitlt_hf.data.views import View, evaluation_view
from deitlt_hf.errors import DeiTLTError, notice
from deitlt_hf.evaluation.analysis.analyze import Analysis, analyze_model
from deitlt_hf.evaluation.analysis.vit import has_tokens
from deitlt_hf.evaluation.attention import Patches, patches_of
from deitlt_hf.evaluation.class_prior import ClassPrior
from deitlt_hf.evaluation.evaluate import Evaluation, Teacher, evaluate_images
from deitlt_hf.evaluation.measures import MODEL
from deitlt_hf.evaluation.ranking import check_numbers
from deitlt_hf.files import METRICS_FILE, RUN_FILE, public_name, read_json
from deitlt_hf.inference.loading import load_any_classifier, load_image_processor, load_run_settings
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.runs.resizing import load_resizing
from deitlt_hf.teachers.class_means import CLASS_MEANS
from deitlt_hf.teachers.frozen import FrozenTeacher
from deitlt_hf.teachers.pixels import OwnPixels, pixels_of, read_own_pixels


@dataclass(frozen=True)
class _SavedModel:
    """A model of a directory or hub repository, and what is needed to measure it."""

    model: PreTrainedModel
    images: Images  # with the class counts and groups of the model
    view: View
    pixels: OwnPixels  # the normalisation in the view
    settings: Mapping[str, Any]  # of its run
    teacher: Teacher | None

    @property
    def own(self) -> str:
        """The row of the model's own logits."""
        if self.model.config.model_type == DeiTLTConfig.model_type:
            return self.model.config.expert
        # transformers' `DeiTForImageClassificationWithTeacher` gives the mean of its two heads.
        return "average" if hasattr(self.model, "distillation_classifier") else MODEL


def _load(
    source: str,
    images: Images,
    data: DataArguments,
    revision: str | None,
    teacher: str | None,
    device: torch.device | str | None,
) -> _SavedModel:
    model, settings = load_any_classifier(source, revision), load_run_settings(source, revision)
    images = images_for_model(images, data, model.config, source)
    view, pixels = _view_of(model, settings, source, revision)
    if has_tokens(model.config):
        _check_size(ViewedDataset(images.test, {"pixel_values": view}, "test"), patches_of(model.config), source)
    found = _teacher_of(model, source, settings, teacher, pixels, device or model.device)
    return _SavedModel(model, images, view, pixels, settings, found)


def evaluate_saved_model(
    source: str,
    images: Images,
    data: DataArguments,
    accelerator: Accelerator,
    *,
    revision: str | None = None,
    batch_size: int = 64,
    confidence_intervals: bool = False,
    prior: ClassPrior | None = None,
    set_thresholds: np.ndarray | None = None,
    keep_probabilities: bool = False,
) -> tuple[Evaluation, str]:
    """Run `evaluate_images` on a saved image classifier and the test split of its data, with the teacher of its run.

    Arguments are as in `analyze_saved_model`, `prior` and `set_thresholds` as in `evaluate_images`. With
    `keep_probabilities` the predictions have those of the model's own row. Returns also which row of the metrics is the
    model's own prediction.
    """
    saved = _load(source, images, data, revision, None, accelerator.device)
    if keep_probabilities:
        check_numbers(len(images.test), len(images.class_names))
    evaluation = evaluate_images(
        saved.model,
        saved.images,
        saved.view,
        accelerator,
        batch_size,
        confidence_intervals=confidence_intervals,
        teacher=saved.teacher,
        prior=prior,
        set_thresholds=set_thresholds,
        probabilities_of=saved.own if keep_probabilities else None,
    )
    return evaluation, saved.own


def analyze_saved_model(
    source: str,
    images: Images,
    data: DataArguments,
    *,
    revision: str | None = None,
    teacher: str | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Analysis:
    """Run `analyze_model` on a saved image classifier and the test split of its data.

    A model of a run of this package sees the evaluation's view, as in `deitlt evaluate`; another one what its own image
    processor makes.

    Args:
        source: directory or hub id of the model.
        images: what `load_images` gave for `data`.
        data: the flags that chose the images.
        revision: branch, tag or commit of a model on the hub.
        teacher: directory or hub id of a teacher, to compare predictions with; by default the one in the run's record.
            If that one is not found or cannot be loaded, a notice says so, and the model is analyzed without it.
        batch_size: images per step. Default 64.
        device: where to run; by default the CPU.

    Raises:
        DeiTLTError: not an image classifier, or one of other classes; no image processor, or one of another size; an
            unknown teacher.

    Example:
        >>> from deitlt_hf import TrainingDataArguments, analyze_saved_model, load_images
        >>> data = TrainingDataArguments(data="digits-lt", imbalance_factor=20, group_boundaries=[3, 7])
        >>> analysis = analyze_saved_model("demo-output/student", load_images(data), data)  # doctest: +SKIP
        >>> analysis.record["experts"]["distillation"]["tail"]  # doctest: +SKIP
        65.0
    """
    saved = _load(source, images, data, revision, teacher, device)
    dataset = ViewedDataset(saved.images.test, {"pixel_values": saved.view}, "test")
    return analyze_model(
        saved.model,
        DataLoader(dataset, batch_size=batch_size, collate_fn=collate),
        class_names=saved.images.class_names,
        class_counts=saved.images.class_counts,
        groups=saved.images.class_groups,
        source=public_name(source),
        teacher=saved.teacher,
        device=device,
        dist_is_trained=saved.settings.get("distillation_alpha") != 0,  # without a teacher it may learn the labels
        image_mean=saved.pixels.mean,
        image_std=saved.pixels.std,
    )


def _view_of(
    model: PreTrainedModel, settings: Mapping[str, Any], source: str, revision: str | None
) -> tuple[View, OwnPixels]:
    """The evaluation view of a model, and the normalisation in it."""
    size = resizing = None
    if model.config.model_type == DeiTLTConfig.model_type:
        size, resizing = patches_of(model.config).image_size[0], load_resizing(source, revision)
    elif isinstance(settings.get("image_size"), int):  # of a teacher's run; its processor rounds otherwise
        size = settings["image_size"]
    if size is not None:
        pixels = OwnPixels(list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD), (size, size))
        return evaluation_view(size, resizing), pixels
    processor = load_image_processor(source, revision)

    def view(image: Image.Image) -> torch.Tensor:
        return processor(images=upright_rgb(image), return_tensors="pt")["pixel_values"][0]

    # timm's wrapper has its own kind of processor, whose settings are in the configuration.
    of_timm = getattr(model.config, "pretrained_cfg", None)
    return view, read_own_pixels(model) if of_timm else pixels_of(processor)


def _check_size(dataset: ViewedDataset, patches: Patches, source: str) -> None:
    size = patches.image_size
    made = tuple(dataset[0]["pixel_values"].shape[-2:]) if len(dataset) else size
    if made != size:
        raise DeiTLTError(
            f"the image processor of {source} makes images of {made[0]} x {made[1]} pixels, and the model takes "
            f"{size[0]} x {size[1]}; save one with the model that makes those"
        )


def _teacher_of(
    model: PreTrainedModel,
    source: str,
    settings: Mapping[str, Any],
    teacher: str | None,
    pixels: OwnPixels,
    device: torch.device | str,
) -> Teacher | None:
    if teacher is None:
        frozen = _teacher_of_run(source, model, settings, device)
    else:
        frozen = FrozenTeacher(teacher, model, device, settings.get("teacher_pixels", "reference"))
    if frozen is None:
        return None
    scale, shift = (value.to(device) for value in pixels.from_students())
    # A student's own pixels stay as they are.
    return lambda pixel_values: frozen((pixel_values - shift) / scale)


def _teacher_of_run(
    source: str, model: PreTrainedModel, settings: Mapping[str, Any], device: torch.device | str
) -> FrozenTeacher | None:
    """The teacher that a run's settings name; without it the model is measured alone, with a notice."""
    teacher = settings.get("teacher")
    if teacher is None:
        return None
    reason = "it was not found"
    if teacher == CLASS_MEANS:
        reason = f"it is made in training alone; {METRICS_FILE} has its row"
    elif Path(teacher).is_dir() or _was_hub_id(source, teacher):
        try:
            return FrozenTeacher(teacher, model, device, settings.get("teacher_pixels", "reference"))
        except DeiTLTError as error:
            reason = str(error)
    notice(f"no row for the teacher {teacher}: {reason}")
    return None


def _was_hub_id(source: str, teacher: str) -> bool:
    """Whether the run's record says that the name is of the hub, and not of a directory that is gone."""
    records = (read_json(directory / RUN_FILE) or {} for directory in (Path(source), Path(source).parent))
    return any((record.get("hub_ids") or {}).get("teacher") == teacher for record in records)
