"""The reference's CNN teachers: ResNets for CIFAR, and torchvision's for larger images."""

from __future__ import annotations

import re

from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from deitlt_hf.models.cifar_resnet.modeling_cifar_resnet import STAGE_CHANNELS, CifarResNetForImageClassification
from deitlt_hf.models.timm_cosine.configuration_timm_cosine import TimmCosineConfig
from deitlt_hf.models.timm_cosine.modeling_timm_cosine import TimmCosineForImageClassification
from deitlt_hf.reference.checkpoint_file import ReferenceFile, State, count_numbers
from deitlt_hf.reference.normalisation import timm_pretrained_cfg

# PaCo's momentum encoder, queue of keys and projection head are for its loss alone.
_PACO_TRAINING_ONLY = ("encoder_k.", "linear_k.", "encoder_q.fc.", "queue")

# Blocks per stage of torchvision's ResNets (He et al., 2016, table 1). timm has the same networks and weight names.
_BASIC_BLOCKS = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"}
_BOTTLENECKS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
_IMAGE_SIZE = 224


def convert_teacher(file: ReferenceFile) -> tuple[PreTrainedModel, State, str]:
    """A model of the file's kind and size with random weights, the file's tensors under its names, a description."""
    renamed = ReferenceFile(file.path, _classifying_part(file))
    if "conv1.weight" not in renamed.state:
        raise DeiTLTError(
            f"{file.path} holds neither a DeiT-LT student nor a ResNet teacher of PaCo, LDAM or cross-entropy (first "
            f"tensor: {next(iter(file.state), 'none')}); pass a checkpoint of one of these"
        )
    for_cifar = renamed.shape("conv1.weight", 4)[0] == STAGE_CHANNELS[0]
    model, state, network = _cifar_resnet(renamed) if for_cifar else _torchvision_resnet(renamed)
    if file.is_paco:
        method = "PaCo teacher"
    elif _is_cosine(renamed.state):
        method = "LDAM teacher with a cosine classifier"
    else:
        method = "teacher with a linear classifier"
    return model, state, f"{method}, {network}, {model.config.num_labels} classes"


def _classifying_part(file: ReferenceFile) -> State:
    """The tensors that the logits need, with the classifier named `classifier.` and its class vectors as rows."""
    left_out = _PACO_TRAINING_ONLY if file.is_paco else ()
    named = {
        name.removeprefix("encoder_q."): tensor for name, tensor in file.state.items() if not name.startswith(left_out)
    }
    state = {re.sub(r"^(linear|fc)\.", "classifier.", name): tensor for name, tensor in named.items()}
    if _is_cosine(state) and "classifier.weight" in state:
        state["classifier.weight"] = state["classifier.weight"].T
    return state


def _is_cosine(state: State) -> bool:
    """LDAM's cosine classifier has no bias, and class vectors as columns; its linear one and PaCo's have a bias."""
    return "classifier.bias" not in state


def _cifar_resnet(file: ReferenceFile) -> tuple[PreTrainedModel, State, str]:
    blocks = {count_numbers(file.state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 4)}
    try:
        config = CifarResNetConfig(
            depth=6 * max(blocks) + 2,
            classifier="cosine" if _is_cosine(file.state) else "linear",
            num_channels=file.shape("conv1.weight", 4)[1],
            num_labels=file.shape("classifier.weight", 2)[0],
        )
    except ValueError as error:
        raise DeiTLTError(f"{file.path}: {error}") from error
    network = f"ResNet-{config.depth} for {config.image_size} pixels"
    return CifarResNetForImageClassification(config), file.state, network


def _torchvision_resnet(file: ReferenceFile) -> tuple[PreTrainedModel, State, str]:
    blocks = tuple(count_numbers(file.state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
    known = _BOTTLENECKS if "layer1.0.conv3.weight" in file.state else _BASIC_BLOCKS
    if blocks not in known:
        raise DeiTLTError(
            f"{file.path} is a ResNet, but neither one for CIFAR ({STAGE_CHANNELS[0]} channels after conv1, not "
            f"{file.shape('conv1.weight', 4)[0]}) nor ResNet-18, 34, 50, 101 or 152 ({' + '.join(map(str, blocks))} "
            "blocks in four stages); pass one of these"
        )
    architecture, num_labels = known[blocks], file.shape("classifier.weight", 2)[0]
    network = f"{architecture.replace('resnet', 'ResNet-')} for {_IMAGE_SIZE} pixels"
    if _is_cosine(file.state):
        config = TimmCosineConfig(architecture=architecture, image_size=_IMAGE_SIZE, num_labels=num_labels)
        names = {name: name if name.startswith("classifier.") else f"backbone.{name}" for name in file.state}
        model: PreTrainedModel = TimmCosineForImageClassification(config)
    else:
        config = TimmWrapperConfig(architecture=architecture, num_labels=num_labels)
        config.pretrained_cfg = timm_pretrained_cfg(config, _IMAGE_SIZE)
        names = {name: f"timm_model.{re.sub(r'^classifier', 'fc', name)}" for name in file.state}
        model = TimmWrapperForImageClassification(config)
    return model, {names[name]: tensor for name, tensor in file.state.items()}, network
