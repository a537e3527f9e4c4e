"""PaCo teachers: momentum encoder, queue, gathered keys, and training with and without SAM, against hand arithmetic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import Dataset
from transformers import AutoModelForImageClassification

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, DeiTLTError, PaCoLoss, TeacherTrainer
from deitlt_hf.training.paco import MomentumContrast

COUNTS = list(range(100, 0, -10))


class TwoViews(Dataset):
    """A data set whose key view is another function of its images."""

    def __init__(self, images: Dataset):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        example = self.images[index]
        return example | {"key_pixel_values": example["pixel_values"].flip(-1) + 0.1}


@pytest.fixture
def contrast(tiny_teacher):
    """Makes a linear classifier and the contrast of its inputs."""

    def make(**settings):
        model = tiny_teacher()
        defaults = {"dim": 4, "queue_size": 6, "momentum": 0.9, "seed": 0, "accelerator": Accelerator(cpu=True)}
        return model, MomentumContrast(model, **defaults | settings)

    return make


@pytest.fixture
def train(tiny_teacher, images, teacher_arguments):
    """Trains a linear classifier with PaCo on 16 images, four a batch."""

    def run(checkpoint=None, watch=lambda trainer: None, dataset=None, **settings):
        defaults = {"loss": "paco", "paco_dim": 4, "paco_queue": 6, "paco_momentum": 0.5, "num_train_epochs": 1}
        args = teacher_arguments(**defaults | {"learning_rate": 0.1} | settings)
        dataset = TwoViews(images(16)) if dataset is None else dataset
        trainer = TeacherTrainer(tiny_teacher(), args, class_counts=COUNTS, train_dataset=dataset)
        watch(trainer)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    return run


def test_the_momentum_encoder_follows_with_its_momentum(contrast):
    model, moco = contrast(momentum=0.75)
    expected = [weight.detach().clone() for weight in moco.key_encoder.parameters()]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for weight in model.parameters():
            weight.data += torch.randn(weight.shape, generator=generator)
        expected = [0.75 * key + 0.25 * query for key, query in zip(expected, model.parameters(), strict=True)]
        moco.advance(model)
    torch.testing.assert_close(list(moco.key_encoder.parameters()), expected)
    assert not any(weight.requires_grad for weight in moco.key_encoder.parameters())


def test_so_does_its_projection(contrast):
    model, moco = contrast(momentum=0.75)
    before = [weight.detach().clone() for weight in moco.key_projection.parameters()]
    for weight in moco.projection.parameters():
        weight.data += 1
    moco.advance(model)
    torch.testing.assert_close(list(moco.key_projection.parameters()), [weight + 0.25 for weight in before])


def test_the_queue_takes_keys_in_their_order_and_wraps_around(contrast):
    model, moco = contrast(dim=1, queue_size=5)
    for first in (0, 3, 6):
        moco.stage(torch.arange(first, first + 3.0)[:, None], torch.arange(first, first + 3))
        moco.advance(model)
    # 0 1 2 at 0..2, then 3 4 at 3..4 and 5 at 0, then 6 7 8 at 1..3.
    assert moco.queue.flatten().tolist() == [5, 6, 7, 8, 4]
    assert moco.queue_labels.tolist() == [5, 6, 7, 8, 4]


def test_of_more_keys_than_it_holds_the_queue_keeps_the_last(contrast):
    model, moco = contrast(dim=1, queue_size=3)
    moco.stage(torch.arange(7.0)[:, None], torch.arange(7))
    moco.advance(model)
    assert moco.queue.flatten().tolist() == [6, 4, 5]  # the seventh key is at 6 mod 3
    moco.stage(torch.tensor([[7.0]]), torch.tensor([7]))
    moco.advance(model)
    assert moco.queue.flatten().tolist() == [6, 7, 5]


def test_keys_and_queries_have_length_one_and_only_queries_a_gradient(contrast, images):
    model, moco = contrast()
    pixel_values = images(8).pixel_values
    keys = moco.encode_keys(pixel_values)
    model(pixel_values)
    queries = moco.queries()
    # Encoder and momentum encoder are the same before the first step.
    torch.testing.assert_close(queries, keys)
    torch.testing.assert_close(queries.norm(dim=1), torch.ones(8))
    assert queries.requires_grad
    assert not keys.requires_grad


def test_features_are_what_the_classifier_sees(contrast):
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=3))
    moco = MomentumContrast(model, dim=4, queue_size=6, momentum=0.9, seed=0, accelerator=Accelerator(cpu=True))
    pixel_values = torch.randn(8, 3, 16, 16)
    model.train()(pixel_values)
    expected = F.normalize(moco.projection(model.extract_features(pixel_values)), dim=1)
    torch.testing.assert_close(moco.queries(), expected)


@pytest.mark.parametrize(("accumulation", "sam_rho"), [(1, 0.0), (1, 0.5), (2, 0.0), (2, 0.5)])
def test_the_loss_compares_queries_with_keys_and_with_the_queue_before_the_step(train, accumulation, sam_rho):
    seen = []

    def watch(trainer):
        compute_loss = trainer.compute_loss

        def compare(model, inputs, *args, **kwargs):
            moco, pixel_values, labels = trainer.contrast, inputs["pixel_values"], inputs["labels"]
            value = compute_loss(model, inputs, *args, **kwargs)
            with torch.no_grad():
                queries = F.normalize(moco.projection(pixel_values.flatten(1)), dim=1)
                features = torch.cat([queries, inputs["keys"], moco.queue])
                loss = PaCoLoss(COUNTS, alpha=0.01, temperature=0.05)
                expected = loss(features, torch.cat([labels, labels, moco.queue_labels]), model(pixel_values).logits)
                trainer.contrast._query_features.take()
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
            seen.append((trainer.state.global_step, inputs["keys"].clone(), moco.queue.clone(), labels))
            return value

        trainer.compute_loss = compare

    trainer = train(watch=watch, gradient_accumulation_steps=accumulation, sam_rho=sam_rho)
    passes = 2 if sam_rho else 1
    assert [step for step, *_ in seen] == [
        step for step in range(4 // accumulation) for _ in range(passes * accumulation)
    ]
    for step in range(4 // accumulation):
        of_step = [call for call in seen if call[0] == step]
        for call in of_step:  # one queue for all batches and passes of a step
            torch.testing.assert_close(call[2], of_step[0][2], rtol=0, atol=0)
        for first, again in zip(of_step[:accumulation], of_step[accumulation:], strict=bool(sam_rho)):
            torch.testing.assert_close(first[1], again[1], rtol=0, atol=0)
    # 16 keys went through a queue of six: the last six lie at places 10..15 mod 6.
    keys = torch.cat([keys for step in range(4 // accumulation) for keys in first_pass(seen, step, accumulation, 1)])
    labels = torch.cat([row for step in range(4 // accumulation) for row in first_pass(seen, step, accumulation, 3)])
    places = torch.tensor([4, 5, 0, 1, 2, 3])
    torch.testing.assert_close(trainer.contrast.queue[places], keys[-6:])
    assert trainer.contrast.queue_labels[places].tolist() == labels[-6:].tolist()


def first_pass(seen, step, accumulation, column):
    return [call[column] for call in seen if call[0] == step][:accumulation]


def test_the_projection_learns_and_the_momentum_encoder_follows_the_weights_after_each_step(train):
    snapshots = []

    def watch(trainer):
        advance = trainer.contrast.advance

        def record(model):
            snapshots.append([weight.detach().clone() for weight in model.parameters()])
            advance(model)

        trainer.contrast.advance = record
        snapshots.append([weight.detach().clone() for weight in trainer.model.parameters()])
        snapshots.append([weight.detach().clone() for weight in trainer.contrast.projection.parameters()])

    trainer = train(watch=watch, sam_rho=0.1)
    initial, projection, *after_steps = snapshots
    assert len(after_steps) == 4
    for weights in after_steps:
        initial = [0.5 * key + 0.5 * query for key, query in zip(initial, weights, strict=True)]
    torch.testing.assert_close(list(trainer.contrast.key_encoder.parameters()), initial)
    assert (trainer.contrast.projection[0].weight - projection[0]).abs().max() > 1e-3


@pytest.mark.parametrize("sam_rho", [0.0, 0.1])
def test_a_resumed_run_ends_at_the_same_weights_keys_and_queue(train, sam_rho):
    settings = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 6, "sam_rho": sam_rho}
    whole = train(**settings)
    resumed = train(f"{whole.args.output_dir}/checkpoint-6", **settings)
    for ended, expected in ((resumed.model, whole.model), (resumed.contrast, whole.contrast)):
        torch.testing.assert_close(dict(ended.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)
    assert resumed.contrast.num_queued == whole.contrast.num_queued == 48


def test_a_checkpoint_of_another_loss_or_queue_is_refused(train):
    trainer = train(save_strategy="epoch")
    checkpoint = f"{trainer.args.output_dir}/checkpoint-4"
    with pytest.raises(DeiTLTError, match=r"another model, paco_dim or paco_queue; resume with"):
        train(checkpoint, num_train_epochs=2, paco_queue=7)
    (Path(checkpoint) / "paco.safetensors").unlink()
    with pytest.raises(DeiTLTError, match=r"no checkpoint of a PaCo training; resume with the loss"):
        train(checkpoint, num_train_epochs=2)


def test_a_checkpoint_of_paco_is_refused_by_other_losses(train):
    checkpoint = f"{train(save_strategy='epoch').args.output_dir}/checkpoint-4"
    with pytest.raises(DeiTLTError, match=r"checkpoint-4 is a checkpoint of a PaCo training; resume with loss paco$"):
        train(checkpoint, loss="ce", num_train_epochs=2)


def test_what_is_saved_is_the_plain_classifier(images, teacher_arguments, tmp_path):
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10, image_size=8))
    args = teacher_arguments(loss="paco", num_train_epochs=1, save_strategy="epoch")
    trainer = TeacherTrainer(model, args, class_counts=COUNTS, train_dataset=TwoViews(images(8)))
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final" / "paco.safetensors").exists()
    assert (Path(args.output_dir) / "checkpoint-2" / "paco.safetensors").is_file()
    loaded, report = AutoModelForImageClassification.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_one_view_is_not_enough(train, images):
    with pytest.raises(DeiTLTError, match="give examples key_pixel_values beside pixel_values"):
        train(dataset=images(8))


def test_a_classifier_without_a_linear_layer_is_refused(tiny_teacher):
    model = tiny_teacher()
    model.classifier = torch.nn.Flatten()
    with pytest.raises(DeiTLTError, match="LinearClassifier has none"):
        MomentumContrast(model, dim=4, queue_size=6, momentum=0.9, seed=0, accelerator=Accelerator(cpu=True))


def test_two_processes_gather_keys_in_their_order_and_keep_one_queue():
    script = Path(__file__).with_name("two_paco_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agrees") == 2
