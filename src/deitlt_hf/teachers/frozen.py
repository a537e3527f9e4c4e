"""The teacher as the student sees it: frozen, at its own image size, in the student's label order."""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from accelerate.utils import patch_environment
from torch import nn
from transformers import PreTrainedModel

from deitlt_hf.errors import DeiTLTError
from deitlt_hf.foreign.weights import check_finite
from deitlt_hf.inference.loading import load_any_classifier
from deitlt_hf.losses.ldam import logit_scale
from deitlt_hf.ranges import one_of
from deitlt_hf.teachers.pixels import TEACHER_PIXELS, read_own_pixels


class FrozenTeacher:
    """Labels batches of the student's pixels with an image classifier that no longer learns.

    Args:
        model: any image classifier of transformers, or a directory or hub id to load one from.
        student: its `id2label` gives the order of the logits; classes are matched by name.
        device: where the teacher runs.
        pixels: what the teacher sees: `"reference"`: the student's own normalised pixels at the teacher's image size,
            as in the reference; `"own"`: the size, mean and standard deviation of the teacher's image processor;
            `"student"`: the student's pixels as they are. Resizing is bicubic without antialiasing.
    """

    def __init__(
        self,
        model: PreTrainedModel | str,
        student: PreTrainedModel,
        device: torch.device | str,
        pixels: str = "reference",
    ):
        one_of("teacher_pixels", pixels, TEACHER_PIXELS)
        if isinstance(model, PreTrainedModel):
            check_finite(model, "the teacher")
        elif isinstance(model, nn.Module):
            raise DeiTLTError(
                f"the teacher is a {type(model).__name__}; pass a model of transformers, such as "
                "TimmWrapperForImageClassification for timm's, or a directory or hub id of one"
            )
        else:
            # With this setting of FSDP on, all processes but the first would wait for weights that nobody sends.
            with patch_environment(FSDP_CPU_RAM_EFFICIENT_LOADING="false"):
                model = load_any_classifier(str(model), what="a teacher")
        self.model = model.to(device).eval().requires_grad_(False)
        self.model.to(memory_format=torch.channels_last)  # the layout that convolutions are fastest with
        self.image_size = _image_size(model) if pixels == "reference" else None
        self._scale = self._shift = None
        if pixels == "own":
            own = read_own_pixels(model)
            self.image_size = own.size
            self._scale, self._shift = (value.to(device) for value in own.from_students())
        self._order = None
        if model.config.id2label != student.config.id2label:
            order = _label_order(model.config.id2label, student.config.id2label)
            self._order = torch.tensor(order, device=device)

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits `(N, C)` in the student's order, for the student's own normalised pixels `(N, 3, H, W)`."""
        if self.image_size is not None and tuple(pixel_values.shape[-2:]) != self.image_size:
            # Without antialiasing, as in the reference.
            pixel_values = F.interpolate(pixel_values, self.image_size, mode="bicubic", align_corners=False)
        if self._scale is not None:
            pixel_values = pixel_values * self._scale + self._shift
        # A teacher may be saved in half precision; its logits go into the loss in full precision.
        logits = self.model(pixel_values=pixel_values.to(self.model.dtype)).logits.float()
        logits = logit_scale(self.model.config) * logits
        return logits if self._order is None else logits[:, self._order]


def _image_size(model: PreTrainedModel) -> tuple[int, int] | None:
    size = getattr(model.config, "image_size", None)
    if size is None:  # timm's wrapper keeps it elsewhere
        size = (getattr(model.config, "pretrained_cfg", None) or {}).get("input_size", ())[1:]
    # A model without either takes any size.
    return (size, size) if isinstance(size, int) else tuple(size) or None


def _label_order(teacher: dict[int, str], student: dict[int, str]) -> list[int]:
    position = {name: index for index, name in teacher.items()}
    missing = [name for name in student.values() if name not in position]
    if missing:
        raise DeiTLTError(
            f"teacher and student have different label sets: the teacher lacks {len(missing)} of the student's "
            f"{len(student)} classes, first {missing[0]!r}; pass a teacher trained on the same classes"
        )
    counts = Counter(teacher.values())
    twice = [name for name in student.values() if counts[name] > 1]
    if twice:
        raise DeiTLTError(
            f"the teacher has {counts[twice[0]]} classes named {twice[0]!r}, which is one of the student's; give the "
            "others another name in the teacher's config.json (id2label)"
        )
    return [position[student[index]] for index in range(len(student))]
