"""However many images are evaluated, logits of no more than the batch at hand are held."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.utils.data import DataLoader

from deitlt_hf import DeiTLTTrainer, TeacherTrainer
from deitlt_hf.data.dataset import collate
from deitlt_hf.evaluation.evaluate import predict_experts

CLASSES, IMAGES, BATCH = 1000, 64, 4
NAMES = {index: str(index) for index in range(CLASSES)}
GROUPS = {"head": list(range(10)), "mid": [], "tail": list(range(10, CLASSES))}


def live_rows(model: torch.nn.Module) -> int:
    """Rows of logits in tensors that something still holds, each memory counted once; the model's weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    rows = {}
    for tensor in gc.get_objects():
        if issubclass(type(tensor), torch.Tensor) and tensor.ndim == 2 and tensor.shape[1] == CLASSES:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                rows[storage.data_ptr()] = storage.nbytes() // (4 * CLASSES)
    return sum(rows.values())


def live_pieces() -> int:
    """Integer tensors of a batch's length that something still holds."""
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    return sum(one.dtype == torch.int64 and one.ndim > 0 and len(one) == BATCH for one in tensors)


@pytest.fixture
def held(images):
    """Rows of logits that are held when the last batch is read, found by its last image."""

    class Watched(images):
        model: torch.nn.Module
        rows: list[int] = []
        pieces: list[int] = []

        def __getitem__(self, index):
            if index in (0, IMAGES - 1):
                Watched.pieces.append(live_pieces())
            if index == IMAGES - 1:
                Watched.rows.append(live_rows(Watched.model))
            return super().__getitem__(index)

    return Watched


@pytest.mark.parametrize("piles_up", [False, True])
def test_student(piles_up, held, tiny_student, arguments):
    settings = {"distillation_type": "none", "per_device_eval_batch_size": BATCH}
    everything = {"preprocess_logits_for_metrics": lambda logits, labels: logits[1], "compute_metrics": lambda _: {}}
    held.model = tiny_student(id2label=NAMES, class_counts=[5] * CLASSES)
    trainer = DeiTLTTrainer(
        held.model,
        arguments(**settings),
        class_groups=GROUPS,
        eval_dataset=held(IMAGES),
        **everything if piles_up else {},
    )
    measured = trainer.evaluate()
    assert measured["eval_loss"] > 0
    if piles_up:  # what would happen, so that the measurement is seen to notice it
        assert held.rows[0] >= IMAGES - 2 * BATCH
    else:
        assert held.rows[0] <= 3 * 2 * BATCH  # three logits; of the batch before this one, and of none earlier
        # Who asks for predictions gets logits, as from transformers' Trainer.
        assert trainer.predict(held(IMAGES)).predictions.shape == (IMAGES, CLASSES)


def test_teacher(held, tiny_teacher, teacher_arguments):
    held.model = tiny_teacher(id2label=NAMES)
    args = teacher_arguments(per_device_eval_batch_size=BATCH)
    trainer = TeacherTrainer(
        held.model, args, class_counts=[5] * CLASSES, class_groups=GROUPS, eval_dataset=held(IMAGES)
    )
    assert trainer.evaluate()["eval_loss"] > 0
    assert held.rows[0] <= 2 * BATCH
    assert trainer.predict(held(IMAGES)).predictions.shape == (IMAGES, CLASSES)


def test_predict_experts(held, tiny_student):
    held.model = tiny_student(id2label=NAMES, class_counts=[5] * CLASSES)
    predictions, _ = predict_experts(held.model, DataLoader(held(IMAGES), BATCH, collate_fn=collate))
    assert predictions.shape == (IMAGES, 3)
    assert held.rows[0] <= 3 * 2 * BATCH
    # A piece for each of the 15 batches before would keep the memory between them from the batches' images.
    first, last = held.pieces
    assert last - first <= 6
