"""A Trainer that keeps a run alive: what is on disk is always whole, and a run goes on from it exactly.

It knows nothing of long tails, teachers or experts. Every override of a private method of transformers' Trainer is
here, with a comment that says which behaviour of transformers makes it necessary.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MethodType

import torch
from accelerate.utils import convert_outputs_to_fp32
from huggingface_hub import CommitInfo
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

from deitlt_hf.cards.model_card import write_model_card
from deitlt_hf.data.dataset import collate_for_workers
from deitlt_hf.durable.checkpoints import finish, is_complete, newest_complete, rotate, tidy, unfinished
from deitlt_hf.durable.leaving import EvaluationCutError, LeaveAtSignal
from deitlt_hf.durable.sharding import configure_fsdp, sharding_on_cpus, whole_weights
from deitlt_hf.durable.signals import Stopped, leave_signals_to_the_training, signals_noted
from deitlt_hf.durable.weights import load_weights, wraps_adapters
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import last_part, read_json, write_json
from deitlt_hf.foreign.adapters import save_classes
from deitlt_hf.hub.pushing import link_or_copy, stage_model, stale_files
from deitlt_hf.hub.repository import check_hub, commit_folder, make_repository

logger = logging.getLogger(__name__)

RATE_FACTOR = 0.5  # on the learning rate, at each rewind
REWINDS_FILE = "rewinds.json"  # in checkpoints, so that a resumed run keeps its rate and its count
_STAGING = ".pushing-"


class NonFiniteLossError(DeiTLTError):
    """The loss, or weights that it led to, are not finite."""


@dataclass
class DurableTrainingArguments(TrainingArguments):
    """transformers' arguments, and what to do at a loss that is not finite."""

    rewind_at_non_finite: int = field(
        default=0,
        metadata={
            "help": "How often a loss that is not finite may send the training back to its last checkpoint, with half "
            "the learning rate each time; 0 stops at the first."
        },
    )


class DurableTrainer(Trainer):
    """transformers' `Trainer` whose runs survive signals, full disks, losses that are not finite, and restarts.

    Subclasses may override the hooks `begin_attempt`, `before_training`, `save_extra_state`, `load_extra_state` and
    `peak_learning_rate`. `last_checkpoint` is the last one that this training wrote or was resumed from.
    """

    args: DurableTrainingArguments
    last_checkpoint: str | None = None
    before_saving: Callable[[], None] | None = None  # called before anything is written
    writes_checkpoints = True  # at signals too; False leaves the directory, where another run may be, as it is
    shards_weights = True  # where FSDP or DeepSpeed is asked for; False trains with DDP whatever is asked for

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._signals = LeaveAtSignal()
        self.add_callback(self._signals)
        self._rewinds = 0
        self._non_finite_step = torch.full((), -1, device=self.args.device)
        self._clock = time.perf_counter()
        self._unsharded = None
        if self.is_fsdp_enabled:
            # FSDP2 gives the model's modules new classes, which would be saved with their names and torch's source.
            self._unsharded = deepcopy(self.model).to("meta")
            configure_fsdp(self.accelerator.state.fsdp_plugin, self.model)
            self._compute_as_with_ddp()

    # Hooks.

    def begin_attempt(self) -> None:
        """Reset the state of an attempt; called before each one, the first included."""
        self._non_finite_step.fill_(-1)
        self._clock = time.perf_counter()

    def before_training(self, max_steps: int) -> None:
        """Check what can be checked only when the numbers of steps and epochs are known."""

    def save_extra_state(self, directory: str) -> None:
        """Write what resuming needs beside weights, optimiser and schedule into a checkpoint; in every process."""

    def load_extra_state(self, checkpoint: str) -> None:
        """Read what `save_extra_state` wrote, before optimiser and schedule are read."""

    def peak_learning_rate(self) -> float:
        """The peak learning rate, which the schedule's factors multiply, before any rewind."""
        return self.args.learning_rate

    def seconds_of_training(self) -> float:
        """Seconds of training since the last call; evaluating and saving are not counted."""
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        return seconds

    # The run as a whole.

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """Train; `True` resumes from the newest complete checkpoint in the output directory.

        Raises:
            DeiTLTError: the checkpoint is not complete, or there is none, or one cannot be written; the loss is not
                finite, and no rewind is left.
            Stopped: a signal came, and a checkpoint is saved; only inside `signals_end_runs`.
        """
        self._rewinds = 0
        while True:
            self.begin_attempt()
            try:
                result = self._train_once(resume_from_checkpoint, *args, **kwargs)
                self._stop_if_not_finite()  # in steps after the last log
                return result
            except NonFiniteLossError:
                if self._rewinds >= self.args.rewind_at_non_finite:
                    raise
                self._rewinds += 1
                resume_from_checkpoint = self.last_checkpoint
                if self.args.should_log:
                    logger.warning(
                        f"the loss is not finite at step {int(self._non_finite_step)}: going back to "
                        f"{resume_from_checkpoint}, the learning rate times {RATE_FACTOR**self._rewinds:g} (rewind "
                        f"{self._rewinds} of at most {self.args.rewind_at_non_finite})"
                    )

    def _train_once(self, resume_from_checkpoint: str | bool | None, *args, **kwargs):
        """Train until the end, a signal, or a loss that is not finite."""
        directory = self.args.output_dir
        if self.args.should_save and self.writes_checkpoints:
            tidy(Path(directory))
        self.accelerator.wait_for_everyone()
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

    def _init_training_state(self, max_steps, *args, **kwargs) -> tuple[int, int]:
        # transformers compares a share of all steps with the number of steps that a checkpoint holds, and warns. It
        # forgets the best checkpoint of a run whose directory was moved.
        shares = {name: getattr(self.args, name) for name in ("logging_steps", "eval_steps", "save_steps")}
        shares = {name: share for name, share in shares.items() if share is not None and share < 1}
        for name, share in shares.items():
            setattr(self.args, name, math.ceil(max_steps * share))
        try:
            begin = super()._init_training_state(max_steps, *args, **kwargs)
        finally:
            for name, share in shares.items():
                setattr(self.args, name, share)
        if self.last_checkpoint and self.state.best_global_step and self.state.best_model_checkpoint is None:
            best = Path(self.last_checkpoint).with_name(f"checkpoint-{self.state.best_global_step}")
            if best.is_dir():
                self.state.best_model_checkpoint = str(best)
                logger.warning(f"{best} is taken for the best checkpoint: it lies beside the one that is resumed")
        return begin

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        # transformers has no hook between counting the steps and preparing the optimiser.
        self.before_training(max_steps)
        if resume_from_checkpoint is not None:
            self._check_steps_are_as_before(resume_from_checkpoint, train_dataloader)
        if self.args.rewind_at_non_finite and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise DeiTLTError("rewind_at_non_finite needs whole weights; train without FSDP and DeepSpeed")
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.args.rewind_at_non_finite and resume_from_checkpoint is None:
            self._save_checkpoint(prepared[0], None)  # a rewind before the first save returns to this start
        return prepared

    def _check_steps_are_as_before(self, checkpoint: str, train_dataloader: DataLoader) -> None:
        """Refuse another number of images per step: the data order, the DRW phase and the learning rate would jump."""
        if self.args.ignore_data_skip or not hasattr(train_dataloader.dataset, "__len__"):
            return
        state = TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        batches, accumulated = len(train_dataloader), self.args.gradient_accumulation_steps
        whole, rest = divmod(state.global_step, math.ceil(batches / accumulated))
        epoch = whole + rest * accumulated / batches
        if abs(epoch - (state.epoch or 0)) < 0.5 / batches:
            return
        processes, now = len(list(Path(checkpoint).glob("rng_state*.pth"))), self.args.world_size
        as_before = (
            "the same images, repeated_augmentation, per_device_train_batch_size and gradient_accumulation_steps"
        )
        if processes not in (0, now):
            as_before = f"{processes} process{'es' * (processes > 1)}, and not {now}"
        raise DeiTLTError(
            f"{checkpoint} is at epoch {state.epoch:.2f}, where a run with the steps of this one would be at "
            f"{epoch:.2f}; resume with {as_before}"
        )

    def _run_epoch(self, *args, **kwargs) -> None:
        # Resumed after the last step, transformers would make one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs) -> None:
        # transformers cannot leave an evaluation at a signal, and counts evaluating and saving as training.
        started = time.perf_counter()
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        except EvaluationCutError:
            self._save_checkpoint(model, trial)
        if self._signals.signum:
            raise Stopped(self._signals.signum, self.last_checkpoint, self.state.global_step)
        self._clock += time.perf_counter() - max(started, self._clock)

    def _get_grad_norm(self, model, grad_norm=None):
        # transformers computes the gradient's norm in every step, also where it is not logged.
        step = self.state.global_step + 1
        by_steps = self.args.logging_strategy == "steps"
        is_first = step == 1 and self.args.logging_first_step
        if grad_norm is None and by_steps and not is_first and step % self.state.logging_steps:
            return None
        return super()._get_grad_norm(model, grad_norm)

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        # transformers' dataloader_drop_last would drop images from evaluations too.
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            dataloader = super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last
        loader = dataloader.base_dataloader
        # transformers' loader takes its seed from the global generator. It would move what stochastic depth and mixing
        # draw, at other moments in a resumed run than in an undisturbed one.
        loader.generator = torch.Generator().manual_seed(self.args.seed)
        loader.worker_init_fn = partial(_begin_worker, loader.worker_init_fn)
        collate_for_workers(loader, self.args.world_size)
        return dataloader

    # Checkpoints that are complete or absent.

    def _save_checkpoint(self, model, trial) -> None:
        # transformers writes under the final name, which a killed process leaves half filled. Here a hidden directory
        # takes the name at the end. Its method also hangs where the disk refuses a file in one process only.
        self._stop_if_weights_are_not_finite()
        directory = self._get_output_dir(trial=trial)
        checkpoint = Path(directory, f"checkpoint-{self.state.global_step}")
        self.store_flos()
        best = os.path.join(directory, f"checkpoint-{self.state.best_global_step}")
        if self.state.best_global_step and (os.path.isdir(best) or Path(best) == checkpoint):
            self.state.best_model_checkpoint = best
        self._or_stop(self._make_room, checkpoint)
        self._or_stop(self._write, checkpoint)
        self._or_stop(self._finish, checkpoint)
        self.last_checkpoint = os.path.join(directory, checkpoint.name)
        if self.args.push_to_hub and self.state.global_step:  # nothing is trained before the first step
            self._push_from_checkpoint(self.last_checkpoint)
        if self.args.should_save:
            rotate(directory, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _make_room(self, checkpoint: Path) -> None:
        if self.args.should_save:
            if self.before_saving is not None:
                self.before_saving()
            shutil.rmtree(unfinished(checkpoint), ignore_errors=True)
            unfinished(checkpoint).mkdir(parents=True)

    def _write(self, checkpoint: Path) -> None:
        """Write a checkpoint: each process its shards and random state, the main one the rest."""
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
            self.state.save_to_json(str(unfinished(checkpoint) / TRAINER_STATE_NAME))
            finish(checkpoint)

    def _or_stop(self, action, checkpoint: Path) -> None:
        """Do one part of a save in all processes; if the disk refuses it in any, stop all with the same message."""
        reason = None
        try:
            action(checkpoint)
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = _reason(error)
            if reason is None:
                raise
        refused = torch.tensor([int(reason is not None)], device=self.args.device)
        if not self.accelerator.gather(refused).any():
            return
        if self.args.should_save:
            shutil.rmtree(unfinished(checkpoint), ignore_errors=True)
        intact = f"the last intact one is {self.last_checkpoint}" if self.last_checkpoint else "there is none before it"
        raise DeiTLTError(
            f"cannot write the checkpoint {checkpoint}: {reason or 'another process could not'}; {intact}; make room "
            f"in {checkpoint.parent} or make it writable, and resume"
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # transformers has no hook for more state.
        super()._save_optimizer_and_scheduler(output_dir)
        if self._rewinds and self.args.should_save:
            (Path(output_dir) / REWINDS_FILE).write_text(json.dumps({"rewinds": self._rewinds}))
        self.save_extra_state(output_dir)

    # Exact resuming.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # transformers skips weights that it has renamed, with only a warning; see `load_weights`.
        if self._loads_whole_models():
            load_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # As in `_load_from_checkpoint`.
        if self._loads_whole_models():
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _loads_whole_models(self) -> bool:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return (isinstance(self.model, PreTrainedModel) or wraps_adapters(self.model)) and not sharded

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # transformers resumes at the checkpoint's learning rate, which hides the one that is asked for now.
        if checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        was_sharded = (Path(checkpoint) / "optimizer.bin").is_file()
        if was_sharded != self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            how = "under FSDP" if was_sharded else "without FSDP"
            raise DeiTLTError(
                f"{checkpoint} was written {how}; resume it in the same way, or train anew from its weights"
            )
        self.load_extra_state(checkpoint)
        # Of each group, for an optimiser of the user's may have its own; no rewind has lowered them.
        asked = [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        file = Path(checkpoint) / REWINDS_FILE
        saved = json.loads(file.read_text())["rewinds"] if file.is_file() else 0
        self._rewinds = max(self._rewinds, saved)
        if not isinstance(self.lr_scheduler, LambdaLR):  # no function of the step: lower the checkpoint's rate
            for group in self.optimizer.param_groups:
                group["lr"] *= RATE_FACTOR ** (self._rewinds - saved)
            return
        groups, factors = self.optimizer.param_groups, self.lr_scheduler.lr_lambdas
        peaks = [rate * RATE_FACTOR**self._rewinds for rate in asked]
        step = self.lr_scheduler.last_epoch
        rates = [of_group * factor(step) for of_group, factor in zip(peaks, factors, strict=True)]
        self.lr_scheduler.base_lrs, self.lr_scheduler._last_lr = peaks, rates
        for group, of_group, rate in zip(groups, asked, rates, strict=True):
            group["initial_lr"], group["lr"] = of_group, rate

    # A loss that is not finite.

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        is_first = ~torch.isfinite(loss) & (self._non_finite_step < 0)
        self._non_finite_step = torch.where(is_first, self.state.global_step + 1, self._non_finite_step)
        # On a GPU reading the loss would wait for the device, and several processes must stop together: they check at
        # the next log.
        if loss.device.type == "cpu" and self.args.world_size == 1:
            self._stop_if_not_finite()
        return loss

    def _stop_if_not_finite(self) -> None:
        """Stop in all processes, which have to call this together, if the loss of any was not finite."""
        steps = self.accelerator.gather(self._non_finite_step.reshape(1)).tolist()
        found = [step for step in steps if step >= 0]
        if found:
            self._non_finite_step.fill_(min(found))
            # The epoch of that step, which may lie some steps back.
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

    def _stop_if_weights_are_not_finite(self) -> None:
        """Stop before weights that are not finite are saved: the loss may be finite although its gradient was not."""
        weights = [w.to_local() if isinstance(w, DTensor) else w for w in self.model.parameters()]
        ruined = ~torch.stack([weight.isfinite().all() for weight in weights]).all()
        is_first = ruined & (self._non_finite_step < 0)
        self._non_finite_step = torch.where(is_first, self.state.global_step, self._non_finite_step)
        self._stop_if_not_finite()

    # FSDP2: weights that are spread over the processes while a model trains, and whole in what is saved.

    def create_accelerator_and_postprocess(self) -> None:
        if self.args.deepspeed_plugin is not None and self.args.deepspeed_plugin.zero_stage == 3:
            raise DeiTLTError("ZeRO-3 would take apart the teacher and the averaged weights too; use ZeRO-2 or FSDP2")
        with sharding_on_cpus(self.args) if self.shards_weights else whole_weights(self.args):
            super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise DeiTLTError("FSDP of version 1 was asked for; pass fsdp_version 2")

    def _compute_as_with_ddp(self) -> None:
        """Use autocast over float32 weights; accelerate's FSDP2 would compute all in half precision, the loss too."""
        self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        if self.accelerator.mixed_precision != "no":
            forward = self.accelerator.autocast()(type(self.model).forward)
            self.model.forward = MethodType(convert_outputs_to_fp32(forward), self.model)

    def unsharded_model(self, weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
        """The model without sharding; under FSDP2 a copy, which has all weights in the main process only.

        Args:
            weights: all of them, if they were gathered already; otherwise all processes have to call this.
        """
        if self._unsharded is None:
            return self.model
        if weights is None:
            weights = self.accelerator.get_state_dict(self.model)
        model = deepcopy(self._unsharded)
        if self.is_world_process_zero():
            model.load_state_dict(weights, assign=True)
        return model

    def take_weights(self, model: nn.Module) -> None:
        """Under FSDP2, give the sharded model the weights that `model`, an unsharded one, has in the main process."""
        if self._unsharded is not None:
            weights = model.state_dict() if self.is_world_process_zero() else {}
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            set_model_state_dict(self.model, weights, options=options)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # transformers saves a sharded model under FSDP2's class names; peft saves nothing of its base's classes.
        if self._unsharded is None:
            super()._save(output_dir, state_dict)
        elif self.is_world_process_zero():
            sharded, self.model = self.model, self.unsharded_model(state_dict)
            try:
                super()._save(output_dir)
            finally:
                self.model = sharded
        if wraps_adapters(self.model) and self.args.should_save:  # transformers calls this in every process
            save_classes(self.model.config, output_dir or self.args.output_dir)

    # Pushes: one commit each, this package's card, no pickles.

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, so that a wrong token is known before training.

        Raises:
            DeiTLTError: whatever the hub answers, in one line.
        """
        if not self.is_world_process_zero():
            return
        args = self.args
        token, private = token or args.hub_token, bool(args.hub_private_repo if private is None else private)
        name = args.hub_model_id or Path(args.output_dir).absolute().name
        self.hub_model_id = args.hub_model_id = check_hub(name, private=private, token=token)
        make_repository(self.hub_model_id, private=private, branch=args.hub_revision, token=token)
        self.push_in_progress = None
        self._pusher = ThreadPoolExecutor(max_workers=1)
        for left in Path(args.output_dir).glob(f"{_STAGING}*"):  # left by a killed process
            shutil.rmtree(left, ignore_errors=True)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write this package's card into the output directory, instead of transformers' draft."""
        if self.is_world_process_zero():
            write_model_card(self.args.output_dir, self.hub_model_id, self.args.hub_revision)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | Future | None:
        """Save the model into the output directory and push it with its card and what else lies there.

        Args:
            commit_message: of the one commit.
            blocking: whether to wait for it.
            token: by default the arguments' `hub_token`, or that of `hf auth login`.
            revision: the branch, by default the arguments' `hub_revision`.
            private: visible to its owner alone, if the repository is made.
            **kwargs: for transformers' draft of a card, which this package's replaces.

        Returns:
            The commit, or its future; None in processes that do not push.

        Raises:
            DeiTLTError: whatever the hub answers, in one line.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        (Path(self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        self.create_model_card()
        self._finish_current_push()
        commit = self._staged(Path(self.args.output_dir), commit_message or "End of training", token, revision)
        return commit() if blocking else self._pusher.submit(commit)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # transformers pushes the output directory, half written as it may be, with pickled arguments.
        args, checkpoint = self.args, Path(checkpoint_folder)
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        is_busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if is_busy and not args.hub_always_push:
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        by_steps = args.save_strategy == SaveStrategy.STEPS
        progress = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch)}"
        names = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        name = names.get(args.hub_strategy)
        commit = self._staged(checkpoint, f"Training in progress, {progress}", resumable_as=name)
        jobs = self.push_in_progress.jobs if is_busy else []
        self.push_in_progress = PushInProgress([*jobs, self._pusher.submit(_warn_if_it_fails, commit)])

    def _staged(
        self,
        directory: Path,
        message: str,
        token: str | None = None,
        revision: str | None = None,
        resumable_as: str | None = None,
    ) -> Callable[[], CommitInfo]:
        """Copy a model's files, because a checkpoint may be deleted before its upload; returns the upload."""
        staging = tempfile.TemporaryDirectory(prefix=_STAGING, dir=self.args.output_dir, ignore_cleanup_errors=True)
        folder, name, branch = Path(staging.name), self.hub_model_id, revision or self.args.hub_revision
        token = token or self.args.hub_token

        def commit() -> CommitInfo:
            with staging:
                return commit_folder(folder, name, message, branch=branch, stale=stale_files(folder), token=token)

        try:
            stage_model(directory, folder, name, branch)
            if resumable_as is not None:
                resumable = folder / resumable_as
                shutil.copytree(directory, resumable, ignore=_pickled_arguments_and_links, copy_function=link_or_copy)
                _hide_the_best_checkpoint(resumable / TRAINER_STATE_NAME)
        except BaseException:
            staging.cleanup()
            raise
        return commit


def _pickled_arguments_and_links(folder: str, names: list[str]) -> list[str]:
    """Names in a checkpoint that are not uploaded: pickles, and links to files outside it."""
    return [name for name in names if name == TRAINING_ARGS_NAME or Path(folder, name).is_symlink()]


def _hide_the_best_checkpoint(state_file: Path) -> None:
    """Keep only the name of the best checkpoint's path, which means nothing on another machine."""
    state = read_json(state_file) or {}
    best = state.get("best_model_checkpoint")
    if best is not None:  # written as a new file, because the old one is a hard link
        write_json(state_file, state | {"best_model_checkpoint": last_part(best)})


def _warn_if_it_fails(commit: Callable[[], CommitInfo]) -> None:
    """Commit; an error of the hub becomes a warning, so that the training continues."""
    try:
        commit()
    except DeiTLTError as error:
        logger.warning(f"{error}; training goes on")


def _reason(error: Exception) -> str | None:
    """Why a file could not be written, in a few words; None for other errors."""
    if isinstance(error, OSError):
        return error.strerror or str(error).splitlines()[0]
    if isinstance(error, SafetensorError):
        return str(error).splitlines()[0]
    # torch's writer names its own source line, not the reason.
    is_of_the_writer = "inline_container" in str(error) or "iostream error" in str(error)
    return "the disk did not take all of it" if is_of_the_writer else None


def _begin_worker(begin: Callable[[int], None] | None, worker: int) -> None:
    leave_signals_to_the_training(worker)
    if begin is not None:
        begin(worker)
