"""Upright RGB pixels of any image, and one clear line for an image that cannot be read."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from deitlt_hf.errors import DeiTLTError, first_line

REMOTE_HINT = "download it, or pass allow_remote_images=True (--allow_remote_images true) to fetch such images"

# The suffixes of image files, in lower case.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".jp2", ".avif", ".tga"),
)

# What brings an image upright, by the value of its EXIF orientation; 1 is upright. Pillow's exif_transpose also writes
# the EXIF data anew, and so fails for images whose other EXIF entries are damaged.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The first letters, in base64, of PNG, JPEG, GIF, RIFF (WebP), TIFF and BMP files.
_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK", "Qk0")
_FIRST_ON_ITS_SIDE = 5  # from this orientation on, width and height are exchanged


class BadImage(DeiTLTError):  # noqa: N818 - it is the image that is bad, as in on_bad_image
    """An image that cannot be read; the message is only the reason, and the caller adds which image it was."""


def decode_image(value: Mapping[str, Any] | Image.Image | None) -> Image.Image:
    """An upright RGB image of `{"bytes": ..., "path": ...}`, where bytes win over a path, or of a PIL image.

    `BadImage` is raised for no image, a missing or empty file, a directory, bytes that are no image or are cut off,
    PostScript, which is a program, and more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, Pillow's guard against
    decompression bombs.
    """
    with _one_reason():
        if isinstance(value, Image.Image):
            return upright_rgb(value)
        with Image.open(_source(value)) as image:
            if image.format == "EPS":  # whatever the file is called; a stranger may have written the program
                raise BadImage("it is PostScript, a program that Pillow would let Ghostscript run")
            # Pillow itself only warns up to twice this many pixels.
            pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:
                raise BadImage(f"it has {pixels} pixels, more than PIL.Image.MAX_IMAGE_PIXELS, which is {limit}")
            return upright_rgb(image)


def from_base64(text: str) -> bytes | None:
    """The image that a text holds in base64, alone or as `data:image/png;base64,...`; None for any other text."""
    head, comma, _ = text[:100].partition("base64,")
    encoded = text[len(head) + len(comma) :] if comma and head.startswith("data:") else text
    if not encoded.startswith(_BASE64_STARTS):
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        return None


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB with its EXIF orientation applied; an upright RGB image is returned as it is.

    Grey levels of 16 bits are divided by 256. Fractions (mode F) must be from 0 to 1, whole numbers of 32 bits (mode I)
    from 0 to 255; others are refused: the file does not say what white is, and scaling by the largest value would make
    each image brighter or darker than the others. Transparent pixels keep their colour, as in transformers' image
    processors. Pillow's own errors for damaged data are not caught.
    """
    image.load()  # TIFF images bring themselves upright in here, and mark themselves as upright
    orientation = _orientation(image)
    rgb = _to_rgb(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
        rgb.info = {}  # it would carry the orientation along, to be applied again
    return rgb


def upright_size(value: Mapping[str, Any] | Image.Image) -> tuple[int, int]:
    """Width and height of the image that `decode_image` would give, from its header; it raises the same errors."""
    with _one_reason():
        if isinstance(value, Image.Image):
            width, height = value.size
            return (height, width) if _orientation(value) >= _FIRST_ON_ITS_SIDE else (width, height)
        with Image.open(_source(value)) as image:
            # Asking a PNG for its orientation decodes it, and squares need not be asked.
            return image.size if image.width == image.height else upright_size(image)


@contextmanager
def _one_reason() -> Iterator[None]:
    """Turn whatever Pillow's plugins raise for damaged bytes, even SyntaxError, into a `BadImage` with one line."""
    try:
        yield
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("it is no image that Pillow knows") from error
    except Image.DecompressionBombError as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise BadImage(f"it has more pixels than twice PIL.Image.MAX_IMAGE_PIXELS, which is {limit}") from error
    except Exception as error:
        raise BadImage(first_line(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB":
        return image
    if mode == "F" or mode.startswith("I"):
        return _eight_bit(np.asarray(image), mode).convert("RGB")
    if mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours without Pillow's warning
    elif mode == "La":
        image = image.convert("LA")  # Pillow converts it to nothing else
    return image.convert("RGB")


def _eight_bit(levels: np.ndarray, mode: str) -> Image.Image:
    """Grey levels of another depth, as an image of mode L."""
    if mode.startswith("I;16"):
        return Image.fromarray((levels >> 8).astype(np.uint8))
    white = 1 if mode == "F" else 255
    if not (levels.min(initial=0) >= 0 and levels.max(initial=0) <= white):  # nan is in no range
        kind = "fractions" if mode == "F" else "whole numbers of 32 bits"
        raise BadImage(
            f"its levels go from {levels.min():g} to {levels.max():g}, where {kind} must be from 0 to {white}: "
            "save it in 8 or 16 bits, all images with the same white"
        )
    return Image.fromarray(np.rint(levels.astype(np.float64) * (255 / white)).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the pixels of an image with damaged EXIF data are sound
        return 1


def _source(value: Mapping[str, Any] | None) -> io.BytesIO | str:
    """What to pass to `Image.open`."""
    if value is None or (value.get("bytes") is None and value.get("path") is None):
        raise BadImage("there is no image")
    if value.get("bytes") is not None:
        if not value["bytes"]:
            raise BadImage("it is empty")
        return io.BytesIO(value["bytes"])
    path = value["path"]
    if "://" in path:  # never fetched while images are read: a stranger may have written the address
        raise BadImage(f"it lies at an address; {REMOTE_HINT}")
    # Checked before opening: a named pipe would wait for ever.
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        raise BadImage("it is a directory")
    raise BadImage("it is no regular file" if os.path.exists(path) else "there is no such file")


def read_bytes(path: str) -> bytes:
    """The bytes of a local file, or of one that streamed data sets refer to by an address of the hub."""
    from datasets.utils.file_utils import xopen  # knows hub addresses and archives; only streamed data need it

    with xopen(path, "rb") as file:
        return file.read()
