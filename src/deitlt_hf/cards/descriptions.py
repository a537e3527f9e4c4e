"""Describes networks, how they were trained, and data, in words for cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.errors import counted
from deitlt_hf.losses.by_name import TEACHER_LOSSES
from deitlt_hf.losses.ldam import has_cosine_classifier
from deitlt_hf.models import MODEL_TYPES


@dataclass(frozen=True)
class DataDescription:
    """What a card says about the data that a model was trained on; None where it is not known."""

    title: str
    about: str
    model_index_type: str  # what the hub's `model-index` calls the data: a hub id, a name, or `imagefolder`
    hub_id: str | None = None
    terms: str | None = None
    citation: str | None = None
    test_split: str | None = None


_TEST = "It was tested on its own test split or, where it has none, on images held out of its train split."


def kind_of_data(source: str, on_hub: bool = False) -> str:
    """What `--data` is: `"named"` by this package, on the `"hub"`, or `"local"`."""
    if source in BENCHMARKS:
        return "named"
    return "hub" if on_hub else "local"


def describe_data(name: str, kind: str) -> DataDescription:
    """What cards say about data of this name or hub id, and of this kind, which `kind_of_data` gives."""
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
    if kind == "named":  # by another version of this package, which has more data sets
        return DataDescription(name, _TEST, name)
    about = f"A local collection, which is not published with the model. {_TEST}"
    return DataDescription(name, about, "imagefolder")


def describe_architecture(config: PreTrainedConfig) -> str:
    """A network in words, such as `CIFAR ResNet-32 with a cosine classifier, for images of 32 pixels`."""
    if config.model_type == "deit_lt":
        layers, heads = counted(config.num_hidden_layers, "layer"), counted(config.num_attention_heads, "head")
        name = (
            f"Vision Transformer of {layers}, hidden size {config.hidden_size} and {heads}, with patches of "
            f"{config.patch_size} pixels"
        )
        if config.backbone_config is not None:
            of = config.backbone_config["model_type"]
            name += f", with the layers of {'timm' if of == 'timm_wrapper' else f'a {of} model of transformers'}"
    elif config.model_type == "cifar_resnet":
        name = f"CIFAR ResNet-{config.depth}"
    elif config.model_type in ("timm_wrapper", "timm_cosine"):
        name = f"timm's {config.architecture}"
    else:
        name = config.model_type if config.model_type in MODEL_TYPES else f"{config.model_type} of transformers"
    if has_cosine_classifier(config):
        name += " with a cosine classifier"
    size = getattr(config, "image_size", None)
    if size is None:  # timm's wrapper has it in timm's settings
        size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size")
    if isinstance(size, (list, tuple)):
        size = size[-1]
    return f"{name}, for images of {size} pixels" if size else name


def describe_teacher_training(settings: Mapping[str, Any]) -> str:
    """How a teacher was trained, from the settings of `deitlt teacher` that differ from its defaults."""
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
