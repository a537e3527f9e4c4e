"""Run by test_paco.py in two processes: keys, queue and weights of PaCo against what one process computes by itself."""

from __future__ import annotations

import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import TensorDataset
from transformers import set_seed

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, TeacherTrainer, TeacherTrainingArguments
from deitlt_hf.training.paco import MomentumContrast


def make_model() -> CifarResNetForImageClassification:
    torch.manual_seed(0)
    return CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=4, image_size=8))


def everywhere(tensor: torch.Tensor) -> list[torch.Tensor]:
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, tensor.contiguous())
    return gathered


def check_keys(accelerator: Accelerator) -> None:
    """Without batch statistics a key depends on its image alone, so that one process can compute those of both."""
    model = make_model()
    contrast = MomentumContrast(model, dim=64, queue_size=7, momentum=0.5, seed=3, accelerator=accelerator)
    contrast.key_projection = torch.nn.Identity()
    contrast.key_encoder.eval()
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    mine = slice(4 * accelerator.process_index, 4 * accelerator.process_index + 4)
    with torch.no_grad():
        expected = F.normalize(model.eval().extract_features(images), dim=1)

    keys = contrast.encode_keys(images[mine])
    torch.testing.assert_close(keys, expected, rtol=1e-4, atol=1e-5)
    candidates, candidate_labels = contrast.candidates(keys, labels[mine])
    torch.testing.assert_close(candidates[:4], expected[mine], rtol=1e-4, atol=1e-5)
    assert candidate_labels[:4].tolist() == labels[mine].tolist()

    contrast._key_and_query_weights = lambda model: ([torch.zeros(1)], [torch.zeros(1)])
    contrast.stage(keys, labels[mine])
    contrast.advance(model)
    # Eight keys into a queue of seven: the eighth takes the place of the first.
    torch.testing.assert_close(contrast.queue, expected[[7, 1, 2, 3, 4, 5, 6]], rtol=1e-4, atol=1e-5)
    assert contrast.queue_labels.tolist() == [0, 1, 2, 3, 3, 2, 1]


def check_training(directory: str) -> None:
    """Both processes end with one classifier, projection, momentum encoder and queue."""
    set_seed(0)
    images, keys = torch.randn(32, 3, 8, 8), torch.randn(32, 3, 8, 8)
    rows = TensorDataset(images, keys, torch.arange(32) % 4)
    dataset = [{"pixel_values": x, "key_pixel_values": k, "labels": int(label)} for x, k, label in rows]
    args = TeacherTrainingArguments(
        directory,
        loss="paco",
        paco_dim=4,
        paco_queue=12,
        paco_momentum=0.5,
        sam_rho=0.1,
        num_train_epochs=2,
        per_device_train_batch_size=4,
        save_strategy="no",
        save_total_limit=None,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = make_model()
    if args.process_index == 1:  # all start at the first process's weights, whatever they were
        model.classifier.weight.data += 1
    trainer = TeacherTrainer(model, args, class_counts=[8, 8, 8, 8], train_dataset=dataset)
    trainer.train()
    assert trainer.state.global_step == 8
    contrast = trainer.contrast
    assert contrast.num_queued == 64
    tensors = [*model.parameters(), *contrast.parameters(), contrast.queue]
    for tensor in tensors:
        first, second = everywhere(tensor.detach())
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    first, second = everywhere(contrast.queue_labels)
    assert first.tolist() == second.tolist()
    assert (model.classifier.weight - make_model().classifier.weight).abs().max() > 1e-3


if __name__ == "__main__":
    check_keys(Accelerator(cpu=True))
    with tempfile.TemporaryDirectory() as directory:
        check_training(directory)
    print("agrees", flush=True)
    dist.destroy_process_group()
