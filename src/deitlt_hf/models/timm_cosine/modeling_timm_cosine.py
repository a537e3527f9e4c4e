"""PyTorch timm CNN with a cosine classifier: the LDAM teacher for larger images."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils.generic import can_return_tuple

from .configuration_timm_cosine import TimmCosineConfig


class CosineClassifier(nn.Module):  # as in `cifar_resnet`; each model's files have to load on their own
    """Cosine of each feature vector with each class vector `(num_labels, num_features)` (Cao et al., 2019, LDAM)."""

    def __init__(self, num_features: int, num_labels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_labels, num_features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


class TimmCosineForImageClassification(PreTrainedModel):
    """A timm CNN with a cosine classifier (Cao et al., 2019, LDAM), which timm and transformers' wrapper of it lack.

    Example:
        >>> import torch
        >>> from deitlt_hf import TimmCosineConfig, TimmCosineForImageClassification
        >>> config = TimmCosineConfig(architecture="test_resnet", image_size=32, num_labels=10)
        >>> TimmCosineForImageClassification(config).eval()(torch.zeros(2, 3, 32, 32)).logits.shape
        torch.Size([2, 10])
    """

    config: TimmCosineConfig
    config_class = TimmCosineConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # The loss is a mean over the batch, which the Trainer has to divide when it accumulates gradients.
    accepts_loss_kwargs = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "." in cls.__module__:  # part of a package, without which its file does not load: so it is not copied
            cls._auto_class = None

    def __init__(self, config: TimmCosineConfig):
        super().__init__(config)
        from timm import create_model  # not at the top: transformers' Auto classes load this file with everything

        backbone = create_model(config.architecture, pretrained=False, num_classes=0, in_chans=config.num_channels)
        self.classifier = CosineClassifier(backbone.head_hidden_size, config.num_labels)
        self.post_init()
        # Only now, to keep timm's initialisation: `post_init` would replace its weights.
        self.backbone = backbone

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, CosineClassifier):  # as the LDAM implementation does
            init.uniform_(module.weight, -1.0, 1.0)
            init.copy_(module.weight, F.normalize(module.weight, dim=1))
            return
        super()._init_weights(module)
        # Loading leaves empty what no file holds, such as the filters of timm's blurring layers.
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def extract_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the classifier sees of `(batch_size, num_channels, height, width)` images, pooled over positions."""
        return self.backbone(pixel_values)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> ImageClassifierOutputWithNoAttention:
        """Classify images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Normalised images.
            labels (`torch.LongTensor` of shape `(batch_size,)` or `torch.FloatTensor` of shape
                `(batch_size, num_labels)`, *optional*):
                Classes, or probabilities of classes, for the cross-entropy returned as `loss`.
            output_hidden_states (`bool`, *optional*): by default the configuration's. Gives `hidden_states`, the maps
                `(batch_size, channels, height, width)` of timm's `forward_intermediates`.
        """
        maps = None
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            last, maps = self.backbone.forward_intermediates(pixel_values)
            maps, features = tuple(maps), self.backbone.forward_head(last)
        else:
            features = self.extract_features(pixel_values)
        logits = self.classifier(features)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=maps)

    def get_input_embeddings(self) -> nn.Module:
        """The layer that takes the pixels."""
        return next(module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))


# `save_pretrained` copies the file of a registered class to the weights, so that they load where this package is not.
TimmCosineForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["TimmCosineForImageClassification"]
