"""Pictures that people upload: looked at before they are decoded, and brought to a size for a page."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from PIL import Image

from deitlt_hf.data.images import BadImage, decode_image
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.attention import shrink

MAX_PIXELS = 25_000_000
SMALLEST_SHOWN, LARGEST_SHOWN = 256, 1024  # pixels of the longer side
# What people have; others of Pillow's formats start programs of their own, or are no pictures.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")


def read_picture(path: str | os.PathLike[str]) -> Image.Image:
    """The upright RGB picture in an uploaded file; its size is looked at before its pixels are decoded.

    Args:
        path: of a file in one of `FORMATS`; of an animation the first frame is taken.

    Raises:
        DeiTLTError: the file holds no picture, is damaged, or has more than `MAX_PIXELS`.

    Example:
        >>> Image.new("L", (8, 6)).save("grey.png")
        >>> read_picture("grey.png").mode
        'RGB'
    """
    name = Path(path).name
    try:
        with warnings.catch_warnings():
            # Pillow warns of many pixels before the check that refuses them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
    except Image.DecompressionBombError as error:
        limit = f"{MAX_PIXELS / 1e6:g} megapixels"
        raise DeiTLTError(f"{name} has more than {limit}; upload a smaller picture") from error
    except Exception as error:  # Pillow's plugins raise whatever odd bytes lead them to
        raise DeiTLTError(_no_picture(name)) from error
    with opened as image:
        if image.format not in FORMATS:
            raise DeiTLTError(_no_picture(name))
        if image.width * image.height > MAX_PIXELS:
            raise DeiTLTError(
                f"{name} has {image.width * image.height / 1e6:,.1f} megapixels ({image.width} x {image.height}), more "
                f"than the {MAX_PIXELS / 1e6:g} that this page takes; upload a smaller picture"
            )
        try:
            return decode_image(image)
        except BadImage as error:
            raise DeiTLTError(f"{name} is a damaged picture ({error}); upload another one, or save it anew") from error


def shown_picture(picture: Image.Image) -> Image.Image:
    """The picture at a size for a page: small ones enlarged pixel by pixel, large ones shrunk.

    Example:
        >>> shown_picture(Image.new("RGB", (8, 4))).size, shown_picture(Image.new("RGB", (4096, 2048))).size
        ((256, 128), (1024, 512))
    """
    factor = SMALLEST_SHOWN // max(picture.size)
    if factor > 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return shrink(picture, LARGEST_SHOWN)


def _no_picture(name: str) -> str:
    return f"{name} is no picture that can be read; upload a PNG, JPEG, WebP, GIF, BMP or TIFF file"
