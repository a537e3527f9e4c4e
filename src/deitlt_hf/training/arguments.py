"""Training arguments: transformers' own with the paper's defaults, and those of long-tailed training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from accelerate.utils import DynamoBackend
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import SchedulerType

from deitlt_hf.durable.trainer import DurableTrainingArguments
from deitlt_hf.errors import DeiTLTError, notice
from deitlt_hf.evaluation.measures import check_best_measure, logged_measures
from deitlt_hf.losses.by_name import CLS_LOSSES, TEACHER_LOSSES
from deitlt_hf.losses.distillation import DISTILLATION_TYPES
from deitlt_hf.losses.ldam import LDAM_SCALE
from deitlt_hf.ranges import check_ranges, one_of
from deitlt_hf.teachers.pixels import TEACHER_PIXELS

REFERENCE_BATCH_SIZE = 512  # the batch that the reference's learning rates are given for

VIEWS = ("strong", "weak")
TEACHER_SCHEDULES = ("steps", "cosine")
AUGMENTATION_DEVICES = ("auto", "cpu", "device")
_COMPILERS = tuple(backend.value.lower() for backend in DynamoBackend if backend is not DynamoBackend.NO)
_COMPILER_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
# Settings of transformers' Trainer that have no effect on images, or fail.
_FOR_TEXTS = {
    "neftune_noise_alpha": lambda value: value is not None,
    "use_liger_kernel": bool,
    "train_sampling_strategy": lambda value: value in ("group_by_length", "batch_rebalance"),
}
_OF_OTHER_OPTIMIZERS = ("optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon")
_OF_OTHER_OPTIMIZERS += ("label_smoothing_factor",)


@contextmanager
def _in_one_line(what: str = "", instead: str = "") -> Iterator[None]:
    """Turn an error of transformers about a setting into a `DeiTLTError` of one line."""
    try:
        yield
    except DeiTLTError:
        raise
    except (ValueError, ImportError, OSError, RuntimeError, TypeError, KeyError, NotImplementedError) as error:
        said = str(error).strip().removeprefix("No package metadata was found for ").splitlines() or [repr(error)]
        reason = " ".join(said[: 2 if said[0].endswith(":") else 1]).rstrip(". ")
        raise DeiTLTError(f"{what}{reason}{instead}") from error


@dataclass
class LongTailTrainingArguments(DurableTrainingArguments):
    """The arguments that teachers and students share."""

    drw_start_epoch: int | None = field(
        default=None,
        metadata={
            "help": "First epoch (from 0) of deferred re-weighting (DRW); left out, the loss is never re-weighted."
        },
    )
    class_balanced_beta: float = field(
        default=0.9999, metadata={"help": "Beta of the effective number of samples behind DRW's weights, in [0, 1)."}
    )
    focal_gamma: float = field(default=2.0, metadata={"help": "Focal loss: how little easy images count; 0 is ce."})
    logit_adjusted_tau: float = field(
        default=1.0, metadata={"help": "Share of the class prior that logit_adjusted takes out; 0 is ce."}
    )
    balanced_bce_tau: float = field(
        default=1.0, metadata={"help": "Share of the class prior that balanced_bce takes out; 0 is none."}
    )
    class_balanced_sampling: bool = field(
        default=False,
        metadata={
            "help": "Draw a class, all being equally likely, then an image of it, for each place in an epoch. Images "
            "of rare classes then come many times."
        },
    )
    retrain_classifier: bool = field(
        default=False,
        metadata={
            "help": "Train a new classifier on the features of init_from, which stay as they are: the second stage of "
            "cRT, which goes with class_balanced_sampling."
        },
    )
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={"help": "Left at cosine, the reference's schedule over epochs; another name is transformers' own."},
    )
    warmup_epochs: float = field(default=5, metadata={"help": "Epochs of linear learning-rate warm-up."})
    min_learning_rate: float = field(default=1e-5, metadata={"help": "Floor of the cosine schedule."})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 autocast; left out, it is on where a GPU supports it, off on CPUs."}
    )
    dataloader_num_workers: int = field(
        default=0, metadata={"help": "Processes that read and augment images; 0 is none beside the training."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of the weights, the order of images and their views."})
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "Directory of the run: checkpoints, the model, its numbers and its card; left out, runs/ and the "
            "name of the recipe or the data."
        },
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Push the model with its card to the hub."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Repository to push to, owner/name; left out, the name of output_dir."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the run that output_dir already holds."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir."})
    profile: int = field(
        default=0,
        metadata={
            "help": "Do not train, but say where the time of a training step goes, as the mean of so many steps (20 "
            "where no number follows), and write a trace of a few more to trace.json in output_dir.",
            "nargs": "?",
            "const": 20,
        },
    )

    augmentation_device: str = field(
        default="auto",
        metadata={
            "help": "Where training images are augmented: cpu (one by one by the loader's workers), device (in batches "
            "where the model is), or auto (device for images up to 32 pixels, and on a GPU for images of one size up "
            "to 256; else cpu)."
        },
    )

    max_grad_norm: float = field(
        default=0.0, metadata={"help": "Gradient clipping; 0, the reference's value, is none."}
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Drop a last batch that is not full, as the reference does."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Left off: a loss that is not finite stops the run instead of being hidden."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Left off: every weight takes part in every step."}
    )
    log_on_each_node: bool = field(default=False, metadata={"help": "Log on every machine, not on the first alone."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Left off: views are made from the `image` column when an image is read."}
    )
    per_device_eval_batch_size: int | None = field(
        default=None, metadata={"help": "Images per device while evaluating; left out, as many as in training."}
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When to save checkpoints: no, steps or epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})

    def __post_init__(self):
        check_ranges(self)  # before transformers, which computes with them
        if self.max_steps != -1 and self.max_steps < 1:
            raise DeiTLTError(f"max_steps is {self.max_steps}; pass 1 or more, or leave it out to train by epochs")
        if self.profile:  # a profile has nothing to push
            self.push_to_hub = False
        # Without it, several processes on CPUs would each train alone, into the same directory.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self._choose_precision()
        self.dataloader_pin_memory = self.dataloader_pin_memory and not self.use_cpu
        if self.accelerator_config is None:  # otherwise each copy to the device would wait for all its queued work
            self.accelerator_config = {"non_blocking": self.dataloader_pin_memory}
        # torch refuses persistent workers without workers.
        self.dataloader_persistent_workers = self.dataloader_persistent_workers and self.dataloader_num_workers > 0
        if self.torch_compile_backend is not None:
            one_of("torch_compile_backend", self.torch_compile_backend.lower(), _COMPILERS)
        if self.torch_compile_mode is not None:
            one_of("torch_compile_mode", self.torch_compile_mode, _COMPILER_MODES)
        asks_for_all = self.report_to in ("all", ["all"])
        with _in_one_line():
            super().__post_init__()
        if self.fsdp and self.world_size == 1:
            raise DeiTLTError("fsdp shards over processes, and there is one; launch several with accelerate")
        self._check_schedule()
        if self.overwrite and self.resume:
            raise DeiTLTError("both overwrite and resume were asked for; pass one of them")
        if self.class_balanced_sampling and self.train_sampling_strategy == "sequential":
            raise DeiTLTError("both class_balanced_sampling and train_sampling_strategy were passed; pass one of them")
        one_of("augmentation_device", self.augmentation_device, AUGMENTATION_DEVICES)
        if self.drw_start_epoch is not None and self.max_steps <= 0 and self.drw_start_epoch >= self.num_train_epochs:
            raise DeiTLTError(
                f"drw_start_epoch {self.drw_start_epoch} is beyond the last epoch; pass one below num_train_epochs "
                f"({self.num_train_epochs:g}), or none for no re-weighting"
            )
        if asks_for_all and not self.report_to:
            notice("report_to all: no tracker is installed, so nothing is tracked; pip install tensorboard, for one")
        if self.trackio_static_space_id is None:
            # Or Trackio would answer a push of the model by publishing the log too, in a Space that nobody asked for.
            self.trackio_static_space_id = False
        for callback in self.report_to:
            with _in_one_line(f"report_to {callback}: ", "; or pass --report_to none"):
                get_reporting_integration_callbacks([callback])[0]()  # each fails here if its package is missing
        self._check_what_is_for_texts()

    def _choose_precision(self) -> None:
        if self.fp16 and self.use_cpu:
            raise DeiTLTError("fp16 needs a GPU, and this training has none; leave fp16 out")
        if self.bf16 is None:
            on_cuda = torch.cuda.is_available() and not self.use_cpu  # further questions would start CUDA
            self.bf16 = on_cuda and not self.fp16 and torch.cuda.is_bf16_supported(including_emulation=False)

    def _check_schedule(self) -> None:
        if not self.follows_reference_schedule:
            name = SchedulerType(self.lr_scheduler_type).value
            with _in_one_line(f"lr_scheduler_type {name}: ", "; see lr_scheduler_kwargs"):
                optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=self.learning_rate)
                get_scheduler(name, optimizer, 0, 100, scheduler_specific_kwargs=self.lr_scheduler_kwargs)
            return
        if self.warmup_steps:
            raise DeiTLTError(f"warmup_steps is {self.warmup_steps:g}; the reference's schedule takes warmup_epochs")
        if self.lr_scheduler_kwargs:
            raise DeiTLTError("lr_scheduler_kwargs go with a schedule of transformers; pass its lr_scheduler_type too")

    def _check_what_is_for_texts(self) -> None:
        for name, is_for_texts in _FOR_TEXTS.items():
            if is_for_texts(getattr(self, name)):
                raise DeiTLTError(f"{name} {getattr(self, name)} is for training on texts; leave it out")

    def check_built_in_measures(self) -> None:
        """Refuse what the measures that `deitlt` trains by cannot be taken with, or know no such name of.

        A `Trainer` with a `compute_metrics` of one's own may use other names.

        Raises:
            DeiTLTError: `metric_for_best_model` is none of them, or predictions are asked for in another form.

        Example:
            >>> args = DeiTLTTrainingArguments("runs/student", metric_for_best_model="average_tail", use_cpu=True)
            >>> args.check_built_in_measures()
        """
        for name, used in {"batch_eval_metrics": False, "eval_do_concat_batches": True}.items():
            if getattr(self, name) != used:
                raise DeiTLTError(f"{name} is {getattr(self, name)}; accuracies of groups of classes need {used}")
        if self.prediction_loss_only:
            raise DeiTLTError("prediction_loss_only is True, which measures no accuracies; leave it out")
        if self.metric_for_best_model is not None:
            check_best_measure(self.metric_for_best_model, self.measures)

    @property
    def eval_batch_size(self) -> int:
        """Images in a batch of this process while evaluating: what fits in training fits without gradients too."""
        if self.per_device_eval_batch_size is None:
            return self.train_batch_size
        return super().eval_batch_size

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what an evaluation measures beside the loss."""
        return logged_measures(of_student=False)

    @property
    def follows_reference_schedule(self) -> bool:
        """Whether the learning rate is the reference's function of the epoch, and not a schedule of transformers."""
        return self.lr_scheduler_type == SchedulerType.COSINE


@dataclass
class DeiTLTTrainingArguments(LongTailTrainingArguments):
    """Arguments of `DeiTLTTrainer`; the defaults are the paper's common settings for students.

    All of transformers' `TrainingArguments` apply too. Every field's help says what it is.

    Raises:
        DeiTLTError: a value out of its range, or `drw_start_epoch` beyond the last epoch.

    Example:
        >>> from deitlt_hf import DeiTLTTrainingArguments
        >>> args = DeiTLTTrainingArguments(output_dir="runs/student", num_train_epochs=1200, drw_start_epoch=1100)
        >>> args.scaled_learning_rate == 5e-4 * args.per_device_train_batch_size / 512  # on one process
        True
    """

    learning_rate: float = field(
        default=5e-4,
        metadata={"help": "Peak learning rate; per 512 images unless scale_learning_rate is off.", "aliases": "--lr"},
    )
    scale_learning_rate: bool = field(
        default=True, metadata={"help": "Scale the learning rate by per-device batch x processes / 512."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's; biases, norms, tokens, positions have none."})
    num_train_epochs: float = field(default=300, metadata={"help": "Number of epochs.", "aliases": "--epochs"})
    per_device_train_batch_size: int = field(
        default=128, metadata={"help": "Images per device and step.", "aliases": "--batch_size"}
    )

    distillation_type: str = field(
        default="hard",
        metadata={
            "help": "What DIST learns: hard (the teacher's class, the paper's), soft (its distribution), ltkd (soft, "
            "rebalanced between and within head, mid and tail), or none (no teacher)."
        },
    )
    distillation_alpha: float = field(default=0.5, metadata={"help": "Share of the distillation token's loss."})
    distillation_temperature: float = field(
        default=1.0, metadata={"help": "Temperature of soft distillation and of ltkd."}
    )
    teacher_prior_tau: float = field(
        default=0.0,
        metadata={
            "help": "Share of the class prior that is taken out of the teacher's logits before DIST learns from them; "
            "1 for a teacher trained with ce, 0 (the paper's) for one that is balanced already."
        },
    )
    distillation_view: str = field(
        default="strong",
        metadata={
            "help": "View that the teacher labels: strong (out-of-distribution distillation, the paper's) or weak "
            "(in-distribution, for ablation; needs mixup 0 and cutmix 0)."
        },
    )
    teacher_pixels: str = field(
        default="reference",
        metadata={
            "help": "What the teacher sees of the student's view: reference (the student's normalised pixels at the "
            "teacher's image size), own (at the size and with the mean and std of the teacher's image processor), or "
            "student (the student's pixels as they are)."
        },
    )
    cls_loss: str = field(
        default="ce",
        metadata={
            "help": f"Loss of the class token, one of {', '.join(CLS_LOSSES)}. "
            "The paper's is ce; the last three take out the class prior, so that CLS is good on rare classes too."
        },
    )
    training_view: str = field(
        default="strong",
        metadata={
            "help": "View that the student is trained on: strong (the paper's), or weak (crops and flips alone), for a "
            "short fine-tuning of a pretrained model."
        },
    )
    mixup: float = field(default=0.8, metadata={"help": "Mixup alpha; 0 is off."})
    cutmix: float = field(default=1.0, metadata={"help": "CutMix alpha; 0 is off."})
    mixup_in_drw: bool = field(
        default=False,
        metadata={
            "help": "Keep mixing in the DRW phase (the paper: off on CIFAR, on for ImageNet-LT and iNaturalist)."
        },
    )
    label_smoothing_factor: float = field(
        default=0.1, metadata={"help": "Label smoothing; none in the DRW phase without mixup_in_drw."}
    )
    repeated_augmentation: int = field(
        default=3,
        metadata={
            "help": "Repeated augmentation: views of each image in an epoch, of a third of the images; 1 is off."
        },
    )

    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Share of a layer's learning rate that the layer below it has; 1 is off, 0.75 is usual for a "
            "pretrained model."
        },
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "Keep an exponential moving average of the weights (reference: 0.99996)."}
    )
    evaluate_ema: bool = field(default=False, metadata={"help": "Evaluate the averaged weights too."})

    def __post_init__(self):
        super().__post_init__()
        self._check_optimizer()
        if self.class_balanced_sampling and self.repeated_augmentation > 1:
            raise DeiTLTError(
                f"repeated_augmentation is {self.repeated_augmentation}, which draws images in another way than "
                "class_balanced_sampling; pass repeated_augmentation 1 with it"
            )
        if self.distillation_view == "weak" and (self.mixup > 0 or self.cutmix > 0):
            raise DeiTLTError(
                "in-distribution distillation labels weak views, which are not mixed; pass mixup 0 and cutmix 0 with it"
            )
        one_of("distillation type", self.distillation_type, DISTILLATION_TYPES)
        one_of("cls_loss", self.cls_loss, tuple(CLS_LOSSES))
        one_of("distillation view", self.distillation_view, VIEWS)
        one_of("training view", self.training_view, VIEWS)
        one_of("teacher_pixels", self.teacher_pixels, TEACHER_PIXELS)
        if self.evaluate_ema and self.ema_decay is None:
            raise DeiTLTError("evaluate_ema needs averaged weights; pass ema_decay too, such as 0.99996")
        if (self.mixup > 0 or self.cutmix > 0) and self.per_device_train_batch_size % 2:
            raise DeiTLTError(
                f"per_device_train_batch_size is {self.per_device_train_batch_size}; pass an even one, or turn "
                "mixing off with mixup 0 and cutmix 0"
            )

    def _check_optimizer(self) -> None:
        """Let the Trainer look for the optimiser's package now, and not when the data are there."""
        with _in_one_line(f"optim {self.optim.value}: "):
            try:
                Trainer.get_optimizer_cls_and_kwargs(self, nn.Linear(1, 1))
            except ValueError:
                if self.optim_target_modules is None:  # the stand-in model has none of these modules, the student does
                    raise

    @property
    def measures(self) -> tuple[str, ...]:
        return logged_measures(of_student=True, averaged=self.evaluate_ema)

    @property
    def scaled_learning_rate(self) -> float:
        """Peak learning rate of the optimiser: the reference's 5e-4 x (per-device batch x processes) / 512."""
        if not self.scale_learning_rate:
            return self.learning_rate
        return self.learning_rate * self.train_batch_size * self.world_size / REFERENCE_BATCH_SIZE


@dataclass
class TeacherTrainingArguments(LongTailTrainingArguments):
    """Arguments of `TeacherTrainer`; the defaults are the CIFAR teachers' (Cao et al., 2019) without re-weighting.

    Raises:
        DeiTLTError: a value out of its range, or `drw_start_epoch` beyond the last epoch.

    Example:
        >>> from deitlt_hf import TeacherTrainingArguments
        >>> args = TeacherTrainingArguments(output_dir="runs/teacher", loss="ldam", drw_start_epoch=160, sam_rho=0.8)
        >>> args.learning_rate
        0.1
    """

    learning_rate: float = field(default=0.1, metadata={"help": "Peak learning rate of SGD.", "aliases": "--lr"})
    weight_decay: float = field(default=2e-4, metadata={"help": "Weight decay, on all parameters."})
    momentum: float = field(default=0.9, metadata={"help": "Momentum of SGD."})
    num_train_epochs: float = field(default=200, metadata={"help": "Number of epochs.", "aliases": "--epochs"})
    per_device_train_batch_size: int = field(
        default=128, metadata={"help": "Images per device and step.", "aliases": "--batch_size"}
    )

    loss: str = field(
        default="ce",
        metadata={"help": f"{', '.join(f'{name} ({loss.title})' for name, loss in TEACHER_LOSSES.items())}."},
    )
    training_view: str = field(
        default="weak",
        metadata={
            "help": "View that the teacher is trained on: weak (the paper's: a student's strong views are then out of "
            "distribution), or strong, as a student's but not mixed (for comparison). PaCo has views of its own."
        },
    )
    ldam_max_margin: float = field(default=0.5, metadata={"help": "LDAM's margin of the rarest class."})
    ldam_scale: float = field(default=LDAM_SCALE, metadata={"help": "LDAM's factor on the logits."})
    paco_alpha: float = field(default=0.01, metadata={"help": "PaCo's weight of a sample of the class (224 px: 0.05)."})
    paco_beta: float = field(default=1.0, metadata={"help": "PaCo's weight of the class's own logit."})
    paco_gamma: float = field(default=1.0, metadata={"help": "PaCo's factor on samples in the denominator."})
    paco_temperature: float = field(default=0.05, metadata={"help": "PaCo's temperature (224 pixels: 0.2)."})
    paco_dim: int = field(default=32, metadata={"help": "Size of PaCo's queries and keys (224 pixels: 128)."})
    paco_queue: int = field(default=1024, metadata={"help": "Keys in PaCo's queue (224 pixels: 8192)."})
    paco_momentum: float = field(default=0.999, metadata={"help": "What PaCo's key encoder keeps at a step."})
    sam_rho: list[float] = field(
        default_factory=lambda: [0.0],
        metadata={
            "help": "Radius of sharpness-aware minimisation (SAM); 0 is plain SGD. Two radii: linearly from the first "
            "epoch's to the last's; with sam_rho_epochs: one radius after the other."
        },
    )
    sam_rho_epochs: list[int] = field(
        default_factory=list, metadata={"help": "Epochs at which the second, third, ... radius of sam_rho begins."}
    )
    schedule: str = field(default="steps", metadata={"help": "steps (decay at decay_epochs) or cosine."})
    decay_epochs: list[int] = field(
        default_factory=lambda: [160, 180], metadata={"help": "Epochs at which the learning rate drops."}
    )
    decay_factor: float = field(default=0.01, metadata={"help": "Factor on the learning rate at each of them."})

    def __post_init__(self):
        for name in ("decay_epochs", "sam_rho", "sam_rho_epochs"):
            if not isinstance(getattr(self, name), list):
                setattr(self, name, [getattr(self, name)])
        self._check_sam()
        super().__post_init__()
        self._check_is_sgd()
        one_of("loss", self.loss, tuple(TEACHER_LOSSES))
        one_of("schedule", self.schedule, TEACHER_SCHEDULES)
        one_of("training view", self.training_view, VIEWS)
        if self.loss == "paco":
            self._check_paco()

    @property
    def uses_sam(self) -> bool:
        """Whether any epoch has a radius above 0."""
        return max(self.sam_rho) > 0

    def _check_is_sgd(self) -> None:
        for name in _OF_OTHER_OPTIMIZERS:
            if getattr(self, name) != TrainingArguments.__dataclass_fields__[name].default:
                raise DeiTLTError(f"{name} does nothing: teachers learn plain labels by SGD; leave it out")

    def _check_sam(self) -> None:
        radii, epochs = self.sam_rho, self.sam_rho_epochs
        if not radii or not all(0 <= radius < math.inf for radius in radii):
            shown = " ".join(f"{radius:g}" for radius in radii) or "empty"
            raise DeiTLTError(f"sam_rho is {shown}; pass 0 for plain SGD or a radius above it")
        if self.uses_sam and self.fp16:  # a skipped fp16 step would leave the weights perturbed
            raise DeiTLTError("sharpness-aware minimisation needs bf16 or full precision; leave fp16 out, or sam_rho")
        if epochs and len(radii) == 1:
            raise DeiTLTError(
                f"sam_rho_epochs are {epochs}, but sam_rho has one radius; pass one more for each epoch, or no epochs"
            )
        if epochs and (len(epochs) != len(radii) - 1 or sorted(set(epochs)) != epochs):
            raise DeiTLTError(
                f"sam_rho_epochs {epochs} do not fit the {len(radii)} radii of sam_rho; pass {len(radii) - 1} "
                "rising epochs, at which the radii after the first begin"
            )
        if not epochs and len(radii) > 2:
            raise DeiTLTError(
                f"sam_rho has {len(radii)} radii; pass sam_rho_epochs, the {len(radii) - 1} epochs at which the radii "
                "after the first begin, or two radii for a linear schedule"
            )

    def _check_paco(self) -> None:
        if self.training_view != "weak":
            raise DeiTLTError(f"training_view is {self.training_view!r}, but PaCo has views of its own; leave it out")
        if self.drw_start_epoch is not None:
            raise DeiTLTError(
                f"drw_start_epoch is {self.drw_start_epoch}, but PaCo adjusts by the class prior and takes no weights; "
                "leave it out"
            )
        if self.retrain_classifier:
            raise DeiTLTError("retrain_classifier keeps the features, which PaCo trains; pass another loss")
        if self.per_device_train_batch_size < 2:
            raise DeiTLTError(
                f"per_device_train_batch_size is {self.per_device_train_batch_size}; PaCo's projection normalises "
                "batches, pass 2 or more"
            )
        if self.n_gpu > 1:
            raise DeiTLTError(
                f"PaCo needs one process per device, and this one has {self.n_gpu}; start it with accelerate launch"
            )
