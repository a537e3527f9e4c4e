"""Features of a split's images, computed once and kept beside the run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Dataset

from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.data.duplicates import image_hashes
from deitlt_hf.errors import notice
from deitlt_hf.files import whole_file
from deitlt_hf.models.deit_lt.modeling_deit_lt import DeiTLTModel
from deitlt_hf.training.arguments import DeiTLTTrainingArguments
from deitlt_hf.training.kept_pixels import read_pixels

FEATURES_FILE = "features-{split}.safetensors"


@dataclass
class Features(Dataset):
    """Both tokens of each image, which a student's heads take, as training examples.

    Args:
        tokens: float32 `(N, 2, D)`, class token and distillation token.
        labels: int64 `(N,)`.
        teacher_logits: float32 `(N, classes)`, where a teacher labels the images.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    teacher_logits: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        example = {"pixel_values": self.tokens[index], "labels": int(self.labels[index])}
        return example if self.teacher_logits is None else example | {"teacher_logits": self.teacher_logits[index]}


def features_of(body: DeiTLTModel, images: ViewedDataset, args: DeiTLTTrainingArguments) -> Features:
    """The features of `images` without augmentation, from the run's directory where they are there.

    The main process computes them, the others wait.

    Args:
        body: what makes them, a student without its heads.
        images: with one view, `pixel_values`.
        args: of the run: its directory, device and batch size.
    """
    file = Path(args.output_dir) / FEATURES_FILE.format(split=images.split)
    key = _key(body, images)
    with PartialState().main_process_first():
        tokens = _read(file, key)
        if tokens is None:
            tokens = _compute(body, images, args)
            if args.should_save:
                file.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(file) as unfinished:
                    save_file({"tokens": tokens}, unfinished, {"of": key})
        else:
            notice(f"features of {len(tokens):,} {images.split} images are taken from {file}")
    return Features(tokens, torch.as_tensor(images.labels, dtype=torch.long))


def _read(file: Path, key: str) -> torch.Tensor | None:
    """The features in a file; None if there is none, or it has those of other weights or images."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            return opened.get_tensor("tokens") if (opened.metadata() or {}).get("of") == key else None
    except SafetensorError:  # not whole
        return None


@torch.no_grad()
def _compute(body: DeiTLTModel, images: ViewedDataset, args: DeiTLTTrainingArguments) -> torch.Tensor:
    body.to(args.device).eval()
    batches = read_pixels(images, args.eval_batch_size, args, f"features of {images.split}")
    return torch.cat([body(pixels, num_tokens=2).last_hidden_state.float().cpu() for pixels in batches])


def _key(body: DeiTLTModel, images: ViewedDataset) -> str:
    """What features depend on: the files of the images, how they are resized, and all weights of the body."""
    steps = [step for step in images.views["pixel_values"].transforms if isinstance(step, nn.Module)]
    digest = hashlib.sha256(str(steps).encode())
    digest.update(image_hashes(images.rows, images.split).tobytes())
    for name, weight in body.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
