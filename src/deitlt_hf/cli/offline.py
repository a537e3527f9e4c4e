"""Where the hub does not answer, commands use the cache or fail at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

_SECONDS = 5
_TO_THE_HUB = ("push", "--push_to_hub", "--hub_model_id")  # these report themselves why they cannot send


@contextmanager
def offline_where_the_hub_is_silent(arguments: Sequence[str]) -> Iterator[None]:
    """Set the hub's client offline inside if the hub does not answer: it would retry for half a minute."""
    from huggingface_hub import constants

    from deitlt_hf.files import is_hub_id

    on_hub = any(is_hub_id(part.split("=")[-1]) for part in arguments)
    if not on_hub or any(part.split("=")[0] in _TO_THE_HUB for part in arguments) or getproxies():
        yield
        return

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(endpoint: str) -> bool:
    address = urlsplit(endpoint)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname, port), timeout=_SECONDS).close()
    except (OSError, UnicodeError):  # a name that is no host
        return False
    return True
