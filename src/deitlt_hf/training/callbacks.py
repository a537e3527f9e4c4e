"""Callbacks of the trainers."""

from __future__ import annotations

import torch
import torch.distributed as dist
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from deitlt_hf.data.draws import draw_seed
from deitlt_hf.durable.signals import StopRequest


class SetSamplerEpoch(TrainerCallback):
    """Tells the sampler its epoch, also in an epoch that is resumed in the middle, and seeds the loader's workers.

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


class EvaluationCutError(Exception):
    """A signal came during an evaluation."""


class LeaveAtSignal(TrainerCallback):
    """Ends a training at a signal: after a step, or in the middle of an evaluation, at the same one in all processes.

    `signum` is 0 until they agree on one. They agree a step after it came, without waiting for each other: the step
    that is computed meanwhile takes longer than the message.
    """

    def __init__(self):
        self.signum = 0
        self._request: StopRequest | None = None
        self._group = self._work = None

    def begin(self, request: StopRequest | None, processes: int) -> None:
        """Look at `request` from now on; None looks at nothing."""
        self.signum, self._request, self._work = 0, request, None
        if request is not None and processes > 1 and self._group is None:
            self._group = dist.new_group(backend="gloo")  # between hosts: no device is asked, so none has to wait

    def _agreed(self) -> int:
        if self._request is None or self._group is None:
            return self._request.signum if self._request is not None else 0
        agreed = 0
        if self._work is not None:
            self._work.wait()
            agreed = int(self._said)
        self._said = torch.tensor(self._request.signum)
        self._work = dist.all_reduce(self._said, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def on_step_end(self, args, state, control, **kwargs):
        self.signum = self._agreed()
        if self.signum:
            # An evaluation that is due now is left out: whoever sent the signal may not wait for it.
            control.should_save, control.should_evaluate, control.should_training_stop = True, False, True

    def on_prediction_step(self, args, state, control, **kwargs):
        self.signum = self._agreed()
        if self.signum:
            raise EvaluationCutError


class LogPrinter(PrinterCallback):
    """transformers' printed log, by the first process of all machines and not of each."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            super().on_log(args, state, control, logs, **kwargs)


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
