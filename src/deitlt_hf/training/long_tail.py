"""What teachers' and students' trainers share: the DRW phase, the schedule, the order of the images, the log."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, RandomSampler, Sampler, SequentialSampler
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback, set_seed
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PredictionOutput

from deitlt_hf.data.dataset import ViewedDataset, collate
from deitlt_hf.data.device_augmentation.device_views import BatchView
from deitlt_hf.data.sampling import ClassBalancedSampler, DrawingSampler, ShufflingSampler
from deitlt_hf.durable.trainer import DurableTrainer
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.losses.by_name import TEACHER_LOSSES
from deitlt_hf.losses.class_balanced import class_balanced_weights
from deitlt_hf.training.arguments import LongTailTrainingArguments
from deitlt_hf.training.batch_views import BatchViews
from deitlt_hf.training.callbacks import LogPrinter, ProgressBar, SetSamplerEpoch
from deitlt_hf.training.classifier import start_retraining
from deitlt_hf.training.kept_pixels import NUMBERS, ImageNumbers, keep_pixels
from deitlt_hf.training.stages import stage


class TrainerOptions(TypedDict, total=False):
    """Arguments that the trainers pass on to transformers' `Trainer`, for editors and type checkers."""

    train_dataset: Any  # of torch, of `datasets`, or a list of examples
    eval_dataset: Any
    data_collator: Callable[[list[Any]], dict[str, Any]] | None
    processing_class: BaseImageProcessor | None
    model_init: Callable[..., PreTrainedModel] | None
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None
    callbacks: list[TrainerCallback | type[TrainerCallback]] | None
    optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None]
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
    preprocess_logits_for_metrics: Callable[[Any, torch.Tensor | None], Any] | None


class LongTailTrainer(DurableTrainer):
    """transformers' `Trainer` with deferred re-weighting (DRW), a log of the loss's parts, and accuracy by groups.

    Subclasses compute a loss per batch, report its parts with `record`, give the learning rate of an epoch, and say
    what `_class_ids` and `_grouped_accuracies` are.
    """

    args: LongTailTrainingArguments
    arguments_class = LongTailTrainingArguments
    learner = "model"  # the trained model's name in a profile
    keeps_pixels = True  # on the device where that is possible, see `keep_pixels`

    def __init__(
        self,
        model: nn.Module | None = None,
        args: LongTailTrainingArguments | None = None,
        class_counts: Sequence[int] | None = None,
        class_groups: Mapping[str, Sequence[int]] | None = None,
        batch_views: Mapping[str, BatchView] | None = None,
        **kwargs: Unpack[TrainerOptions],
    ):
        self._check_what_is_passed(model, args, kwargs)
        kwargs.setdefault("data_collator", collate)
        if model is not None and args.retrain_classifier:
            start_retraining(model, args.seed)
        super().__init__(model=model, args=args, **kwargs)
        model = self.model
        self.class_groups = class_groups or getattr(model.config, "class_groups", None)
        self._choose_measures()
        self.batch_views = BatchViews(batch_views or {}, self._data_seed, args.process_index)
        self._kept: tuple[ViewedDataset, torch.Tensor] | None = None  # a training set and its pixels on the device
        # Losses here are means over a batch, so the Trainer must divide them by the accumulated batches; and label
        # smoothing is part of the targets.
        self.model_accepts_loss_kwargs = False
        self.label_smoother = None
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ProgressBar)
        if self.pop_callback(PrinterCallback) is not None:
            self.add_callback(LogPrinter)
        self.add_callback(SetSamplerEpoch)
        self.class_counts = getattr(model.config, "class_counts", None) if class_counts is None else class_counts
        if self.class_counts is not None and len(self.class_counts) != model.config.num_labels:
            raise DeiTLTError(
                f"class_counts has {len(self.class_counts)} entries for {model.config.num_labels} labels; pass one per "
                "label, in label order"
            )
        self.class_weights: torch.Tensor | None = None
        self._follow_arguments()
        self.current_gradient_accumulation_steps = 1
        self._parts: torch.Tensor | None = None
        self._part_names: tuple[str, ...] = ()
        self._recorded_steps = 0.0
        self._recorded_batches = 0
        self._floating_point_ops: dict[int, int] = {}  # by the size of a batch

    def _check_what_is_passed(self, model: nn.Module | None, args: object, options: Mapping[str, object]) -> None:
        """Refuse arguments that transformers' Trainer takes and this one would ignore."""
        if not isinstance(args, self.arguments_class):
            given = "none" if args is None else f"of type {type(args).__name__}"
            raise DeiTLTError(f"the args are {given}; pass {type(self).__name__} a {self.arguments_class.__name__}")
        if (model is None) == (options.get("model_init") is None):
            raise DeiTLTError("pass either model or model_init, a function that makes the model")
        if options.get("compute_loss_func") is not None:
            raise DeiTLTError(
                f"compute_loss_func has no place in {type(self).__name__}, which has a loss of its own; override "
                "compute_loss, or use transformers' Trainer"
            )

    def call_model_init(self, trial=None) -> PreTrainedModel:
        model = super().call_model_init(trial)
        if self.args.retrain_classifier:
            start_retraining(model, self.args.seed)
        return model

    def _choose_measures(self) -> None:
        """Measure head, mid and tail by class ids; the user's own `compute_metrics` gets logits."""
        self._measures_groups = self.compute_metrics is None and self.preprocess_logits_for_metrics is None
        if not self._measures_groups:
            self.preprocess_logits_for_metrics = self.preprocess_logits_for_metrics or first_output
            return
        self.preprocess_logits_for_metrics = self._class_ids  # on the device, so that logits are not collected
        if self.class_groups is not None:
            self.compute_metrics = self._grouped_accuracies

    @staticmethod
    def _class_ids(outputs: torch.Tensor | tuple, labels: torch.Tensor | None) -> torch.Tensor:
        """The predicted class ids of a batch."""
        raise TypeError("a subclass says what it predicts")

    def _grouped_accuracies(self, prediction: EvalPrediction) -> dict[str, float]:
        """The accuracies of predicted class ids."""
        raise TypeError(f"{type(self).__name__} must say its measures")

    def _follow_arguments(self) -> None:
        """Compute what depends on the arguments; again for each trial of a hyper-parameter search."""
        if self.class_counts is not None or self.args.drw_start_epoch is not None:
            weights = class_balanced_weights(self._needed_class_counts(), self.args.class_balanced_beta)
            self.class_weights = weights.to(self.args.device)

    def named_loss(self, name: str) -> nn.Module:
        """The loss of that name with the run's settings, on its device."""
        return TEACHER_LOSSES[name].make(self.args, self._needed_class_counts).to(self.args.device)

    def _needed_class_counts(self) -> Sequence[int]:
        if self.class_counts is None:
            raise DeiTLTError("this loss needs class_counts; pass them, or a model whose configuration has them")
        return self.class_counts

    @property
    def drw_active(self) -> bool:
        """Whether the current step is in the DRW phase.

        `state.epoch` is the exact whole number at the first step of an epoch, and is part of every checkpoint, so that
        the phase needs no state of its own.
        """
        start = self.args.drw_start_epoch
        return start is not None and (self.state.epoch or 0.0) >= start

    def learning_rate_at(self, epoch: float, epochs: float) -> float:
        """The learning rate at `epoch` (fractional within an epoch) of `epochs`."""
        raise TypeError(f"{type(self).__name__} must say its learning rate")

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Follow `learning_rate_at`, step by step, unless one of transformers' schedules was asked for."""
        if not self.args.follows_reference_schedule:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            epochs = self.args.num_train_epochs if self.args.max_steps <= 0 else max(self.state.num_train_epochs, 1)
            peak = self.peak_learning_rate()
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,
                # Multiply first: whole epochs stay exact, and a decay does not come a step late.
                lambda step: self.learning_rate_at(step * epochs / num_training_steps, epochs) / peak,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def record(self, **parts: torch.Tensor) -> None:
        """Add scalars of this batch to the means in the next log entry, without leaving the device.

        The means are over steps and within a step over its batches, as the Trainer's own of the loss is.
        """
        share = 1 / self.current_gradient_accumulation_steps
        values = share * torch.stack([part.detach().float() for part in parts.values()])
        self._parts = values if self._parts is None else self._parts + values
        self._part_names = tuple(parts)
        self._recorded_steps += share
        self._recorded_batches += 1

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        inputs = self._with_views(inputs)
        with stage(self.learner):
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss_context_manager(self):
        if self.args.retrain_classifier:
            # The Trainer has just put all of the model into training mode, in which batch statistics would move.
            for part in self.model.children():
                part.eval()
        return super().compute_loss_context_manager()

    def _with_views(self, inputs: dict) -> dict:
        """Make the views that are made on the device; a batch that has them stays as it is."""
        if not self.batch_views.views:
            return inputs
        with stage("augmentation"):
            return self.batch_views(self._prepare_inputs(inputs), self.state.global_step)

    def floating_point_ops(self, inputs: dict) -> int:
        """transformers' estimate, kept: it would count all weights again in every step."""
        size = inputs["pixel_values"].numel()
        if size not in self._floating_point_ops:
            self._floating_point_ops[size] = super().floating_point_ops(inputs)
        return self._floating_point_ops[size]

    def get_batch_samples(self, *args, **kwargs):
        with stage("data"):
            batches, items = super().get_batch_samples(*args, **kwargs)
            return [self._with_pixels(batch) for batch in batches], items

    def _with_pixels(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Put the kept pixels of a batch in the place of its images' numbers."""
        if NUMBERS not in batch:
            return batch
        numbers = batch[NUMBERS].to(self.args.device, non_blocking=True)
        others = {name: value for name, value in batch.items() if name != NUMBERS}
        return dict.fromkeys(self.batch_views.views, self._kept[1][numbers]) | others

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._parts is not None:
            means = self.accelerator.reduce(self._parts / self._recorded_steps, "mean").tolist()
            logs |= dict(zip(self._part_names, means, strict=True))
            images = self._recorded_batches * self.args.train_batch_size * self.args.world_size
            logs["images_per_second"] = images / max(self.seconds_of_training(), 1e-9)
            # Whether the last step was in the phase; `state.epoch` counts that step as done already.
            start = self.args.drw_start_epoch
            logs["drw"] = float(start is not None and math.ceil(self.state.epoch or 0.0) > start)
            self._parts, self._recorded_steps, self._recorded_batches = None, 0.0, 0
        super().log(logs, start_time)

    def train(self, *args, **kwargs):
        if self.args.world_size > 1:
            # Each process draws its own mixing and dropped paths, as in the reference.
            set_seed(self.args.seed + self.args.process_index)
        try:
            return super().train(*args, **kwargs)
        except BaseException:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressBar):
                    callback.close()  # or the bar would overwrite the message that follows
            raise

    def begin_attempt(self) -> None:
        super().begin_attempt()
        self.batch_views.forget_step()
        self._parts, self._recorded_steps, self._recorded_batches = None, 0.0, 0

    def before_training(self, max_steps: int) -> None:
        if self.hp_search_backend is not None:
            self._follow_arguments()
        start, epochs = self.args.drw_start_epoch, self.state.num_train_epochs
        if start is not None and start >= epochs:  # known only now where max_steps was given
            raise DeiTLTError(
                f"drw_start_epoch {start} is beyond the last epoch; pass one below {epochs}, the epochs of "
                f"max_steps {max_steps}, or none for no re-weighting"
            )

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.class_balanced_sampling and dataset is not None:
            return self._drawing(ClassBalancedSampler(_labels_of(dataset), self._data_seed))
        sampler = super()._get_train_sampler(train_dataset)
        if type(sampler) is RandomSampler:
            sampler = ShufflingSampler(len(dataset), self._data_seed)
        # The other strategies of transformers are for texts.
        return self._drawing(sampler) if isinstance(sampler, (ShufflingSampler, SequentialSampler)) else sampler

    def _drawing(self, sampler: Sampler[int], num_replicas: int = 1, rank: int = 0) -> Sampler[int]:
        """The sampler with a seed for each view, if the data set uses it."""
        if not isinstance(self.train_dataset, ViewedDataset) or not self._loader_draws:
            return sampler
        return DrawingSampler(sampler, self._data_seed, num_replicas, rank)

    @property
    def _loader_draws(self) -> bool:
        """Whether the loader makes random views, or only decodes for views whose random numbers are the step's."""
        of_batch = self.batch_views.views
        return any(name not in of_batch or not of_batch[name].crops for name in self.train_dataset.views)

    @property
    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Inside this context the model computes as the one that was saved does; after it, as it trains again.

        accelerate leaves its autocast in the model's own `forward`, around that of the class, and `--torch_compile` and
        `--tf32` leave TF32 on.
        """
        autocast = self.model.__dict__.pop("forward", None)
        precision, torch.backends.fp32_precision = torch.backends.fp32_precision, "none"
        try:
            yield
        finally:
            torch.backends.fp32_precision = precision
            if autocast is not None:
                self.model.forward = autocast

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in transformers, but each image counts once in the loss.

        Images that fill up the last batches, so that all processes have one, are dropped from the gathered predictions,
        but not from a process's mean loss.
        """
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if labels is None:
            return loss, logits, labels
        size, state = len(inputs["labels"]), self.accelerator.gradient_state
        if loss is not None and state.end_of_dataloader and 0 < state.remainder < size * self.args.world_size:
            own = min(max(state.remainder - size * self.args.process_index, 1), size)
            first = {name: value[:own] for name, value in inputs.items()}
            loss = super().prediction_step(model, first, True, ignore_keys)[0]
        return loss, logits, labels

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix: str = "test") -> PredictionOutput:
        """Predict images, with labels or without.

        Args:
            test_dataset: examples with `pixel_values`, and `labels` where the predictions are to be measured.
            ignore_keys: see transformers.
            metric_key_prefix: begins the names of the metrics.

        Returns:
            `predictions`: the model's `logits`, float `(N, classes)`; those of a student's experts too where
            `preprocess_logits_for_metrics` keeps them. `label_ids` `(N,)` or None, and `metrics`, as in `evaluate`.
        """
        if not self._measures_groups:
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)
        self.preprocess_logits_for_metrics = lambda *batch: (first_output(*batch), self._class_ids(*batch))
        try:
            predicted = super().predict(test_dataset, ignore_keys, metric_key_prefix)
        finally:
            self.preprocess_logits_for_metrics = self._class_ids
        return predicted._replace(predictions=predicted.predictions[0])

    def _keep_pixels(self) -> bool:
        """Whether the pixels of the training set are kept; where they can be and are not yet, they are read now."""
        images = self.train_dataset
        if not self.keeps_pixels or not isinstance(images, ViewedDataset) or self.data_collator is not collate:
            return False
        if self._kept is None or self._kept[0] is not images:
            pixels = keep_pixels(images, self.batch_views.views, self.args)
            self._kept = None if pixels is None else (images, pixels)
        return self._kept is not None

    def _loader_of_numbers(self) -> DataLoader:
        """The loader that transformers makes for the training set, but of numbers of images, and without workers."""
        images, self.train_dataset = self.train_dataset, ImageNumbers(self.train_dataset)
        try:
            dataloader = super().get_train_dataloader()
            dataloader.base_dataloader.num_workers = 0
            dataloader.base_dataloader.collate_fn = self.train_dataset.collate
        finally:
            self.train_dataset = images
        return dataloader

    def get_train_dataloader(self) -> DataLoader:
        dataloader = self._loader_of_numbers() if self._keep_pixels() else super().get_train_dataloader()
        if hasattr(dataloader.dataset, "__len__") and len(dataloader) == 0:
            raise _not_one_batch(len(dataloader.dataset), self.args)
        self._refuse_a_last_image(dataloader)
        return dataloader

    def _refuse_a_last_image(self, dataloader: DataLoader) -> None:
        """Refuse a last batch of one image: batch normalisation needs two or more."""
        sampler, size = dataloader.batch_sampler, self.args.train_batch_size
        if self.args.world_size > 1 or self.args.dataloader_drop_last or not hasattr(sampler, "sampler"):
            return
        if len(sampler.sampler) % size == 1 and any(
            isinstance(part, nn.modules.batchnorm._BatchNorm) for part in self.model.modules()
        ):
            raise DeiTLTError(
                f"{len(sampler.sampler)} training images in batches of {size} leave a last batch of one, too few for "
                "batch normalisation; pass dataloader_drop_last true or another per_device_train_batch_size"
            )


def check_one_batch(images: int, args: LongTailTrainingArguments) -> None:
    """Refuse fewer training images than a batch of all processes, where a last batch that is not full is dropped."""
    if args.dataloader_drop_last and images < args.train_batch_size * args.world_size:
        raise _not_one_batch(images, args)


def _not_one_batch(images: int, args: LongTailTrainingArguments) -> DeiTLTError:
    return DeiTLTError(
        f"{images} training images do not fill one batch of {args.train_batch_size} per device; pass a smaller "
        "per_device_train_batch_size"
    )


def _labels_of(dataset: Any) -> np.ndarray:
    """The class of each image of a training set, `(images,)`, without reading an image."""
    labels = getattr(dataset, "labels", None)
    if isinstance(dataset, Dataset):
        column = next((name for name in ("label", "labels") if name in dataset.column_names), None)
        labels = None if column is None else dataset.with_format("numpy")[column][:]
    if labels is None or not hasattr(dataset, "__len__") or len(labels) != len(dataset):
        raise DeiTLTError(
            f"class_balanced_sampling must know all labels first, and a {type(dataset).__name__} does not tell them; "
            "pass a ViewedDataset, or a datasets.Dataset with a label column"
        )
    return np.asarray(labels)


def first_output(outputs: torch.Tensor | tuple, labels: torch.Tensor | None) -> torch.Tensor:
    """The logits of a batch; some models return more."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def predicted_class_ids(prediction: EvalPrediction) -> np.ndarray:
    """Class ids from an evaluation, or from `predict`, which returns logits and class ids."""
    predictions = prediction.predictions
    return predictions[1] if isinstance(predictions, tuple) else predictions
