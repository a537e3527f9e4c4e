"""What sharding refuses, and where it begins; test_two_processes.py has the trainings."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from deitlt_hf import DeiTLTError, DeiTLTTrainer, TeacherTrainer
from deitlt_hf.durable.sharding import configure_fsdp, sharding_on_cpus


def test_zero_3_is_refused(tiny_student, arguments):
    args = arguments(distillation_type="none")
    args.deepspeed_plugin = SimpleNamespace(zero_stage=3)
    with pytest.raises(DeiTLTError, match="ZeRO-3 would take apart the teacher and the averaged weights"):
        DeiTLTTrainer(tiny_student(), args)


@pytest.mark.parametrize("kind", [DistributedType.DEEPSPEED, DistributedType.NO])  # on a GPU, without one
def test_teachers_take_ddp_where_deepspeed_was_asked_for(tiny_teacher, teacher_arguments, monkeypatch, kind):
    args = teacher_arguments()
    args.deepspeed_plugin = SimpleNamespace(zero_stage=2)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setitem(PartialState._shared_state, "distributed_type", kind)
    trainer = TeacherTrainer(tiny_teacher(), args)
    assert not trainer.is_deepspeed_enabled
    expected = DistributedType.MULTI_GPU if kind == DistributedType.DEEPSPEED else kind
    assert trainer.accelerator.distributed_type == expected


def test_students_are_sharded_by_layer_and_saved_whole(tiny_student):
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    configure_fsdp(plugin, tiny_student())
    assert plugin.transformer_cls_names_to_wrap == ["DeiTLTLayer"]
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"


@pytest.mark.parametrize("kind", [DistributedType.MULTI_CPU, DistributedType.NO])
def test_accelerate_learns_of_cpus_only_where_sharding_was_asked_for(kind, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    monkeypatch.setitem(PartialState._shared_state, "distributed_type", kind)
    state, args = PartialState._shared_state, SimpleNamespace(distributed_state=SimpleNamespace(distributed_type=kind))
    seen = []
    for args.fsdp_plugin_args in (None, {"fsdp_version": 2}):
        with sharding_on_cpus(args):
            seen.append(state["distributed_type"])
        assert state["distributed_type"] == kind
    expected = DistributedType.MULTI_GPU if kind == DistributedType.MULTI_CPU else kind
    assert seen == [kind, expected]
