"""The app's parts without a browser, the command, and the Space."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import socket
import struct
import sys
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from app_student import CAPTIONS, app_config, colourful, save_student
from huggingface_hub import SpaceCard
from PIL import Image
from transformers import AutoImageProcessor

from deitlt_hf import DeiTLTConfig, DeiTLTError, DeiTLTForImageClassification, ExpertClassifier
from deitlt_hf.cli.app import _name_of
from deitlt_hf.cli.main import main
from deitlt_hf.inference.app import MAX_PIXELS, build_app, expert_panels, read_picture, shown_picture
from deitlt_hf.inference.app_examples import ExamplePicture, class_caption, examples_in_folder, examples_of_run

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples" / "space"
DIGITS = DeiTLTConfig(
    id2label={label: str(label) for label in range(10)},
    label2id={str(label): label for label in range(10)},
    class_counts=[134, 96, 68, 49, 35, 25, 18, 13, 9, 6],
    class_groups={"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]},
)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("app") / "student"
    save_student(directory)
    return directory


def turned_by_exif(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    image = Image.new("RGB", (4, 2), "blue")
    image.paste("red", (0, 0, 2, 2))  # the left half, which is above once it is upright
    image.save(file, "PNG", exif=exif)


def in_cmyk(file: Path) -> None:
    image = Image.new("CMYK", (2, 4), (255, 255, 0, 0))
    image.paste((0, 255, 255, 0), (0, 0, 2, 2))
    image.save(file, "TIFF")


def animated(file: Path) -> None:
    frames = [Image.new("RGB", (2, 4), colour) for colour in ("blue", "lime")]
    frames[0].paste("red", (0, 0, 2, 2))
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("write", [turned_by_exif, in_cmyk, animated])
def test_a_picture_of_any_kind_is_read_upright(write, tmp_path):
    write(tmp_path / "picture")
    picture = read_picture(tmp_path / "picture")
    assert (picture.mode, picture.size) == ("RGB", (2, 4))
    assert picture.getpixel((0, 0)) == (255, 0, 0)
    assert picture.getpixel((0, 3)) == (0, 0, 255)


def test_a_picture_of_16_bits_keeps_its_levels(tmp_path):
    Image.fromarray(np.full((2, 2), 0x80FF, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(DeiTLTError, match=r"^notes\.png is no picture that can be read; upload a PNG, "):
        read_picture(tmp_path / "notes.png")


@pytest.mark.parametrize("content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"])
def test_what_is_no_photo_format_is_refused(content, tmp_path):
    (tmp_path / "odd").write_bytes(content)
    with pytest.raises(DeiTLTError, match="odd is no picture that can be read"):
        read_picture(tmp_path / "odd")


def test_a_truncated_picture_is_refused(tmp_path):
    colourful(300, 200).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-500])
    with pytest.raises(DeiTLTError, match=r"^cut\.jpg is a damaged picture \(image file is truncated.*save it anew$"):
        read_picture(tmp_path / "cut.jpg")


def write_png_header(file: Path, width: int, height: int) -> None:
    """A PNG of which there is nothing but its first chunk and the beginning of an empty second one."""
    chunks = [b"IHDR" + struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0), b"IDAT"]
    framed = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in chunks]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


@pytest.mark.filterwarnings("error")  # of Pillow, about many pixels
@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((5000, 5001), r"25\.0 megapixels \(5000 x 5001\), more than the 25 "),
        ((10_000, 5_000), r"50\.0 megapixels \(10000 x 5000\), more than the 25 "),
        ((12_000, 10_000), r"120\.0 megapixels \(12000 x 10000\), more than the 25 "),
        ((20_000, 20_000), "more than 25 megapixels"),  # beyond what Pillow opens at all
    ],
)
def test_too_many_pixels_are_refused_by_the_header_alone(size, said, tmp_path):
    write_png_header(tmp_path / "large.png", *size)
    with pytest.raises(DeiTLTError, match=rf"^large\.png has {said}.*; upload a smaller picture$"):
        read_picture(tmp_path / "large.png")


def test_as_many_pixels_as_are_allowed_are_decoded(tmp_path):
    assert MAX_PIXELS == 5000 * 5000
    write_png_header(tmp_path / "largest.png", 5000, 5000)
    with pytest.raises(DeiTLTError, match="damaged"):  # so it was tried
        read_picture(tmp_path / "largest.png")


@pytest.mark.parametrize(
    ("size", "shown"),
    [((8, 8), (256, 256)), ((200, 100), (200, 100)), ((3000, 10), (1024, 3)), ((1, 2), (128, 256))],
)
def test_pictures_get_a_size_for_the_page(size, shown):
    assert shown_picture(Image.new("RGB", size)).size == shown


def test_a_small_picture_is_enlarged_without_blur():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    enlarged = np.asarray(shown_picture(picture))
    assert np.array_equal(enlarged, np.kron(np.asarray(picture), np.ones((32, 32, 1), dtype=np.uint8)))


def test_captions_say_what_the_configuration_tells():
    assert [class_caption(app_config(), index) for index in range(3)] == list(CAPTIONS.values())
    assert class_caption(DeiTLTConfig(id2label={0: "owl", 1: "fox"}), 1) == "fox"


def test_the_panels_show_what_the_model_computes(student):
    picture = colourful(300, 200)
    maps_and_labels = expert_panels(ExpertClassifier.from_pretrained(student), picture)
    model = DeiTLTForImageClassification.from_pretrained(student, attn_implementation="eager").eval()
    inputs = AutoImageProcessor.from_pretrained(student)(picture, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True)
    captions = list(CAPTIONS.values())
    average = (outputs.cls_logits + outputs.distillation_logits) / 2
    for panel, logits in zip(
        maps_and_labels[2:], (average, outputs.cls_logits, outputs.distillation_logits), strict=True
    ):
        probabilities = logits[0].softmax(-1)
        order = probabilities.argsort(descending=True).tolist()
        assert list(panel) == [captions[index] for index in order]
        assert list(panel.values()) == pytest.approx(probabilities[order].tolist(), abs=1e-5)
    # Viridis ends in yellow, of which blue is the smallest part: there the token looks most.
    for panel, weights in zip(maps_and_labels[:2], outputs.attentions[-1][0].mean(0)[:2, 2:], strict=True):
        assert panel.size == picture.size
        blue_below_green = np.asarray(panel, dtype=float) @ [0, 1, -1]
        of_patches = blue_below_green.reshape(4, 50, 4, 75).mean((1, 3))
        assert of_patches.argmax() == weights.argmax().item()


def test_a_model_without_attention_maps_has_a_page_without_them(student, monkeypatch):
    classifier = ExpertClassifier.from_pretrained(student)
    with_maps = expert_panels(classifier, colourful(8, 8))
    monkeypatch.setattr(classifier, "has_attention", False)
    assert expert_panels(classifier, colourful(8, 8)) == [None, None, *with_maps[2:]]
    app = build_app(classifier, "tiny")
    shown = {block.elem_id for block in app.blocks.values() if getattr(block, "visible", False)}
    assert {"picture-average", "label-cls", "label-distillation"} <= shown
    assert not {"picture-cls", "picture-distillation"} & shown
    assert "attends" not in texts(app)


def test_the_most_and_the_least_frequent_classes_of_a_folder_are_examples(tmp_path):
    for position, name in enumerate("0123456789"):
        (tmp_path / name).mkdir()
        for file in ("a.png", "b.png"):
            Image.new("L", (2, 2), 20 * position + (file == "b.png")).save(tmp_path / name / file)
    examples = examples_in_folder(tmp_path, DIGITS)
    captions = ["head: 0 (134", "head: 1 (96", "head: 2 (68", "tail: 7 (13", "tail: 8 (9", "tail: 9 (6"]
    assert [example.caption for example in examples] == [f"{caption} training images)" for caption in captions]
    levels = [example.image.getpixel((0, 0))[0] for example in examples]
    assert levels == [0, 20, 40, 140, 160, 180]


def test_pictures_without_class_folders_are_called_as_their_files_are(tmp_path):
    for number in range(8):
        Image.new("L", (2, 2)).save(tmp_path / f"photo {number}.png")
    examples = examples_in_folder(tmp_path, DIGITS)
    assert [example.caption for example in examples] == [f"photo {number}" for number in range(6)]


def test_an_example_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"torn")
    with pytest.raises(DeiTLTError, match=r"torn\.png cannot be read as an image"):
        examples_in_folder(tmp_path, DIGITS)


def test_a_run_on_digits_has_test_images_of_both_ends_as_examples(tmp_path):
    (tmp_path / "recipe.yaml").write_text("imbalance_factor: 20\n")
    examples = examples_of_run(str(tmp_path), DIGITS)
    assert [example.caption.split(" (")[0] for example in examples] == [
        *("head: 0", "head: 1", "head: 2", "tail: 7", "tail: 8", "tail: 9")
    ]
    # scikit-learn's own pixels, 0 to 16, of the first image that a shuffle with seed 0 puts into the test split
    from sklearn.datasets import load_digits

    digits = load_digits()
    generator = np.random.RandomState(0)
    positions = np.flatnonzero(digits.target == 0)
    generator.shuffle(positions)
    expected = np.rint(digits.images[positions[0]] * 255 / 16)
    assert np.array_equal(np.asarray(examples[0].image)[..., 0], expected)


def test_a_run_on_a_folder_has_examples_of_its_own(tmp_path):
    for name, level in (("cat", 10), ("lynx", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):  # of other sizes: identical images stay on one side
            Image.new("L", (2 + number, 2), level).save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "recipe.yaml").write_text(f"data: {tmp_path / 'pictures'}\ntest_fraction: 0.5\n")
    config = DeiTLTConfig(id2label={0: "cat", 1: "lynx"}, class_counts=[2, 5])
    examples = examples_of_run(str(tmp_path), config)
    assert [example.caption for example in examples] == ["lynx (5 training images)", "cat (2 training images)"]
    assert [example.image.getpixel((0, 0))[0] for example in examples] == [200, 10]


@pytest.mark.parametrize(
    ("recipe", "config"),
    [
        (None, DIGITS),
        ("data: owner/on-the-hub\n", DIGITS),
        ("data: cifar10-lt\n", DIGITS),
        ("imbalance_factor: 20\n", app_config()),  # trained on other classes
    ],
)
def test_without_data_at_hand_there_are_no_examples(recipe, config, tmp_path):
    if recipe is not None:
        (tmp_path / "recipe.yaml").write_text(recipe)
    assert examples_of_run(str(tmp_path), config) == []


def test_a_recipe_of_the_hub_reads_no_file_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(f"data: {tmp_path}\n")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(tmp_path / "recipe.yaml"))
    monkeypatch.setattr("deitlt_hf.inference.app_examples.load_splits", lambda *_, **__: pytest.fail("data were read"))
    assert examples_of_run("owner/student", DIGITS) == []


def test_the_commands_mistakes_are_one_line(student, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", str(student), "--port", str(port)]) == 2
        assert capsys.readouterr().err == (
            f"deitlt app: cannot listen at 127.0.0.1:{port}: address already in use; pass another --port or --host\n"
        )
    assert main(["app", str(student), "--port", "70000"]) == 2
    assert "port is 70000" in capsys.readouterr().err
    assert main(["app", str(student), "--host", "no such host"]) == 2
    assert capsys.readouterr().err.startswith("deitlt app: cannot listen at no such host: ")
    assert main(["app", str(tmp_path / "nothing")]) == 2
    assert re.fullmatch(r"deitlt app: cannot load a .*there is no such directory.*\n", capsys.readouterr().err)
    assert main(["app", str(student), "--examples", str(tmp_path / "nothing")]) == 2
    assert "nothing does not exist" in capsys.readouterr().err


def test_without_gradio_the_command_says_what_to_install(student, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", str(student)]) == 2
    assert capsys.readouterr().err == (
        "deitlt app: the app needs gradio, which is not installed; run pip install 'deitlt-hf[app]'\n"
    )


@pytest.mark.parametrize("number", [0, 2])
def test_the_page_opens_with_the_first_example_answered(student, number):
    examples = [ExamplePicture(colourful(40 + 8 * index, 32), f"number {index}") for index in range(number)]
    app = build_app(ExpertClassifier.from_pretrained(student), "my *owls*", examples)
    assert app.title == "my *owls*"
    assert texts(app).startswith("# my \\*owls\\*\n")
    on_load = [one for one in app.fns.values() if (app._id, "load") in one.targets]
    assert len(on_load) == min(number, 1)
    for event in on_load:
        _, shown, *answers = event.fn()
        assert shown.label == "Picture: number 0"
        expected = expert_panels(ExpertClassifier.from_pretrained(student), examples[0].image)
        assert answers[2:] == expected[2:]


@pytest.mark.parametrize(
    ("model", "name"),
    [("runs/owls", "owls"), ("runs/owls/", "owls"), ("runs/owls/ema", "owls/ema"), ("owner/owls", "owner/owls")],
)
def test_the_title_is_the_models_name(model, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert _name_of(model) == name


def test_the_app_asks_for_nothing_outside(student):
    app = build_app(ExpertClassifier.from_pretrained(student), "tiny")
    assert app.analytics_enabled is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def space_module(model_id: str, demo_model: Path, monkeypatch):
    monkeypatch.setenv("MODEL_ID", model_id)
    specification = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "DEMO_MODEL", demo_model)
    return module


def texts(app) -> str:
    return "\n".join(str(block.value) for block in app.blocks.values() if type(block).__name__ == "Markdown")


def test_the_space_shows_the_model_that_it_is_told(student, monkeypatch, capsys):
    app = space_module(str(student), student / "nothing", monkeypatch).build()
    assert "could not be loaded" not in texts(app)
    assert capsys.readouterr().out == ""


def test_the_space_falls_back_to_the_demos_model_and_says_so(student, monkeypatch, capsys):
    app = space_module("owner/not-reachable", student, monkeypatch).build()
    said = "owner/not-reachable could not be loaded from the hub, so this is the model that `make demo` trained"
    assert said in texts(app)
    assert said in capsys.readouterr().out


def test_the_spaces_demo_model_is_where_make_demo_leaves_it(monkeypatch):
    monkeypatch.setenv("MODEL_ID", "owner/not-reachable")
    assert runpy.run_path(str(SPACE / "app.py"))["DEMO_MODEL"] == ROOT / "demo-output" / "student"


def test_the_space_without_any_model_says_so_in_one_line(tmp_path, monkeypatch):
    shutil.copy(SPACE / "app.py", tmp_path / "app.py")
    monkeypatch.setenv("MODEL_ID", "owner/not-reachable")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(tmp_path / "app.py"), run_name="__main__")
    assert re.fullmatch(r"cannot start: cannot load .*owner/not-reachable.*run `make demo`", stopped.value.code)


def test_the_spaces_header_is_one_that_the_hub_takes():
    card = SpaceCard.load(SPACE / "README.md")
    header = card.data.to_dict()
    # https://huggingface.co/docs/hub/spaces-config-reference
    assert header["sdk"] == "gradio"
    assert (SPACE / header["app_file"]).is_file()
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {header["colorFrom"], header["colorTo"]} <= colours
    assert len(header["short_description"]) <= 60
    assert header["pinned"] is False
    assert f"gradio=={header['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()
    (default,) = re.findall(r'"MODEL_ID", "(.+)"', (SPACE / "app.py").read_text())
    assert header["models"] == [default]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert header["license"] == project["license"].lower()
    (requirement,) = (SPACE / "requirements.txt").read_text().split()
    name, extra = re.fullmatch(r"(.+)\[(.+)\]", requirement).groups()
    assert name == project["name"]
    assert any(wanted.startswith("gradio") for wanted in project["optional-dependencies"][extra])
