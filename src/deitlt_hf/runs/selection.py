"""What the evaluations during a training choose, and by which split: never by the test images."""

from __future__ import annotations

from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

from deitlt_hf.data.arguments import Images
from deitlt_hf.data.loading import class_counts
from deitlt_hf.errors import DeiTLTError, notice
from deitlt_hf.training.arguments import LongTailTrainingArguments


def check_selection(args: LongTailTrainingArguments, images: Images) -> None:
    """Refuse a choice by test images, or by a group of classes without validation images.

    A notice says so where evaluations measure the test images for the log alone.
    """
    chooser = _chooser(args)
    if images.validation is None:
        if chooser is not None:
            raise DeiTLTError(
                f"{chooser} would choose by the test images, because the data have no validation split; pass "
                "--validation_fraction 0.1, which holds one out of train, or data with a folder `val`, or leave it out"
            )
        if args.eval_strategy != IntervalStrategy.NO:
            notice(
                "the evaluations during the training measure the test images, for the log alone: nothing is chosen by "
                "them"
            )
    elif chooser is not None:
        _check_measured(args.metric_for_best_model or "loss", images)


def _chooser(args: LongTailTrainingArguments) -> str | None:
    """The setting by which evaluations choose weights, checkpoints or learning rates; None if they choose nothing."""
    chooses = {
        "load_best_model_at_end": args.load_best_model_at_end,
        "save_strategy best": args.save_strategy == SaveStrategy.BEST,
        "lr_scheduler_type reduce_lr_on_plateau": args.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU,
    }
    return next((name for name, value in chooses.items() if value), None)


def _check_measured(measure: str, images: Images) -> None:
    """Refuse a measure of a group that has no validation image: no evaluation would be better than another."""
    group = measure.rpartition("_")[2]
    counts = class_counts(images.validation)
    if group in images.class_groups and not any(counts[label] for label in images.class_groups[group]):
        raise DeiTLTError(
            f"metric_for_best_model is {measure!r}, but no {group} class has a validation image; pass another measure, "
            "such as balanced_accuracy, or a larger validation_fraction"
        )
