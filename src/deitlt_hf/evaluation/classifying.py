"""Classes of single images, as the average and each expert see them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from deitlt_hf.data.images import IMAGE_SUFFIXES, BadImage, decode_image
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.accuracy import EXPERTS


@dataclass
class ClassRow:
    """A class and its probability in [0, 1] by each of `EXPERTS`."""

    name: str
    probability: dict[str, float]


@dataclass
class ImageResult:
    """A file and its top classes, the most probable first."""

    file: Path
    rows: list[ClassRow]


def check_expert(expert: str) -> None:
    """Raise `DeiTLTError` for an unknown expert, with the near ones."""
    if expert not in EXPERTS:
        near = difflib.get_close_matches(expert, EXPERTS) or EXPERTS
        raise DeiTLTError(f"unknown expert {expert!r}; did you mean {' or '.join(near)}?")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and the images in the folders among them, in order of their names.

    Raises:
        DeiTLTError: a path that does not exist, or a folder without images.
    """
    files = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise DeiTLTError(f"{path} holds no images; pass a folder with files such as photo.png or photo.jpg")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DeiTLTError(f"{path} does not exist; pass an image file or a folder of images")
    return files


@torch.inference_mode()
def classify(
    model: torch.nn.Module,
    processor,
    files: Sequence[Path],
    top: int = 3,
    expert: str = "average",
    batch_size: int = 32,
) -> Iterator[ImageResult]:
    """Classify image files with a DeiT-LT student.

    Args:
        model: a `DeiTLTForImageClassification` in evaluation mode.
        processor: its image processor.
        files: images of any format and mode that Pillow reads.
        top: how many classes to give, at least 1.
        expert: whose order of the classes: `"average"`, `"cls"` or `"distillation"`.
        batch_size: images per step.

    Raises:
        DeiTLTError: a file that is no image, an unknown expert, or `top` below 1.

    Example:
        >>> for result in classify(model, processor, [Path("lynx.png")]):  # doctest: +SKIP
        ...     print(result.file, result.rows[0].name)
    """
    check_expert(expert)
    if top < 1:
        raise DeiTLTError(f"top is {top}; pass at least 1")
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        inputs = processor(images=[_open_image(file) for file in batch], return_tensors="pt").to(model.device)
        outputs = model(**inputs)
        average = (outputs.cls_logits + outputs.distillation_logits) / 2
        logits = torch.stack([average, outputs.cls_logits, outputs.distillation_logits])
        probabilities = logits.float().softmax(-1).cpu()
        order = probabilities[EXPERTS.index(expert)].topk(min(top, probabilities.shape[-1])).indices.tolist()
        for image, file in enumerate(batch):
            yield ImageResult(
                file, [_class_row(model, probabilities[:, image, index], index) for index in order[image]]
            )


def _class_row(model: torch.nn.Module, probabilities: torch.Tensor, index: int) -> ClassRow:
    return ClassRow(model.config.id2label[index], dict(zip(EXPERTS, probabilities.tolist(), strict=True)))


def _open_image(file: Path) -> Image.Image:
    try:
        return decode_image({"bytes": None, "path": str(file)})
    except BadImage as error:
        raise DeiTLTError(
            f"{file} cannot be read as an image ({error}); leave it out or convert it to PNG or JPEG"
        ) from error
