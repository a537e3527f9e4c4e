"""What a Trainer puts on the hub, while it trains and at the end."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import CommitInfo
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

from deitlt_hf.cards.model_card import write_model_card
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import last_part, read_json, write_json
from deitlt_hf.hub.pushing import link_or_copy, stage_model, stale_files
from deitlt_hf.hub.repository import check_hub, commit_folder, make_repository

logger = logging.getLogger(__name__)

_STAGING = ".pushing-"


class PushingTrainer(Trainer):
    """transformers' `Trainer` with the pushes of `deitlt push`: one commit each, this package's card, no pickles.

    Its arguments mean what they mean there. With `hub_strategy` `"checkpoint"` or `"all_checkpoints"` the optimiser's
    state goes too, so that a run can be resumed elsewhere.
    """

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
        for left in Path(args.output_dir).glob(f"{_STAGING}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write this package's card into the output directory; what transformers' draft would hold is not used."""
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
        commit = self._staged(
            checkpoint, f"Training in progress, {progress}", resumable_as=names.get(args.hub_strategy)
        )
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
        """Set a model's files aside, for a checkpoint may be gone before it is uploaded; returns what uploads them."""
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.args.output_dir))

        def commit() -> CommitInfo:
            try:
                return commit_folder(
                    folder,
                    self.hub_model_id,
                    message,
                    branch=revision or self.args.hub_revision,
                    stale=stale_files(folder),
                    token=token or self.args.hub_token,
                )
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        try:
            stage_model(directory, folder, self.hub_model_id, revision or self.args.hub_revision)
            if resumable_as is not None:
                resumable = folder / resumable_as
                shutil.copytree(directory, resumable, ignore=_pickled_arguments_and_links, copy_function=link_or_copy)
                _hide_the_best_checkpoint(resumable / TRAINER_STATE_NAME)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return commit


def _pickled_arguments_and_links(folder: str, names: list[str]) -> list[str]:
    """What of a checkpoint stays on this machine; what links lead to is none of it."""
    return [name for name in names if name == TRAINING_ARGS_NAME or Path(folder, name).is_symlink()]


def _hide_the_best_checkpoint(state_file: Path) -> None:
    """Of its path the name alone goes to the hub, as the directory is another one elsewhere."""
    state = read_json(state_file) or {}
    best = state.get("best_model_checkpoint")
    if best is not None:
        write_json(state_file, state | {"best_model_checkpoint": last_part(best)})  # a new file: the old one is linked


def _warn_if_it_fails(commit: Callable[[], CommitInfo]) -> None:
    """A hub that does not answer for a while should not end the training."""
    try:
        commit()
    except DeiTLTError as error:
        logger.warning(f"{error}; training goes on")
