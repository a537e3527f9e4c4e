"""PyTorch DeiT-LT: DeiT with stochastic depth, the reference's initialisation, and two heads that become experts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deit.modeling_deit import (
    DeiTEmbeddings,
    DeiTLayer,
    DeiTModel,
    DeiTPreTrainedModel,
    eager_attention_forward,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple

from .configuration_deit_lt import BACKBONES, EXPERT_SYNONYMS, EXPERTS, FUSED, DeiTLTConfig

logger = logging.get_logger(__name__)

# transformers renames old DeiT files (`encoder.layer.0.attention.attention.query`) by class name and leaves other
# classes out, whose layers would then silently keep their random weights.
# A backbone's own names stay, although those of DINOv2 in older versions of transformers are like DeiT's old ones.
_, *_of_parts = get_checkpoint_conversion_mapping("DeiTModel")
_of_layers = WeightRenaming(r"(?<!backbone\.)encoder\.layer\.", "layers.")
_IN_A_LAYER = "|".join(
    rf"(?<=layers\.{number}\.{part})" for number in (r"\d", r"\d\d") for part in ("", r"attention\.")
)
_in_layers = [
    WeightRenaming(f"(?:{_IN_A_LAYER}){source}", target)
    for part in _of_parts
    for source, target in zip(part.source_patterns, part.target_patterns, strict=True)
]
register_checkpoint_conversion_mapping("DeiTLTModel", [_of_layers, *_in_layers], overwrite=True)


@dataclass
class DeiTLTImageClassifierOutput(ModelOutput):
    """What `DeiTLTForImageClassification` returns.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, when `labels` are given):
            Mean of the two heads' cross-entropies.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            The logits of the expert asked for; by default the average of both heads (paper, section 3).
        cls_logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Head on the class token.
        distillation_logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Head on the distillation token.
        hidden_states, attentions (`tuple[torch.FloatTensor]`, *optional*):
            One per layer, when asked for with `output_hidden_states` and `output_attentions`.
        token_similarity (`torch.FloatTensor` of shape `(batch_size,)`):
            Cosine similarity of the final class and distillation tokens: low where the two became different experts.
            It carries no gradient.

    Example:

        >>> import torch
        >>> from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
        >>> config = DeiTLTConfig(
        ...     image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_labels=10
        ... )
        >>> outputs = DeiTLTForImageClassification(config).eval()(torch.zeros(1, 3, 32, 32))
        >>> outputs.cls_logits.shape, outputs.token_similarity.shape
        (torch.Size([1, 10]), torch.Size([1]))
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cls_logits: torch.FloatTensor | None = None
    distillation_logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    token_similarity: torch.FloatTensor | None = None


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): drops a residual branch for whole samples, and scales those it keeps."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if self.rate == 0.0 or not self.training:
            return branch
        keep = 1 - self.rate
        return branch * branch.new_empty((branch.shape[0], 1, 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class DeiTLTLayer(DeiTLayer):
    """DeiT's layer with stochastic depth on both of its residual branches."""

    def __init__(self, config: DeiTLTConfig, drop_path_rate: float = 0.0):
        super().__init__(config)
        self.drop_path = DropPath(drop_path_rate)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_tokens: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Transform all tokens, or with `num_tokens` only the first ones, which still attend to all."""
        states = self.layernorm_before(hidden_states)
        if num_tokens is None:
            attended, _ = self.attention(states, attention_mask, **kwargs)
        else:
            attended = self._attend_from(states[:, :num_tokens], states, **kwargs)
            hidden_states = hidden_states[:, :num_tokens]
        hidden_states = hidden_states + self.drop_path(self.dropout(attended))
        transformed = self.mlp(self.layernorm_after(hidden_states))
        return hidden_states + self.drop_path(self.dropout(transformed))

    def _attend_from(self, readers: torch.Tensor, states: torch.Tensor, **kwargs) -> torch.Tensor:
        """DeiT's attention with queries from `readers` `(batch, readers, hidden_size)` alone."""
        attention = self.attention
        projections = (attention.q_proj(readers), attention.k_proj(states), attention.v_proj(states))
        queries, keys, values = (part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for part in projections)
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, eager_attention_forward
        )
        dropout = attention.attention_dropout if self.training else 0.0
        attended, _ = interface(
            attention, queries, keys, values, None, dropout=dropout, scaling=attention.scaling, **kwargs
        )
        return attention.o_proj(attended.flatten(2))


class DeiTLTPreTrainedModel(DeiTPreTrainedModel):
    config: DeiTLTConfig
    _no_split_modules = ["DeiTEmbeddings", "DeiTLTLayer"]
    # Losses here are means over the batch, which the Trainer has to divide when it accumulates gradients.
    accepts_loss_kwargs = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "." in cls.__module__:  # part of a package, without which its file does not load: so it is not copied
            cls._auto_class = None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the reference does; transformers' DeiT would let both tokens start as the same zeros."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):  # the patch projection keeps torch's own default
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, DeiTEmbeddings):
            init.trunc_normal_(module.position_embeddings, std=std)
            init.trunc_normal_(module.distillation_token, std=std)
            init.normal_(module.cls_token, std=1e-6)
        elif isinstance(module, InsertedToken):
            init.trunc_normal_(module.token, std=std)
        else:
            super()._init_weights(module)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save as transformers does; the configuration then names both models, for `AutoModel` loads the same file.

        Weights keep the names that they have in the model. transformers would write the old names of DeiT's layers,
        which its Trainer does not know when it resumes or loads the best model: the layers would silently be random.
        """
        kwargs.setdefault("save_original_format", False)
        module = __name__.rsplit(".", 1)[-1]
        auto_map = getattr(self.config, "auto_map", None) or {}
        if type(self).__module__ == __name__:
            auto_map = {
                **auto_map,
                "AutoModel": f"{module}.DeiTLTModel",
                "AutoModelForImageClassification": f"{module}.DeiTLTForImageClassification",
            }
        else:  # a subclass brings a file of its own, and not this one, which the student that it began with names
            auto_map = {name: of for name, of in auto_map.items() if not of.startswith(f"{module}.")}
        self.config.auto_map = auto_map
        super().save_pretrained(save_directory, *args, **kwargs)


class InsertedToken(nn.Module):
    """A distillation token, put behind the class token of a backbone: a hook on the module that puts out its tokens."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, hidden_size))

    def forward(self, _module: nn.Module, _inputs: tuple, tokens: torch.Tensor) -> torch.Tensor:
        token = self.token.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return torch.cat([tokens[:, :1], token, tokens[:, 1:]], dim=1)


class DeiTLTModel(DeiTLTPreTrainedModel, DeiTModel):
    """The DeiT-LT transformer without heads: `last_hidden_state` of shape `(batch_size, 2 + num_patches, hidden_size)`.

    Token 0 is the class token, token 1 the distillation token. With a `backbone_config` the layers are
    its own, and its other tokens, such as registers, are between these two and the patches.

    Example:

        >>> import torch
        >>> from deitlt_hf import DeiTLTConfig, DeiTLTModel
        >>> config = DeiTLTConfig(
        ...     image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3
        ... )
        >>> DeiTLTModel(config)(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape
        torch.Size([1, 18, 48])
    """

    def __init__(self, config: DeiTLTConfig):
        # DeiTModel's own constructor would build layers without stochastic depth, and a pooler that nothing uses.
        super(DeiTModel, self).__init__(config)
        if config.backbone_config is not None:
            self._take_backbone(config)
            self.post_init()
            return
        last = max(config.num_hidden_layers - 1, 1)
        rates = [config.drop_path_rate * index / last for index in range(config.num_hidden_layers)]
        self.embeddings = DeiTEmbeddings(config)
        self.layers = nn.ModuleList([DeiTLTLayer(config, rate) for rate in rates])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = None
        self.post_init()

    def _take_backbone(self, config: DeiTLTConfig) -> None:
        """Have another model's layers, with a distillation token behind its class token."""
        settings = dict(config.backbone_config)
        of_backbone = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.backbone = AutoModel.from_config(of_backbone, attn_implementation=config._attn_implementation)
        if hasattr(self.backbone, "pooler"):
            self.backbone.pooler = None  # its weights would get no gradient
        self.distillation_token = InsertedToken(config.hidden_size)
        self.backbone.get_submodule(BACKBONES[of_backbone.model_type]).register_forward_hook(self._insert_token)

    def _insert_token(self, module: nn.Module, inputs: tuple, tokens: torch.Tensor) -> torch.Tensor:
        # Looked up at each call, because peft puts a wrapper in its place.
        return self.distillation_token(module, inputs, tokens)

    def _run_backbone(
        self, pixel_values: torch.Tensor, interpolate: bool | None, num_tokens: int | None, **kwargs
    ) -> BaseModelOutputWithPooling:
        if interpolate:
            kwargs["interpolate_pos_encoding"] = interpolate
        if self.backbone.config.model_type == "timm_wrapper":
            kwargs["do_pooling"] = False
        outputs = self.backbone(pixel_values=pixel_values, **kwargs)
        tokens = outputs.last_hidden_state
        if hasattr(self.backbone, "post_layernorm"):  # which CLIP applies to its pooled token alone
            tokens = self.backbone.post_layernorm(tokens)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens if num_tokens is None else tokens[:, :num_tokens],
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def get_input_embeddings(self) -> nn.Module:
        return (
            super().get_input_embeddings()
            if self.config.backbone_config is None
            else self.backbone.get_input_embeddings()
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        num_tokens: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): normalised images.
            interpolate_pos_encoding (`bool`, *optional*): accept another image size than the configuration's.
            num_tokens (`int`, *optional*): return only the first tokens. The last layer then computes nothing for the
                others but their keys and values. Hidden states, attentions and masks need all tokens.

        Raises:
            ValueError: an image size that the model does not take.
        """
        if self.config.backbone_config is not None:
            return self._run_backbone(pixel_values, interpolate_pos_encoding, num_tokens, **kwargs)
        # Without DeiT's masks: they are for another pretraining, and this model has no mask token.
        if num_tokens is None:
            return super().forward(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        hidden_states = self.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        *layers, last = self.layers
        for layer in layers:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = last(hidden_states, num_tokens=num_tokens, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=self.layernorm(hidden_states))


class DeiTLTForImageClassification(DeiTLTPreTrainedModel):
    """DeiT-LT with a head on the class token and a head on the distillation token (paper, section 3).

    Example:

        >>> import torch
        >>> from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
        >>> config = DeiTLTConfig(
        ...     image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_labels=10
        ... )
        >>> model = DeiTLTForImageClassification(config).eval()
        >>> outputs = model(torch.zeros(1, 3, 32, 32), expert="distillation")
        >>> torch.equal(outputs.logits, outputs.distillation_logits)
        True
    """

    def __init__(self, config: DeiTLTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.deit = DeiTLTModel(config)
        self.cls_classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.distillation_classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs) -> Self:
        """Load a DeiT-LT model, or start from a distilled DeiT such as `facebook/deit-base-distilled-patch16-224`.

        Heads with another number of classes than the configuration's get new random weights, with a warning.

        Raises:
            ValueError: another weight has a different shape, so that it would be lost.
        """
        wants_report = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("ignore_mismatched_sizes", True)
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        _accept_only_new_heads(report, pretrained_model_name_or_path)
        return (model, report) if wants_report else model

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        expert: str | None = None,
        interpolate_pos_encoding: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DeiTLTImageClassifierOutput:
        """Classify images with both heads.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): normalised images.
            labels (`torch.LongTensor` of shape `(batch_size,)` or `torch.FloatTensor` of shape
                `(batch_size, num_labels)`, *optional*): classes, or probabilities of classes, for an ordinary
                supervised loss on both heads. `DeiTLTTrainer` has the loss for distillation.
            expert (`str`, *optional*): `"average"`, `"cls"`, `"distillation"`, or `"fused"` where the configuration has
                a fusion; by default the configuration's.
            interpolate_pos_encoding (`bool`, *optional*): accept another image size than the configuration's.

        Raises:
            ValueError: an unknown expert, or an image size that the model does not take.
        """
        outputs = self.deit(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            num_tokens=None if self._needs_all_tokens(kwargs) else 2,
            **kwargs,
        )
        cls_token, distillation_token = outputs.last_hidden_state[:, 0], outputs.last_hidden_state[:, 1]
        cls_logits = self.cls_classifier(cls_token)
        distillation_logits = self.distillation_classifier(distillation_token)

        logits = _select_expert(expert or self.config.expert, cls_logits, distillation_logits, self.config.fusion)
        loss = None
        if labels is not None:
            loss = (F.cross_entropy(cls_logits, labels) + F.cross_entropy(distillation_logits, labels)) / 2

        return DeiTLTImageClassifierOutput(
            loss=loss,
            logits=logits,
            cls_logits=cls_logits,
            distillation_logits=distillation_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            token_similarity=F.cosine_similarity(cls_token.detach(), distillation_token.detach(), dim=-1),
        )

    def _needs_all_tokens(self, kwargs: TransformersKwargs) -> bool:
        """Whether more than both tokens is asked for, or dropout draws random numbers for all of them."""
        asked = (kwargs.get(name) for name in ("output_hidden_states", "output_attentions", "attention_mask"))
        by_default = self.config.output_hidden_states or self.config.output_attentions
        drops = self.training and (self.config.hidden_dropout_prob or self.config.attention_probs_dropout_prob)
        return bool(by_default or drops or any(value is not None and value is not False for value in asked))


def _select_expert(
    expert: str, cls_logits: torch.Tensor, distillation_logits: torch.Tensor, fusion: Mapping[str, Any] | None
) -> torch.Tensor:
    expert = EXPERT_SYNONYMS.get(expert, expert)
    if expert == "average":
        return (cls_logits + distillation_logits) / 2
    if expert == "cls":
        return cls_logits
    if expert == "distillation":
        return distillation_logits
    if expert == FUSED and fusion is not None:
        return fused_logits(fusion, cls_logits, distillation_logits)
    experts = EXPERTS if fusion is None else (*EXPERTS, FUSED)
    raise ValueError(f"unknown expert {expert!r}; pass one of {', '.join(experts)}")


def fused_logits(
    fusion: Mapping[str, Any], cls_logits: torch.Tensor, distillation_logits: torch.Tensor
) -> torch.Tensor:
    """Both experts' logits `(batch, num_labels)` weighed by a configuration's `fusion`, in float32.

    Example:

        >>> import torch
        >>> fusion = {"cls": 1.0, "distillation": 0.0, "bias": [0.0, 1.0]}
        >>> fused_logits(fusion, torch.zeros(1, 2), torch.zeros(1, 2)).diff()
        tensor([[1.]])
    """
    cls, distillation, bias = (
        torch.tensor(fusion[name], dtype=torch.float32, device=cls_logits.device)
        for name in ("cls", "distillation", "bias")
    )
    # Logits mean the same whatever is added to all of them; log probabilities do not depend on it, which matters where
    # classes have factors of their own.
    cls_logits, distillation_logits = (
        F.log_softmax(of, -1, dtype=torch.float32) for of in (cls_logits, distillation_logits)
    )
    return cls * cls_logits + distillation * distillation_logits + bias


def _accept_only_new_heads(report: dict, source: str) -> None:
    """Warn of mismatched or missing weights of the heads, and refuse any others."""
    heads = {f"{head}.{part}" for head in ("cls_classifier", "distillation_classifier") for part in ("weight", "bias")}
    lost = {key: (in_file, in_model) for key, in_file, in_model in report["mismatched_keys"] if key not in heads}
    if lost:
        key, (in_file, in_model) = next(iter(lost.items()))
        raise ValueError(
            f"{source} has {key} of shape {tuple(in_file)} where this configuration has {tuple(in_model)}; load it "
            "with its own image_size, patch_size and layer sizes"
        )
    missing = sorted(key for key in report["missing_keys"] if key.startswith("deit."))  # a subclass may have more heads
    if missing:
        raise ValueError(f"{source} lacks {len(missing)} weights of a DeiT-LT model, among them {missing[0]}")
    resized = [(in_file[0], in_model[0]) for _, in_file, in_model in report["mismatched_keys"]]
    if resized:
        logger.warning(
            f"The heads of {source} are for {resized[0][0]} classes and were initialised anew for {resized[0][1]}; "
            "train the model before using its predictions."
        )
    elif report["missing_keys"]:
        logger.warning(
            f"{source} lacks {', '.join(sorted(report['missing_keys']))}, which were initialised anew; train the model "
            "before using its predictions."
        )


# `save_pretrained` copies the file of a registered class to the weights, so that they load where this package is not.
DeiTLTModel.register_for_auto_class("AutoModel")
DeiTLTForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["DeiTLTForImageClassification", "DeiTLTImageClassifierOutput", "DeiTLTModel", "DeiTLTPreTrainedModel"]
