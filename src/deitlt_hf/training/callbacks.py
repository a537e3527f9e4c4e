"""Callbacks of the trainers."""

from __future__ import annotations

from timm.utils import ModelEmaV3
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback


class UpdateEma(TrainerCallback):
    """Moves the averaged weights after every optimiser step."""

    def __init__(self, ema: ModelEmaV3):
        self.ema = ema

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.ema.update(model)


class SetSamplerEpoch(TrainerCallback):
    """Tells the sampler its epoch, also in an epoch that is resumed in the middle.

    With several processes, accelerate's `skip_first_batches` puts one wrapper more around the sampler than accelerate's
    and transformers' `set_epoch` look through, and the resumed epoch would get the images of epoch 0.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if hasattr(train_dataloader, "set_epoch"):
            train_dataloader.set_epoch(int(state.epoch or 0))


class ProgressBar(ProgressCallback):
    """transformers' progress bar with the loss and the phase behind it, in place of a printed line per log entry."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "loss" in logs:
            phase = "DRW" if logs.get("drw") else "before DRW"
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.3f}, {phase}")

    def close(self):
        """Finish the bar of a training that ends before its time."""
        if self.training_bar is not None:
            self.training_bar.close()
