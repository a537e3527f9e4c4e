"""Runs a DeiT-LT student over images and keeps what the average of its heads and each expert predict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from deitlt_hf.errors import DeiTLTError

if TYPE_CHECKING:
    from accelerate import Accelerator


def predict_experts(
    model: torch.nn.Module,
    dataloader: Iterable[Mapping[str, torch.Tensor]],
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict every image three times: by the mean of both heads' logits, by the CLS expert, by the DIST expert.

    The model runs in evaluation mode without gradients and is left in the mode it had. `config.expert` does not matter.

    Args:
        model: a `DeiTLTForImageClassification`, or any model whose output has `cls_logits` and `distillation_logits`
            of shape `(batch, classes)`.
        dataloader: yields dicts with `pixel_values` `(batch, channels, height, width)` and `labels` `(batch,)`.
        device: where to run, the model is moved there; by default where the model is. Ignored with `accelerator`.
        accelerator: for more than one process: every process takes its share of the data and gets the whole result,
            with each image counted once (which needs a dataset with a length).

    Returns:
        `(predictions, labels)`: int64 arrays of shapes `(N, 3)`, columns in the order of
        `deitlt_hf.evaluation.measures.EXPERTS`, and `(N,)`, in the order of the data.

    Raises:
        DeiTLTError: the model lacks the two heads, or the dataloader yields no batch.

    Example:
        >>> predictions, labels = predict_experts(model, dataloader)  # doctest: +SKIP
        >>> metrics = expert_metrics(predictions, labels, class_counts, groups, class_names)  # doctest: +SKIP
    """
    if accelerator is not None:
        dataloader = accelerator.prepare_data_loader(dataloader)
        device = accelerator.device
    if device is None:
        device = next(model.parameters()).device
    model.to(device)

    rows = Rows()
    silent = accelerator is not None and not accelerator.is_main_process
    with evaluation_mode(model), torch.inference_mode():
        for batch in tqdm(dataloader, desc="predicting", unit="batch", disable=silent, leave=False):
            ids = _class_ids_of(model(pixel_values=batch["pixel_values"].to(device, non_blocking=True)))
            ids = torch.cat([ids, batch["labels"].to(device).long()[:, None]], dim=1)
            # Ids stay on the device until the end: reading them here would make it wait for the host after each batch.
            rows.add(ids if accelerator is None else accelerator.gather_for_metrics(ids))
    if len(rows) == 0:
        raise DeiTLTError("the dataloader yields no batch: pass one with at least one image")
    table = rows.table().cpu().numpy()
    return table[:, :-1], table[:, -1]


class Rows:
    """Rows of numbers in one piece of memory, which doubles where it is full.

    A small tensor for each batch, kept to the end, would settle where a batch's images have been, those of the next
    batch would no longer fit there, and the process would grow with every batch.
    """

    def __init__(self):
        self._table: torch.Tensor | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, rows: torch.Tensor) -> None:
        end = self._length + len(rows)
        if self._table is None or end > len(self._table):
            larger = rows.new_empty(2 * end, rows.shape[1])
            if self._length:
                larger[: self._length] = self.table()
            self._table = larger
        self._table[self._length : end] = rows
        self._length = end

    def table(self) -> torch.Tensor:
        return self._table[: self._length]


def _class_ids_of(output: object) -> torch.Tensor:
    cls_logits = getattr(output, "cls_logits", None)
    distillation_logits = getattr(output, "distillation_logits", None)
    if cls_logits is None or distillation_logits is None:
        raise DeiTLTError(
            f"{type(output).__name__} has no cls_logits and distillation_logits: pass a DeiT-LT student, which has two "
            "heads"
        )
    return expert_class_ids(cls_logits, distillation_logits)


def expert_class_ids(cls_logits: torch.Tensor, distillation_logits: torch.Tensor) -> torch.Tensor:
    """What the average and both experts predict.

    Args:
        cls_logits, distillation_logits: `(N, classes)`, of any floating point.

    Returns:
        Class ids `(N, 3)` int64 on their device, in the order of `EXPERTS`.

    Example:
        >>> expert_class_ids(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([[0, 0, 1]])
    """
    return torch.stack([logits.argmax(-1) for logits in expert_logits(cls_logits, distillation_logits)], dim=-1)


def expert_logits(cls_logits: torch.Tensor, distillation_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Float32 logits of the average and of both experts, in the order of `EXPERTS`.

    Example:
        >>> expert_logits(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]))[0]
        tensor([1.5000, 0.5000])
    """
    # In float32: the mean of two bfloat16 logits has ties that the logits themselves do not have.
    cls_logits, distillation_logits = cls_logits.float(), distillation_logits.float()
    return (cls_logits + distillation_logits) / 2, cls_logits, distillation_logits  # paper: "Prediction", the mean


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and every submodule's own mode after it: frozen parts may be in another than the rest."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
