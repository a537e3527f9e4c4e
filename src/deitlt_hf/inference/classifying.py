"""Classes of single images, as the average and each expert see them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deitlt_hf.data.files import PassedOver, files_in
from deitlt_hf.data.images import IMAGE_SUFFIXES
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.evaluation.measures import EXPERTS


@dataclass
class ClassRow:
    """A class and its probability in [0, 1] by each of `EXPERTS`."""

    name: str
    probability: dict[str, float]


@dataclass
class ImageResult:
    """An image's top classes, the most probable first, and where its two tokens look.

    Args:
        file: the image's file, None for an image that came as pixels.
        rows: classes, sorted by the expert that was asked for.
        attention: `{"cls": ..., "distillation": ...}`, `(rows, cols)` float32 arrays of patches, where asked for.
        region: `(left, top, right, bottom)` of the part of the upright picture that the model saw and the maps cover,
            as fractions; given with `attention`.

    Example:
        >>> rows = [ClassRow("lynx", {"average": 0.6, "cls": 0.3, "distillation": 0.8})]
        >>> ImageResult(Path("photo.jpg"), rows).rows[0].name
        'lynx'
    """

    file: Path | None
    rows: list[ClassRow]
    attention: dict[str, np.ndarray] | None = None
    region: tuple[float, float, float, float] | None = None

    def top(self, expert: str, number: int) -> list[ClassRow]:
        """The `number` most probable of the rows, sorted by another expert."""
        return sorted(self.rows, key=lambda row: -row.probability[expert])[:number]


def check_expert(expert: str) -> None:
    """Raise `DeiTLTError` for an unknown expert, with the near ones."""
    if expert not in EXPERTS:
        near = difflib.get_close_matches(expert, EXPERTS) or EXPERTS
        raise DeiTLTError(f"unknown expert {expert!r}; did you mean {' or '.join(near)}?")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and the images in the folders among them, in order of their names, each once.

    Folders are looked into as those of data are, see `files_in`: also through links, but not into hidden ones. A notice
    says what was passed over.

    Raises:
        DeiTLTError: a path that does not exist, or a folder without images.
    """
    files = []
    for path in paths:
        if path.is_dir():
            passed = PassedOver()
            inside = sorted(map(Path, files_in(path, IMAGE_SUFFIXES, passed)))
            passed.say(path)
            if not inside:
                raise DeiTLTError(f"{path} holds no images; pass a folder with files such as photo.png or photo.jpg")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DeiTLTError(f"{path} does not exist; pass an image file or a folder of images")
    return list(dict.fromkeys(files))


def rank_classes(
    cls_logits: np.ndarray, distillation_logits: np.ndarray, class_names: Sequence[str], expert: str, top: int
) -> list[list[ClassRow]]:
    """The top classes of each image of a batch, with their probabilities by the average and each expert.

    Args:
        cls_logits, distillation_logits: `(batch, classes)` floats.
        class_names: in the order of the classes.
        expert: whose order: `"average"`, `"cls"` or `"distillation"`.
        top: how many classes to give; all where there are fewer.

    Returns:
        A list of rows for each image, the most probable first.

    Example:
        >>> (rows,) = rank_classes(np.array([[0.0, 1.0]]), np.array([[2.0, 0.0]]), ["cat", "lynx"], "cls", top=1)
        >>> rows[0].name, round(rows[0].probability["cls"], 2), round(rows[0].probability["average"], 2)
        ('lynx', 0.73, 0.38)
    """
    average = (cls_logits + distillation_logits) / 2  # paper: "Prediction", mean of the two heads' logits
    probabilities = _softmax(np.stack([average, cls_logits, distillation_logits]))
    order = np.argsort(-probabilities[EXPERTS.index(expert)], axis=-1, kind="stable")[:, :top]
    return [
        [
            ClassRow(class_names[index], dict(zip(EXPERTS, probabilities[:, image, index].tolist(), strict=True)))
            for index in classes
        ]
        for image, classes in enumerate(order)
    ]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
