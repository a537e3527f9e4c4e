"""Settings for data that no recipe knows, from their inspection, each with its reason."""

from __future__ import annotations

import importlib.util
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from deitlt_hf.data.inspection import Inspection
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.long_tail_accuracy.scores import USUAL_THRESHOLDS
from deitlt_hf.models.deit_lt.configuration_deit_lt import DeiTLTConfig
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTForImageClassification

IMAGE_SIZES = (32, 64, 112, 160, 224)
PATCH_SIZES = {32: 4, 64: 8, 112: 8}  # above: 16
BATCHES = (128, 64, 32, 16, 8, 4, 2)
STEPS_PER_EPOCH = 10  # at least, where the batch is smaller than the paper's for it
SAMPLER_ROUND = 256  # the sampler of repeated augmentation cuts an epoch to a multiple of so many images

# hidden size, layers, heads: DeiT's published sizes
STUDENT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
# The largest numbers of training images, exclusive, for which these students are suggested; base for more.
STUDENT_LIMITS = {"tiny": 10_000, "small": 100_000}
STUDENT_VIEWS = 20_000_000  # views of training images, all epochs together; the paper's on CIFAR-10-LT are 15 million
STUDENT_EPOCHS = (100, 1200)
# Below so many views the settings that won at 0.1 million (docs/methods.md), from there on the paper's, which has 15.
SMALL_BUDGET = 1_000_000
LTKD_FROM = 32  # images in a batch, over which LTKD balances the groups
TEACHER_VIEWS = 10_000_000  # the published ResNet-50's on ImageNet-LT: 90 epochs of 115,846 images
TEACHER_EPOCHS = (90, 200)
CIFAR_RESNET_LIMIT = 64  # pixels, up to which the CIFAR ResNet is suggested
RESNET50_FROM = 20_000  # training images
MANY_EPOCHS = 100
# Without a GPU: a few hundred images take about half an hour on two cores, teacher and student together.
CPU_IMAGE_SIZE = 64  # at most
CPU_LAYERS = 6  # of the student
CPU_STUDENT_VIEWS, CPU_TEACHER_VIEWS = 40_000, 15_000
CPU_EPOCHS = (10, 400)
# Of a pretrained model, by the way to adapt it; what has been measured is in docs/pretrained.md.
WAYS = {"full": "all weights", "lora": "adapters", "head": "heads alone"}
FINETUNING_EPOCHS = {"full": 20, "lora": 20, "head": 100}
FINETUNING_RATES = {"full": 1e-4, "lora": 1e-3, "head": 1e-3}
GIVEN = "given"


def student_shape(
    student_size: str | None,
    hidden_size: int | None = None,
    num_hidden_layers: int | None = None,
    num_attention_heads: int | None = None,
) -> dict[str, int]:
    """The shape that `DeiTLTConfig` takes: a published size (base by default), with what is given instead."""
    hidden, layers, heads = STUDENT_SIZES[student_size or "base"]
    hidden = hidden_size or hidden
    return {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": num_hidden_layers or layers,
        "num_attention_heads": num_attention_heads or heads,
    }


@dataclass
class Suggestion:
    """Settings by the names of the commands' flags, and why each is what it is."""

    given: Mapping[str, Any] = field(default_factory=dict)  # by the user; these override the suggested ones
    settings: dict[str, Any] = field(default_factory=dict)  # None stands for a setting left out
    reasons: dict[str, str] = field(default_factory=dict)  # a line each; "given" where the user decided

    def add(self, name: str, value: Any, reason: str) -> Any:
        """Settle the value of `name`, and return it."""
        is_given = name in self.given
        self.settings[name] = self.given[name] if is_given else value
        self.reasons[name] = GIVEN if is_given else reason
        return self.settings[name]

    def value(self, name: str) -> Any:
        """The value that was settled, or that the user gave for a setting that is not suggested."""
        return self.settings.get(name, self.given.get(name))


def suggest_recipe(inspection: Inspection, given: Mapping[str, Any] | None = None) -> Suggestion:
    """Settings of a student for these data.

    Args:
        inspection: of the data.
        given: settings that the user decided; they stay as they are, and the others follow from them. With an
            `init_from` among them these are the settings of `suggest_finetuning`.

    Returns:
        A `Suggestion` that makes a valid student and valid `DeiTLTTrainingArguments`, if what is given allows it.

    Raises:
        DeiTLTError: no training image can be read.

    Example:
        >>> from deitlt_hf import load_long_tailed_dataset
        >>> from deitlt_hf.data.inspection import inspect_dataset
        >>> inspection = inspect_dataset(load_long_tailed_dataset("digits-lt"))
        >>> settings = suggest_recipe(inspection, given={"num_train_epochs": 600}).settings
        >>> settings["image_size"], settings["student_size"], settings["drw_start_epoch"]
        (32, 'tiny', 300)
    """
    if (given or {}).get("init_from") is not None:
        return suggest_finetuning(inspection, given)
    choices = Suggestion(given or {})
    images = sum(inspection.class_counts)
    _choose_image_size(choices, inspection)
    _choose_student(choices, images, len(inspection.class_names))
    if on_gpu():
        epochs = _choose_epochs(choices, images, STUDENT_VIEWS, STUDENT_EPOCHS, "the paper's 1200 on CIFAR-LT")
    else:
        epochs = _choose_epochs(choices, images, CPU_STUDENT_VIEWS, CPU_EPOCHS)
    is_small = images * epochs < SMALL_BUDGET
    if is_small:
        start, reason = int(epochs / 2), "DRW for half of the epochs: better than the paper's twelfth at a small budget"
    else:
        start, reason = int(11 * epochs / 12), "DRW for the last twelfth of the epochs, as in the paper: 1100 of 1200"
    _choose_drw_and_warmup(choices, epochs, start, reason)
    batch = _choose_batch(choices, images)
    if choices.value("student_size") in STUDENT_LIMITS:
        scaled = 5e-4 * batch / 512
        choices.add("learning_rate", 5e-4, "the paper's")
        reason = f"off: the paper's scaling to a batch of {batch} would make it {scaled:.1e}"
        choices.add("scale_learning_rate", False, reason)
    _choose_repeats(choices, images)
    if is_small:
        _choose_for_small_budget(choices, batch)
    else:
        choices.add("mixup", 0.8, "the paper's; off while DRW is on")
        choices.add("cutmix", 1.0, "the paper's, in turns with mixup; off while DRW is on")
    _choose_the_rest(choices, inspection, epochs)
    return choices


def suggest_finetuning(
    inspection: Inspection, given: Mapping[str, Any] | None = None, image_size: int = 224
) -> Suggestion:
    """Settings of a student that starts from a pretrained Vision Transformer (`init_from`), as `suggest_recipe`.

    Args:
        inspection: of the data.
        given: settings that the user decided.
        image_size: pixels of a side of the images that the pretrained model knows.
    """
    choices = Suggestion(given or {})
    images = sum(inspection.class_counts)
    reason = "that of the images that the pretrained model knows"
    if image_size > IMAGE_SIZES[-1]:
        image_size, reason = IMAGE_SIZES[-1], f"less than the {image_size} that the pretrained model knows, for speed"
    choices.add("image_size", image_size, reason)
    way = choices.add("adapt", *_way_to_adapt())
    if choices.value("distillation_type") != "none":
        choices.add("teacher", "class_means", "none was given: the pretrained model's own nearest class means")
    epochs = choices.add("num_train_epochs", FINETUNING_EPOCHS[way], f"enough for {WAYS[way]}")
    _choose_drw_and_warmup(choices, epochs, int(2 * epochs / 3), "DRW for the last third of the epochs")
    _choose_batch(choices, images)
    choices.add("learning_rate", FINETUNING_RATES[way], f"usual for {WAYS[way]}")
    choices.add("scale_learning_rate", False, "off: the rate goes with any batch")
    if way == "full":
        choices.add("layer_decay", 0.75, "lower layers change less: what they learned before is kept")
    choices.add("training_view", "weak", "crops and flips: strong views are for long trainings")
    choices.add("repeated_augmentation", 1, "off, like all that is for long trainings")
    choices.add("mixup", 0.0, "off, likewise")
    choices.add("cutmix", 0.0, "off, like mixup")
    choices.add("cls_loss", "logit_adjusted", "takes out the class prior, so that CLS is good on rare classes")
    reason = "off: with the prior taken out, what it gives to rare classes counts many times"
    choices.add("label_smoothing_factor", 0.0, reason)
    if choices.value("distillation_type") != "none":
        choices.add(
            "distillation_type", "soft", "its distribution as it is; ltkd is for a teacher that is not balanced"
        )
        choices.add("distillation_temperature", 2.0, "so that its second guesses count")
    _choose_the_rest(choices, inspection, epochs)
    return choices


def _way_to_adapt() -> tuple[str, str]:
    """A way to adapt a pretrained model on this machine, and why."""
    if not on_gpu():
        return "head", "there is no GPU here: features are computed once, and heads learn in seconds"
    if importlib.util.find_spec("peft") is None:
        return "full", "all weights learn; with peft installed it would be lora"
    return "lora", "few weights learn, so that rare classes are not learned by heart"


def suggest_teacher_recipe(inspection: Inspection, given: Mapping[str, Any] | None = None) -> Suggestion:
    """Settings of a teacher for these data, as `suggest_recipe`: LDAM, DRW and SAM, as in the paper's ablations."""
    choices = Suggestion(given or {})
    images = sum(inspection.class_counts)
    image_size = _choose_image_size(choices, inspection)
    _choose_cnn(choices, images, image_size)
    if on_gpu():
        epochs = _choose_epochs(choices, images, TEACHER_VIEWS, TEACHER_EPOCHS, "the published CIFAR teachers' 200")
    else:
        epochs = _choose_epochs(choices, images, CPU_TEACHER_VIEWS, CPU_EPOCHS)
    reason = "DRW for the last fifth of the epochs, as published: 160 of 200"
    _choose_drw_and_warmup(choices, epochs, int(0.8 * epochs), reason)
    batch = _choose_batch(choices, images)
    choices.add("learning_rate", 0.1 * batch / 128, "0.1 for every 128 images of a batch, as published")
    choices.add("schedule", "cosine", "falls to 0 over the epochs, however many they are")
    choices.add("min_learning_rate", 0.0, "the end of the cosine")
    choices.add("sam_rho", 0.1, "flat teachers are better ones; published are 0.05 to 0.8, the larger for long runs")
    _choose_the_rest(choices, inspection, epochs)
    return choices


def format_suggestion(suggestion: Suggestion, width: int = 120) -> str:
    """The settings and their reasons as an aligned table, with long reasons broken at `width` columns."""
    shown = {name: format_setting(value) for name, value in suggestion.settings.items()}
    first, second = max(map(len, shown)), max(map(len, shown.values()))
    lines = []
    for name, value in shown.items():
        reason = textwrap.wrap(suggestion.reasons[name], max(width - first - second - 4, 20))
        lines.append(f"{name:<{first}}  {value:<{second}}  {reason[0]}")
        lines += [" " * (first + second + 4) + more for more in reason[1:]]
    return "\n".join(lines)


def on_gpu() -> bool:
    """Whether this machine has a GPU or another accelerator; without one, a shorter run is suggested."""
    return torch.accelerator.is_available()


def _choose_image_size(choices: Suggestion, inspection: Inspection) -> int:
    sides = inspection.splits["train"].shorter_side
    if not sides:
        raise DeiTLTError("no training image can be read, so that there is no image size to suggest; pass other data")
    side = sides["median"]
    size = max((size for size in IMAGE_SIZES if size <= side), default=IMAGE_SIZES[0])
    how = "the largest usual size that is not above" if size <= side else "the smallest usual size; it is above"
    reason = f"{how} the shorter side of the median training image, {side:g} pixels"
    if size > CPU_IMAGE_SIZE and not on_gpu():
        size, reason = CPU_IMAGE_SIZE, f"there is no GPU here, and larger images take long; with one {size}"
    return choices.add("image_size", size, reason)


def _choose_student(choices: Suggestion, images: int, classes: int) -> None:
    image_size = choices.value("image_size")
    usual = next((PATCH_SIZES[size] for size in PATCH_SIZES if image_size <= size), 16)
    patch = next(patch for patch in range(usual, 0, -1) if image_size % patch == 0)
    choices.add("patch_size", patch, f"{(image_size // patch) ** 2} patches of an image of {image_size} pixels")
    if not on_gpu() and choices.given.get("student_size") is None:
        choices.add("num_hidden_layers", CPU_LAYERS, "half of tiny's 12, for there is no GPU here")
    size = next((size for size, limit in STUDENT_LIMITS.items() if images < limit or not on_gpu()), "base")
    own = {name: choices.value(name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    sizes = {"image_size": image_size, "patch_size": choices.value("patch_size")}
    shape = student_shape(choices.given.get("student_size", size), **own)
    try:
        config = DeiTLTConfig(num_labels=classes, **sizes, **shape)
    except ValueError as error:
        raise DeiTLTError(str(error)) from error
    with torch.device("meta"):  # tensors without values
        weights = DeiTLTForImageClassification(config).num_parameters() / 1e6
    limits = ", ".join(f"{size} below {limit:,}" for size, limit in STUDENT_LIMITS.items()) + ", then base"
    limits = limits if on_gpu() else "the smallest, for there is no GPU here"
    reason = f"{weights:.2g} million weights for {images:,} training images ({limits})"
    choices.add("student_size", size, reason)


def _choose_cnn(choices: Suggestion, images: int, image_size: int) -> None:
    if choices.given.get("init_from") is not None:
        choices.add("loss", "ce", "goes with any classifier")
        return
    if image_size <= CIFAR_RESNET_LIMIT:
        name, reason = "cifar_resnet", f"made for small images (up to {CIFAR_RESNET_LIMIT} pixels here)"
    elif images < RESNET50_FROM:
        name, reason = "resnet18", f"{images:,} training images; resnet50 from {RESNET50_FROM:,} on"
    else:
        name, reason = "resnet50", "the paper's for ImageNet-LT and iNaturalist-2018"
    architecture = choices.add("architecture", name, reason)
    if architecture == "cifar_resnet":
        depth, reason = (32, "the paper's") if on_gpu() else (20, "faster than the paper's 32: there is no GPU here")
        choices.add("depth", depth, reason)
    if architecture != name and architecture != "cifar_resnet":
        choices.add("loss", "ce", "goes with any architecture")
        return
    loss = choices.add("loss", "ldam", "larger margins for rarer classes, as in the paper's ablations")
    if loss == "ldam":
        choices.add("classifier", "cosine", "LDAM's")


def _choose_epochs(
    choices: Suggestion, images: int, views: int, bounds: tuple[int, int], most: str | None = None
) -> float:
    """As many epochs as make `views` of the images, within bounds and in tens; `most` says whose the upper bound is."""
    least, largest = bounds
    epochs = min(max(round(views / images, -1), least), largest)
    seen = f"{images * epochs / 1e6:.3g} million" if images * epochs >= 1e5 else f"{images * epochs:,.0f}"
    if most is None:
        reason = f"{seen} views of {images:,} training images: there is no GPU here; more are better"
    elif epochs == largest:
        reason = f"{most}, the most that is suggested: {seen} views"
    elif epochs == least:
        reason = f"the least that is suggested: {seen} views; more are better"
    else:
        reason = f"about {views / 1e6:g} million views of {images:,} training images"
    return choices.add("num_train_epochs", int(epochs), reason)


def _choose_drw_and_warmup(choices: Suggestion, epochs: float, start: int, reason: str) -> None:
    if choices.value("loss") == "paco":
        choices.add("drw_start_epoch", None, "PaCo takes no weights")
    elif (choices.given.get("max_steps") or 0) > 0:
        choices.add("drw_start_epoch", None, "max_steps decides where training ends; pass an epoch for DRW")
    else:
        choices.add("drw_start_epoch", start, reason)
    choices.add("warmup_epochs", min(5, epochs / 10), "the paper's 5" if epochs >= 50 else "a tenth of the epochs")


def _choose_batch(choices: Suggestion, images: int) -> int:
    batch = next((batch for batch in BATCHES if images >= STEPS_PER_EPOCH * batch), BATCHES[-1])
    reason = "the paper's" if batch == BATCHES[0] else f"at least {STEPS_PER_EPOCH} steps in an epoch"
    return choices.add("per_device_train_batch_size", batch, f"{reason}, of {images:,} training images")


def _choose_repeats(choices: Suggestion, images: int) -> None:
    # With ten times the images, the sampler's rounding leaves out less than a tenth of an epoch.
    enough = images >= 10 * SAMPLER_ROUND
    cut = images // SAMPLER_ROUND * SAMPLER_ROUND
    reason = "the paper's" if enough else f"off: repeating cuts an epoch from {images:,} views to {cut:,}"
    if images < SAMPLER_ROUND:  # the sampler does not cut such an epoch
        reason = f"off: repeating would show {-(-images // 3):,} of the {images:,} training images in an epoch"
    choices.add("repeated_augmentation", 3 if enough else 1, reason)


def _choose_for_small_budget(choices: Suggestion, batch: int) -> None:
    """What replaces the paper's mixing, and cross-entropy and hard labels; measured in docs/methods.md."""
    choices.add("mixup", 0.0, "off: measured at 0.1 million views, where mixing cost more than it gave")
    choices.add("cutmix", 0.0, "off, like mixup")
    choices.add("cls_loss", "logit_adjusted", "takes out the class prior, so that CLS is good on rare classes")
    # On weak views the teacher is so sure that single images decide a group's sum.
    on_strong_views = choices.value("distillation_type") != "none" and choices.value("distillation_view") != "weak"
    if on_strong_views and batch >= LTKD_FROM:
        kind = choices.add("distillation_type", "ltkd", "the teacher's distribution, balanced between the groups")
        if kind == "ltkd":
            choices.add("distillation_temperature", 2.0, "so that its second guesses count")


def _choose_the_rest(choices: Suggestion, inspection: Inspection, epochs: float) -> None:
    if "validation" not in inspection.splits:
        # Not by default: it takes training images from rare classes too.
        reason = "all images are trained on; 0.1 holds out a split for `deitlt calibrate`"
        choices.add("validation_fraction", None, reason)
    choices.add(
        "horizontal_flip", True, "images are mirrored; pass false where left and right differ: digits, text, signs"
    )
    groups = class_groups(inspection.class_counts)
    by_thresholds = class_groups(inspection.class_counts, USUAL_THRESHOLDS)
    if groups != by_thresholds:  # thirds of the classes: other commands must cut at the same places
        cuts = [len(groups["head"]), len(groups["head"]) + len(groups["mid"])]
        empty = " or ".join(name for name, classes in by_thresholds.items() if not classes)
        reason = f"thirds of the classes by frequency: with thresholds of 100 and 20 images no class would be {empty}"
        choices.add("group_boundaries", cuts, reason)
    cores = os.cpu_count() or 1
    workers = choices.add("dataloader_num_workers", min(8, cores - 1), f"processes that read images, of {cores} cores")
    if workers:
        choices.add("dataloader_persistent_workers", True, "they stay from epoch to epoch")
    if epochs > MANY_EPOCHS:
        choices.add("save_strategy", "steps", "checkpoints at a share of the steps, not at each of many epochs")
        choices.add("save_steps", 0.02, "50 checkpoints, of which the last 2 are kept")
    choices.add("logging_strategy", "epoch", "a line of losses for every epoch")


def format_setting(value: Any) -> str:
    """A setting's value as a flag takes it, such as `3 7` for [3, 7] and `none` for None."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return " ".join(map(format_setting, value))
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
