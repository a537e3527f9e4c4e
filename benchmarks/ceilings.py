"""What the device and its host could do at best, to hold what `on_gpu.py` and `--profile` measure against.

    python benchmarks/ceilings.py                 # a few seconds on a GPU
    python benchmarks/ceilings.py --device cpu    # to see that it runs

The largest product in bfloat16, copies in the device's memory, a batch that is sent to it, what the host needs to hand
over one operation, and a batch of strong views: how long it takes, and how long the host is busy with it. A step of a
small model that has more operations than fit into its time on the device is limited by the host.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from interleaved import machine, now

from deitlt_hf.data.device_augmentation.device_views import BatchView
from deitlt_hf.data.device_augmentation.random_numbers import Draws

ROUNDS = 5


def seconds_of(function: Callable[[], object], times: int) -> float:
    """Seconds of a call, the work of the device included: the median of the rounds, after a first call."""
    function()
    rounds = []
    for _ in range(ROUNDS):
        start = now()
        for _ in range(times):
            function()
        rounds.append((now() - start) / times)
    return statistics.median(rounds)


def seconds_of_host(function: Callable[[], object], times: int) -> float:
    """Seconds that the host needs for a call, after which the device may still work."""
    function()
    rounds = []
    for _ in range(ROUNDS):
        now()  # the device has nothing left to do
        start = time.perf_counter()
        for _ in range(times):
            function()
        rounds.append((time.perf_counter() - start) / times)
    return statistics.median(rounds)


def copied_bytes(device: torch.device, count: int) -> float:
    """Bytes per second, read and written, of copying float32 numbers."""
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source), 10)


def measure(device: torch.device, images: int) -> Iterator[tuple[str, float, str]]:
    """What is measured, its value and its unit, one after the other."""
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 256
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    yield f"product of {size} x {size}, bf16", 2 * size**3 / seconds_of(lambda: left @ right, 10) / 1e12, "TFLOP/s"
    yield (
        "copy on the device, read and written",
        copied_bytes(device, (1 << 28) if on_gpu else (1 << 20)) / 1e12,
        "TB/s",
    )
    batch = torch.zeros(images, 3, 32, 32, dtype=torch.uint8, pin_memory=on_gpu)
    sent = seconds_of(lambda: batch.to(device, non_blocking=True, copy=True), 50)
    yield f"sending {images} images of 32 pixels, uint8", 1e3 * sent, "ms"
    small = torch.zeros(64, device=device)
    yield "handing over an operation", 1e6 * seconds_of_host(lambda: small.add_(1), 2000), "us of the host"
    levels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, device=device)
    view, draws = BatchView(32, strong=True), (Draws(0, step, 0, 0, 0, device=device) for step in range(10**6))
    yield f"strong views of {images} images", 1e3 * seconds_of(lambda: view(levels, next(draws)), 3), "ms"
    yield "the same", 1e3 * seconds_of_host(lambda: view(levels, next(draws)), 1), "ms of the host"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=1024, help="images (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU here, so that there are no figures of one")
        return
    print(f"{machine(options.device)}\n", flush=True)
    for what, value, unit in measure(options.device, options.batch_size):
        print(f"{what:<44}{value:>10.3g} {unit}", flush=True)


if __name__ == "__main__":
    main()
