"""Mean and standard deviation of the pixels that the reference's models were trained on."""

from __future__ import annotations

from typing import Any, NamedTuple

from PIL.Image import Resampling
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers import DeiTImageProcessor, PreTrainedConfig

from deitlt_hf.data.views import image_processor


class Normalisation(NamedTuple):
    """Mean and standard deviation of red, green and blue in [0, 1], and the data set that they are of."""

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation("ImageNet", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
CIFAR = Normalisation("CIFAR", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
INATURALIST = Normalisation("iNaturalist", (0.466, 0.471, 0.380), (0.195, 0.194, 0.192))
_INATURALIST_2018_CLASSES = 8142


def normalisation_of(config: PreTrainedConfig) -> Normalisation:
    """The normalisation that the published implementation trains such a model with.

    Students see ImageNet's on every data set, and so do their teachers in distillation; but LDAM's and PaCo's code
    trains teachers with CIFAR's own and iNaturalist-2018's own. No file says which: it follows from the kind of network
    and the number of classes.
    """
    if config.model_type == "cifar_resnet":
        return CIFAR
    if config.model_type != "deit_lt" and config.num_labels == _INATURALIST_2018_CLASSES:
        return INATURALIST
    return IMAGENET


def reference_image_processor(config: PreTrainedConfig) -> DeiTImageProcessor:
    """The image processor that a model converted from the reference was trained with."""
    processor = image_processor(config.image_size)
    normalisation = normalisation_of(config)
    processor.image_mean, processor.image_std = list(normalisation.mean), list(normalisation.std)
    if config.model_type == "timm_cosine":  # the teachers' own code resizes as torchvision does by default
        processor.resample = Resampling.BILINEAR
    return processor


def timm_pretrained_cfg(config: PreTrainedConfig, image_size: int) -> dict[str, Any]:
    """The same image processor as settings of timm, for a timm wrapper's `config.pretrained_cfg`."""
    normalisation = normalisation_of(config)
    return {
        "input_size": [3, image_size, image_size],
        "interpolation": "bilinear",
        "crop_pct": 0.875,  # 224 pixels of an edge of 256
        "mean": list(normalisation.mean),
        "std": list(normalisation.std),
    }
