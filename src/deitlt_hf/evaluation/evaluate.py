"""The evaluation loop, and what the average and both experts of a student, or any other classifier, predict in it.

Only the Trainer's evaluation during training runs in another loop, transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.class_prior import ClassPrior
from deitlt_hf.evaluation.measures import EXPERTS, FUSED, MODEL, TEACHER, expert_metrics
from deitlt_hf.evaluation.ranking import class_ranking
from deitlt_hf.long_tail_accuracy.scores import TOP
from deitlt_hf.losses.ldam import logit_scale
from deitlt_hf.models.deit_lt.modeling_deit_lt import fused_logits

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedConfig

    from deitlt_hf.data.arguments import Images
    from deitlt_hf.data.views import View

MOST_PROBABILITIES = 25_000_000  # of images x classes x rows: 100 MB
Teacher = Callable[[torch.Tensor], torch.Tensor]  # takes the model's pixel values and gives logits `(batch, classes)`


class Evaluation(NamedTuple):
    """What `evaluate_images` found."""

    metrics: dict[str, Any]  # see `expert_metrics`
    predictions: Predictions


def evaluate_images(
    model: torch.nn.Module,
    images: Images,
    view: View,
    accelerator: Accelerator,
    batch_size: int = 64,
    num_workers: int = 0,
    confidence_intervals: bool = False,
    teacher: Teacher | None = None,
    prior: ClassPrior | None = None,
    set_thresholds: np.ndarray | None = None,
    probabilities_of: str | None = None,
) -> Evaluation:
    """Evaluate an image classifier and the teacher on the test split, of which `view` makes the model's pixels.

    A model with two heads has a row for their average and for each expert, another one a row `model`. A `prior` is put
    on every row, the teacher's too, because the place does not depend on the model. `set_thresholds` and
    `probabilities_of` are as in `Predictions`.
    """
    # Here, because they load timm, which prediction does not need.
    from deitlt_hf.data.dataset import ViewedDataset, collate, collate_for_workers

    dataset = ViewedDataset(images.test, {"pixel_values": view}, "test")
    dataloader = DataLoader(dataset, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)
    collate_for_workers(dataloader, accelerator.num_processes)

    def read(output: Any) -> dict[str, torch.Tensor]:
        rows = logits_by_row(output, getattr(model, "config", None))
        return rows if prior is None else {row: prior(logits) for row, logits in rows.items()}

    at_the_place = teacher if teacher is None or prior is None else lambda pixel_values: prior(teacher(pixel_values))
    found = Predictions(set_thresholds, keeps_probabilities=True, probabilities_of=probabilities_of)
    predictions = predict_classes(model, dataloader, read, None, accelerator, at_the_place, found)
    metrics = expert_metrics(
        predictions.class_ids,
        predictions.labels,
        images.class_counts,
        images.class_groups,
        images.class_names,
        confidence_intervals,
        predictions.rows,
        predictions.teacher,
        predictions.in_top,
        predictions.ranked,
    )
    if prior is not None:
        metrics["class_prior"] = prior.shares.tolist()
    return Evaluation(metrics, predictions)


def predict_experts(
    model: torch.nn.Module,
    dataloader: Iterable[Mapping[str, torch.Tensor]],
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
    teacher: Teacher | None = None,
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

    def read(output: Any) -> dict[str, torch.Tensor]:
        if not has_two_heads(output):
            raise DeiTLTError(
                f"{type(output).__name__} has no cls_logits and distillation_logits: pass a DeiT-LT student, which has "
                "two heads"
            )
        return logits_by_row(output)

    found = predict_classes(model, dataloader, read, device, accelerator, teacher)
    of_teacher = [] if found.teacher is None else [found.teacher[:, None]]
    return np.concatenate([found.class_ids, *of_teacher], axis=1), found.labels


def predict_classes(
    model: torch.nn.Module,
    dataloader: Iterable[Mapping[str, torch.Tensor]],
    read: Callable[[Any], Mapping[str, torch.Tensor]],
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
    teacher: Teacher | None = None,
    found: Predictions | None = None,
) -> Predictions:
    """What a model predicts for every image; `read` gives the logits of each row from the model's output.

    `found` is where the predictions are added, by default new ones.
    """
    found = Predictions() if found is None else found

    def keep(pixel_values: torch.Tensor, labels: torch.Tensor) -> None:
        # A file may have its weights in half precision.
        logits = read(model(pixel_values=pixel_values.to(getattr(model, "dtype", pixel_values.dtype))))
        of_teacher = None if teacher is None else teacher(pixel_values)
        found.add(logits, labels, of_teacher, accelerator and accelerator.gather_for_metrics)

    run_over(model, dataloader, keep, "predicting", device, accelerator)
    return found


class Predictions:
    """What a model and its teacher predict for each image: class ids, and the probabilities of the model's.

    All are columns of one float32 table, which holds every class id below 2**24.
    """

    def __init__(
        self,
        set_thresholds: np.ndarray | None = None,
        keeps_probabilities: bool = False,
        probabilities_of: str | None = None,
    ) -> None:
        """What is kept beside the rest.

        Args:
            set_thresholds: those of conformal sets `(classes,)`, whose sizes are kept of the fused prediction.
            keeps_probabilities: keep those of all classes, of all rows, for as long as they are few,
                `MOST_PROBABILITIES`.
            probabilities_of: the row of which they are kept then, however many they are.
        """
        self._table = Rows()
        self.rows: tuple[str, ...] = ()  # experts, or the one of a model with one head
        self._places: dict[str, slice] = {}  # columns of each part
        self._set_thresholds, self._probabilities_of = set_thresholds, probabilities_of
        # By row; None before the first image.
        self._probabilities: dict[str, Rows] | None = None if keeps_probabilities else {}

    def __len__(self) -> int:
        return len(self._table)

    def add(
        self,
        logits: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        teachers_logits: torch.Tensor | None = None,
        gather: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Add a batch: float32 logits `(batch, classes)` by row, true class ids, and the teacher's logits."""
        self.rows = tuple(logits)
        probabilities = [of.softmax(-1) for of in logits.values()]
        parts = {
            "class_ids": [of.argmax(-1) for of in logits.values()],
            "confidences": [of.amax(-1) for of in probabilities],
            "label_probabilities": [of.gather(-1, labels[:, None])[:, 0] for of in probabilities],
            "in_top": [in_top_5(of, labels) for of in logits.values()],
            "labels": [labels],
        }
        if teachers_logits is not None:
            parts |= {"teacher": [teachers_logits.argmax(-1)], "teacher_in_top": [in_top_5(teachers_logits, labels)]}
        if self._set_thresholds is not None:
            parts["set_sizes"] = [self._sizes_of_sets(probabilities[self.rows.index(FUSED)])]
        ends = np.cumsum([len(columns) for columns in parts.values()]).tolist()
        self._places = {name: slice(end - len(parts[name]), end) for name, end in zip(parts, ends, strict=True)}
        batch = torch.stack([column.float() for columns in parts.values() for column in columns], dim=1)
        # They stay on the device until the end: reading them here would make the device wait after each batch.
        self._table.add(batch if gather is None else gather(batch))
        of_rows = dict(zip(self.rows, probabilities, strict=True))
        self._keep(of_rows if teachers_logits is None else of_rows | {TEACHER: teachers_logits.softmax(-1)}, gather)

    def _keep(self, probabilities: Mapping[str, torch.Tensor], gather: Callable | None) -> None:
        """Keep the probabilities of a batch, for as long as those of all rows are few."""
        if self._probabilities is None:
            self._probabilities = {row: Rows() for row in probabilities}
        for row, kept in self._probabilities.items():
            of_row = probabilities[row].float()
            kept.add(of_row if gather is None else gather(of_row))
        if sum(kept.table().numel() for kept in self._probabilities.values()) > MOST_PROBABILITIES:
            self._probabilities = {of: kept for of, kept in self._probabilities.items() if of == self._probabilities_of}

    @property
    def class_ids(self) -> np.ndarray:
        """Predicted class ids, int64 `(N, rows)`."""
        return self._part("class_ids").astype(np.int64)

    @property
    def confidences(self) -> np.ndarray:
        """Largest probability of each row, float32 `(N, rows)`."""
        return self._part("confidences")

    @property
    def label_probabilities(self) -> np.ndarray:
        """Each row's probability of the true class, float32 `(N, rows)`."""
        return self._part("label_probabilities")

    @property
    def labels(self) -> np.ndarray:
        """True class ids, int64 `(N,)`."""
        return self._part("labels")[:, 0].astype(np.int64)

    @property
    def in_top(self) -> dict[str, np.ndarray]:
        """Whether the true class has one of the five largest logits, bool `(N,)` for each row and the teacher."""
        found = dict(zip(self.rows, self._part("in_top").T > 0, strict=True))
        return found | ({TEACHER: self._part("teacher_in_top")[:, 0] > 0} if "teacher" in self._places else {})

    @property
    def teacher(self) -> np.ndarray | None:
        """Class ids that the teacher predicts, int64 `(N,)`."""
        return self._part("teacher")[:, 0].astype(np.int64) if "teacher" in self._places else None

    @property
    def probabilities(self) -> dict[str, np.ndarray]:
        """All probabilities of the rows, and the teacher's, that they are kept of, float32 `(N, classes)`."""
        return {row: kept.table().cpu().numpy() for row, kept in (self._probabilities or {}).items()}

    @property
    def ranked(self) -> dict[str, dict[str, np.ndarray]]:
        """Of the same rows, the measures that their probabilities order the images by, see `class_ranking`."""
        labels = self.labels
        return {row: class_ranking(of, labels) for row, of in self.probabilities.items()}

    @property
    def set_sizes(self) -> np.ndarray:
        """Number of classes in each image's set, int64 `(N,)`; with `set_thresholds` only."""
        return self._part("set_sizes")[:, 0].astype(np.int64)

    def _sizes_of_sets(self, probabilities: torch.Tensor) -> torch.Tensor:
        inside = probabilities >= torch.as_tensor(self._set_thresholds).to(probabilities)
        return inside.scatter(-1, probabilities.argmax(-1, keepdim=True), True).sum(-1)  # as in `prediction_sets`

    def _part(self, name: str) -> np.ndarray:
        """Columns of the table, float32 `(N, columns)`."""
        return self._table.table()[:, self._places[name]].cpu().numpy()


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


def in_top_5(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether the true class is among the five with the largest logits `(N, classes)`, bool `(N,)`."""
    own, classes = logits.gather(-1, labels[:, None]), torch.arange(logits.shape[-1], device=logits.device)
    # Of equal logits the first come first, as in `argmax`: constant logits would have every class on top.
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return before.sum(-1) < TOP


def expert_class_ids(cls_logits: torch.Tensor, distillation_logits: torch.Tensor) -> torch.Tensor:
    """What the average and both experts predict from logits `(N, classes)`: class ids `(N, 3)` int64."""
    return torch.stack([logits.argmax(-1) for logits in expert_logits(cls_logits, distillation_logits)], dim=-1)


def has_two_heads(output: Any) -> bool:
    """Whether a model's output has the logits of a CLS and of a DIST head."""
    return all(getattr(output, name, None) is not None for name in ("cls_logits", "distillation_logits"))


def logits_by_row(output: Any, config: PreTrainedConfig | None = None) -> dict[str, torch.Tensor]:
    """Float32 logits of the average and of both experts, or of a model with one head as the row `model`.

    With the model's configuration, its `fusion` gives the row `fused` too, and cosines are scaled to logits.
    """
    if not has_two_heads(output):
        return {MODEL: (1.0 if config is None else logit_scale(config)) * output.logits.float()}
    logits = dict(zip(EXPERTS, expert_logits(output.cls_logits, output.distillation_logits), strict=True))
    fusion = getattr(config, "fusion", None)
    return logits if fusion is None else logits | {FUSED: fused_logits(fusion, logits["cls"], logits["distillation"])}


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
