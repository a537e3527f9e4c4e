"""Training arguments: transformers' own, with the paper's defaults, and what long-tailed training adds to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from accelerate.utils import DynamoBackend
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.losses.distillation import DISTILLATION_TYPES

REFERENCE_BATCH_SIZE = 512  # the batch that the reference's learning rates are given for

VIEWS = ("strong", "weak")
TEACHER_PIXELS = ("reference", "own", "student")
TEACHER_LOSSES = ("ce", "ldam", "paco")
TEACHER_SCHEDULES = ("steps", "cosine")
AUGMENTATION_DEVICES = ("auto", "cpu", "device")
_COMPILERS = tuple(backend.value.lower() for backend in DynamoBackend if backend is not DynamoBackend.NO)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise `DeiTLTError` unless `value` is one of the `known` ones."""
    if value not in known:
        raise DeiTLTError(f"unknown {name} {value!r}; pass one of {', '.join(known)}")


@dataclass
class LongTailTrainingArguments(TrainingArguments):
    """What teachers and students share."""

    drw_start_epoch: int | None = field(
        default=None,
        metadata={
            "help": "First epoch (from 0) of deferred re-weighting (DRW); left out, the loss is never re-weighted."
        },
    )
    class_balanced_beta: float = field(
        default=0.9999, metadata={"help": "Beta of the effective number of samples behind DRW's weights, in [0, 1)."}
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

    rewind_at_non_finite: int = field(
        default=0,
        metadata={
            "help": "How often a loss that is not finite may send the training back to its last checkpoint, with half "
            "the learning rate each time; 0 stops at the first."
        },
    )

    augmentation_device: str = field(
        default="auto",
        metadata={
            "help": "Where training images are augmented: cpu (one by one by the loader's workers), device (in batches "
            "where the model is), or auto (device on a GPU for images up to 32 pixels or of one size up to 256, else "
            "cpu)."
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
    save_strategy: str = field(default="epoch", metadata={"help": "When to save checkpoints: no, steps or epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})

    def __post_init__(self):
        self._check_counts()  # before transformers, which computes with them
        if self.profile:  # which makes nothing to push
            self.push_to_hub = False
        # Said or not: otherwise several processes without a GPU would each train alone, over each other's files.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.bf16 is None:
            on_cuda = torch.cuda.is_available() and not self.use_cpu  # asking further would start CUDA
            self.bf16 = on_cuda and not self.fp16 and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()
        if self.accelerator_config is None:  # else every batch would wait for all that the device has to do
            self.accelerator_config = {"non_blocking": self.dataloader_pin_memory}
        # torch refuses to keep no workers: a run's recipe asks for it, and the flag that leaves them out does not.
        self.dataloader_persistent_workers = self.dataloader_persistent_workers and self.dataloader_num_workers > 0
        if self.torch_compile_backend is not None:
            one_of("torch_compile_backend", self.torch_compile_backend.lower(), _COMPILERS)
        super().__post_init__()
        if self.fsdp and self.world_size == 1:
            raise DeiTLTError("fsdp shards over processes, and there is one; launch several with accelerate")
        if self.warmup_steps and self.follows_reference_schedule:
            raise DeiTLTError(f"warmup_steps is {self.warmup_steps:g}; the reference's schedule takes warmup_epochs")
        if self.overwrite and self.resume:
            raise DeiTLTError("both overwrite and resume were asked for; pass one of them")
        if self.profile < 0:
            raise DeiTLTError(f"profile is {self.profile}; pass how many steps to time, or 0 to train")
        if self.rewind_at_non_finite < 0:
            raise DeiTLTError(
                f"rewind_at_non_finite is {self.rewind_at_non_finite}; pass 0 or how many rewinds to allow"
            )
        one_of("augmentation_device", self.augmentation_device, AUGMENTATION_DEVICES)
        if self.learning_rate <= 0:
            raise DeiTLTError(f"learning_rate is {self.learning_rate}; pass a number above 0")
        if self.drw_start_epoch is not None and self.drw_start_epoch < 0:
            raise DeiTLTError(f"drw_start_epoch is {self.drw_start_epoch}; pass 0 or a later epoch, or leave it out")
        if self.drw_start_epoch is not None and self.max_steps <= 0 and self.drw_start_epoch >= self.num_train_epochs:
            raise DeiTLTError(
                f"drw_start_epoch {self.drw_start_epoch} is beyond the last epoch; pass one below num_train_epochs "
                f"({self.num_train_epochs:g}), or none for no re-weighting"
            )
        if not 0 <= self.class_balanced_beta < 1:
            raise DeiTLTError(f"class_balanced_beta is {self.class_balanced_beta}; pass a number in [0, 1)")

    def _check_counts(self) -> None:
        lowest = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1}
        for name, least in (lowest | {"dataloader_num_workers": 0}).items():
            if getattr(self, name) < least:
                raise DeiTLTError(f"{name} is {getattr(self, name)}; pass {least} or more")
        if self.num_train_epochs <= 0:
            raise DeiTLTError(f"num_train_epochs is {self.num_train_epochs:g}; pass a number above 0")

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
        default=5e-4, metadata={"help": "Peak learning rate; per 512 images unless scale_learning_rate is off."}
    )
    scale_learning_rate: bool = field(
        default=True, metadata={"help": "Scale the learning rate by per-device batch x processes / 512."}
    )
    warmup_learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate at the start of the warm-up."})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's; biases, norms, tokens, positions have none."})
    num_train_epochs: float = field(default=300, metadata={"help": "Number of epochs."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images per device and step."})

    distillation_type: str = field(default="hard", metadata={"help": "hard, soft, or none (no teacher)."})
    distillation_alpha: float = field(default=0.5, metadata={"help": "Share of the distillation token's loss."})
    distillation_temperature: float = field(default=1.0, metadata={"help": "Temperature of soft distillation."})
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
    reweight_cls: bool = field(default=False, metadata={"help": "In the DRW phase, re-weight the CLS loss too."})

    mixup: float = field(default=0.8, metadata={"help": "Mixup alpha; 0 is off."})
    cutmix: float = field(default=1.0, metadata={"help": "CutMix alpha; 0 is off."})
    mixup_switch_prob: float = field(default=0.5, metadata={"help": "Share of batches with CutMix when both are on."})
    mixup_in_drw: bool = field(
        default=False,
        metadata={
            "help": "Keep mixing in the DRW phase (the paper: off on CIFAR, on for ImageNet-LT and iNaturalist)."
        },
    )
    label_smoothing_factor: float = field(default=0.1, metadata={"help": "Label smoothing while images are mixed."})
    repeated_augmentation: int = field(
        default=3, metadata={"help": "How often an image is repeated in a pass over a third of the images; 1 is off."}
    )

    ema_decay: float | None = field(
        default=None, metadata={"help": "Keep an exponential moving average of the weights (reference: 0.99996)."}
    )
    evaluate_ema: bool = field(default=False, metadata={"help": "Evaluate the averaged weights too."})

    def __post_init__(self):
        super().__post_init__()
        if self.distillation_view == "weak" and (self.mixup > 0 or self.cutmix > 0):
            raise DeiTLTError(
                "in-distribution distillation labels weak views, which are not mixed; pass mixup 0 and cutmix 0 with it"
            )
        one_of("distillation type", self.distillation_type, DISTILLATION_TYPES)
        one_of("distillation view", self.distillation_view, VIEWS)
        one_of("teacher_pixels", self.teacher_pixels, TEACHER_PIXELS)
        if self.evaluate_ema and self.ema_decay is None:
            raise DeiTLTError("evaluate_ema needs averaged weights; pass ema_decay too, such as 0.99996")
        if (self.mixup > 0 or self.cutmix > 0) and self.per_device_train_batch_size % 2:
            raise DeiTLTError(
                f"per_device_train_batch_size is {self.per_device_train_batch_size}; pass an even one, or turn "
                "mixing off with mixup 0 and cutmix 0"
            )

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

    learning_rate: float = field(default=0.1, metadata={"help": "Peak learning rate of SGD."})
    weight_decay: float = field(default=2e-4, metadata={"help": "Weight decay, on all parameters."})
    momentum: float = field(default=0.9, metadata={"help": "Momentum of SGD."})
    num_train_epochs: float = field(default=200, metadata={"help": "Number of epochs."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Images per device and step."})

    loss: str = field(default="ce", metadata={"help": "ce (cross-entropy), ldam or paco."})
    training_view: str = field(
        default="weak",
        metadata={
            "help": "View that the teacher is trained on: weak (the paper's: a student's strong views are then out of "
            "distribution), or strong, as a student's but not mixed (for comparison). PaCo has views of its own."
        },
    )
    ldam_max_margin: float = field(default=0.5, metadata={"help": "LDAM's margin of the rarest class."})
    ldam_scale: float = field(default=30.0, metadata={"help": "LDAM's factor on the logits."})
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
        super().__post_init__()
        one_of("loss", self.loss, TEACHER_LOSSES)
        one_of("schedule", self.schedule, TEACHER_SCHEDULES)
        one_of("training view", self.training_view, VIEWS)
        for name in ("decay_epochs", "sam_rho", "sam_rho_epochs"):
            if not isinstance(getattr(self, name), list):
                setattr(self, name, [getattr(self, name)])
        self._check_sam()
        if self.loss == "paco":
            self._check_paco()

    @property
    def uses_sam(self) -> bool:
        """Whether any epoch has a radius above 0."""
        return max(self.sam_rho) > 0

    def _check_sam(self) -> None:
        radii, epochs = self.sam_rho, self.sam_rho_epochs
        if not radii or not all(0 <= radius < math.inf for radius in radii):
            shown = " ".join(f"{radius:g}" for radius in radii) or "empty"
            raise DeiTLTError(f"sam_rho is {shown}; pass 0 for plain SGD or a radius above it")
        if self.uses_sam and self.fp16:  # whose skipped steps would leave the weights at the perturbed point
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
        for name in ("paco_dim", "paco_queue"):
            if getattr(self, name) < 1:
                raise DeiTLTError(f"{name} is {getattr(self, name)}; pass 1 or more")
        if self.per_device_train_batch_size < 2:
            raise DeiTLTError(
                f"per_device_train_batch_size is {self.per_device_train_batch_size}; PaCo's projection normalises "
                "batches, pass 2 or more"
            )
        if not 0 <= self.paco_momentum <= 1:
            raise DeiTLTError(f"paco_momentum is {self.paco_momentum}; pass a number from 0 to 1")
        if self.n_gpu > 1:
            raise DeiTLTError(
                f"PaCo needs one process per device, and this one has {self.n_gpu}; start it with accelerate launch"
            )
