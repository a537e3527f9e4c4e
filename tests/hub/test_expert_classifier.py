"""`ExpertClassifier` against the model and its processor called by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from deitlt_hf import DeiTLTConfig, DeiTLTError, DeiTLTForImageClassification, ExpertClassifier, token_attention
from deitlt_hf.data.views import image_processor
from deitlt_hf.inference.loading import load_image_processor

NAMES = ["lynx", "cat", "рысь", "badger", "fox"]


def save_student(directory: Path, seed: int, expert: str = "distillation") -> None:
    torch.manual_seed(seed)
    config = DeiTLTConfig(
        image_size=48,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        expert=expert,
        initializer_range=0.2,
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
    )
    DeiTLTForImageClassification(config).save_pretrained(directory)
    image_processor(48).save_pretrained(directory)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("classifier") / "student"
    save_student(directory, seed=0)
    return directory


@pytest.fixture(scope="module")
def classifier(student) -> ExpertClassifier:
    return ExpertClassifier.from_pretrained(student)


@pytest.fixture(scope="module")
def upright() -> Image.Image:
    """A picture whose sides and corners differ, without noise, so that JPEG and palettes change little."""
    x, y = np.meshgrid(np.linspace(0, 1, 90), np.linspace(0, 1, 60))
    return Image.fromarray((255 * np.stack([x, y, x * y], axis=-1)).astype(np.uint8))


def by_hand(student: Path, image: Image.Image) -> dict[str, np.ndarray]:
    """Probabilities of the average and both experts, `(classes,)`."""
    model = AutoModelForImageClassification.from_pretrained(student).eval()
    inputs = AutoImageProcessor.from_pretrained(student)(image, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    average = (outputs.cls_logits + outputs.distillation_logits) / 2
    logits = {"average": average, "cls": outputs.cls_logits, "distillation": outputs.distillation_logits}
    return {name: values[0].softmax(-1).numpy() for name, values in logits.items()}


def probabilities(result, expert: str) -> list[float]:
    by_name = {row.name: row.probability[expert] for row in result.rows}
    return [by_name[name] for name in NAMES]


def test_probabilities_and_order_are_the_models(classifier, student, upright):
    (result,) = classifier(upright)
    expected = by_hand(student, upright)
    for expert in ("average", "cls", "distillation"):
        np.testing.assert_allclose(probabilities(result, expert), expected[expert], atol=1e-5)
    assert classifier.class_names == NAMES
    assert classifier.runtime == "torch"
    # The configuration's expert by default, another where asked for, and as many classes as asked for.
    orders = {expert: [NAMES[index] for index in np.argsort(-expected[expert])] for expert in expected}
    assert orders["cls"] != orders["distillation"]
    assert [row.name for row in result.rows] == orders["distillation"]
    for expert, order in orders.items():
        (result,) = classifier(upright, expert=expert, top=2)
        assert [row.name for row in result.rows] == order[:2]
    assert result.file is None
    assert result.attention is None
    assert result.region is None


def as_16_bit(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 256)


@pytest.mark.parametrize(
    ("name", "change", "seen"),
    [
        ("a.png", as_16_bit, lambda image: image.convert("L").convert("RGB")),
        ("a.tif", lambda image: image.convert("CMYK"), lambda image: image.convert("CMYK").convert("RGB")),
        ("a.gif", lambda image: image.convert("P"), lambda image: image.convert("P").convert("RGB")),
        ("a.png", lambda image: image.convert("LA"), lambda image: image.convert("L").convert("RGB")),
        ("a.bmp", lambda image: image.convert("1"), lambda image: image.convert("1").convert("RGB")),
    ],
    ids=["16 bit", "CMYK", "palette", "transparent", "1 bit"],
)
def test_odd_images_are_predicted_as_what_they_show(classifier, student, upright, tmp_path, name, change, seen):
    changed = change(upright)
    changed.save(tmp_path / name)
    expected = by_hand(student, seen(upright))
    for picture in (tmp_path / name, str(tmp_path / name), changed):
        (result,) = classifier(picture)
        np.testing.assert_allclose(probabilities(result, "average"), expected["average"], atol=1e-5)


def test_rotated_photos_are_brought_upright(classifier, student, upright, tmp_path):
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # a viewer has to turn it by 270 degrees
    turned.save(tmp_path / "photo.jpg", exif=exif, quality=100, subsampling=0)
    (result,) = classifier(tmp_path / "photo.jpg")
    expected = by_hand(student, upright)
    np.testing.assert_allclose(probabilities(result, "cls"), expected["cls"], atol=0.01)
    lying = by_hand(student, turned)["cls"]
    assert np.abs(lying - expected["cls"]).max() > 0.05


def test_arrays_are_pictures(classifier, student, upright):
    array = np.asarray(upright)
    grey = np.asarray(upright.convert("L"))
    opaque = np.dstack([array, np.full_like(grey, 255)])
    results = classifier([array, opaque, grey, grey[..., None]])
    for result, image in zip(results, (upright, upright, upright.convert("L"), upright.convert("L")), strict=True):
        expected = by_hand(student, image.convert("RGB"))
        np.testing.assert_allclose(probabilities(result, "average"), expected["average"], atol=1e-5)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(classifier, array):
    with pytest.raises(DeiTLTError, match=r"picture 1 .*uint8"):
        classifier([Image.new("RGB", (4, 4)), array])


def test_anything_that_holds_pictures_is_taken(classifier, upright):
    pictures = [upright, upright.rotate(90)]
    features = datasets.Features({"image": datasets.Image()})
    column = datasets.Dataset.from_dict({"image": pictures}, features)["image"]
    assert classifier(column) == classifier(iter(pictures)) == classifier(pictures)
    assert list(classifier.stream(picture for picture in pictures)) == classifier(pictures)


def test_what_is_no_picture_is_refused(classifier, upright):
    with pytest.raises(DeiTLTError, match="picture 1 is a Tensor; pass a path, a PIL image or a uint8 array"):
        classifier([upright, torch.zeros(3, 8, 8)])
    with pytest.raises(DeiTLTError, match="picture 0 is a NoneType; pass a path, a PIL image or a uint8 array"):
        classifier(None)


def test_results_come_in_order_whatever_the_batch(classifier, upright, tmp_path):
    pictures = []
    for index in range(20):
        path = tmp_path / f"{index}.png"
        upright.rotate(17 * index).resize((50 + index, 60)).save(path)
        pictures.append(path)
    one_by_one = [classifier(picture)[0] for picture in pictures]
    for batch_size in (3, 32):
        results = classifier(pictures, batch_size=batch_size)
        assert [result.file for result in results] == pictures
        for result, alone in zip(results, one_by_one, strict=True):
            np.testing.assert_allclose(probabilities(result, "cls"), probabilities(alone, "cls"), atol=1e-5)
    assert classifier([]) == []


def test_streaming_reads_no_further_than_its_batch(classifier, upright, tmp_path):
    upright.save(tmp_path / "0.png")
    stream = classifier.stream([tmp_path / "0.png", tmp_path / "missing.png"], batch_size=1)
    assert next(stream).file == tmp_path / "0.png"
    with pytest.raises(DeiTLTError, match=r"missing\.png cannot be read"):
        next(stream)


def test_unreadable_files_are_left_out_where_someone_is_told(classifier, upright, tmp_path):
    files = [tmp_path / f"{index}.png" for index in range(6)]
    for file in files:
        upright.save(file)
    for index in (0, 1, 4):
        files[index].write_text("no image")
    told = []
    results = list(classifier.stream(files, batch_size=2, on_error=lambda file, error: told.append((file, str(error)))))
    assert [result.file for result in results] == [files[2], files[3], files[5]]
    assert [file for file, _ in told] == [files[0], files[1], files[4]]
    assert all(str(file) in message for file, message in told)


def test_attention_is_that_of_the_picture(classifier, student, upright):
    first, second = classifier([upright.rotate(180), upright], attention=True)
    model = AutoModelForImageClassification.from_pretrained(student)
    inputs = AutoImageProcessor.from_pretrained(student)(upright, return_tensors="pt")
    expected = token_attention(model, inputs.pixel_values)
    for token, maps in expected.items():
        assert second.attention[token].shape == (6, 6)
        np.testing.assert_allclose(second.attention[token], maps[0].numpy(), atol=1e-6)
        assert np.abs(first.attention[token] - second.attention[token]).max() > 1e-3
    # Resized to a shortest edge of 54 and cropped to 48: of 81 x 54 pixels.
    np.testing.assert_allclose(second.region, (16.5 / 81, 3 / 54, 64.5 / 81, 51 / 54))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expert": "rare"}, "'rare'"),
        ({"top": 0}, "top is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_read(classifier, settings, message):
    with pytest.raises(DeiTLTError, match=message):
        classifier.stream(["no such file"], **settings)


def test_other_models_and_bare_directories_are_refused(student, tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=10)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    with pytest.raises(DeiTLTError, match="resnet"):
        ExpertClassifier.from_pretrained(tmp_path / "resnet")
    with pytest.raises(DeiTLTError, match="no such directory"):
        ExpertClassifier.from_pretrained(tmp_path / "nothing")
    shutil.copytree(student, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(DeiTLTError, match="no image processor"):
        ExpertClassifier.from_pretrained(tmp_path / "bare")


def test_a_student_that_is_not_whole_is_refused(student, tmp_path):
    shutil.copytree(student, tmp_path / "student")
    weights = load_file(tmp_path / "student" / "model.safetensors")
    save_file(weights, tmp_path / "student" / "model.safetensors", {"format": "pt"})
    ExpertClassifier.from_pretrained(tmp_path / "student")
    del weights["distillation_classifier.weight"]
    save_file(weights, tmp_path / "student" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DeiTLTError, match=r"has no distillation_classifier\.weight that fits its configuration"):
        ExpertClassifier.from_pretrained(tmp_path / "student")
    (tmp_path / "student" / "preprocessor_config.json").write_text("{")
    with pytest.raises(DeiTLTError, match="an image processor that cannot be read"):
        load_image_processor(str(tmp_path / "student"))


def test_a_processor_that_does_not_fit_the_model_is_named(student, upright, tmp_path):
    shutil.copytree(student, tmp_path / "student")
    image_processor(32).save_pretrained(tmp_path / "student")
    with pytest.raises(DeiTLTError, match=r"of shape \(3, 32, 32\), and the model takes \(3, 48, 48\)"):
        ExpertClassifier.from_pretrained(tmp_path / "student")(upright)


@pytest.fixture
def cached_repository(tmp_path, monkeypatch):
    """A repository of the hub with two revisions, as its client keeps it on disk."""
    repository = tmp_path / "cache" / "models--me--student"
    for seed, (revision, commit) in enumerate({"main": "a" * 40, "v2": "b" * 40}.items()):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        save_student(repository / "snapshots" / commit, seed)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return repository


def test_a_revision_of_the_hub(cached_repository, upright):
    for revision, commit in ((None, "a" * 40), ("v2", "b" * 40)):
        (result,) = ExpertClassifier.from_pretrained("me/student", revision=revision)(upright)
        expected = by_hand(cached_repository / "snapshots" / commit, upright)
        np.testing.assert_allclose(probabilities(result, "cls"), expected["cls"], atol=1e-5)


def test_programs_from_the_hub_are_not_loaded(cached_repository):
    snapshot = cached_repository / "snapshots" / ("a" * 40)
    (snapshot / "model.safetensors").rename(snapshot / "model.pt2")
    with pytest.raises(DeiTLTError, match="can run any code"):
        ExpertClassifier.from_pretrained("me/student")
