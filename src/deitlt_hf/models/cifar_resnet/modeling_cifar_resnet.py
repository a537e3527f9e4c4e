"""PyTorch CIFAR ResNet: the convolutional teacher for small images."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention
from transformers.utils.generic import can_return_tuple

from .configuration_cifar_resnet import CifarResNetConfig

STAGE_CHANNELS = (16, 32, 64)


class CifarResNetBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (He et al., 2016, option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def shortcut(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.stride == 1 and self.new_channels == 0:
            return hidden
        # The reference puts half of the zero channels before the old ones and half after them.
        before = self.new_channels // 2
        subsampled = hidden[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, before, self.new_channels - before))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.bn1(self.conv1(hidden)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(hidden))


class CosineClassifier(nn.Module):
    """Cosine of each feature vector with each class vector, in [-1, 1] (Cao et al., 2019, LDAM).

    It has no scale; LDAM's loss has one. The class vectors are the rows of `weight`, of shape
    `(num_labels, num_features)` as in `nn.Linear`; the reference keeps them as columns.
    """

    def __init__(self, num_features: int, num_labels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_labels, num_features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


class CifarResNetForImageClassification(PreTrainedModel):
    """ResNet-20/32/44/56/110 for small images with a linear or cosine classifier (He et al., 2016, section 4.2).

    Example:
        >>> import torch
        >>> from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification
        >>> model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10)).eval()
        >>> model(torch.zeros(2, 3, 32, 32)).logits.shape
        torch.Size([2, 10])
    """

    config: CifarResNetConfig
    config_class = CifarResNetConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["CifarResNetBlock"]
    _input_embed_layer = "conv1"
    # The loss is a mean over the batch, which the Trainer has to divide when it accumulates gradients.
    accepts_loss_kwargs = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "." in cls.__module__:  # part of a package, without which its file does not load: so it is not copied
            cls._auto_class = None

    def __init__(self, config: CifarResNetConfig):
        super().__init__(config)
        blocks_per_stage = (config.depth - 2) // 6
        first, second, third = STAGE_CHANNELS
        self.conv1 = nn.Conv2d(config.num_channels, first, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks_per_stage, stride=1)
        self.layer2 = _stage(first, second, blocks_per_stage, stride=2)
        self.layer3 = _stage(second, third, blocks_per_stage, stride=2)
        classifier = CosineClassifier if config.classifier == "cosine" else nn.Linear
        self.classifier = classifier(third, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the LDAM and PaCo implementations do."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            init.kaiming_normal_(module.weight)
            if module.bias is not None:  # torch's own default
                bound = 1 / math.sqrt(module.in_features)
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, CosineClassifier):
            init.uniform_(module.weight, -1.0, 1.0)
            init.copy_(module.weight, F.normalize(module.weight, dim=1))
        else:
            super()._init_weights(module)

    def extract_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the classifier sees of `(batch_size, num_channels, height, width)` images: `(batch_size, 64)`."""
        return self._stages(pixel_values)[-1].mean(dim=(2, 3))

    def _stages(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The maps after the first convolution and after each stage."""
        maps = [F.relu(self.bn1(self.conv1(pixel_values)))]
        for stage in (self.layer1, self.layer2, self.layer3):
            maps.append(stage(maps[-1]))
        return tuple(maps)

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
                Normalised images of any size.
            labels (`torch.LongTensor` of shape `(batch_size,)` or `torch.FloatTensor` of shape
                `(batch_size, num_labels)`, *optional*):
                Classes, or probabilities of classes, for the cross-entropy returned as `loss`.
            output_hidden_states (`bool`, *optional*): by default the configuration's. Gives `hidden_states`, the maps
                `(batch_size, channels, height, width)` after the first convolution and each stage.
        """
        maps = self._stages(pixel_values)
        logits = self.classifier(maps[-1].mean(dim=(2, 3)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=maps if wanted else None)


def _stage(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = CifarResNetBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(CifarResNetBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))


# `save_pretrained` copies the file of a registered class to the weights, so that they load where this package is not.
CifarResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["CifarResNetForImageClassification"]
