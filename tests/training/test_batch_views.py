"""Training whose views are made in batches on the device."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset
from PIL import Image
from torchvision import transforms

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification, DeiTLTError, DeiTLTTrainer, TeacherTrainer
from deitlt_hf.data import dataset as dataset_module
from deitlt_hf.data.arguments import Images, TrainingDataArguments
from deitlt_hf.data.dataset import ViewedDataset
from deitlt_hf.data.device_augmentation.device_views import BatchView, device_views, to_levels
from deitlt_hf.data.device_augmentation.random_numbers import Draws
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.data.sampling import Draw
from deitlt_hf.runs import training as runs
from deitlt_hf.training.batch_views import BatchViews, augments_on_device


def rows_of(count: int, size: int = 8) -> Dataset:
    random = np.random.default_rng(0)
    pixels = [Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]
    rows = Dataset.from_dict({"image": pixels, "label": [number % 10 for number in range(count)]})
    return rows.cast_column("label", ClassLabel(num_classes=10))


@pytest.fixture
def train_student(tiny_student, tiny_teacher, arguments):
    def run(checkpoint=None, weak: bool = False, **settings) -> DeiTLTTrainer:
        settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3, "learning_rate": 0.01} | settings
        args = arguments(**settings)
        strong = {"pixel_values": True} | ({"weak_pixel_values": False} if weak else {})
        rows = rows_of(20)
        of_loader, of_batch = device_views(strong, 8, True, rows)
        trainer = DeiTLTTrainer(
            tiny_student(drop_path_rate=0.3, num_hidden_layers=2),
            args,
            teacher=tiny_teacher(),
            train_dataset=ViewedDataset(rows, of_loader, "train"),
            batch_views=of_batch,
        )
        trainer.train(resume_from_checkpoint=checkpoint and f"{args.output_dir}/checkpoint-{checkpoint}")
        return trainer

    return run


class Decoding(list):
    """A view that cannot be hashed."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return to_levels(image)


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_student_resumes_with_the_views_it_would_have_had(train_student, accumulated: int) -> None:
    settings = {"gradient_accumulation_steps": accumulated, "mixup": 0.8, "cutmix": 1.0, "repeated_augmentation": 3}
    whole = train_student(**settings)
    torch.testing.assert_close(weights_of(train_student(checkpoint=3, **settings)), weights_of(whole), rtol=0, atol=0)


@pytest.mark.parametrize("repeated", [1, 3])
def test_a_loader_that_only_decodes_gets_no_seeds(train_student, monkeypatch, repeated: int) -> None:
    kinds = set()
    monkeypatch.setattr(DeiTLTTrainer, "keeps_pixels", False)
    read = ViewedDataset.__getitems__
    monkeypatch.setattr(
        ViewedDataset,
        "__getitems__",
        lambda self, indices: kinds.update(map(type, indices)) or read(self, indices),
    )
    settings = {"mixup": 0.8, "cutmix": 1.0, "save_strategy": "no", "repeated_augmentation": repeated}
    without = weights_of(train_student(**settings))
    assert kinds == {int}
    monkeypatch.setattr(DeiTLTTrainer, "_loader_draws", True)
    torch.testing.assert_close(weights_of(train_student(**settings)), without, rtol=0, atol=0)
    assert kinds == {int, Draw}


@pytest.mark.parametrize(
    "settings",
    [
        {"weak": True, "distillation_view": "weak"},
        {"repeated_augmentation": 3, "mixup": 0.8, "cutmix": 1.0},
        {"class_balanced_sampling": True, "gradient_accumulation_steps": 2},
    ],
)
def test_pixels_that_are_kept_on_the_device_change_nothing(train_student, monkeypatch, settings: dict) -> None:
    settings = {"save_strategy": "no", "num_train_epochs": 3} | settings
    read, decode = [], dataset_module.decode_image
    monkeypatch.setattr(dataset_module, "decode_image", lambda value: read.append(value) or decode(value))
    kept = weights_of(train_student(**settings))
    assert len(read) == 20 + 2  # each once, and the first also for its size and for that of its pixels
    monkeypatch.setattr(DeiTLTTrainer, "keeps_pixels", False)
    torch.testing.assert_close(weights_of(train_student(**settings)), kept, rtol=0, atol=0)


def test_a_loader_of_kept_pixels_sends_numbers_and_starts_no_process(tiny_student, arguments) -> None:
    rows = rows_of(12)
    of_loader, of_batch = device_views({"pixel_values": True}, 8, True, rows)
    args = arguments(distillation_type="none", dataloader_num_workers=1, dataloader_persistent_workers=True)
    images = ViewedDataset(rows, of_loader, "train")
    trainer = DeiTLTTrainer(tiny_student(), args, train_dataset=images, batch_views=of_batch)
    loader = trainer.get_train_dataloader()
    assert loader.num_workers == 0
    batches = iter(loader)
    (first, second, third), _ = trainer.get_batch_samples(batches, 3, args.device)
    pixels, labels = (torch.cat([batch[name] for batch in (first, second, third)]) for name in first)
    assert set(first) == {"pixel_values", "labels"}
    assert sorted(labels.tolist()) == sorted(rows["label"])
    by_content = {np.asarray(row["image"]).tobytes(): row["label"] for row in rows}
    assert [by_content[levels.permute(1, 2, 0).numpy().tobytes()] for levels in pixels] == labels.tolist()
    # Another training set has pixels of its own.
    trainer.train_dataset = ViewedDataset(rows.select(range(11, -1, -1)), of_loader, "train")
    (others,), _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, args.device)
    found = [by_content[levels.permute(1, 2, 0).numpy().tobytes()] for levels in others["pixel_values"]]
    assert found == others["labels"].tolist()


@pytest.mark.parametrize(
    "reason", ["a random view of the loader", "a view of the user", "other data", "another collator", "no room"]
)
def test_pixels_are_kept_only_where_that_changes_nothing(tiny_student, arguments, monkeypatch, reason: str) -> None:
    rows, options = rows_of(12), {}
    of_loader, of_batch = device_views({"pixel_values": True}, 8, True, rows)
    if reason == "a random view of the loader":
        steps = of_loader["pixel_values"].transforms
        of_loader = {"pixel_values": transforms.Compose([transforms.RandomVerticalFlip(), *steps])}
    if reason == "a view of the user":
        of_loader = {"pixel_values": Decoding()}
    images = ViewedDataset(rows, of_loader, "train")
    if reason == "other data":
        images = torch.utils.data.Subset(images, range(8))
    if reason == "another collator":
        options["data_collator"] = lambda examples: dataset_module.collate(examples)
    if reason == "no room":
        monkeypatch.setattr(dataset_module, "MOST_KEPT", 12 * 3 * 8 * 8 - 1)
    args = arguments(distillation_type="none")
    trainer = DeiTLTTrainer(tiny_student(), args, train_dataset=images, batch_views=of_batch, **options)
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"pixel_values", "labels"}
    assert batch["pixel_values"].dtype == torch.uint8


def test_an_image_that_cannot_be_read_is_named_before_the_first_step(tiny_student, arguments) -> None:
    rows = rows_of(12).cast_column("image", datasets.Image(decode=False))
    rows = rows.map(lambda row, at: row | {"image": {"bytes": b"no image", "path": None}} if at == 9 else row, True)
    of_loader, of_batch = device_views({"pixel_values": True}, 8, True, rows)
    images = ViewedDataset(rows, of_loader, "train")
    trainer = DeiTLTTrainer(
        tiny_student(), arguments(distillation_type="none"), train_dataset=images, batch_views=of_batch
    )
    with pytest.raises(DeiTLTError, match="image 9 of train cannot be read"):
        trainer.get_train_dataloader()


@pytest.mark.parametrize(("size", "draws"), [(8, False), (300, True)])
def test_a_loader_that_crops_gets_seeds(tiny_student, arguments, size: int, draws: bool) -> None:
    rows = rows_of(4, size)
    of_loader, of_batch = device_views({"pixel_values": True}, 64, True, rows)
    trainer = DeiTLTTrainer(
        tiny_student(image_size=64),
        arguments(distillation_type="none"),
        train_dataset=ViewedDataset(rows, of_loader, "train"),
        batch_views=of_batch,
    )
    assert {type(index) for index in trainer._get_train_sampler()} == {Draw if draws else int}


def test_every_batch_has_its_own_views(train_student) -> None:
    seen = []
    view = BatchView.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchView, "__call__", lambda *given: seen.append(view(*given)) or seen[-1].clone())
        trainer = train_student(gradient_accumulation_steps=2, weak=True, distillation_view="weak", save_strategy="no")
    assert len(seen) == 2 * 2 * 5  # two views of five batches in each of two epochs
    assert all(views.shape == (4, 3, 8, 8) and views.dtype == torch.float32 for views in seen)
    assert len({tuple(views.flatten().tolist()) for views in seen}) == len(seen)
    # The teacher was shown the weak ones.
    shown = [pixels for pixels in trainer.teacher.model.seen if len(pixels) == 4]
    for teachers, weak in zip(shown, seen[1::2], strict=True):
        torch.testing.assert_close(teachers, weak)


def test_sams_second_pass_sees_the_same_views(teacher_arguments) -> None:
    rows = rows_of(8)
    of_loader, of_batch = device_views({"pixel_values": False}, 8, True, rows)
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10, image_size=8))
    seen = []
    model.register_forward_pre_hook(lambda module, args, given: seen.append(given["pixel_values"]), with_kwargs=True)
    args = teacher_arguments(sam_rho=0.5, gradient_accumulation_steps=2, num_train_epochs=2)
    dataset = ViewedDataset(rows, of_loader, "train")
    TeacherTrainer(model, args, class_counts=[1] * 10, train_dataset=dataset, batch_views=of_batch).train()
    assert len(seen) == 2 * 4
    for first in (0, 4):
        torch.testing.assert_close(seen[first], seen[first + 2])
        torch.testing.assert_close(seen[first + 1], seen[first + 3])
        assert not torch.equal(seen[first], seen[first + 1])


def test_views_follow_from_seed_step_place_and_process() -> None:
    batch = {"pixel_values": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)}
    view = BatchView(8, strong=True)

    def made(seed: int = 0, process: int = 0, steps: tuple[int, ...] = (3,)) -> torch.Tensor:
        views = BatchViews({"pixel_values": view}, seed, process)
        return [views(batch, step)["pixel_values"] for step in steps][-1]

    torch.testing.assert_close(made(), view(batch["pixel_values"], Draws(0, 3, 0, 0, 0, device="cpu")))
    torch.testing.assert_close(made(steps=(1, 1, 1, 3)), made())
    for others in ({"seed": 1}, {"process": 1}, {"steps": (4,)}, {"steps": (3, 3)}, {"seed": -1}):
        assert not torch.equal(made(**others), made()), others


@pytest.mark.parametrize(
    ("device", "image_size", "size", "expected"),
    [
        ("cpu", 32, 300, True),
        ("cpu", 33, 8, False),
        ("cuda", 8, 300, True),
        ("cuda", 64, 8, True),
        ("cuda", 64, 300, False),
        ("mps", 8, 8, False),
    ],
)
def test_auto_is_the_device_where_batched_views_are_faster(
    arguments, monkeypatch, device, image_size, size, expected
) -> None:
    rows = rows_of(2, size)
    args = {name: arguments(augmentation_device=name) for name in ("auto", "cpu", "device")}
    monkeypatch.setattr(type(args["auto"]), "device", torch.device(device))
    assert augments_on_device(args["auto"], rows, image_size) is expected
    assert augments_on_device(args["cpu"], rows, image_size) is False
    if device != "mps":
        assert augments_on_device(args["device"], rows, image_size) is True


def test_another_augmentation_device_is_refused(arguments) -> None:
    with pytest.raises(DeiTLTError, match="unknown augmentation_device 'gpu'; pass one of auto, cpu, device"):
        arguments(augmentation_device="gpu")


def test_a_device_without_double_precision_is_refused(arguments, monkeypatch) -> None:
    args = arguments(augmentation_device="device")
    monkeypatch.setattr(type(args), "device", torch.device("mps"))
    with pytest.raises(DeiTLTError, match="augmentation_device is 'device', which a mps device lacks; pass auto or"):
        augments_on_device(args, rows_of(2), 8)


@pytest.mark.parametrize("kind", ["student", "teacher", "teacher on strong views"])
def test_a_run_learns_from_views_made_on_the_device(kind: str, arguments, teacher_arguments, monkeypatch) -> None:
    rows = rows_of(24)
    images = Images(rows, rows, [str(number) for number in range(10)], [3, 3, 3, 3] + [2] * 6, class_groups([3] * 10))
    monkeypatch.setattr(runs, "load_images_to_train", lambda data, checkpoint: images)
    data, seen = TrainingDataArguments(image_size=8), []
    settings = {"augmentation_device": "device", "num_train_epochs": 1, "dataloader_num_workers": 1}
    view = BatchView.__call__
    monkeypatch.setattr(BatchView, "__call__", lambda self, *given: seen.append(self) or view(self, *given))
    if kind == "student":
        shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
        args = arguments(distillation_type="none", **settings)
        runs.train_student(data, runs.StudentArguments(**shape), args)
    else:
        args = teacher_arguments(training_view="weak" if kind == "teacher" else "strong", **settings)
        runs.train_teacher(data, runs.TeacherArguments(depth=20), args)
    assert seen == [BatchView(8, strong=kind != "teacher")] * 6
    recipe = yaml.safe_load((Path(args.output_dir) / "recipe.yaml").read_text())
    assert recipe["augmentation_device"] == "device"


@pytest.mark.parametrize(("view", "expected"), [("weak", False), ("strong", True)])
def test_a_teacher_is_shown_the_views_it_is_trained_on(view, expected, teacher_arguments, monkeypatch) -> None:
    white = Dataset.from_dict({"image": [Image.new("RGB", (8, 8), "white")] * 24, "label": [0] * 24})
    white = white.cast_column("label", ClassLabel(num_classes=10))
    images = Images(white, white, [str(number) for number in range(10)], [3] * 10, class_groups([3] * 10))
    data, args = TrainingDataArguments(image_size=8), teacher_arguments(training_view=view, num_train_epochs=1)
    trainer = runs.make_teacher_trainer(data, runs.TeacherArguments(depth=20), args, images)
    seen = []
    trainer.model.register_forward_pre_hook(lambda *given: seen.append(given[2]["pixel_values"]), with_kwargs=True)
    trainer.train()
    # A weak view of a white image has white and the black of its border; a strong one may be erased by noise, too.
    assert (len(torch.cat(seen)[:, 0].unique()) > 2) is expected


def test_pacos_views_are_not_made_on_the_device(teacher_arguments, monkeypatch) -> None:
    rows = rows_of(8)
    images = Images(rows, rows, [str(number) for number in range(10)], [3] * 10, class_groups([3] * 10))
    monkeypatch.setattr(runs, "load_images_to_train", lambda data, checkpoint: images)
    with pytest.raises(DeiTLTError, match="augmentation_device is 'device', where PaCo's views cannot be made; pass"):
        runs.train_teacher(
            TrainingDataArguments(image_size=8),
            runs.TeacherArguments(depth=20),
            teacher_arguments(loss="paco", augmentation_device="device"),
        )
