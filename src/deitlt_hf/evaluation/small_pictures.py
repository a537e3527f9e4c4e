"""Small pictures inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

from deitlt_hf.data.images import decode_image
from deitlt_hf.evaluation.attention import shrink

_SMALL = 64  # up to this side a picture is enlarged pixel by pixel, and kept without loss


def small_picture(image: Mapping[str, Any], side: int) -> dict[str, Any]:
    """An undecoded image, at most `side` pixels wide and high, as an address that holds it (`picture`).

    `is_small` says whether its pixels are to be seen. `BadImage` is raised for one that cannot be read.
    """
    original = decode_image(image)
    is_small, file = max(original.size) <= _SMALL, io.BytesIO()
    # JPEG, because a PNG of a photograph has ten times the size.
    shrink(original, side).save(file, **({"format": "PNG"} if is_small else {"format": "JPEG", "quality": 85}))
    encoded = base64.b64encode(file.getvalue()).decode()
    return {"picture": f"data:image/{'png' if is_small else 'jpeg'};base64,{encoded}", "is_small": is_small}
