"""What sharding refuses, and where it begins; test_two_processes.py has the trainings."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from deitlt_hf import DeiTLTError, DeiTLTTrainer, TeacherTrainer
from deitlt_hf.training.sharding import ShardingTrainer, _configure, _sharding_on_cpus


@pytest.mark.parametrize(
    ("trainer", "stage", "message"),
    [
        (DeiTLTTrainer, 3, "ZeRO-3 would take apart the teacher and the averaged weights"),
        (TeacherTrainer, 2, "train a teacher with DDP or FSDP2"),
    ],
)
def test_deepspeed_is_refused_where_it_would_be_wrong(trainer, stage, message):
    plugin = SimpleNamespace(zero_stage=stage)
    launched = SimpleNamespace(
        shards_weights=trainer.shards_weights,
        accelerator=SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)),
    )
    with pytest.raises(DeiTLTError, match=message):
        ShardingTrainer._check_deepspeed(launched)


def test_students_are_sharded_by_layer_and_saved_whole(tiny_student):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    _configure(plugin, tiny_student())
    assert plugin.transformer_cls_names_to_wrap == ["DeiTLTLayer"]
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"


@pytest.mark.parametrize("kind", [DistributedType.MULTI_CPU, DistributedType.NO])
def test_accelerate_learns_of_cpus_only_where_sharding_was_asked_for(kind, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    monkeypatch.setitem(PartialState._shared_state, "distributed_type", kind)
    state, args = PartialState._shared_state, SimpleNamespace(distributed_state=SimpleNamespace(distributed_type=kind))
    seen = []
    for args.fsdp_plugin_args in (None, {"fsdp_version": 2}):
        with _sharding_on_cpus(args):
            seen.append(state["distributed_type"])
        assert state["distributed_type"] == kind
    expected = DistributedType.MULTI_GPU if kind == DistributedType.MULTI_CPU else kind
    assert seen == [kind, expected]
