"""FSDP2: weights that are spread over the processes while a model trains, and are whole in what is saved."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import MethodType

import torch
from accelerate import PartialState
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    convert_outputs_to_fp32,
    parse_flag_from_env,
    patch_environment,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import Trainer, TrainingArguments

from deitlt_hf.errors import DeiTLTError


class ShardingTrainer(Trainer):
    """transformers' `Trainer`, whose models are saved under FSDP2 as without it, and which shards on CPUs too."""

    shards_weights = True  # where FSDP or DeepSpeed is asked for; False trains with DDP whatever is asked for

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._unsharded = None
        if self.is_fsdp_enabled:
            # FSDP2 gives the model's modules new classes, which would be saved with their names and torch's source.
            self._unsharded = deepcopy(self.model).to("meta")
            _configure(self.accelerator.state.fsdp_plugin, self.model)
            self._compute_as_with_ddp()

    def create_accelerator_and_postprocess(self) -> None:
        if self.args.deepspeed_plugin is not None and self.args.deepspeed_plugin.zero_stage == 3:
            raise DeiTLTError("ZeRO-3 would take apart the teacher and the averaged weights too; use ZeRO-2 or FSDP2")
        with _sharding_on_cpus(self.args) if self.shards_weights else _whole_weights(self.args):
            super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise DeiTLTError("FSDP of version 1 was asked for; pass fsdp_version 2")

    def _compute_as_with_ddp(self) -> None:
        """Autocast, over weights in float32, where accelerate's FSDP2 would compute all in half, the loss too."""
        self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        if self.accelerator.mixed_precision != "no":
            forward = self.accelerator.autocast()(type(self.model).forward)
            self.model.forward = MethodType(convert_outputs_to_fp32(forward), self.model)

    def unsharded_model(self, weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
        """The model as it was given; under FSDP2 a copy of it, in the main process with all weights.

        Args:
            weights: all of them, if they were gathered already; otherwise all processes have to call this.
        """
        if self._unsharded is None:
            return self.model
        if weights is None:
            weights = self.accelerator.get_state_dict(self.model)
        model = deepcopy(self._unsharded)
        if self.is_world_process_zero():
            model.load_state_dict(weights, assign=True)
        return model

    def take_weights(self, model: nn.Module) -> None:
        """Under FSDP2, give the sharded model the weights that `model`, an unsharded one, has in the main process."""
        if self._unsharded is not None:
            weights = model.state_dict() if self.is_world_process_zero() else {}
            options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            set_model_state_dict(self.model, weights, options=options)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self._unsharded is None:
            super()._save(output_dir, state_dict)
        elif self.is_world_process_zero():
            sharded, self.model = self.model, self.unsharded_model(state_dict)
            try:
                super()._save(output_dir)
            finally:
                self.model = sharded

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            was_sharded = (Path(checkpoint) / "optimizer.bin").is_file()
            if was_sharded != self.is_fsdp_enabled and not self.is_deepspeed_enabled:
                how = "under FSDP" if was_sharded else "without FSDP"
                raise DeiTLTError(f"{checkpoint} was written {how}; resume it so, or train anew from its weights")
        super()._load_optimizer_and_scheduler(checkpoint)


def _configure(plugin: FullyShardedDataParallelPlugin, model: nn.Module) -> None:
    # Of patch embeddings, which give a view that nothing writes into.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    plugin.set_state_dict_type("FULL_STATE_DICT")  # what is trained here fits into one process's memory
    if plugin.transformer_cls_names_to_wrap is None:
        # Not the embeddings, of which accelerate shards a part by itself: torch refuses one shard inside another.
        layers = getattr(model, "_no_split_modules", None) or []
        plugin.transformer_cls_names_to_wrap = [name for name in layers if "Embeddings" not in name]


@contextmanager
def _sharding_on_cpus(args: TrainingArguments) -> Iterator[None]:
    """Let accelerate, which shards on accelerators only, do so on CPUs, where FSDP2 can be tried without a GPU."""
    state = PartialState._shared_state
    is_asked_for = args.fsdp_plugin_args is not None or parse_flag_from_env("ACCELERATE_USE_FSDP")
    if not is_asked_for or args.distributed_state.distributed_type != DistributedType.MULTI_CPU:
        yield
        return
    state["distributed_type"] = DistributedType.MULTI_GPU
    try:
        yield
    finally:
        if state["distributed_type"] == DistributedType.MULTI_GPU:
            state["distributed_type"] = DistributedType.MULTI_CPU


@contextmanager
def _whole_weights(args: TrainingArguments) -> Iterator[None]:
    """Let accelerate train with DDP, whether FSDP or DeepSpeed was asked for."""
    args.fsdp_plugin_args = args.deepspeed_plugin = None
    state = PartialState._shared_state
    if state["distributed_type"] == DistributedType.DEEPSPEED:
        state["distributed_type"] = DistributedType.MULTI_GPU
    with patch_environment(ACCELERATE_USE_FSDP="false", ACCELERATE_USE_DEEPSPEED="false"):
        yield
