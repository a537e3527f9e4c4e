"""DeiT-LT model configuration."""

import math
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import DeiTConfig

EXPERTS = ("average", "cls", "distillation")
FUSED = "fused"  # both experts, weighed as `fusion` says
# Families of Vision Transformers with a class token, and their module that puts out the tokens for the layers.
BACKBONES = {
    "vit": "embeddings",
    "dinov2": "embeddings",
    "dinov2_with_registers": "embeddings",
    "dinov3_vit": "embeddings",
    "clip_vision_model": "embeddings",
    "timm_wrapper": "timm_model.patch_drop",
}
EXPERT_SYNONYMS = {"head": "cls", "tail": "distillation", "dist": "distillation"}
_OF_ONE_DATA_SET = ("class_counts", "class_groups", "fusion")


@strict
class DeiTLTConfig(DeiTConfig):
    """Configuration of a DeiT-LT student: DeiT's, and what training on long-tailed data adds to it.

    The defaults are the paper's student, ViT-B/16 at 224 pixels. All of `DeiTConfig`'s fields apply.

    Args:
        layer_norm_eps (`float`, defaults to 1e-6):
            Epsilon of the layer normalisations, the reference's value (transformers' DeiT has 1e-12).
        drop_path_rate (`float`, defaults to 0.1):
            Stochastic depth of the last layer, in [0, 1); it grows linearly from 0 at the first layer.
        expert (`str`, defaults to `"average"`):
            What `logits` are: `"average"` of both heads, `"cls"` (expert on head classes) or `"distillation"` (expert
            on tail classes). `"head"` is read as `"cls"`, `"tail"` and `"dist"` as `"distillation"`. `"fused"` is what
            `fusion` says.
        class_counts (`list[int]`, *optional*):
            Training images per class, in label order.
        class_groups (`dict[str, list[int]]`, *optional*):
            Class ids of `"head"`, `"mid"` and `"tail"`, so that the groups of an evaluation travel with the weights.
        fusion (`dict[str, float | list[float]]`, *optional*):
            How `"fused"` weighs both experts, as `deitlt calibrate` finds it: `"cls"` and `"distillation"` are the
            factors of their log probabilities, `"bias"` is added. Each is one number, or a list with one per class.

        backbone_config (`dict[str, Any]`, *optional*):
            Configuration of another Vision Transformer, whose layers the student has in place of DeiT's: its
            `to_dict()`, with `model_type` one of `BACKBONES`. `hidden_size` and the like are then the backbone's.

    Raises:
        ValueError: an image size that the patch size does not divide, heads that do not divide the hidden size, an
            unknown expert, `"fused"` without a fusion, a backbone of another kind, a drop path rate outside [0, 1),
            class counts or a fusion that do not match the number of labels, or a `problem_type` of several labels or of
            regression.

    Example:

        >>> from deitlt_hf import DeiTLTConfig
        >>> config = DeiTLTConfig(image_size=32, patch_size=4, hidden_size=192, num_attention_heads=3, num_labels=10)
        >>> config.expert
        'average'
    """

    model_type = "deit_lt"

    layer_norm_eps: float = 1e-6
    drop_path_rate: float | int = 0.1
    expert: str = "average"
    class_counts: list[int] | None = None
    class_groups: dict[str, list[int]] | None = None
    fusion: dict[str, Any] | None = None
    backbone_config: dict[str, Any] | None = None

    if TYPE_CHECKING:  # a property of transformers', which type checkers would not take as an argument
        num_labels: int = 2

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "." in cls.__module__:  # part of a package, without which its file does not load: so it is not copied
            cls._auto_class = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.problem_type not in (None, "single_label_classification"):
            raise ValueError(f"problem_type is {self.problem_type!r}; each image has one class here, leave it out")
        self.expert = EXPERT_SYNONYMS.get(self.expert, self.expert)
        if self.expert not in (*EXPERTS, FUSED):
            raise ValueError(f"unknown expert {self.expert!r}; pass one of {', '.join((*EXPERTS, FUSED))}")
        if self.fusion is not None:
            _check_fusion(self.fusion, self.num_labels)
        elif self.expert == FUSED:
            raise ValueError(f"expert is {FUSED!r} and there is no fusion; `deitlt calibrate` makes one")
        if self.backbone_config is not None and self.backbone_config.get("model_type") not in BACKBONES:
            kind = self.backbone_config.get("model_type")
            raise ValueError(f"backbone_config is of a {kind!r} model; pass that of one of {', '.join(BACKBONES)}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate is {self.drop_path_rate}; pass a number from 0 up to, not including, 1")
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}; "
                "pass a number of heads that divides it"
            )
        for image_side, patch_side in zip(_sides(self.image_size), _sides(self.patch_size), strict=True):
            if patch_side < 1 or image_side % patch_side:
                raise ValueError(
                    f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}; pass a patch size "
                    f"that divides it, such as {_nearest_divisor(image_side, patch_side)}"
                )
        if self.class_counts is not None and len(self.class_counts) != self.num_labels:
            raise ValueError(
                f"class_counts has {len(self.class_counts)} entries for {self.num_labels} labels; pass one per label"
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Build a configuration from a file's fields and the changes to them, and check both together.

        With another number of labels, the file's class counts, groups and fusion are another data set's: they stay
        behind.
        """
        if kwargs.get("id2label"):  # with keys as JSON has them, too
            kwargs["id2label"] = {int(label): name for label, name in kwargs["id2label"].items()}
        labels_in_file = len(config_dict.get("id2label") or (0, 1))  # transformers leaves the default of two out
        labels = kwargs.get("num_labels") or len(kwargs.get("id2label") or ()) or labels_in_file
        if labels != labels_in_file:
            config_dict = {key: value for key, value in config_dict.items() if key not in _OF_ONE_DATA_SET}
            if config_dict.get("expert") == FUSED:
                del config_dict["expert"]
        # `dtype` may be "auto", which the parent resolves.
        changes = {key: value for key, value in kwargs.items() if key in cls.__dataclass_fields__ and key != "dtype"}
        return super().from_dict({**config_dict, **changes}, **kwargs)


def _check_fusion(fusion: dict[str, Any], num_labels: int) -> None:
    """Refuse a fusion that does not have three parts, each a finite number or a list with one per class."""
    parts = ("cls", "distillation", "bias")
    if sorted(fusion) != sorted(parts):
        raise ValueError(f"fusion has {sorted(fusion)}; pass {', '.join(parts)}")
    for name in parts:
        numbers = fusion[name] if isinstance(fusion[name], list) else [fusion[name]] * num_labels
        if len(numbers) != num_labels or not all(type(of) in (int, float) and math.isfinite(of) for of in numbers):
            raise ValueError(f"fusion {name!r} is not a finite number, nor a list of {num_labels}, one per class")


def _sides(size: int | list[int] | tuple[int, int]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _nearest_divisor(image_side: int, patch_side: int) -> int:
    divisors = (side for side in range(1, image_side + 1) if image_side % side == 0)
    return min(divisors, key=lambda side: abs(side - patch_side))


# `save_pretrained` copies the file of a registered class to the weights, so that they load where this package is not.
DeiTLTConfig.register_for_auto_class()

__all__ = ["BACKBONES", "EXPERTS", "FUSED", "DeiTLTConfig"]
