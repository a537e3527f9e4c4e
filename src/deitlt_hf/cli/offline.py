"""Commands that name something on a hub which does not answer take it from the cache, or say at once that it is not."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_SECONDS = 5
_TO_THE_HUB = ("push", "--push_to_hub", "--hub_model_id")  # what sends something there says itself why it cannot


@contextmanager
def offline_where_the_hub_is_silent(arguments: Sequence[str]) -> Iterator[None]:
    """Inside, nobody asks a hub that does not answer; else each question is repeated five times, for half a minute."""
    named = [word for word in (part.split("=")[-1] for part in arguments) if _may_be_on_hub(word)]
    if not named or any(part.split("=")[0] in _TO_THE_HUB for part in arguments) or getproxies():
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _may_be_on_hub(word: str) -> bool:
    return bool(_HUB_ID.fullmatch(word)) and not Path(word).exists() and not Path(word.split("/")[0]).is_dir()


def _answers(endpoint: str) -> bool:
    address = urlsplit(endpoint)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname, port), timeout=_SECONDS).close()
    except (OSError, UnicodeError):  # of a name that is none
        return False
    return True
