"""Which numbers settings may be, all in one table, so that a wrong one is refused before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
from numbers import Real

from deitlt_hf.errors import DeiTLTError


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`, either of which may be left out itself.

    Example:
        >>> 0.5 in Range(0, 1), 1 in Range(0, 1, below=True), float("nan") in Range(), str(Range(above=True))
        (True, False, False, 'a number above 0')
    """

    least: float = 0
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, Real) or not math.isfinite(value):
            return False
        over = value > self.least if self.above else value >= self.least
        return over and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"a number above {self.least:g}" if self.above else f"{self.least:g} or more"
        if not self.above and not self.below:
            return f"a number from {self.least:g} to {self.most:.10g}"
        return f"a number in {'(' if self.above else '['}{self.least:g}, {self.most:g}{')' if self.below else ']'}"


_POSITIVE, _NOT_NEGATIVE, _COUNT = Range(above=True), Range(), Range(1)
_SHARE, _BELOW_ONE = Range(0, 1), Range(0, 1, below=True)
_SEED = Range(0, 2**32 - 1)  # what numpy takes

# Fields of all dataclasses that are settings; None, where a field may be, is left out and fits.
RANGES = {
    # of any training
    "num_train_epochs": Range(0, 1e6, above=True),
    "learning_rate": _POSITIVE,
    "min_learning_rate": _NOT_NEGATIVE,
    "warmup_epochs": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "class_balanced_beta": _BELOW_ONE,
    "drw_start_epoch": _NOT_NEGATIVE,
    "rewind_at_non_finite": _NOT_NEGATIVE,
    "profile": _NOT_NEGATIVE,
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "dataloader_num_workers": _NOT_NEGATIVE,
    "dataloader_prefetch_factor": _COUNT,
    "logging_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "eval_delay": _NOT_NEGATIVE,
    "save_total_limit": _NOT_NEGATIVE,
    "seed": _SEED,
    "data_seed": _SEED,
    "ddp_timeout": _COUNT,
    # of a student's
    "adam_beta1": _BELOW_ONE,
    "adam_beta2": _BELOW_ONE,
    "adam_epsilon": _NOT_NEGATIVE,
    "distillation_alpha": _SHARE,
    "distillation_temperature": _POSITIVE,
    "mixup": _NOT_NEGATIVE,
    "cutmix": _NOT_NEGATIVE,
    "label_smoothing_factor": _BELOW_ONE,
    "repeated_augmentation": _COUNT,
    "ema_decay": _SHARE,
    # of a teacher's
    "momentum": _BELOW_ONE,
    "ldam_max_margin": _POSITIVE,
    "ldam_scale": _POSITIVE,
    "paco_alpha": _NOT_NEGATIVE,
    "paco_beta": _NOT_NEGATIVE,
    "paco_gamma": _NOT_NEGATIVE,
    "paco_temperature": _POSITIVE,
    "paco_dim": _COUNT,
    "paco_queue": _COUNT,
    "paco_momentum": _SHARE,
    "decay_factor": _POSITIVE,
    # of models and images; the largest student of the paper has 224 pixels, 12 layers and a hidden size of 768
    "image_size": Range(1, 4096),
    "patch_size": Range(1, 4096),
    "hidden_size": Range(1, 16384),
    "num_hidden_layers": Range(1, 1000),
    "num_attention_heads": Range(1, 1000),
    "drop_path_rate": _BELOW_ONE,
}


def check_ranges(settings: object) -> None:
    """Refuse the fields of a dataclass that are not in their range."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in RANGES and value is not None and value not in RANGES[field.name]:
            raise DeiTLTError(f"{field.name} is {value!r}; pass {RANGES[field.name]}")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise `DeiTLTError` unless `value` is one of the `known` ones."""
    if value not in known:
        raise DeiTLTError(f"unknown {name} {value!r}; pass one of {', '.join(known)}")
