"""The numbers that settings may be, in one table, so that a wrong one is refused before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
from numbers import Real

from deitlt_hf.errors import DeiTLTError


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`; `above` and `below` exclude these two themselves.

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


# Fields of all dataclasses that are settings. None is always accepted where a field may be None.
_NAMES = {
    Range(above=True): "learning_rate logging_steps save_steps eval_steps distillation_temperature ldam_max_margin "
    "ldam_scale paco_temperature decay_factor",
    Range(): "min_learning_rate warmup_epochs warmup_steps weight_decay max_grad_norm "
    "focal_gamma logit_adjusted_tau balanced_bce_tau teacher_prior_tau "
    "drw_start_epoch rewind_at_non_finite profile dataloader_num_workers eval_delay save_total_limit adam_epsilon "
    "mixup cutmix paco_alpha paco_beta paco_gamma",
    Range(1): "batch_size per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "eval_accumulation_steps dataloader_prefetch_factor ddp_timeout repeated_augmentation paco_dim paco_queue "
    "lora_rank",
    Range(0, 1): "distillation_alpha ema_decay paco_momentum",
    Range(0, 1, below=True): "class_balanced_beta label_smoothing_factor adam_beta1 adam_beta2 momentum drop_path_rate",
    Range(0, 1, above=True): "at layer_decay",
    Range(0, 1e6, above=True): "num_train_epochs teacher_epochs",
    Range(0, 2**32 - 1): "seed data_seed",  # the seeds that numpy takes
    Range(0, 1, above=True, below=True): "validation_fraction",
    # Of models and images; the largest student of the paper has 224 pixels, 12 layers and a hidden size of 768.
    Range(1, 4096): "image_size patch_size",
    Range(1, 16384): "hidden_size",
    Range(1, 1000): "num_hidden_layers num_attention_heads",
}
RANGES = {name: of for of, names in _NAMES.items() for name in names.split()}


def check_ranges(settings: object) -> None:
    """Refuse a dataclass with a field that is not in its range."""
    for field in dataclasses.fields(settings):
        check_range(field.name, getattr(settings, field.name))


def check_range(name: str, value: object) -> None:
    """Refuse a value that is not in the range of the setting `name`."""
    if name in RANGES and value is not None and value not in RANGES[name]:
        raise DeiTLTError(f"{name} is {value!r}; pass {RANGES[name]}")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise `DeiTLTError` unless `value` is one of the `known` ones."""
    if value not in known:
        raise DeiTLTError(f"unknown {name} {value!r}; pass one of {', '.join(known)}")
