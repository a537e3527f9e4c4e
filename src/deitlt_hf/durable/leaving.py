"""How the processes of a training agree to leave at a signal; not in `signals.py`, which must load without torch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from deitlt_hf.durable.signals import StopRequest


class EvaluationCutError(Exception):
    """A signal came during an evaluation."""


class LeaveAtSignal(TrainerCallback):
    """Ends a training at a signal: after a step or inside an evaluation, at the same step in all processes.

    transformers' `enable_jit_checkpoint` knows SIGTERM only, and lets each process save at a step of its own.

    `signum` is 0 until they agree on one. They agree one step after it came, because then nobody waits for a message:
    it arrives while the step is computed.
    """

    def __init__(self):
        self.signum = 0
        self._request: StopRequest | None = None
        self._group = self._work = None

    def begin(self, request: StopRequest | None, processes: int) -> None:
        """Watch `request` from now on; None watches nothing."""
        self.signum, self._request, self._work = 0, request, None
        if request is not None and processes > 1 and self._group is None:
            self._group = dist.new_group(backend="gloo")  # on the CPU, so that no device has to wait

    def _agreed(self) -> int:
        if self._request is None:
            return 0
        if self._group is None:
            return self._request.signum
        agreed = 0
        if self._work is not None:
            self._work.wait()
            agreed = int(self._largest)
        self._largest = torch.tensor(self._request.signum)
        self._work = dist.all_reduce(self._largest, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed

    def on_step_end(self, args, state, control, **kwargs):
        self.signum = self._agreed()
        if self.signum:
            # Skip an evaluation that is due now: the sender of the signal may not wait that long.
            control.should_save, control.should_evaluate, control.should_training_stop = True, False, True

    def on_prediction_step(self, args, state, control, **kwargs):
        self.signum = self._agreed()
        if self.signum:
            raise EvaluationCutError
