"""Callbacks of the trainers."""

from __future__ import annotations

from timm.utils import ModelEmaV3
from transformers import TrainerCallback


class UpdateEma(TrainerCallback):
    """Moves the averaged weights after every optimiser step."""

    def __init__(self, ema: ModelEmaV3):
        self.ema = ema

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.ema.update(model)
