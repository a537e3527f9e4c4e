"""A Trainer whose checkpoints are complete or absent, and that saves one when a signal ends it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.trainer_callback import ExportableState

from deitlt_hf.durable.checkpoints import STATE_FILE, finish, is_complete, newest_complete, rotate, tidy, unfinished
from deitlt_hf.durable.pushing import PushingTrainer
from deitlt_hf.durable.signals import EvaluationCutError, LeaveAtSignal, Stopped, signals_noted
from deitlt_hf.errors import DeiTLTError


class SavingTrainer(PushingTrainer):
    """transformers' `Trainer` with checkpoints that are written aside and renamed when they are whole.

    `last_checkpoint` is the last one that this training wrote or was resumed from.
    """

    last_checkpoint: str | None = None
    before_saving: Callable[[], None] | None = None  # called before anything is written
    writes_checkpoints = True  # at signals too; False leaves the directory, where another run may be, as it is

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._signals = LeaveAtSignal()
        self.add_callback(self._signals)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """Train; `True` resumes from the newest complete checkpoint in the output directory.

        Raises:
            DeiTLTError: the checkpoint is not complete, or there is none, or one cannot be written.
            Stopped: a signal came, and a checkpoint is saved; only inside `signals_end_runs`.
        """
        directory = self.args.output_dir
        if self.args.should_save and self.writes_checkpoints:
            tidy(Path(directory))
        self._wait_for_all()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_complete(directory)
            if resume_from_checkpoint is None:
                raise DeiTLTError(f"{directory} holds no complete checkpoint to resume from; start without resuming")
        elif resume_from_checkpoint and not is_complete(resume_from_checkpoint):
            raise DeiTLTError(
                f"cannot load the checkpoint {resume_from_checkpoint}: it is not complete; pass one that is"
            )
        self.last_checkpoint = resume_from_checkpoint or None
        with signals_noted() if self.writes_checkpoints else nullcontext() as request:
            self._signals.begin(request, self.args.world_size)
            try:
                result = super().train(resume_from_checkpoint, *args, **kwargs)
            except EvaluationCutError:  # in the evaluation before the first step
                raise Stopped(self._signals.signum, self.last_checkpoint) from None
            finally:
                self._signals.begin(None, self.args.world_size)
        if request is not None and request.signum:  # it came after the last step, when there was nothing left to save
            raise Stopped(request.signum)
        return result

    def _run_epoch(self, *args, **kwargs) -> None:
        if self.state.global_step >= self.state.max_steps:  # resumed at the end, where transformers adds a step
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs) -> None:
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        except EvaluationCutError:
            self._save_checkpoint(model, trial)
        if self._signals.signum:
            raise Stopped(self._signals.signum, self.last_checkpoint, self.state.global_step)

    def _save_checkpoint(self, model, trial) -> None:
        """As transformers' own, into a hidden directory that takes the checkpoint's name at the end."""
        directory = self._get_output_dir(trial=trial)
        checkpoint = Path(directory, f"checkpoint-{self.state.global_step}")
        self.store_flos()
        self._remember_best(directory)
        self._or_stop(self._make_room, checkpoint)
        self._or_stop(self._write, checkpoint)
        self._or_stop(self._finish, checkpoint)
        self.last_checkpoint = os.path.join(directory, checkpoint.name)
        if self.args.push_to_hub and self.state.global_step:  # before the first step there is nothing to show
            self._push_from_checkpoint(self.last_checkpoint)
        if self.args.should_save:
            rotate(directory, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _remember_best(self, directory: str) -> None:
        best = self.state.best_global_step
        path = os.path.join(directory, f"checkpoint-{best}")
        if best and (best == self.state.global_step or os.path.isdir(path)):
            self.state.best_model_checkpoint = path

    def _make_room(self, checkpoint: Path) -> None:
        if self.args.should_save:
            if self.before_saving is not None:
                self.before_saving()
            shutil.rmtree(unfinished(checkpoint), ignore_errors=True)
            unfinished(checkpoint).mkdir(parents=True)

    def _write(self, checkpoint: Path) -> None:
        """Every process writes what is its own: shards, random state; the main one the rest."""
        aside = str(unfinished(checkpoint))
        self.save_model(aside, _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(aside)
            self._save_scaler(aside)
            self._save_rng_state(aside)

    def _finish(self, checkpoint: Path) -> None:
        if self.args.should_save:
            for part in [*self.callback_handler.callbacks, self.control]:
                if isinstance(part, ExportableState):
                    saved = self.state.stateful_callbacks.get(type(part).__name__)
                    if isinstance(saved, list):
                        saved.append(part.state())
                    else:
                        self.state.stateful_callbacks[type(part).__name__] = part.state()
            self.state.save_to_json(str(unfinished(checkpoint) / STATE_FILE))
            finish(checkpoint)

    def _or_stop(self, action, checkpoint: Path) -> None:
        """Do a part of a save in all processes; if the disk refuses it in any, stop all, each with the same line."""
        reason = None
        try:
            action(checkpoint)
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = _reason(error)
            if reason is None:
                raise
        if not self._in_any_process(reason is not None):
            return
        if self.args.should_save:
            shutil.rmtree(unfinished(checkpoint), ignore_errors=True)
        intact = f"the last intact one is {self.last_checkpoint}" if self.last_checkpoint else "there is none before it"
        raise DeiTLTError(
            f"cannot write the checkpoint {checkpoint}: {reason or 'another process could not'}; {intact}; make room "
            f"in {checkpoint.parent} or make it writable, and resume"
        )

    def _in_any_process(self, flag: bool) -> bool:
        """Whether `flag` is set in any process; all of them wait for the answer."""
        if self.args.world_size == 1:
            return flag
        return bool(self.accelerator.gather(torch.tensor([int(flag)], device=self.args.device)).any())

    def _wait_for_all(self) -> None:
        self._in_any_process(False)


def _reason(error: Exception) -> str | None:
    """Why a file could not be written, in a few words; None if the error says something else."""
    if isinstance(error, OSError):
        return error.strerror or str(error).splitlines()[0]
    if isinstance(error, SafetensorError):
        return str(error).splitlines()[0]
    # torch's writer says which of its lines failed, but not why.
    is_of_the_writer = "inline_container" in str(error) or "iostream error" in str(error)
    return "the disk did not take all of it" if is_of_the_writer else None
