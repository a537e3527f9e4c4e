"""Settings of accelerate for FSDP2."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    parse_flag_from_env,
    patch_environment,
)
from torch import nn
from transformers import TrainingArguments


def configure_fsdp(plugin: FullyShardedDataParallelPlugin, model: nn.Module) -> None:
    """Shard by the model's layers, and gather whole weights for what is saved."""
    # A warning about the patch embeddings' output, which nothing modifies.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    plugin.set_state_dict_type("FULL_STATE_DICT")  # what is trained here fits into one process's memory
    if plugin.transformer_cls_names_to_wrap is None:
        # Not the embeddings: accelerate shards a part of them itself, and torch refuses nested shards. A student of
        # another backbone names DeiT's layers too, which accelerate would look for.
        layers = getattr(model, "_no_split_modules", None) or []
        there = {type(module).__name__ for module in model.modules()}
        plugin.transformer_cls_names_to_wrap = [name for name in layers if "Embeddings" not in name and name in there]


@contextmanager
def sharding_on_cpus(args: TrainingArguments) -> Iterator[None]:
    """Let accelerate shard on CPUs too, to try FSDP2 without a GPU; by itself it shards on accelerators only."""
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
def whole_weights(args: TrainingArguments) -> Iterator[None]:
    """Let accelerate train with DDP even if FSDP or DeepSpeed was asked for."""
    args.fsdp_plugin_args = args.deepspeed_plugin = None
    state = PartialState._shared_state
    if state["distributed_type"] == DistributedType.DEEPSPEED:
        state["distributed_type"] = DistributedType.MULTI_GPU
    with patch_environment(ACCELERATE_USE_FSDP="false", ACCELERATE_USE_DEEPSPEED="false"):
        yield
