"""What training a teacher and a student share: the DRW phase, the log, stopping at a loss that is not finite."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, set_seed
from transformers.trainer_callback import ProgressCallback

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.losses.class_balanced import class_balanced_weights
from deitlt_hf.training.arguments import LongTailTrainingArguments
from deitlt_hf.training.callbacks import ProgressBar, SetSamplerEpoch
from deitlt_hf.training.pushing import PushingTrainer


def wraps_adapters(model: nn.Module) -> bool:
    """Whether the model is peft's around another: it saves and loads adapters, and modules that it trains in full."""
    return hasattr(model, "peft_config") and not isinstance(model, PreTrainedModel)


def load_weights(model: PreTrainedModel, directory: str | Path) -> None:
    """Give `model`, which may wrap adapters, the weights that `save_pretrained` wrote to `directory`.

    `save_pretrained` writes the old names of weights that transformers has renamed, DeiT's layers among them. The
    Trainer's own loading does not rename them back, skips them, and trains on from random layers with only a warning.
    It also takes averaged adapters in a checkpoint for one more adapter to train.
    """
    try:
        if wraps_adapters(model):
            model.load_adapter(directory, model.active_adapter, is_trainable=True)
        else:
            model.load_state_dict(type(model).from_pretrained(directory).state_dict())
    except (OSError, ValueError) as error:
        raise DeiTLTError(
            f"cannot load the checkpoint {directory}: {str(error).splitlines()[0]}; pass one that is complete"
        ) from error
    except RuntimeError as error:
        raise DeiTLTError(
            f"the checkpoint {directory} is of a model of another size; resume with the settings it was trained with"
        ) from error


class LongTailTrainer(PushingTrainer):
    """transformers' `Trainer` with deferred re-weighting and a log of the loss's parts.

    Subclasses compute a loss per batch, report its parts with `record`, and give the learning rate of an epoch.
    """

    args: LongTailTrainingArguments

    def __init__(
        self, model: nn.Module, args: LongTailTrainingArguments, class_counts: Sequence[int] | None = None, **kwargs
    ):
        super().__init__(model=model, args=args, **kwargs)
        # Losses here are means over a batch, so that the Trainer divides them by the accumulated batches, and smoothing
        # is part of the targets.
        self.model_accepts_loss_kwargs = False
        self.label_smoother = None
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ProgressBar)
        self.add_callback(SetSamplerEpoch)
        self.class_counts = getattr(model.config, "class_counts", None) if class_counts is None else class_counts
        self.class_weights = None
        if self.class_counts is not None:
            self.class_weights = class_balanced_weights(self.class_counts, args.class_balanced_beta).to(args.device)
        elif args.drw_start_epoch is not None:
            self._needed_class_counts()
        self.current_gradient_accumulation_steps = 1
        self._parts: torch.Tensor | None = None
        self._part_names: tuple[str, ...] = ()
        self._recorded_steps = 0.0
        self._recorded_batches = 0
        self._non_finite_step = torch.full((), -1, device=args.device)
        self._clock = time.perf_counter()

    def _needed_class_counts(self) -> Sequence[int]:
        if self.class_counts is None:
            raise DeiTLTError("this loss needs class_counts; pass them, or a model whose configuration has them")
        return self.class_counts

    @property
    def drw_active(self) -> bool:
        """Whether the step at hand belongs to the DRW phase.

        `state.epoch` is the exact whole number at the first step of an epoch, and is part of every checkpoint, so that
        the phase needs no state of its own.
        """
        start = self.args.drw_start_epoch
        return start is not None and (self.state.epoch or 0.0) >= start

    def learning_rate_at(self, epoch: float, epochs: float) -> float:
        """Learning rate at `epoch`, a fraction within epochs, of `epochs`."""
        raise TypeError(f"{type(self).__name__} must say its learning rate")

    def peak_learning_rate(self) -> float:
        return self.args.learning_rate

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Follow `learning_rate_at`, step by step, unless one of transformers' schedules was asked for."""
        if not self.args.follows_reference_schedule:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            epochs = self.args.num_train_epochs if self.args.max_steps <= 0 else max(self.state.num_train_epochs, 1)
            peak = self.peak_learning_rate()
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer,
                # Multiplied before divided: whole epochs come out whole, and a decay is not a step late.
                lambda step: self.learning_rate_at(step * epochs / num_training_steps, epochs) / peak,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Resume the schedule at the learning rate asked for now, which the checkpoint's own would hide."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not isinstance(self.lr_scheduler, LambdaLR):
            return
        peak = self.peak_learning_rate()
        self.lr_scheduler.base_lrs = [peak] * len(self.lr_scheduler.base_lrs)
        rates = [peak * factor(self.lr_scheduler.last_epoch) for factor in self.lr_scheduler.lr_lambdas]
        self.lr_scheduler._last_lr = rates
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["initial_lr"], group["lr"] = peak, rate

    def record(self, **parts: torch.Tensor) -> None:
        """Add scalars of this batch to the next log entry, where their means appear; nothing leaves the device.

        The means are over steps and within a step over its batches, as the Trainer's own of the loss is.
        """
        share = 1 / self.current_gradient_accumulation_steps
        values = share * torch.stack([part.detach().float() for part in parts.values()])
        self._parts = values if self._parts is None else self._parts + values
        self._part_names = tuple(parts)
        self._recorded_steps += share
        self._recorded_batches += 1

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        is_first = ~torch.isfinite(loss) & (self._non_finite_step < 0)
        self._non_finite_step = torch.where(is_first, self.state.global_step + 1, self._non_finite_step)
        if loss.device.type == "cpu":  # elsewhere looking would wait for the device, so it waits for the next log
            self._stop_if_not_finite()
        return loss

    def _stop_if_not_finite(self) -> None:
        step = int(self._non_finite_step)
        if step >= 0:
            raise DeiTLTError(
                f"the loss is not finite at step {step} (epoch {self.state.epoch or 0:.2f}); checkpoints from "
                f"before it are untouched in {self.args.output_dir}: resume from the last with a lower learning_rate"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._parts is not None:
            self._stop_if_not_finite()
            means = self.accelerator.reduce(self._parts / self._recorded_steps, "mean").tolist()
            logs |= dict(zip(self._part_names, means, strict=True))
            images = self._recorded_batches * self.args.train_batch_size * self.args.world_size
            logs["images_per_second"] = images / max(time.perf_counter() - self._clock, 1e-9)
            logs["drw"] = float(self._drw_at_last_step())
            self._parts, self._recorded_steps, self._recorded_batches = None, 0.0, 0
            self._clock = time.perf_counter()
        super().log(logs, start_time)

    def _drw_at_last_step(self) -> bool:
        start = self.args.drw_start_epoch
        return start is not None and math.ceil(self.state.epoch or 0.0) > start

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        started = time.perf_counter()
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._clock += time.perf_counter() - max(started, self._clock)  # evaluating and saving are not training

    def _get_grad_norm(self, model, grad_norm=None):
        """The norm of the gradient, in steps that are logged; in others nobody would see what it costs."""
        step = self.state.global_step + 1
        by_steps = self.args.logging_strategy == "steps"
        is_first = step == 1 and self.args.logging_first_step
        if grad_norm is None and by_steps and not is_first and step % self.state.logging_steps:
            return None
        return super()._get_grad_norm(model, grad_norm)

    def _save_checkpoint(self, model, trial) -> None:
        self._stop_if_not_finite()
        # The loss of the last step was finite, but its gradient may have ruined the weights.
        if not torch.stack([weight.isfinite().all() for weight in self.model.parameters()]).all():
            self._non_finite_step.fill_(self.state.global_step)
            self._stop_if_not_finite()
        super()._save_checkpoint(model, trial)

    def train(self, *args, **kwargs):
        self._clock = time.perf_counter()
        self._parts, self._recorded_steps, self._recorded_batches = None, 0.0, 0
        self._non_finite_step.fill_(-1)
        if self.args.world_size > 1:
            # Every process augments and drops paths in its own way, as with the reference; one seed would give all of
            # them the same view of a repeated image.
            set_seed(self.args.seed + self.args.process_index)
        try:
            result = super().train(*args, **kwargs)
        except BaseException:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressBar):
                    callback.close()  # or it would draw itself over the message that follows
            raise
        self._stop_if_not_finite()  # in steps after the last log
        return result

    def get_train_dataloader(self) -> DataLoader:
        dataloader = super().get_train_dataloader()
        if hasattr(dataloader.dataset, "__len__") and len(dataloader) == 0:
            raise DeiTLTError(
                f"{len(dataloader.dataset)} training images do not fill one batch of {self.args.train_batch_size} per "
                "device; pass a smaller per_device_train_batch_size"
            )
        return dataloader

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._loads_whole_models():
            load_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._loads_whole_models():
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _loads_whole_models(self) -> bool:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return (isinstance(self.model, PreTrainedModel) or wraps_adapters(self.model)) and not sharded

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        # transformers' dataloader_drop_last would drop images from evaluations too.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last
