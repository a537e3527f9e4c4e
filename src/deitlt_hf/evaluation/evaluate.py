"""The evaluation loop, and what the average and both experts of a student predict in it.

Only the Trainer's evaluation during training runs in another loop, transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.measures import EXPERTS, expert_metrics

if TYPE_CHECKING:
    from accelerate import Accelerator

    from deitlt_hf.data.arguments import Images


def evaluate_student(
    model: torch.nn.Module,
    images: Images,
    image_size: int,
    accelerator: Accelerator,
    batch_size: int = 64,
    num_workers: int = 0,
    confidence_intervals: bool = False,
    teacher: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Evaluate the average, both experts and the teacher on the test split; see `expert_metrics`."""
    # Here, because they load timm, which prediction does not need.
    from deitlt_hf.data.dataset import ViewedDataset, collate, collate_for_workers
    from deitlt_hf.data.views import evaluation_view

    dataset = ViewedDataset(images.test, {"pixel_values": evaluation_view(image_size)}, "test")
    dataloader = DataLoader(dataset, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)
    collate_for_workers(dataloader, accelerator.num_processes)
    predictions, labels = predict_experts(model, dataloader, accelerator=accelerator, teacher=teacher)
    return expert_metrics(
        predictions[:, : len(EXPERTS)],
        labels,
        images.class_counts,
        images.class_groups,
        images.class_names,
        confidence_intervals,
        teacher=None if teacher is None else predictions[:, -1],
    )


def predict_experts(
    model: torch.nn.Module,
    dataloader: Iterable[Mapping[str, torch.Tensor]],
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
    teacher: Callable[[torch.Tensor], torch.Tensor] | None = None,
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
        teacher: takes the same pixel values and gives logits `(batch, classes)`; its class ids are a fourth column.

    Returns:
        `(predictions, labels)`: int64 arrays of shapes `(N, 3)`, columns in the order average, cls, distillation, or
        `(N, 4)` with a teacher, and `(N,)`, in the order of the data.

    Raises:
        DeiTLTError: the model lacks the two heads, or the dataloader yields no batch.

    Example:
        >>> predictions, labels = predict_experts(model, dataloader)  # doctest: +SKIP
        >>> metrics = expert_metrics(predictions, labels, class_counts, groups, class_names)  # doctest: +SKIP
    """
    rows = Rows()

    def keep(pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
        output = model(pixel_values=pixel_values)
        heads = [getattr(output, name, None) for name in ("cls_logits", "distillation_logits")]
        if any(head is None for head in heads):
            raise DeiTLTError(
                f"{type(output).__name__} has no cls_logits and distillation_logits: pass a DeiT-LT student, which has "
                "two heads"
            )
        of_teacher = [] if teacher is None else [teacher(pixel_values).argmax(-1, keepdim=True)]
        ids = torch.cat([expert_class_ids(*heads), *of_teacher, labels.long()[:, None]], dim=1)
        # Ids stay on the device until the end: reading them here would make the device wait after each batch.
        rows.add(ids if accelerator is None else accelerator.gather_for_metrics(ids))

    run_over(model, dataloader, keep, "predicting", device, accelerator)
    table = rows.table().cpu().numpy()
    return table[:, :-1], table[:, -1]


def run_over(
    model: torch.nn.Module,
    dataloader: Iterable[Mapping[str, torch.Tensor]],
    use: Callable[[torch.Tensor, torch.Tensor], None],
    activity: str,
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
) -> None:
    """Give the pixel values and labels of each batch to `use`, with the model in evaluation mode, without gradients.

    With an accelerator, each process gets its share of the batches. `activity` labels the progress bar.
    """
    if accelerator is not None:
        dataloader, device = accelerator.prepare_data_loader(dataloader), accelerator.device
    if device is None:
        device = next(model.parameters()).device
    model.to(device)
    silent = accelerator is not None and not accelerator.is_main_process
    empty = True
    with evaluation_mode(model), torch.inference_mode():
        for batch in tqdm(dataloader, desc=activity, unit="batch", disable=silent, leave=False):
            use(batch["pixel_values"].to(device, non_blocking=True), batch["labels"].to(device, non_blocking=True))
            empty = False
    if empty:
        raise DeiTLTError("the dataloader yields no batch: pass one with at least one image")


class Rows:
    """Rows of numbers in one piece of memory, which doubles when it is full.

    Not a list of small tensors: they would be placed in the memory that a batch's images leave, the next images would
    no longer fit there, and the process would grow with every batch.
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


def expert_class_ids(cls_logits: torch.Tensor, distillation_logits: torch.Tensor) -> torch.Tensor:
    """What the average and both experts predict from logits `(N, classes)`: class ids `(N, 3)` int64."""
    return torch.stack([logits.argmax(-1) for logits in expert_logits(cls_logits, distillation_logits)], dim=-1)


def expert_logits(cls_logits: torch.Tensor, distillation_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Float32 logits of the average and of both experts, in the order of `EXPERTS`."""
    # In float32: the mean of two bfloat16 logits has ties that the logits do not have.
    cls_logits, distillation_logits = cls_logits.float(), distillation_logits.float()
    return (cls_logits + distillation_logits) / 2, cls_logits, distillation_logits  # paper: "Prediction", the mean


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule has its own mode again, since frozen parts may differ."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
