"""Callbacks of the trainers."""

from __future__ import annotations

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from deitlt_hf.data.sampling import draw_seed


class SetSamplerEpoch(TrainerCallback):
    """Tells the sampler its epoch, after a resume inside an epoch too, and seeds the loader's workers.

    With several processes, accelerate's `skip_first_batches` puts one wrapper more around the sampler than accelerate's
    and transformers' `set_epoch` look through, and the resumed epoch would get the images of epoch 0.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        epoch = int(state.epoch or 0)
        if hasattr(train_dataloader, "set_epoch"):
            train_dataloader.set_epoch(epoch)
        generator = getattr(train_dataloader, "generator", None)
        if generator is not None:
            generator.manual_seed(draw_seed(args.seed, epoch, args.process_index))


class LogPrinter(PrinterCallback):
    """transformers' printed log, by one process and not by one on each machine."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            super().on_log(args, state, control, logs, **kwargs)


class ProgressBar(ProgressCallback):
    """transformers' progress bar, which shows the loss and the phase instead of printing a line per log entry."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "loss" in logs:
            phase = "DRW" if logs.get("drw") else "before DRW"
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.3f}, {phase}")

    def close(self):
        """Finish the bar of an interrupted training."""
        if self.training_bar is not None:
            self.training_bar.close()
