"""Trains DeiT-LT students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

import torch
from torch import nn
from transformers import EvalPrediction, PreTrainedModel

from deitlt_hf.data.device_augmentation.device_views import BatchView
from deitlt_hf.data.mixing import BatchMixing
from deitlt_hf.data.sampling import repeated_augmentation_sampler
from deitlt_hf.durable.weights import load_weights
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.evaluate import expert_class_ids
from deitlt_hf.evaluation.measures import EXPERTS, mean_accuracies
from deitlt_hf.losses.distillation import DistillationLoss
from deitlt_hf.losses.prior import class_prior
from deitlt_hf.teachers.frozen import FrozenTeacher
from deitlt_hf.training.arguments import DeiTLTTrainingArguments
from deitlt_hf.training.ema import AveragedWeights, UpdateAverage
from deitlt_hf.training.layer_decay import decay_by_layer
from deitlt_hf.training.long_tail import LongTailTrainer, TrainerOptions, predicted_class_ids
from deitlt_hf.training.schedule import cosine_with_warmup
from deitlt_hf.training.stages import stage

EMA_DIRECTORY = "ema"

# The reference spares both tokens and the positions; the others are what backbones call theirs.
_SPARED = {"cls_token", "distillation_token", "position_embeddings", "position_embedding", "pos_embed"}
_SPARED |= {"dist_token", "reg_token", "register_tokens", "mask_token"}


class DeiTLTTrainer(LongTailTrainer):
    """transformers' `Trainer` with OOD distillation from a CNN teacher and deferred re-weighting (paper, section 3).

    Args:
        model: a `DeiTLTForImageClassification`, the student; or one with adapters, wrapped by peft's `get_peft_model`.
        args: a `DeiTLTTrainingArguments`.
        teacher: an image classifier of transformers, or a directory or hub id of one; needed unless `distillation_type`
            is `"none"`.
        class_counts: training images per class in label order; by default those in the student's configuration.
        class_groups: `{"head": [...], "mid": [...], "tail": [...]}` for evaluation; by default the configuration's.
        batch_views: for training images that come as uint8: the views that are made of them on the device, by output.
        **kwargs: the Trainer's own, such as `train_dataset` and `eval_dataset`, whose examples have `pixel_values` and
            `labels`, and `weak_pixel_values` for in-distribution distillation. `model_init` may take the place of the
            model. A `compute_metrics` gets what it gets from transformers' Trainer: `predictions` are the `logits`
            `(N, classes)` of the student's default expert. With `preprocess_logits_for_metrics=lambda outputs, labels:
            outputs[1:3]` they are those of the CLS and the DIST expert. Without either, the accuracies of all three are
            measured on head, mid and tail classes, and no logits are kept.

    Raises:
        DeiTLTError: a teacher is missing or knows other classes, class counts are missing for DRW or not one per label,
            arguments of another class, `compute_loss_func`, which this loss would ignore, or a loss that is not finite.

    Example:
        >>> from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification
        >>> from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification, DeiTLTTrainingArguments
        >>> shape = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_attention_heads": 2}
        >>> student = DeiTLTForImageClassification(DeiTLTConfig(num_labels=2, class_counts=[90, 3], **shape))
        >>> teacher = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=2))
        >>> args = DeiTLTTrainingArguments("runs/student", num_train_epochs=10, drw_start_epoch=8, use_cpu=True)
        >>> trainer = DeiTLTTrainer(student, args, teacher=teacher)  # and train_dataset=..., then trainer.train()
        >>> trainer.drw_active
        False
    """

    args: DeiTLTTrainingArguments
    arguments_class = DeiTLTTrainingArguments
    learner = "student"

    def __init__(
        self,
        model: nn.Module | None = None,
        args: DeiTLTTrainingArguments | None = None,
        teacher: PreTrainedModel | str | Path | None = None,
        class_counts: Sequence[int] | None = None,
        class_groups: Mapping[str, Sequence[int]] | None = None,
        batch_views: Mapping[str, BatchView] | None = None,
        **kwargs: Unpack[TrainerOptions],
    ):
        self.ema: AveragedWeights | None = None
        super().__init__(model, args, class_counts, class_groups, batch_views, **kwargs)
        if teacher is None and args.distillation_type != "none":
            raise DeiTLTError(
                f"{args.distillation_type} distillation needs a teacher; pass one, or distillation_type 'none'"
            )
        self.teacher = None
        if args.distillation_type != "none":
            self.teacher = FrozenTeacher(teacher, self.model, args.device, args.teacher_pixels)
            if args.torch_compile:  # the Trainer compiles the student only
                self.teacher.model.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        if args.ema_decay is not None:
            self.ema = AveragedWeights(self.model, args.ema_decay)
            self.add_callback(UpdateAverage(self.ema))

    def _follow_arguments(self) -> None:
        super()._follow_arguments()
        args = self.args
        self.distillation_loss = DistillationLoss(
            args.distillation_type,
            args.distillation_alpha,
            args.distillation_temperature,
            cls_loss=self.named_loss(args.cls_loss),
            class_groups=self.class_groups,
        ).to(args.device)
        self.teacher_prior: torch.Tensor | None = None
        if args.teacher_prior_tau:
            prior = class_prior(self._needed_class_counts()).to(args.device)
            self.teacher_prior = args.teacher_prior_tau * prior.log()
        self.mixing = BatchMixing(
            self.model.config.num_labels, args.mixup, args.cutmix, label_smoothing=args.label_smoothing_factor
        )
        if self.ema is not None:
            self.ema.decay = args.ema_decay

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        """The loss of one batch: hard labels `(N,)`, or soft ones `(N, C)` for pixels that are mixed already."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with stage("mixing"):
            pixel_values, targets = self._mix(inputs["pixel_values"], inputs["labels"])
        with stage("teacher"):
            teacher_logits = self._teacher_logits(pixel_values, inputs)
        outputs = model(pixel_values=pixel_values)
        with stage("loss"):
            weights = self.class_weights if self.drw_active else None
            parts = self.distillation_loss(
                outputs.cls_logits.float(),  # DeepSpeed's models compute in half precision, which a loss should not
                outputs.distillation_logits.float(),
                targets,
                teacher_logits,
                weights,
            )
            self._record(parts, outputs, teacher_logits, targets)
        return (parts.loss, outputs) if return_outputs else parts.loss

    def _mix(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if labels.is_floating_point():
            return pixel_values, labels
        if self.drw_active and not self.args.mixup_in_drw:
            # Without mixing there is no smoothing either: the reference then learns plain labels.
            return pixel_values, labels
        return self.mixing(pixel_values, labels)

    def _teacher_logits(self, pixel_values: torch.Tensor, inputs: dict) -> torch.Tensor | None:
        if self.teacher is None:
            return None
        if self.args.distillation_view == "weak":
            if "weak_pixel_values" not in inputs:
                raise DeiTLTError("in-distribution distillation needs a weak view; give examples weak_pixel_values")
            pixel_values = inputs["weak_pixel_values"]
        with self.accelerator.autocast():
            # Where `pixel_values` are features that were computed once, the teacher labelled the images then.
            known = inputs.get("teacher_logits")
            logits = self.teacher(pixel_values) if known is None else known
        return logits if self.teacher_prior is None else logits - self.teacher_prior

    def _record(self, parts, outputs, teacher_logits, targets) -> None:
        measured = {
            "cls_loss": parts.cls_loss,
            "distillation_loss": parts.distillation_loss,
            "token_similarity": outputs.token_similarity.mean(),
        }
        if teacher_logits is not None:
            # The class of a mixed image is the one with the largest share.
            true_classes = targets.argmax(-1) if targets.is_floating_point() else targets
            measured["teacher_accuracy"] = 100 * (teacher_logits.argmax(-1) == true_classes).float().mean()
        self.record(**measured)

    def peak_learning_rate(self) -> float:
        return self.args.scaled_learning_rate

    def learning_rate_at(self, epoch: float, epochs: float) -> float:
        return cosine_with_warmup(
            epoch,
            epochs=epochs,
            learning_rate=self.args.scaled_learning_rate,
            min_learning_rate=self.args.min_learning_rate,
            warmup_epochs=self.args.warmup_epochs,
        )

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: DeiTLTTrainingArguments, model: PreTrainedModel | None = None):
        optimizer_class, kwargs = LongTailTrainer.get_optimizer_cls_and_kwargs(args, model)
        return optimizer_class, kwargs | {"lr": args.scaled_learning_rate}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.layer_decay < 1:
            decay_by_layer(optimizer, self.model if model is None else model, self.args.layer_decay)
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """No weight decay on biases, norms, tokens and position embeddings, as in the reference."""
        return [
            name for name, weight in model.named_parameters() if weight.ndim > 1 and not _SPARED & {*name.split(".")}
        ]

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.repeated_augmentation <= 1 or not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(train_dataset)
        processes, process = self.args.world_size, self.args.process_index
        sampler = repeated_augmentation_sampler(len(dataset), processes, process, self.args.repeated_augmentation)
        return self._drawing(sampler, processes, process)

    def get_train_dataloader(self):
        dataloader = super().get_train_dataloader()
        if self.args.world_size > 1 and self.args.repeated_augmentation > 1:
            # The sampler already gives each process its share; accelerate must not divide it again.
            dataloader.batch_sampler.num_processes, dataloader.batch_sampler.process_index = 1, 0
        return dataloader

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluate the student, and with `evaluate_ema` its averaged weights under `eval_ema_` too."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.args.evaluate_ema:
            with self.averaged_weights():
                metrics |= super().evaluate(eval_dataset, ignore_keys, f"{metric_key_prefix}_ema")
        return metrics

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside this context the student has the averaged weights, after it its own again."""
        with self.ema.lent_to(self.model):
            yield

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = {name: inputs[name] for name in ("pixel_values", "labels") if name in inputs}
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    @staticmethod
    def _class_ids(outputs: tuple[torch.Tensor, ...], labels: torch.Tensor | None) -> torch.Tensor:
        """Class ids `(N, 3)` in the order of `EXPERTS`."""
        _, cls_logits, distillation_logits, *_ = outputs
        return expert_class_ids(cls_logits, distillation_logits)

    def _grouped_accuracies(self, prediction: EvalPrediction) -> dict[str, float]:
        metrics, class_ids = {}, predicted_class_ids(prediction)
        for column, expert in enumerate(EXPERTS):
            accuracies = mean_accuracies(class_ids[:, column], prediction.label_ids, self.class_groups)
            metrics |= {f"{expert}_{group}": value for group, value in accuracies.items()}
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the student, and its averaged weights as another model in the directory `ema`."""
        if self.ema is not None:
            self._save_average(Path(output_dir or self.args.output_dir) / EMA_DIRECTORY)
        super().save_model(output_dir, _internal_call)

    def _save_average(self, directory: Path) -> None:
        with self.averaged_weights():
            model = self.unsharded_model()
            if self.args.should_save:
                model.save_pretrained(directory)
        if self.processing_class is not None and self.args.should_save:
            self.processing_class.save_pretrained(directory)

    def load_extra_state(self, checkpoint: str) -> None:
        """Read the averaged weights, which `save_model` wrote."""
        if self.ema is None:
            return
        self.ema.start(self.model)
        directory = Path(checkpoint) / EMA_DIRECTORY
        if not directory.is_dir():  # a run without an average: it starts here, not from untrained weights
            return
        with self.averaged_weights():
            model = self.unsharded_model()
            if model is self.model or self.is_world_process_zero():
                load_weights(model, directory)
            self.take_weights(model)
            self.ema.start(self.model)
