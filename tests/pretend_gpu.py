"""Runs a command where tensors say that they are on a GPU, although there is none.

    python tests/pretend_gpu.py train --recipe digits-lt --teacher runs/digits-lt-teacher --max_steps 8
    python tests/pretend_gpu.py pytest tests/test_on_gpu.py

What it shows without a GPU: an operation that mixes tensors of the GPU and of the processor is an error, as it is
there, and places in training steps where the processor would wait for the GPU are listed. The numbers are computed by
the processor, autocast's in bfloat16. It cannot show speed, memory, `torch.compile`, CUDA's kernels, or what several
processes do. It replaces private parts of torch, so it goes with the version in `constraints.txt`.
"""

from __future__ import annotations

import collections
import os
import runpy
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.profiler
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
# What gives values, or shapes that depend on values, to the host.
READ_BY_HOST = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten._unique2, aten.masked_select}
INDEXING = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_}
COPIES = {aten.copy_, aten._to_copy}


class OnGpu(torch.Tensor):
    """A tensor in the processor's memory that says otherwise."""

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    def __reduce_ex__(self, protocol):
        return torch.Tensor.__reduce_ex__(_off(self), protocol)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = _on(self.detach().clone()).requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False):
                copied._is_param = True
            memo[id(self)] = copied
        return memo[id(self)]


def _on(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if isinstance(tensor, OnGpu) else torch.Tensor._make_subclass(OnGpu, tensor)


def _off(tensor: torch.Tensor) -> torch.Tensor:
    return torch.Tensor._make_subclass(torch.Tensor, tensor) if isinstance(tensor, OnGpu) else tensor


class Devices(TorchDispatchMode):
    """Decides for each operation where its result is, refuses mixed devices, and counts where the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[str] = collections.Counter()
        self.backward_on_gpu = False  # tensors that were saved for the backward pass have forgotten where they are
        self.mixes_inside = False  # one_hot asks C++ for the device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        packet = function.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_gpu = any(isinstance(tensor, OnGpu) for tensor in tensors)
        lenient = self.mixes_inside or (self.backward_on_gpu and torch._C._current_graph_task_id() != -1)
        kwargs.pop("pin_memory", None)
        target = kwargs.get("device")
        if target is not None:
            target = torch.device(target)
            kwargs["device"] = CPU if target.type == "cuda" else target
        if not lenient:
            self._check(packet, args, tensors)
            self._count(packet, args, kwargs, on_gpu, target)
        result = function(*args, **kwargs)
        if packet in INDEXING or packet is aten.copy_:
            on_gpu = isinstance(args[0], OnGpu)
        goes_on_gpu = on_gpu if target is None else target.type == "cuda"
        return tree_map_only(torch.Tensor, _on if goes_on_gpu or lenient else _off, result)

    @staticmethod
    def _check(packet: Any, args: tuple, tensors: list[torch.Tensor]) -> None:
        if packet in COPIES:
            return
        if packet in INDEXING:  # a GPU's tensor may have indices on the host, which `_count` counts
            mixed = not isinstance(args[0], OnGpu) and any(isinstance(tensor, OnGpu) for tensor in tensors)
        else:  # numbers without a dimension go with both
            mixed = (
                len({isinstance(tensor, OnGpu) for tensor in tensors if tensor.ndim or isinstance(tensor, OnGpu)}) > 1
            )
        if mixed:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {packet} has cuda:0 and cpu")

    def _count(self, packet: Any, args: tuple, kwargs: dict, on_gpu: bool, target: torch.device | None) -> None:
        is_sent = packet is aten._to_copy and target is not None and on_gpu != (target.type == "cuda")
        is_copied = packet is aten.copy_ and len({isinstance(tensor, OnGpu) for tensor in args[:2]}) > 1
        indices = [index for index in args[1] if index is not None] if packet in INDEXING else []
        waits = (
            (packet in READ_BY_HOST and on_gpu)
            or ((is_sent or is_copied) and not kwargs.get("non_blocking"))
            or (on_gpu and any(not isinstance(index, OnGpu) or index.dtype == torch.bool for index in indices))
        )
        frames = traceback.extract_stack() if waits else []
        if any(frame.name == "training_step" for frame in frames):
            ours = [frame for frame in frames if "deitlt_hf" in frame.filename][-1]
            self.waits[f"{ours.filename}:{ours.lineno} in {ours.name}: {packet}"] += 1

    def repeated_waits(self) -> list[str]:
        """Places that wait in more than the first step, which may send constants."""
        return [f"{count:6d} times {place}" for place, count in self.waits.most_common() if count > 2]


class Moves(TorchFunctionMode):
    """What would ask CUDA itself: tensors that move, are made of Python's numbers, or go backward."""

    def __init__(self, devices: Devices) -> None:
        super().__init__()
        self.devices = devices

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.Tensor.cuda, torch.Tensor.cpu):
            function, args = torch.Tensor.to, (args[0], GPU if function is torch.Tensor.cuda else CPU)
        if function is torch.Tensor.to:
            return _move(*args, **kwargs)
        if function in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is not None:
            target = torch.device(kwargs.pop("device"))
            return aten._to_copy.default(function(*args, **kwargs), device=target)
        if function in (torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad):
            self.devices.backward_on_gpu = isinstance(args[0], OnGpu)
        if getattr(function, "__name__", "") == "one_hot" and isinstance(args[0], OnGpu):
            self.devices.mixes_inside = True
            try:
                return function(*args, **kwargs)
            finally:
                self.devices.mixes_inside = False
        return function(*args, **kwargs)


def _move(tensor: torch.Tensor, *args, copy: bool = False, non_blocking: bool = False, **kwargs) -> torch.Tensor:
    """`Tensor.to`, whose arguments come in many orders."""
    for value in args:
        if isinstance(value, torch.dtype):
            kwargs["dtype"] = value
        elif isinstance(value, torch.Tensor):
            kwargs |= {"device": value.device, "dtype": value.dtype}
        elif value is not None and not isinstance(value, bool):
            kwargs["device"] = value
    target = kwargs.get("device")
    target = tensor.device if target is None else GPU if isinstance(target, int) else torch.device(target)
    dtype, layout = kwargs.get("dtype") or tensor.dtype, kwargs.get("memory_format")
    stays = target.type == tensor.device.type and dtype == tensor.dtype and layout in (None, torch.preserve_format)
    if stays and not copy:
        return tensor
    return aten._to_copy.default(tensor, device=target, dtype=dtype, memory_format=layout, non_blocking=non_blocking)


def _move_module(move: Callable) -> Callable:
    """`Module.to` that leaves a module where it is, because here it would make parameters anew."""

    def moved(module: torch.nn.Module, *args, **kwargs) -> torch.nn.Module:
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        weights = [*module.parameters(), *module.buffers()]
        is_there = device is not None and all(weight.device.type == device.type for weight in weights)
        return module if is_there and dtype is None and layout is None else move(module, *args, **kwargs)

    return moved


class Event:
    def __init__(self, **options: object) -> None:
        self.moment = 0.0

    def record(self, *args: object) -> None:
        self.moment = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.moment - self.moment)


def _answer(value: object = None) -> Callable[..., Any]:
    """In place of a function of CUDA; torch's compiler wants each to be another object."""
    return lambda *args, **kwargs: value


def replace_cuda() -> None:
    """Let torch, accelerate and transformers find one GPU."""
    state = torch.zeros(16, dtype=torch.uint8)
    properties = collections.namedtuple("Properties", "name total_memory major minor multi_processor_count")
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "no GPU at all",
        "get_device_properties": properties("no GPU at all", 80 << 30, 9, 0, 132),
        "get_device_capability": (9, 0),
        "is_bf16_supported": True,
        "mem_get_info": (70 << 30, 80 << 30),
        "memory_stats": {},
        **dict.fromkeys(["max_memory_allocated", "memory_allocated", "memory_reserved"], 1 << 30),
        **dict.fromkeys(["_lazy_init", "set_device", "synchronize", "set_sync_debug_mode"]),
        **dict.fromkeys(["empty_cache", "reset_peak_memory_stats"]),
    }
    of_randomness = {"get_rng_state": state, "get_rng_state_all": [state]}
    of_randomness |= dict.fromkeys(["set_rng_state", "set_rng_state_all", "manual_seed", "manual_seed_all"])
    of_accelerator = {
        "is_available": True,
        "current_accelerator": torch.device("cuda"),
        "current_device_index": 0,
        **dict.fromkeys(["set_device_index", "synchronize"]),
    }
    for module, named in (
        (torch.cuda, answers | of_randomness),
        (torch.cuda.random, of_randomness),
        (torch.accelerator, of_accelerator),
    ):
        for name, value in named.items():
            setattr(module, name, _answer(value))
    torch.cuda.Event = Event


def replace_what_asks_cuda() -> None:
    """Pinned memory, generators, autocast, the profiler, moving modules."""
    torch.Tensor.pin_memory = lambda self, *args: self
    torch.Tensor.is_pinned = lambda self, *args: True
    generator, autocast, profile = torch.Generator, torch.autocast, torch.profiler.profile

    class OfProcessor(generator):
        def __new__(cls, device: object = "cpu") -> torch.Generator:
            return generator()

    class InBfloat16(autocast):
        def __init__(self, device_type: str, *args, **kwargs) -> None:
            super().__init__("cpu", *args, **kwargs)

    class WithoutCuda(profile):
        def __init__(self, *, activities: list, **options) -> None:
            super().__init__(activities=activities[:1], **options)

    torch.Generator, torch.profiler.profile = OfProcessor, WithoutCuda
    torch.autocast = torch.amp.autocast = torch.amp.autocast_mode.autocast = InBfloat16
    torch.optim.Optimizer._accelerator_graph_capture_health_check = _answer()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.nn.Module.to = _move_module(torch.nn.Module.to)


def run(arguments: list[str]) -> int:
    """Run `pytest ...`, a script `....py ...`, or a `deitlt` command."""
    if arguments[0] == "pytest":
        import pytest

        return pytest.main(arguments[1:])
    if arguments[0].endswith(".py"):
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        runpy.run_path(arguments[0], run_name="__main__")
        return 0
    from deitlt_hf.cli.main import main

    return main(arguments)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    replace_cuda()
    replace_what_asks_cuda()
    with Devices() as devices, Moves(devices):
        status = run(sys.argv[1:])
    if found := devices.repeated_waits():
        print("the host would wait for the GPU in steps:", *found, sep="\n", file=sys.stderr)
    sys.exit(status or bool(found))
