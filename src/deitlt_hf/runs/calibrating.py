"""Calibrates a saved student: weighs its experts on validation images, and measures the result on the test images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader

from deitlt_hf.data.arguments import DataArguments, Images, images_for_model
from deitlt_hf.data.dataset import ViewedDataset, collate
from deitlt_hf.data.loading import class_counts
from deitlt_hf.data.views import Resizing, evaluation_view
from deitlt_hf.errors import DeiTLTError, counted, notice
from deitlt_hf.evaluation.analysis.predictions import reliability
from deitlt_hf.evaluation.answer_rules import AnswerRules, measure_rules
from deitlt_hf.evaluation.attention import patches_of
from deitlt_hf.evaluation.evaluate import Evaluation, Rows, run_over
from deitlt_hf.evaluation.fusion import AVERAGE, Fit, fit_fusion, fused_probabilities
from deitlt_hf.evaluation.measures import FUSED
from deitlt_hf.evaluation.selective import Validation
from deitlt_hf.files import CALIBRATION_FILE, METRICS_FILE, read_json, write_json
from deitlt_hf.hub.remote_code import refresh_remote_code
from deitlt_hf.inference.default_expert import change_files, student_to_change
from deitlt_hf.inference.loading import load_student
from deitlt_hf.inference.runtimes import accelerator_or_cpu
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification
from deitlt_hf.runs.analyzing import evaluate_saved_model
from deitlt_hf.runs.resizing import load_resizing
from deitlt_hf.runs.validation_images import unused_images

MEASURED_RULES = {"precision": 0.95, "coverage": 0.9}  # on the test split, for the card
_WITH_EXPERTS = ("experts", "against_teacher")  # parts of the metrics that have a row for each expert


class NoBetterFusionError(DeiTLTError):
    """Cross-validation shows no fusion that is better than the plain average; nothing was changed."""


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` fitted, on which images, and what it measured."""

    fit: Fit
    taken: str  # the images it was fitted on, such as "the validation split of pets"
    class_images: list[int]  # how many of each class, in label order
    calibration_errors: dict[str, float]  # in percent on the test split, of the expert before and of the fused
    test: Evaluation | None  # of the test split, with the row `fused`; None where there is none
    changed: list[str]  # names of the files that were written


def calibrate(
    directory: str | os.PathLike[str],
    validation: Dataset,
    images: Images | None = None,
    data: DataArguments | None = None,
    *,
    taken: str = "the validation split",
    batch_size: int = 64,
) -> Calibration:
    """Fit the fused prediction of a student on validation images, and make it the one that the student answers with.

    Both experts' log probabilities are weighed, and a term is added for each class, see `fit_fusion`. Every class
    weighs the same, so the probabilities are those of classes that are equally frequent. `config.json` gets the numbers
    and `expert: fused`, `calibration.json` what was fitted on what; older modeling files beside the weights are
    replaced, and the card and `metrics.json` follow. `undo_calibration` takes it back.

    Args:
        directory: of a student: a run's, or one that was saved or downloaded.
        validation: the images to fit on, with columns `image` and `label`, classes in the model's order.
        images: those of the student's run: what of its train or test split is in `validation` too is left out, and the
            fused prediction is measured on the test split. None if they are not at hand.
        data: the flags that chose the images; only group boundaries count.
        taken: what the validation images are, in words.
        batch_size: images per step. Default 64.

    Returns:
        What was fitted and measured.

    Raises:
        DeiTLTError: no images, or only such as the student was trained or tested on; other classes; no student that
            can be changed; a head that was not trained; or no fusion is better than the plain average.

    Example:
        >>> from deitlt_hf import TrainingDataArguments, calibrate, load_images
        >>> images = load_images(TrainingDataArguments("pictures", validation_fraction=0.1))  # doctest: +SKIP
        >>> calibrate("runs/pictures", images.validation, images).fit.shares  # doctest: +SKIP
        {'cls': 0.46, 'distillation': 0.54}
    """
    source, path = os.fspath(directory), Path(directory)
    config = student_to_change(directory, FUSED)
    data = data or DataArguments()
    images = None if images is None else images_for_model(images, data, config, source)
    validation = unused_images(validation, images, config, source, taken)
    model = load_student(source).to(accelerator_or_cpu())
    resizing = load_resizing(source)
    cls_logits, distillation_logits, labels = predict_logits(model, validation, batch_size, resizing)
    fit = fit_fusion(cls_logits, distillation_logits, labels, _frequencies(config, images, validation))
    _check_is_better(fit, source, len(validation))
    before = _expert_before(path, config)
    probabilities = fused_probabilities(fit.fusion, cls_logits, distillation_logits)
    record = _record(fit, taken, class_counts(validation), before, probabilities, labels)
    test: Evaluation | None = None

    def write_others() -> list[str]:
        nonlocal test
        changed = [CALIBRATION_FILE, *refresh_remote_code(path)]
        write_json(path / CALIBRATION_FILE, record)
        if images is None:
            return changed
        accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        rules = _rules(record["validation"], config.num_labels, images.class_groups)
        sets = rules["coverage"].set_thresholds
        test, _ = evaluate_saved_model(source, images, data, accelerator, batch_size=batch_size, set_thresholds=sets)
        write_json(path / CALIBRATION_FILE, record | {"test": _measured(test, before, rules)})
        return changed + _add_row(path / METRICS_FILE, test.metrics)

    changed = change_files(path, {"expert": FUSED, "fusion": fit.fusion}, write_others)
    errors = {} if test is None else calibration_errors(test, (before, FUSED))
    return Calibration(fit, taken, class_counts(validation), errors, test, changed)


def undo_calibration(directory: str | os.PathLike[str]) -> list[str]:
    """Take back what `calibrate` did: the student answers as before; returns the names of the files that changed.

    Raises:
        DeiTLTError: no student that can be changed, or one that was not calibrated.

    Example:
        >>> from deitlt_hf import undo_calibration
        >>> undo_calibration("runs/pictures")  # doctest: +SKIP
        ['config.json', 'calibration.json', 'metrics.json', 'README.md']
    """
    path = Path(directory)
    config = student_to_change(directory, FUSED)
    if config.fusion is None:
        raise DeiTLTError(f"{os.fspath(directory)} was not calibrated; there is nothing to take back")

    before, file = _expert_before(path, config), path / CALIBRATION_FILE

    def write_others() -> list[str]:
        removed = [file.name] if file.is_file() else []
        file.unlink(missing_ok=True)
        return removed + _remove_row(path / METRICS_FILE)

    return change_files(path, {"expert": before, "fusion": None}, write_others)


def _expert_before(path: Path, config: DeiTLTConfig) -> str:
    """What a student answered with before it was calibrated; the average where `calibration.json` is lost."""
    own = AVERAGE if config.expert == FUSED else config.expert
    return (read_json(path / CALIBRATION_FILE) or {}).get("expert_before", own)


def predict_logits(
    model: DeiTLTForImageClassification, images: Dataset, batch_size: int, resizing: Resizing | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The logits `(N, C)` of both experts, and the labels `(N,)`."""
    view = evaluation_view(patches_of(model.config).image_size[0], resizing)
    dataset = ViewedDataset(images, {"pixel_values": view}, "validation")
    rows = Rows()

    def keep(pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
        outputs = model(pixel_values=pixel_values.to(model.dtype))
        columns = (outputs.cls_logits, outputs.distillation_logits, labels[:, None])
        rows.add(torch.cat([column.float() for column in columns], dim=1))

    run_over(model, DataLoader(dataset, batch_size=batch_size, collate_fn=collate), keep, "predicting")
    table, classes = rows.table().cpu().numpy(), model.config.num_labels
    return table[:, :classes], table[:, classes:-1], table[:, -1].astype(np.int64)


def _frequencies(config: DeiTLTConfig, images: Images | None, validation: Dataset) -> list[int]:
    """Training images per class, or what there is of the kind: at least 1, for their logarithm is taken."""
    counts = config.class_counts or (class_counts(validation) if images is None else images.class_counts)
    return [max(count, 1) for count in counts]


def _check_is_better(fit: Fit, source: str, images: int) -> None:
    found = fit.cross_validation
    if not found:
        notice("no class has two validation images, so nothing shows that the fused prediction is better")
    elif found[fit.kind].loss > found[AVERAGE].loss:
        raise NoBetterFusionError(
            f"on {counted(images, 'validation image')} no fusion is better than the plain average in cross-validation "
            f"(loss {found[fit.kind].loss:.3f}, average {found[AVERAGE].loss:.3f}); {source} stays as it is, pass more "
            "images"
        )


def _record(
    fit: Fit, taken: str, class_images: list[int], before: str, probabilities: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """The content of `calibration.json`: how the fusion was fitted, and what it says of the validation images."""
    return {
        "split": taken,
        "images": len(labels),
        "class_images": class_images,
        "kind": fit.kind,
        "cross_validation": {kind: fold._asdict() for kind, fold in fit.cross_validation.items()},
        "expert_before": before,
        "validation": {
            "labels": labels.tolist(),
            "predicted": probabilities.argmax(-1).tolist(),
            "confidence": probabilities.max(-1).tolist(),
            "true_probability": probabilities[np.arange(len(labels)), labels].tolist(),
        },
    }


def _rules(
    validation: Mapping[str, Any], num_classes: int, groups: Mapping[str, Sequence[int]]
) -> dict[str, AnswerRules]:
    """Rules of answers and of sets that the card tells about; without thresholds where these are not to be had."""
    found, images = {}, Validation.read(validation, num_classes, groups)
    for name, asked in MEASURED_RULES.items():
        try:
            found[name] = AnswerRules.found(images, **(dict.fromkeys(MEASURED_RULES) | {name: asked}))
        except DeiTLTError:  # too few validation images
            found[name] = AnswerRules(**{name: asked})
    return found


def _measured(test: Evaluation, before: str, rules: Mapping[str, AnswerRules]) -> dict[str, Any]:
    """What is kept of the test split: the number of images, the calibration errors in percent, and how rules do."""
    errors = calibration_errors(test, (before, FUSED))
    measured = {"images": len(test.predictions.labels), "calibration_error": errors}
    for name, rule in rules.items():
        groups = test.metrics["groups"]
        measured[name] = {"asked": MEASURED_RULES[name]} | measure_rules(rule, test.predictions, groups).get(name, {})
    return measured


def calibration_errors(test: Evaluation, rows: Sequence[str]) -> dict[str, float]:
    """Expected calibration error in percent of some rows of an evaluation."""
    found = test.predictions
    columns = {row: found.rows.index(row) for row in rows}
    return {
        row: reliability(found.confidences[:, column], found.class_ids[:, column] == found.labels)["ece"]
        for row, column in columns.items()
    }


def _add_row(file: Path, measured: Mapping[str, Any]) -> list[str]:
    """Add the row `fused` to a run's metrics, if they are of the same number of images."""
    metrics = read_json(file)
    if metrics is None or metrics.get("num_images") != measured["num_images"]:
        return []
    for part in _WITH_EXPERTS:
        if part in metrics and part in measured:
            metrics[part] = metrics[part] | {FUSED: measured[part][FUSED]}
    write_json(file, metrics)
    return [file.name]


def _remove_row(file: Path) -> list[str]:
    metrics = read_json(file)
    if metrics is None or FUSED not in metrics.get("experts", ()):
        return []
    for part in _WITH_EXPERTS:
        if part in metrics:
            metrics[part] = {row: values for row, values in metrics[part].items() if row != FUSED}
    write_json(file, metrics)
    return [file.name]
