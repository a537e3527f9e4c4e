"""CIFAR ResNet configuration."""

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

DEPTHS = (20, 32, 44, 56, 110)
CLASSIFIERS = ("linear", "cosine")


@strict
class CifarResNetConfig(PreTrainedConfig):
    """Configuration of a ResNet for small images (He et al., 2016, section 4.2), the paper's teacher on CIFAR.

    Args:
        depth (`int`, defaults to 32):
            Weighted layers: 20, 32, 44, 56 or 110.
        classifier (`str`, defaults to `"linear"`):
            `"linear"`, or `"cosine"` for the cosine of features and class vectors (Cao et al., 2019, LDAM).
        num_channels (`int`, defaults to 3):
            Channels of the images.
        image_size (`int`, defaults to 32):
            Side, in pixels, of the images that the network is trained on; it accepts others.

    Raises:
        ValueError: a depth or classifier that is none of the above, a `problem_type` of several labels or of
            regression, or fewer than one channel or pixel.

    Example:
        >>> from deitlt_hf import CifarResNetConfig
        >>> CifarResNetConfig(depth=20, classifier="cosine", num_labels=10).depth
        20
    """

    model_type = "cifar_resnet"

    depth: int = 32
    classifier: str = "linear"
    num_channels: int = 3
    image_size: int = 32

    if TYPE_CHECKING:  # a property of transformers', which type checkers would not take as an argument
        num_labels: int = 2

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "." in cls.__module__:  # part of a package, without which its file does not load: so it is not copied
            cls._auto_class = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # Not in a `validate_` method: `@strict` would turn its ValueError into another error, of two lines.
        if self.problem_type not in (None, "single_label_classification"):
            raise ValueError(f"problem_type is {self.problem_type!r}; each image has one class here, leave it out")
        if self.depth not in DEPTHS:
            raise ValueError(f"unknown depth {self.depth}; pass one of {', '.join(map(str, DEPTHS))}")
        if self.classifier not in CLASSIFIERS:
            raise ValueError(f"unknown classifier {self.classifier!r}; pass one of {', '.join(CLASSIFIERS)}")
        for name in ("num_channels", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; pass 1 or more")


# `save_pretrained` copies the file of a registered class to the weights, so that they load where this package is not.
CifarResNetConfig.register_for_auto_class()

__all__ = ["CLASSIFIERS", "DEPTHS", "CifarResNetConfig"]
