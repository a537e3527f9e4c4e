"""Runs functions in processes of their own, which are forked, so that they need not import everything again.

Fork before anything has been computed: threads of torch that exist by then are missing in the children, which wait for
them for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
from collections.abc import Callable
from typing import Any


def in_children(function: Callable[..., Any], *args: Any, processes: int = 1) -> list[Any]:
    """What the function returns in each of several processes, which torch and accelerate see as one launch."""
    context = multiprocessing.get_context("fork")
    launch = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    children = []
    for rank in range(processes):
        receiver, sender = context.Pipe(duplex=False)
        place = launch | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        child = context.Process(target=_work, args=(sender, place, function, args))
        child.start()
        sender.close()
        children.append((child, receiver))
    try:
        return [receiver.recv() for _, receiver in children]
    except EOFError:
        raise SystemExit(f"a process that ran {function.__name__} failed; see above") from None
    finally:
        for child, _ in children:
            child.join()


def _work(sender: Any, place: dict[str, str], function: Callable[..., Any], args: tuple) -> None:
    os.environ.update(place)
    result = function(*args)
    sender.send(result)


def peak_growth(function: Callable[[], Any]) -> float:
    """MB by which this process grows at its largest while the function runs; call it in a child, which has no past."""
    before = resident()
    function()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def resident() -> float:
    """MB of memory that this process holds now."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
