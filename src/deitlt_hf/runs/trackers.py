"""The trackers of a run, such as TensorBoard: what they get beside the Trainer's log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)

from deitlt_hf.errors import DeiTLTError, first_line, notice
from deitlt_hf.evaluation.measures import MEASURES, MODEL, measured_rows
from deitlt_hf.training.long_tail import LongTailTrainer


class OpenTracker:
    """A tracker's callback that begins with one line if it cannot, and stays open after the training until `close`."""

    def __init__(self, tracker: TrainerCallback, name: str) -> None:
        self._tracker, self.name, self._end = tracker, name, None

    def __getattr__(self, event: str) -> Any:
        return getattr(self._tracker, event)

    def on_train_begin(self, *event: Any, **parts: Any) -> Any:
        """The tracker's own; what it raises, such as a missing login, becomes a `DeiTLTError`."""
        try:
            return self._tracker.on_train_begin(*event, **parts)
        except Exception as error:  # each tracker raises errors of its own
            raise DeiTLTError(f"report_to {self.name}: {first_line(error)}; or pass --report_to none") from error

    def on_train_end(self, *event: Any, **parts: Any) -> None:
        """Keep the end for `close`."""
        self._end = event, parts

    def on_push_begin(self, *event: Any, **parts: Any) -> None:
        """The tracker's own, which may send its log to the hub too; its failure does not cost the push."""
        with _noticed(self):
            self._tracker.on_push_begin(*event, **parts)

    def log(self, values: Mapping[str, float], picture: Path | None) -> None:
        """Send numbers, and the picture to the trackers that transformers' own callbacks would send none to."""
        if self._end is None:  # the training did not reach its end
            return
        (args, state, control), parts = self._end
        self._tracker.on_log(args, state, control, logs=dict(values), model=parts.get("model"))
        if picture is not None:
            self._log_picture(picture, state.global_step)

    def _log_picture(self, picture: Path, step: int) -> None:
        if isinstance(self._tracker, TensorBoardCallback):
            pixels = np.asarray(Image.open(picture).convert("RGB"))
            self._tracker.tb_writer.add_image(picture.stem, pixels, step, dataformats="HWC")
        elif isinstance(self._tracker, WandbCallback):
            import wandb

            wandb.log({picture.stem: wandb.Image(str(picture)), "train/global_step": step})
        elif isinstance(self._tracker, TrackioCallback):
            import trackio

            trackio.log({picture.stem: trackio.Image(picture), "train/global_step": step})

    def close(self) -> None:
        """Let the tracker end its run, if the training came to its end."""
        if self._end is not None:
            (event, parts), self._end = self._end, None
            self._tracker.on_train_end(*event, **parts)


@contextmanager
def open_trackers(trainer: LongTailTrainer) -> Iterator[Callable[[Mapping[str, Any], Path | None], None]]:
    """Keep the trackers open inside this context; yields a function that sends them results and their picture.

    A tracker that fails after the training costs a notice, and not the run.
    """
    names = {callback: name for name, callback in INTEGRATION_TO_CALLBACK.items()}
    handler = trainer.callback_handler
    handler.callbacks = [OpenTracker(one, names[type(one)]) if type(one) in names else one for one in handler.callbacks]
    trackers = [one for one in handler.callbacks if isinstance(one, OpenTracker)]

    def report(metrics: Mapping[str, Any], picture: Path | None = None) -> None:
        if trainer.is_world_process_zero():
            for tracker in trackers:
                with _noticed(tracker):
                    tracker.log(_values(metrics), picture)

    try:
        yield report
    finally:
        for tracker in trackers:
            with _noticed(tracker):
                tracker.close()


@contextmanager
def _noticed(tracker: OpenTracker) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each tracker raises errors of its own
        notice(f"report_to {tracker.name}: {first_line(error)}; the run goes on without it")


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What was measured on the test images, as the Trainer names what it evaluates: `test_average_tail`, ..."""
    return {
        f"test_{'' if row == MODEL else f'{row}_'}{measure.key}": values[measure.key]
        for row, values in measured_rows(metrics).items()
        for measure in MEASURES
        if values.get(measure.key) is not None
    }
