"""PaCo's projection, momentum encoder and queue of keys (Cui et al., 2021)."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel, TrainerCallback

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.teachers.build import maps_to_classes

PACO_FILE = "paco.safetensors"


class MomentumContrast(nn.Module):
    """Contrasts a classifier's features with those of its moving average (He et al., 2020).

    The features are the input of the classifier's last linear layer, projected to `dim` numbers. This module is no part
    of the classifier, so that a saved teacher has only its own weights. `seed` must be the same in all processes.
    """

    queue: torch.Tensor
    queue_labels: torch.Tensor

    def __init__(
        self, model: PreTrainedModel, dim: int, queue_size: int, momentum: float, seed: int, accelerator: Accelerator
    ):
        super().__init__()
        features = _feature_layer(model).weight.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Sequential(
                nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, dim)
            )
            # As published, the queue starts with random directions and classes; real keys replace them in a few steps.
            self.register_buffer("queue", F.normalize(torch.randn(queue_size, dim), dim=1))
            self.register_buffer("queue_labels", torch.randint(model.config.num_labels, (queue_size,)))
        self.num_queued = 0
        self.key_encoder = deepcopy(model).requires_grad_(False)
        self.key_projection = deepcopy(self.projection).requires_grad_(False)
        self.to(model.device).train()
        self.momentum = momentum
        self.seed = seed
        self.accelerator = accelerator
        self._query_features = _InputOf(_feature_layer(model))
        self._key_features = _InputOf(_feature_layer(self.key_encoder))
        self._project = [self.projection]  # in a list, so that the DDP wrapper is not part of the state
        self._staged: list[tuple[torch.Tensor, torch.Tensor]] = []

    def start(self, model: PreTrainedModel) -> None:
        """Copy the classifier into the momentum encoder, before the first step, when all processes have its weights."""
        for key, query in zip(*self._key_and_query_weights(model), strict=True):
            key.copy_(query)

    def distribute(self) -> None:
        """With several processes, let the gradient of the projection be averaged over them."""
        if self.accelerator.num_processes > 1:
            devices = None if self.accelerator.device.type == "cpu" else [self.accelerator.device]
            self._project = [DistributedDataParallel(self.projection, device_ids=devices)]

    def queries(self) -> torch.Tensor:
        """Queries `(N, dim)` of length 1 from the features of the batch that the classifier has just seen."""
        with self.accelerator.autocast():
            return F.normalize(self._project[0](self._query_features.take()).float(), dim=1)

    @torch.no_grad()
    def encode_keys(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Keys `(P N, dim)` of length 1 for this process's images `(N, 3, H, W)`, of all P processes in their order.

        Each process encodes images of all, so that batch statistics do not give away which key belongs to a query.
        """
        if self.accelerator.num_processes == 1:
            return self._encode(pixel_values)
        images = self.accelerator.gather(pixel_values)
        random = torch.Generator().manual_seed(self.seed + self.num_queued)
        # Drawn on the host, so that all devices get the same; a blocking copy would wait for the device.
        order = torch.randperm(len(images), generator=random).to(images.device, non_blocking=True)
        share = order.chunk(self.accelerator.num_processes)[self.accelerator.process_index]
        return self.accelerator.gather(self._encode(images[share]))[order.argsort()]

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        with self.accelerator.autocast():
            self.key_encoder(pixel_values=pixel_values)
            return F.normalize(self.key_projection(self._key_features.take()).float(), dim=1)

    def candidates(self, keys: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys that this process's queries are compared with, its own and the queue's, and their labels."""
        own = keys.chunk(self.accelerator.num_processes)[self.accelerator.process_index]
        return torch.cat([own, self.queue]), torch.cat([labels, self.queue_labels])

    def stage(self, keys: torch.Tensor, labels: torch.Tensor) -> None:
        """Keep the keys of all processes, and this process's labels, until the step ends and the queue takes them."""
        self._staged.append((keys, self.accelerator.gather(labels)))

    @torch.no_grad()
    def advance(self, model: PreTrainedModel) -> None:
        """After an optimiser step: move the momentum encoder towards the classifier, the staged keys into the queue.

        So all accumulated batches of one step, and both passes of SAM, see the same queue and momentum encoder.
        """
        self.projection.zero_grad()  # the Trainer does so for its model only
        torch._foreach_lerp_(*self._key_and_query_weights(model), 1 - self.momentum)
        for keys, labels in self._staged:
            size, start = len(self.queue), self.num_queued
            self.num_queued += len(keys)
            places = torch.arange(start, self.num_queued, device=keys.device)[-size:] % size
            self.queue[places], self.queue_labels[places] = keys[-size:], labels[-size:]
        self._staged = []

    def forget_step(self) -> None:
        """Drop the keys of an interrupted step."""
        self.projection.zero_grad()
        self._staged = []

    def _key_and_query_weights(self, model: PreTrainedModel) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        keys = [*self.key_encoder.parameters(), *self.key_projection.parameters()]
        return keys, [weight.detach() for weight in (*model.parameters(), *self.projection.parameters())]

    def save(self, directory: str | Path) -> None:
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(state | {"num_queued": torch.tensor(self.num_queued)}, Path(directory) / PACO_FILE)

    def load(self, directory: str | Path) -> None:
        path = Path(directory) / PACO_FILE
        if not path.is_file():
            raise DeiTLTError(f"{directory} is no checkpoint of a PaCo training; resume with the loss it was made with")
        state = load_file(path)
        self.num_queued = int(state.pop("num_queued"))
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise DeiTLTError(
                f"{path} is of another model, paco_dim or paco_queue; resume with the settings it was made with"
            ) from error


class UpdateMomentumContrast(TrainerCallback):
    """Moves the momentum encoder and the queue after every optimiser step."""

    def __init__(self, contrast: MomentumContrast):
        self.contrast = contrast

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.contrast.distribute()
        if state.global_step == 0:
            self.contrast.start(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.contrast.advance(model)


class _InputOf:
    """Records the input of one layer of a model."""

    def __init__(self, layer: nn.Module):
        self._input: torch.Tensor | None = None
        layer.register_forward_pre_hook(self._catch)

    def _catch(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._input = inputs[0]

    def take(self) -> torch.Tensor:
        caught, self._input = self._input, None
        return caught


def _feature_layer(model: PreTrainedModel) -> nn.Module:
    """The last layer that maps feature vectors to as many numbers as there are classes."""
    for layer in reversed(list(model.modules())):
        if maps_to_classes(layer, model.config.num_labels):
            return layer
    raise DeiTLTError(f"PaCo needs a classifier that ends in a linear layer; {type(model).__name__} has none")
