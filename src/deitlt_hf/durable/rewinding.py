"""A Trainer that stops at a loss that is not finite, or goes back to the last checkpoint with a lower learning rate."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from deitlt_hf.durable.saving import SavingTrainer
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.training.arguments import LongTailTrainingArguments

logger = logging.getLogger(__name__)

RATE_FACTOR = 0.5  # on the learning rate, at each rewind
REWINDS_FILE = "rewinds.json"  # in checkpoints, so that a resumed run keeps its rate and its count


class NonFiniteLossError(DeiTLTError):
    """The loss, or weights that it led to, are not finite."""


class RewindingTrainer(SavingTrainer):
    """transformers' `Trainer` that notices a loss which is not finite, without asking the device at every step."""

    args: LongTailTrainingArguments

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._rewinds = 0
        self._non_finite_step = torch.full((), -1, device=self.args.device)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        self._rewinds = 0
        while True:
            self._begin_attempt()
            try:
                result = super().train(resume_from_checkpoint, *args, **kwargs)
                self._stop_if_not_finite()  # in steps after the last log
                return result
            except NonFiniteLossError:
                if self._rewinds >= self.args.rewind_at_non_finite:
                    raise
                self._rewinds += 1
                resume_from_checkpoint = self.last_checkpoint
                if self.args.should_log:
                    step = int(self._non_finite_step)
                    logger.warning(
                        f"the loss is not finite at step {step}: going back to {resume_from_checkpoint}, the learning "
                        f"rate times {RATE_FACTOR**self._rewinds:g} (rewind {self._rewinds} of at most "
                        f"{self.args.rewind_at_non_finite})"
                    )

    def _begin_attempt(self) -> None:
        """Forget what an attempt that failed has left."""
        self._non_finite_step.fill_(-1)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        is_first = ~torch.isfinite(loss) & (self._non_finite_step < 0)
        self._non_finite_step = torch.where(is_first, self.state.global_step + 1, self._non_finite_step)
        # On a device looking would wait for it, and several processes have to stop together; so both wait for the log.
        if loss.device.type == "cpu" and self.args.world_size == 1:
            self._stop_if_not_finite()
        return loss

    def _stop_if_not_finite(self) -> None:
        """Stop in all processes, which have to call this together, if the loss of any was not finite."""
        steps = self.accelerator.gather(self._non_finite_step.reshape(1)).tolist()
        found = [step for step in steps if step >= 0]
        if found:
            self._non_finite_step.fill_(min(found))
            # Where that step began, which may be some steps ago.
            epoch = (min(found) - 1) * (self.state.epoch or 0) / max(self.state.global_step, 1)
            before = "there is no checkpoint from before it: train again with a lower learning_rate"
            if self.last_checkpoint:
                before = (
                    f"checkpoints from before it are untouched in {self.args.output_dir}: resume from the last with a "
                    "lower learning_rate"
                )
            raise NonFiniteLossError(f"the loss is not finite at step {min(found)} (epoch {epoch:.2f}); {before}")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            self._stop_if_not_finite()
            if self._rewinds:
                logs["rewinds"] = float(self._rewinds)
        super().log(logs, start_time)

    def _save_checkpoint(self, model, trial) -> None:
        # The loss of the last step was finite, but its gradient may have ruined the weights.
        weights = [w.to_local() if isinstance(w, DTensor) else w for w in self.model.parameters()]
        ruined = ~torch.stack([weight.isfinite().all() for weight in weights]).all()
        is_first = ruined & (self._non_finite_step < 0)
        self._non_finite_step = torch.where(is_first, self.state.global_step, self._non_finite_step)
        self._stop_if_not_finite()
        super()._save_checkpoint(model, trial)

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        if self.args.rewind_at_non_finite and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise DeiTLTError("rewind_at_non_finite needs whole weights; train without FSDP and DeepSpeed")
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.args.rewind_at_non_finite and resume_from_checkpoint is None:
            self._save_checkpoint(prepared[0], None)  # the start, to which a rewind before the first save goes
        return prepared

    def peak_learning_rate(self) -> float:
        """The learning rate that a schedule's factors multiply, before any rewind."""
        return self.args.learning_rate

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._rewinds and self.args.should_save:
            (Path(output_dir) / REWINDS_FILE).write_text(json.dumps({"rewinds": self._rewinds}))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Resume the schedule at the learning rate asked for now, which the checkpoint's own would hide."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        file = Path(checkpoint) / REWINDS_FILE
        saved = json.loads(file.read_text())["rewinds"] if file.is_file() else 0
        self._rewinds = max(self._rewinds, saved)
        if not isinstance(self.lr_scheduler, LambdaLR):  # its rate is what the checkpoint says, and what rewinds add
            for group in self.optimizer.param_groups:
                group["lr"] *= RATE_FACTOR ** (self._rewinds - saved)
            return
        peak = self.peak_learning_rate() * RATE_FACTOR**self._rewinds
        self.lr_scheduler.base_lrs = [peak] * len(self.lr_scheduler.base_lrs)
        rates = [peak * factor(self.lr_scheduler.last_epoch) for factor in self.lr_scheduler.lr_lambdas]
        self.lr_scheduler._last_lr = rates
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["initial_lr"], group["lr"] = peak, rate
