"""The files of examples/accelerate, as accelerate reads them; test_two_processes.py trains with ddp.yaml."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, patch_environment
from accelerate.utils.launch import prepare_multi_gpu_env

FOLDER = Path(__file__).parents[2] / "examples" / "accelerate"
TYPES = {
    "one_gpu": (DistributedType.NO, 1, 1),
    "ddp": (DistributedType.MULTI_GPU, 2, 1),
    "fsdp2": (DistributedType.FSDP, 2, 1),
    "deepspeed_zero2": (DistributedType.DEEPSPEED, 2, 1),
    "several_machines": (DistributedType.MULTI_GPU, 16, 2),
}


def launch(name: str, *flags: str):
    """The arguments of `accelerate launch` with this file."""
    command = ["--config_file", str(FOLDER / f"{name}.yaml"), *flags, "-m", "deitlt_hf", "train"]
    return _validate_launch_command(launch_command_parser().parse_args(command))[0]


def test_every_file_is_known_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_accelerate_reads_it_and_knows_every_key(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes, config.num_machines) == TYPES[name]
    launch(name)


def test_fsdp2_is_what_the_processes_are_told():
    with patch_environment(**prepare_multi_gpu_env(launch("fsdp2", "--main_process_port", "0"))):
        assert os.environ["ACCELERATE_USE_FSDP"] == "true"
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.transformer_cls_names_to_wrap is None  # the trainer names the layers
    assert plugin.state_dict_type == torch.distributed.fsdp.StateDictType.FULL_STATE_DICT


def test_zero2_leaves_batches_and_clipping_to_the_recipe():
    args = launch("deepspeed_zero2")
    assert (args.use_deepspeed, int(args.zero_stage)) == (True, 2)
    assert (args.gradient_accumulation_steps, args.gradient_clipping) == ("auto", "auto")


def test_the_second_machine_is_told_where_the_first_is():
    args = launch("several_machines", "--machine_rank", "1", "--main_process_ip", "192.0.2.7")
    prepare_multi_gpu_env(args)
    assert (args.nnodes, args.node_rank, args.nproc_per_node) == ("2", 1, "8")
    assert args.rdzv_endpoint == "192.0.2.7:29500"


SLURM_COMMANDS = """
srun() {{ trap 'echo saved >> {log}; exit 143' TERM; echo "srun $*" >> {log}; sleep 9 & wait; }}
scancel() {{ kill -TERM $run; }}
scontrol() {{ if [ "$1" = show ]; then echo node1; else echo "scontrol $*" >> {log}; fi; }}
"""


@pytest.mark.parametrize(
    ("checkpoint", "restarts", "how"),
    [(False, "", ""), (False, "1", "--overwrite"), (True, "", "--resume"), (True, "2", "--resume")],
)
def test_a_slurm_job_saves_before_its_time_is_up_and_is_queued_again(tmp_path, checkpoint, restarts, how):
    """The script itself, with stand-ins for SLURM's commands, gets SLURM's signal."""
    log = tmp_path / "log"
    script = (FOLDER / "train.slurm").read_text().replace("OUTPUT=runs/imagenet-lt", f"OUTPUT={tmp_path}/run", 1)
    assert str(tmp_path) in script
    if checkpoint:
        (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    script = script.replace("srun --cpus", 'srun "how=$HOW" --cpus')
    job = subprocess.Popen(
        ["bash", "-c", SLURM_COMMANDS.format(log=log) + script],
        env=os.environ
        | ({"SLURM_RESTART_COUNT": restarts} if restarts else {})
        | {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "64"},
    )
    while not log.exists():
        assert job.poll() is None
    job.terminate()
    job.wait(timeout=10)
    started, saved, queued = (line for line in log.read_text().splitlines() if not line.startswith(" "))
    assert started.split()[1:3] == [f"how={how}", "--cpus-per-task=64"]
    assert (saved, queued) == ("saved", "scontrol requeue 7")
