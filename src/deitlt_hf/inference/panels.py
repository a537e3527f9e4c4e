"""One picture per image: the image, where each token looks, and the classes by the average and by each expert."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain, count
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from deitlt_hf.data.images import decode_image, upright_rgb
from deitlt_hf.errors import DeiTLTError, printable
from deitlt_hf.evaluation.attention import WHOLE_PICTURE, Region, draw_attention, pixel_box
from deitlt_hf.evaluation.measures import EXPERT_LABELS
from deitlt_hf.files import check_is_writable, whole_file
from deitlt_hf.inference.classifier import ClassRow, ImageResult

SIDE = 320  # of a tile, in pixels
MARGIN = 24
FONT_SIZE = 16
LINE = 24
LARGEST_ASPECT = 3.0  # longer strips are squeezed, so that patches stay visible
SHOWN_CLASSES = 3
LEGEND = "violet: patches that are not looked at; yellow: the one looked at most"


def attention_panel(image: Image.Image, result: ImageResult, title: str = "picture") -> Image.Image:
    """The image, framed where the model saw it, and each token's attention, above the top classes; 1056 pixels wide."""
    picture = upright_rgb(image)
    region = result.region or WHOLE_PICTURE
    seen = _display(picture, region)
    tiles = [
        (title, _framed(_display(picture), region), "average"),
        ("where the CLS token looks", draw_attention(seen, result.attention["cls"]), "cls"),
        ("where the DIST token looks", draw_attention(seen, result.attention["distillation"]), "distillation"),
    ]
    lines = 2 + min(SHOWN_CLASSES, len(result.rows))
    top, bottom = MARGIN + LINE + 8, MARGIN + LINE + 8 + SIDE + 8
    panel = Image.new("RGB", (3 * SIDE + 4 * MARGIN, bottom + lines * LINE + MARGIN), "white")
    draw = ImageDraw.Draw(panel)
    for index, (heading, tile, expert) in enumerate(tiles):
        left = MARGIN + index * (SIDE + MARGIN)
        draw.text((left, MARGIN), _shortened(heading, SIDE), "black", _font("DejaVuSans-Bold"))
        panel.paste(tile, (left + (SIDE - tile.width) // 2, top + (SIDE - tile.height) // 2))
        _write_classes(draw, left, bottom, expert, result.top(expert, SHOWN_CLASSES))
    draw.text((2 * MARGIN + SIDE, bottom + (lines - 1) * LINE), LEGEND, "dimgrey", _font())
    return panel


def panel_names(files: Sequence[Path]) -> list[str]:
    """A path for the panel of each relative path, such as `site/lynx.png`, or `site/lynx-2.png` where that is taken."""
    names: dict[str, str] = {}  # by lower case, because some file systems do not tell cases apart
    folders = {str(parent).lower() for file in files for parent in file.parents}
    for file in files:
        stem = str(file.with_name(file.stem))
        candidates = chain([f"{stem}.png"], (f"{stem}-{number}.png" for number in count(2)))
        name = next(name for name in candidates if name.lower() not in names and name.lower() not in folders)
        names[name.lower()] = name
    return list(names.values())


def check_panels_are_free(directory: Path, names: Sequence[str]) -> None:
    """Refuse, before the work starts, a directory that cannot be written or has files of these names."""
    if directory.exists() and not directory.is_dir():
        raise DeiTLTError(f"{directory} is a file; pass a directory for the attention maps")
    check_is_writable(directory)
    parents = {directory / parent for name in names for parent in Path(name).parents}
    blocking = next((parent for parent in sorted(parents) if parent.exists() and not parent.is_dir()), None)
    if blocking is not None:
        raise DeiTLTError(f"{blocking} is a file; pass another directory for the attention maps")
    taken = next((name for name in names if (directory / name).exists()), None)
    if taken is not None:
        raise DeiTLTError(f"{directory / taken} exists; pass another directory for the attention maps")


def save_panel(result: ImageResult, path: Path) -> None:
    """Draw the panel of a result's file and write it as PNG, whole or not at all."""
    panel = attention_panel(decode_image({"bytes": None, "path": str(result.file)}), result, result.file.name)
    with whole_file(path, "pass another directory") as unfinished:
        panel.save(unfinished, format="PNG")


def _display(image: Image.Image, region: Region = WHOLE_PICTURE) -> Image.Image:
    """A part of the image, resized to a longer side of `SIDE` pixels."""
    box = tuple(part * image.size[index % 2] for index, part in enumerate(region))
    if min(region) < 0 or max(region) > 1:  # the image processor padded
        image, box = image.crop(pixel_box(region, image.size)), None
    width, height = image.size if box is None else (box[2] - box[0], box[3] - box[1])
    aspect = min(max(width / height, 1 / LARGEST_ASPECT), LARGEST_ASPECT)
    size = round(SIDE * min(1, aspect)), round(SIDE * min(1, 1 / aspect))
    if max(width, height) <= SIDE // 4:  # a small picture: its pixels stay visible as squares
        return image.resize(size, Image.Resampling.NEAREST, box)
    return image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=2.0)


def _framed(tile: Image.Image, region: Region) -> Image.Image:
    if region != WHOLE_PICTURE:
        left, top, right, bottom = pixel_box(region, tile.size)
        draw = ImageDraw.Draw(tile)
        draw.rectangle((left - 3, top - 3, right + 2, bottom + 2), outline="black", width=3)
        draw.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline="white")
    return tile


def _write_classes(draw: ImageDraw.ImageDraw, left: int, top: int, expert: str, rows: Sequence[ClassRow]) -> None:
    draw.text((left, top), EXPERT_LABELS[expert], "black", _font("DejaVuSans-Bold"))
    for line, row in enumerate(rows, start=1):
        percent = f"{100 * row.probability[expert]:.1f} %"
        draw.text((left, top + line * LINE), _shortened(row.name, SIDE - 90), "black", _font())
        draw.text((left + SIDE, top + line * LINE), percent, "black", _font(), anchor="ra")


def _shortened(text: str, width: int) -> str:
    """The text, or its beginning and `...`, no wider than `width` pixels."""
    text = printable(" ".join(text.split()))
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


@cache
def _font(name: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    """matplotlib's own font, which has Latin, Greek and Cyrillic letters."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", FONT_SIZE)
