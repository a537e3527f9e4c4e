"""Configuration of a timm CNN with a cosine classifier."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class TimmCosineConfig(PreTrainedConfig):
    """Configuration of a timm CNN with a cosine classifier, the LDAM teacher at 224 pixels (Cao et al., 2019).

    Args:
        architecture (`str`, defaults to `"resnet50"`):
            Name of a timm model, without the tag of pretrained weights.
        image_size (`int`, defaults to 224):
            Side, in pixels, of the images that the network is trained on; a CNN accepts others.
        num_channels (`int`, defaults to 3):
            Channels of the images.

    Raises:
        ValueError: an architecture that timm does not know, a `problem_type` of several labels or of
            regression, or fewer than one channel or pixel.

    Example:
        >>> from deitlt_hf import TimmCosineConfig
        >>> TimmCosineConfig(architecture="resnet18", num_labels=10).image_size
        224
    """

    model_type = "timm_cosine"

    architecture: str = "resnet50"
    image_size: int = 224
    num_channels: int = 3

    if TYPE_CHECKING:  # a property of transformers', which type checkers would not take as an argument
        num_labels: int = 2

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "." in cls.__module__:  # part of a package, without which its file does not load: so it is not copied
            cls._auto_class = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        from timm import list_models  # not at the top: transformers' Auto classes load this file with everything

        # timm would download a name such as hf_hub:...; its own models are the ones in this list.
        if self.architecture not in list_models():
            raise ValueError(f"unknown architecture {self.architecture!r}; pass a timm model's name, such as resnet50")
        if self.problem_type not in (None, "single_label_classification"):
            raise ValueError(f"problem_type is {self.problem_type!r}; each image has one class here, leave it out")
        for name in ("num_channels", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; pass 1 or more")


# `save_pretrained` copies the file of a registered class to the weights, so that they load where this package is not.
TimmCosineConfig.register_for_auto_class()

__all__ = ["TimmCosineConfig"]
