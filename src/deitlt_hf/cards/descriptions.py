"""Networks, how they were trained, and data, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.losses.by_name import TEACHER_LOSSES
from deitlt_hf.models import MODEL_TYPES


@dataclass(frozen=True)
class DataDescription:
    """What a card says of the data that a model was trained on; None where it is not known.

    `model_index_type` is what the hub's `model-index` calls the data: a hub id, a name, or `imagefolder`.
    """

    title: str
    about: str
    model_index_type: str
    hub_id: str | None = None
    terms: str | None = None
    citation: str | None = None
    test_split: str | None = None


_TEST = "It was tested on its own test or validation split or, where it has none, on images held out of each class."


def kind_of_data(source: str, on_hub: bool = False) -> str:
    """What `--data` is: `"named"` by this package, on the `"hub"`, or `"local"`."""
    if source in BENCHMARKS:
        return "named"
    return "hub" if on_hub else "local"


def describe_data(name: str, kind: str) -> DataDescription:
    """What cards say of data, by their name or hub id and by their kind, which `kind_of_data` gives.

    Example:
        >>> describe_data("cifar10-lt", "named").hub_id
        'uoft-cs/cifar10'
    """
    if kind == "hub":
        about = f"The data set [{name}](https://huggingface.co/datasets/{name}) of the hub; its card tells its terms."
        return DataDescription(name, f"{about} {_TEST}", name, name)
    if kind == "named" and name in BENCHMARKS:
        benchmark = BENCHMARKS[name]
        return DataDescription(
            title=benchmark.title,
            about=benchmark.about,
            model_index_type=benchmark.hub_id or benchmark.name,
            hub_id=benchmark.hub_id,
            terms=f"Source: {benchmark.homepage}. {benchmark.licence_note}",
            citation=benchmark.citation or None,
            test_split="test",
        )
    if kind == "named":  # by a package that knows more data sets than this one
        return DataDescription(name, _TEST, name)
    about = f"A local collection, which is not published with the model. {_TEST}"
    return DataDescription(name, about, "imagefolder")


def describe_architecture(config: PreTrainedConfig) -> str:
    """What a network is, in words.

    Example:
        >>> from deitlt_hf import CifarResNetConfig
        >>> describe_architecture(CifarResNetConfig(depth=32, classifier="cosine"))
        'CIFAR ResNet-32 with a cosine classifier, for images of 32 pixels'
    """
    if config.model_type == "deit_lt":
        layers = f"{config.num_hidden_layers} layer{'' if config.num_hidden_layers == 1 else 's'}"
        heads = f"{config.num_attention_heads} head{'' if config.num_attention_heads == 1 else 's'}"
        name = (
            f"Vision Transformer of {layers}, hidden size {config.hidden_size} and {heads}, with patches of "
            f"{config.patch_size} pixels"
        )
    elif config.model_type == "cifar_resnet":
        name = f"CIFAR ResNet-{config.depth}"
    elif config.model_type in ("timm_wrapper", "timm_cosine"):
        name = f"timm's {config.architecture}"
    else:
        name = config.model_type if config.model_type in MODEL_TYPES else f"{config.model_type} of transformers"
    if config.model_type == "timm_cosine" or getattr(config, "classifier", None) == "cosine":
        name += " with a cosine classifier"
    size = _image_size(config)
    return f"{name}, for images of {size} pixels" if size else name


def _image_size(config: PreTrainedConfig) -> int | None:
    size = getattr(config, "image_size", None)
    if size is None:  # timm's wrapper says it in its own way
        size = ((getattr(config, "pretrained_cfg", None) or {}).get("input_size") or [None])[-1]
    return size[-1] if isinstance(size, (list, tuple)) else size


def describe_teacher_training(settings: Mapping[str, Any]) -> str:
    """How a teacher was trained, from the settings of `deitlt teacher` that differ from its defaults.

    Example:
        >>> describe_teacher_training({"loss": "ldam", "drw_start_epoch": 160, "sam_rho": [0.8]})
        'LDAM, deferred re-weighting (DRW) from epoch 160, SAM (rho 0.8)'
    """
    loss = settings.get("loss", "ce")
    parts = [TEACHER_LOSSES[loss].title if loss in TEACHER_LOSSES else str(loss)]
    if settings.get("drw_start_epoch") is not None:
        parts.append(f"deferred re-weighting (DRW) from epoch {settings['drw_start_epoch']}")
    radii = settings.get("sam_rho", [])
    radii = radii if isinstance(radii, list) else [radii]
    if any(radii):
        parts.append(f"SAM (rho {', '.join(f'{radius:g}' for radius in radii)})")
    if settings.get("num_train_epochs") is not None:
        epochs = settings["num_train_epochs"]
        parts.append(f"{epochs:g} epoch{'' if epochs == 1 else 's'}")
    return ", ".join(parts)
