"""What a run sends to its trackers: transformers' own callbacks, which write into stand-ins for the trackers."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from deitlt_hf import DeiTLTError
from deitlt_hf.cli.main import main
from deitlt_hf.runs.trackers import open_trackers

FLAGS = """train --data digits-lt --image_size 8 --horizontal_flip false --group_boundaries 3 7 --patch_size 4
    --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2 --distillation_type none --mixup 0 --cutmix 0
    --repeated_augmentation 1 --per_device_train_batch_size 64 --num_train_epochs 2 --drw_start_epoch 1
    --logging_steps 7 --warmup_epochs 0 --save_strategy no --use_cpu true --disable_tqdm true""".split()


class Book:
    """A tracker's module, or its writer: all that was written, in order, and whether it is closed."""

    def __init__(self):
        self.entries, self.pictures, self.closed = [], {}, 0

    def log(self, values: dict) -> None:
        assert not self.closed
        self.entries.append({name: value for name, value in values.items() if isinstance(value, int | float)})
        self.pictures |= {name: Path(value) for name, value in values.items() if isinstance(value, str)}

    def Image(self, path) -> str:  # noqa: N802
        return str(path)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.log({name: value, "train/global_step": step})

    def add_image(self, name: str, pixels, step: int, dataformats: str) -> None:
        assert not self.closed
        self.pictures[name] = pixels.shape

    def add_text(self, *text) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1

    finish = close

    def values(self, name: str) -> list[float]:
        return [entry[name] for entry in self.entries if name in entry]


@pytest.fixture
def books(monkeypatch) -> dict[str, Book]:
    """Stand-ins for three trackers, which are not installed here; transformers' callbacks believe that they are."""
    books = {name: Book() for name in ("tensorboard", "trackio", "wandb")}

    class OfTensorBoard(TensorBoardCallback):
        def __init__(self):
            self.tb_writer, self.logging_dir = books["tensorboard"], "unused"

    class OfTrackio(TrackioCallback):
        def __init__(self):
            self._trackio, self._initialized = books["trackio"], False

        def setup(self, *args, **kwargs):
            self._initialized, self._space_id = True, None

    class OfWandb(WandbCallback):
        def __init__(self):
            self._wandb, self._initialized, self._log_model = books["wandb"], True, SimpleNamespace(is_enabled=False)
            self._wandb.run = SimpleNamespace(summary={})

        def on_train_end(self, *args, **kwargs):  # transformers leaves the run open until the process ends
            self._wandb.close()

    for name, callback in zip(books, (OfTensorBoard, OfTrackio, OfWandb), strict=True):
        monkeypatch.setitem(INTEGRATION_TO_CALLBACK, name, callback)
    for name in ("trackio", "wandb"):
        monkeypatch.setitem(sys.modules, name, books[name])
    return books


def test_trackers_get_loss_parts_phases_accuracies_and_the_picture(books, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: list(books))
    flags = [*FLAGS, "--report_to", "all", "--eval_strategy", "epoch", "--output_dir", str(tmp_path / "run")]
    assert main(flags) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name, book in books.items():
        # 453 images are 7 steps of 64 per epoch, and a line of the log is for 7 steps.
        losses = book.values("train/loss")
        parts = zip(book.values("train/cls_loss"), book.values("train/distillation_loss"), strict=True)
        assert [sum(pair) for pair in parts] == pytest.approx(losses, abs=1e-5), name
        assert len(losses) == 2
        assert book.values("train/drw") == [0.0, 1.0]
        assert len(book.values("eval/average_tail")) == 2
        for expert, measured in metrics["experts"].items():
            assert book.values(f"test/{expert}_tail") == [measured["tail"]]
        assert book.values("train/global_step")[-1] == 14
        assert book.closed == 1
    assert books["tensorboard"].pictures["report"] == (1275, 1800, 3)  # 12 x 8.5 inches at 150 dots
    for name in ("trackio", "wandb"):
        assert books[name].pictures["report"] == tmp_path / "run" / "report.png"


class Failing(TrainerCallback):
    """A tracker that cannot begin, or cannot end."""

    at = "begin"

    def on_train_begin(self, *event, **parts):
        if self.at == "begin":
            raise ConnectionError("no login\nand a second line")

    def on_train_end(self, *event, **parts):
        raise ConnectionError("the server is gone")

    on_push_begin = on_train_end


@pytest.fixture
def trainer(monkeypatch) -> SimpleNamespace:
    """What `open_trackers` uses of a trainer, with a tracker that fails."""
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "failing", Failing)
    return SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[Failing()]), is_world_process_zero=lambda: True)


def test_a_tracker_that_cannot_begin_is_one_line(trainer):
    with pytest.raises(DeiTLTError, match=r"^report_to failing: no login; or pass --report_to none$"):  # noqa: SIM117
        with open_trackers(trainer):
            trainer.callback_handler.callbacks[0].on_train_begin(None, TrainerState(), TrainerControl())


def test_a_tracker_that_fails_after_the_training_does_not_cost_the_run(trainer, monkeypatch, caplog):
    monkeypatch.setattr(Failing, "at", "end")
    with caplog.at_level(logging.WARNING), open_trackers(trainer) as report:
        (tracker,) = trainer.callback_handler.callbacks
        tracker.on_train_begin(None, TrainerState(), TrainerControl())
        tracker.on_train_end(None, TrainerState(), TrainerControl())
        assert not caplog.messages
        report({"experts": {"model": {"overall": 50.0}}})
        tracker.on_push_begin(None, TrainerState(), TrainerControl())
    assert caplog.messages == ["report_to failing: the server is gone; the run goes on without it"] * 2


def test_all_trackers_where_none_is_installed_is_said(arguments, monkeypatch, caplog):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", list)
    assert arguments(report_to="all").report_to == []
    assert any("report_to all: no tracker is installed" in message for message in caplog.messages)


def test_a_push_publishes_no_log_unless_a_space_is_named(arguments):
    assert arguments().trackio_static_space_id is False
    assert arguments(trackio_static_space_id="me/log").trackio_static_space_id == "me/log"
