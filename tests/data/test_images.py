"""Upright RGB of every mode and orientation, against arithmetic by hand; and one reason for what is no image."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitlt_hf.data.images import BadImage, decode_image, upright_rgb
from deitlt_hf.errors import DeiTLTError

UPRIGHT = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14

# How a camera that is held otherwise stores the image, by the EXIF orientation that says so.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: np.rot90(UPRIGHT, 2).transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


def encoded(image: Image.Image, image_format: str, **options) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_come_out_upright_once(orientation: int, image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    image = decode_image(encoded(stored, image_format, exif=exif))
    np.testing.assert_array_equal(np.asarray(image), UPRIGHT)
    np.testing.assert_array_equal(np.asarray(upright_rgb(image)), UPRIGHT)


def test_an_upright_rgb_image_is_not_copied() -> None:
    image = Image.fromarray(UPRIGHT)
    assert upright_rgb(image) is image


def grey(values: list, dtype: str, mode: str | None = None) -> Image.Image:
    array = np.array([values], dtype=dtype)
    return Image.fromarray(array) if mode is None else Image.frombytes(mode, (len(values), 1), array.tobytes())


@pytest.mark.parametrize(
    ("image", "levels"),
    [
        # 16 bits: 0x80FF // 256 = 128, and 65535 is white, not cut off at 255
        (grey([0, 255, 0x80FF, 65535], "<u2", "I;16"), [0, 0, 128, 255]),
        (grey([0, 255, 0x80FF, 65535], ">u2", "I;16B"), [0, 0, 128, 255]),
        (grey([0, 7, 255], "int32"), [0, 7, 255]),
        (grey([0, 0.5, 1], "float32"), [0, 128, 255]),
        (grey([0, 0, 0], "float32"), [0, 0, 0]),
        (Image.new("1", (2, 1), 1), [255, 255]),
        (Image.new("LA", (1, 1), (90, 0)), [90]),
        (Image.new("La", (1, 1), (90, 255)), [90]),
    ],
)
def test_grey_levels_of_any_depth(image: Image.Image, levels: list[int]) -> None:
    rgb = upright_rgb(image)
    assert rgb.mode == "RGB"
    assert np.asarray(rgb).tolist() == [[[level] * 3 for level in levels]]


@pytest.mark.parametrize("largest", [0.2, 1.0])
def test_an_image_is_as_bright_whatever_its_largest_level(largest: float) -> None:
    """A level's brightness is its own, not that of the brightest pixel beside it."""
    assert upright_rgb(grey([0.1, largest], "float32")).getpixel((0, 0)) == (26, 26, 26)  # 0.1 x 255 = 25.5
    assert upright_rgb(grey([25, int(255 * largest)], "int32")).getpixel((0, 0)) == (25, 25, 25)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (grey([0, 1.01], "float32"), "its levels go from 0 to 1.01, where fractions must be from 0 to 1"),
        (grey([-0.5, 1], "float32"), "its levels go from -0.5 to 1"),
        (grey([0, 254.6], "float32"), "its levels go from 0 to 254.6"),
        (grey([float("nan"), 1], "float32"), "from nan"),
        (grey([float("inf"), 1], "float32"), "to inf"),
        (grey([0, 300], "int32"), "to 300, where whole numbers of 32 bits must be from 0 to 255"),
        (grey([-5, 255], "int32"), "from -5"),
    ],
)
def test_levels_whose_white_nobody_knows_are_refused(image: Image.Image, said: str) -> None:
    with pytest.raises(BadImage, match=said):
        decode_image(image)


def test_addresses_are_never_fetched_while_images_are_read() -> None:
    with pytest.raises(BadImage, match=r"it lies at an address; .*allow_remote_images"):
        decode_image({"bytes": None, "path": "http://127.0.0.1:9/cat.png"})


def test_transparent_pixels_keep_their_colour() -> None:
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.info["transparency"] = bytes([255, 0])
    for image in (palette, Image.new("RGBA", (2, 1), (10, 20, 30, 0)), Image.new("RGBX", (2, 1), (10, 20, 30, 0))):
        assert upright_rgb(image).getpixel((1, 0)) == (10, 20, 30)


def test_no_warning_of_a_palette_with_transparency(recwarn: pytest.WarningsRecorder) -> None:
    image = Image.new("P", (2, 1), 1)
    image.info["transparency"] = bytes([255, 0])
    upright_rgb(image)
    assert not recwarn.list


def test_cmyk_is_converted() -> None:
    # Full cyan leaves green and blue, full black leaves nothing.
    assert upright_rgb(Image.new("CMYK", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (0, 255, 255)
    assert upright_rgb(Image.new("CMYK", (1, 1), (0, 0, 0, 255))).getpixel((0, 0)) == (0, 0, 0)


def test_damaged_exif_data_do_not_spoil_the_pixels() -> None:
    image = decode_image(encoded(Image.fromarray(UPRIGHT), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x01" * 40))
    np.testing.assert_array_equal(np.asarray(image), UPRIGHT)


def test_bytes_win_over_a_path_and_files_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(UPRIGHT).save(path)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for value in ({"bytes": path.read_bytes(), "path": "gone.png"}, {"bytes": None, "path": str(path)}):
        np.testing.assert_array_equal(np.asarray(decode_image(value)), UPRIGHT)
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


PNG = encoded(Image.fromarray(np.random.RandomState(0).randint(0, 256, (9, 9, 3), dtype=np.uint8)), "PNG")["bytes"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "there is no image"),
        ({"bytes": None, "path": None}, "there is no image"),
        ({"bytes": b"", "path": None}, "it is empty"),
        ({"bytes": b"hello", "path": None}, "no image that Pillow knows"),
        ({"bytes": PNG[:-40], "path": None}, "truncated"),
        ({"bytes": PNG[:60] + b"\xff" + PNG[61:], "path": None}, "broken|error|truncated"),
        ({"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "path": None}, "PostScript"),
        ({"bytes": None, "path": "gone.png"}, "there is no such file"),
        ({"bytes": None, "path": "."}, "it is a directory"),
    ],
)
def test_what_is_no_image_has_a_reason_of_one_line(value: dict | None, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as error:
        decode_image(value)
    assert "\n" not in str(error.value)


def test_a_named_pipe_does_not_wait_for_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage, match="no regular file"):
        decode_image({"bytes": None, "path": str(tmp_path / "pipe.png")})


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("limit", "reason"), [(50, "it has 81 pixels, more than"), (30, "more pixels than twice")])
def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch, limit: int, reason: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(BadImage, match=reason):
        decode_image({"bytes": PNG, "path": None})


@pytest.mark.parametrize("error", [BadImage("it is empty"), DeiTLTError("class: none\nof\r\nthese")])
def test_errors_are_one_line_and_survive_a_pickle(error: DeiTLTError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert len(str(error).splitlines()) == 1
