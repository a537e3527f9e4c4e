"""What the README and the pages of docs/ say is so: their Python and their commands run.

Every command is parsed by the command itself: its flags exist and their values are accepted, and so do its recipe and
its scripts. The walk of docs/start.md, from a folder of pictures to a pushed model, is run as it stands, with flags
that make the trainings tiny; so are the commands of docs/inference.md and the mistakes of docs/troubleshooting.md. All
Python runs as it stands, on the models of that walk.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image

import deitlt_hf
from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.cli import analyze, calibrate, compare, data_inspect, evaluate, training_flags
from deitlt_hf.cli.console import OneLineParser
from deitlt_hf.cli.main import COMMANDS, main
from deitlt_hf.data.views import image_processor
from deitlt_hf.recipes import load_recipe, recipe_names
from deitlt_hf.runs import estimate, training
from documentation import PAGES, ROOT, commands, commands_in_sentences, flags, in_blocks, links, python_blocks
from hub_server import HubServer

TINY = "--epochs 2 --teacher_epochs 2 --batch_size 32 --image_size 8 --use_cpu true --disable_tqdm true "
TINY += "--dataloader_num_workers 0 --patch_size 4 --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2"
COLOURS = {"deer": (200, 80, 80), "fox": (80, 200, 80), "hare": (80, 80, 200)}


# Commands


class Accepted(BaseException):
    """A command has accepted its flags."""


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch):
    """Lets a command begin; returns what it understood, once it has accepted its flags."""

    def stop(given: argparse.Namespace) -> None:
        raise Accepted(given)

    def parse_args(self, argv=None):
        given = argparse.ArgumentParser.parse_args(self, argv)
        return given if self.prog == "deitlt data" else stop(given)  # its actions have parsers of their own

    monkeypatch.setattr(OneLineParser, "parse_args", parse_args, raising=False)
    for module in (training_flags, analyze, calibrate, compare, data_inspect, evaluate):
        monkeypatch.setattr(
            module, "check_flags", lambda *args, of=module.check_flags, **options: stop(of(*args, **options))
        )

    def begin(words: list[str]) -> argparse.Namespace:
        with pytest.raises(Accepted) as found:
            assert main(words) == 0
        return found.value.args[0]

    return begin


def of_this_package(words: list[str]) -> list[str]:
    """The words after `deitlt`, or after the launcher that starts it; none for another program."""
    if words[0] == "deitlt":
        return words[1:]
    return words[words.index("deitlt_hf") + 1 :] if "deitlt_hf" in words else []


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_accepted(page, accepted):
    for words in (*commands(page), *commands_in_sentences(page)):
        ours = of_this_package(words)
        if {"--help", "--help-all"} & {*ours} or ours in [shlex.split(command) for command, _ in mistakes()]:
            continue
        if ours and ours[0] in COMMANDS:
            given = accepted(ours)
            if ours[0] in ("train", "teacher"):
                assert "recipe" not in given or load_recipe(given.recipe)
            assert ours[0] != "recipes" or given.name in (None, "NAME", *recipe_names())
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        else:
            for script in (word for word in words if word.endswith(".py")):
                assert (ROOT / script).is_file()
                own = [word for word in words[words.index(script) :] if word.startswith("--")]
                own = own[: own.index("--")] if "--" in own else own
                source = "".join(path.read_text() for path in (ROOT / script).parent.glob("*.py"))  # a shared parser
                assert [flag for flag in own if f'"{flag}"' not in source] == []


# Of accelerate, docker and pip, and of the scripts in benchmarks/ and examples/
OF_OTHERS = {
    "config_file",
    "cpu",
    "machine_rank",
    "num_processes",
    "shm_size",
    "report_only",
    "page",
    "epochs",
    "seeds",
}
OF_OTHERS |= {"images", "sets", "only", "base", "quick", "student", "budgets"}


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    table = json.loads((Path(deitlt_hf.__file__).parent / "cli" / "flags.json").read_text())["dataclasses"]
    of_dataclasses = {flag["name"] for of in table.values() for flag in of["flags"]}
    of_dataclasses |= {alias for of in table.values() for flag in of["flags"] for alias in flag.get("aliases", ())}
    sources = "".join(path.read_text() for path in (ROOT / "src" / "deitlt_hf" / "cli").glob("*.py"))
    return of_dataclasses | set(re.findall(r'"--([a-z][\w]*)"', sources)) | {"help", "help_all"}


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_sentences_exist(page, known_flags):
    found = flags(page)
    if page == "from-the-papers-code.md":  # its first column has the flags of another program
        found -= {flag.replace("-", "_") for flag in re.findall(r"--([a-z][\w-]*)", _first_column(PAGES[page]))}
        found -= {"unscale_lr"}
    assert found - known_flags - OF_OTHERS == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_in_a_clone(page):
    assert [link for link in links(page) if not Path(link).exists()] == []


def _first_column(text: str) -> str:
    return "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("|"))


# The walk of docs/start.md


def draw(folder: Path, name: str, numbers: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([*numbers, *COLOURS[name]])
    for number in numbers:
        pixels = np.array(COLOURS[name]) + random.normal(0, 30, (8, 8, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Iterator[Path]:
    """The directory in which the walk was made; it stays the working directory."""
    directory = tmp_path_factory.mktemp("walk")
    for name, images in (("deer", 90), ("fox", 60), ("hare", 40)):
        draw(directory / "pictures" / name, name, range(images))
    draw(directory / "new-pictures", "fox", range(1, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(estimate, "FEW_STEPS", 2)
        patch.setattr(training, "report_figure", lambda *args: None)  # drawing takes a second
        patch.setattr(training, "save_figure", lambda figure, file: file.touch())
        save_student_of_digits(Path("demo-output/student"))
        tiny = {"fit": TINY.split()}
        with HubServer(directory) as hub, pytest.MonkeyPatch.context() as connected:
            hub.connect(connected)
            for words in commands("start.md"):
                if words[:2] not in (["deitlt", "demo"], ["python", "-m"], ["python", "examples/draw_pictures.py"]):
                    assert main([*words[1:], *tiny.get(words[1], [])]) == 0, words
            pushed = HfApi().list_repo_files("me/pictures")
        (directory / "pushed.json").write_text(json.dumps(pushed))
        yield directory


def save_student_of_digits(directory: Path) -> None:
    """A student like that of `deitlt demo`, not trained."""
    torch.manual_seed(0)
    digits = {index: str(index) for index in range(10)}
    config = DeiTLTConfig(
        image_size=16, patch_size=4, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        initializer_range=0.3, id2label=digits, label2id={name: index for index, name in digits.items()},
        class_groups={"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]},
    )  # fmt: skip
    DeiTLTForImageClassification(config).save_pretrained(directory)
    image_processor(16).save_pretrained(directory)
    (directory / "recipe.yaml").write_text("data: digits-lt\nimage_size: 16\n")


def test_the_walk_ends_with_a_calibrated_pushed_model(walk):
    config = json.loads((walk / "runs/pictures/student/config.json").read_text())
    assert config["expert"] in ("fused", "average")  # average, if no fusion is better
    assert len((walk / "predictions.csv").read_text().splitlines()) == 3
    pushed = set(json.loads((walk / "pushed.json").read_text()))
    assert {"model.safetensors", "README.md", "metrics.json", "calibration.json"} <= pushed
    assert "data.json" not in pushed


# Mistakes


def mistakes() -> list[tuple[str, str]]:
    """Commands of docs/troubleshooting.md and the line that each prints."""
    return re.findall(
        r"^    deitlt (.+)\n    (deitlt [\w-]+: .+)$", in_blocks(PAGES["troubleshooting.md"]), flags=re.MULTILINE
    )


@pytest.fixture
def before_training(walk, tmp_path, monkeypatch) -> None:
    """Pictures, a damaged one among others, a teacher, and the demo's student."""
    for name in ("pictures", "demo-output/student"):
        shutil.copytree(walk / name, tmp_path / name)
    shutil.copytree(walk / "runs/pictures/teacher", tmp_path / "runs/pictures-teacher")
    shutil.copytree(walk / "pictures", tmp_path / "damaged")
    (tmp_path / "damaged" / "deer" / "0.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def test_mistakes_say_what_the_page_shows(before_training, capsys):
    assert len(mistakes()) > 12
    for command, line in mistakes():
        capsys.readouterr()
        with contextlib.suppress(SystemExit):  # how argparse ends
            assert main(shlex.split(command)) == 2
        assert capsys.readouterr().err.splitlines()[-1].replace(os.getcwd(), "/home/me") == line


# Python

ABOUT_ONE_PAGE = {"analysis.md", "augmentation.md", "inference.md", "pretrained.md"}


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page) and page not in ABOUT_ONE_PAGE])
def test_python_runs(page, walk, tmp_path, monkeypatch, capsys):
    for name in ("demo-output", "new-pictures"):
        (tmp_path / name).symlink_to(walk / name)
    shutil.copytree(walk / "runs/pictures/student", tmp_path / "runs/pictures")
    (tmp_path / "runs/pictures/student").symlink_to(walk / "runs/pictures/student")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("digit.png")
    Image.new("RGB", (20, 20), COLOURS["fox"]).save("photo.jpg")
    if page == "answers.md":
        give_thresholds(tmp_path)
    capsys.readouterr()
    for block in python_blocks(page):
        exec(block, {})
        shown = capsys.readouterr().out
        assert shown or "print" not in block
        for promised in re.findall(r"print\(.*\)  # (.+)$", block, flags=re.MULTILINE):
            assert promised in shown


def give_thresholds(directory: Path) -> None:
    """Let the walk's student have been right for enough validation images."""
    student = directory / "runs" / "pictures"
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(
        json.dumps(config | {"expert": "fused", "fusion": {"cls": 0.5, "distillation": 0.5, "bias": [0.0] * 3}})
    )
    labels = np.repeat(np.arange(3), 60)
    lists = {
        "labels": labels,
        "predicted": labels,
        "confidence": np.full(180, 0.3),
        "true_probability": np.full(180, 0.3),
    }
    content = {"split": "validation", "validation": {name: of.tolist() for name, of in lists.items()}}
    (student / "calibration.json").write_text(json.dumps(content))


def test_the_python_of_inference_gives_the_answers_of_the_model(walk, tmp_path, monkeypatch, capsys):
    (tmp_path / "demo-output").symlink_to(walk / "demo-output")
    monkeypatch.chdir(tmp_path)
    predict, export, without_package, evaluate_export = python_blocks("inference.md")
    capsys.readouterr()
    exec(predict, {})
    assert len(capsys.readouterr().out.splitlines()) == 2
    with Image.open("attention.png") as drawn:
        assert drawn.size == (256, 256)

    exec(export, {})
    assert capsys.readouterr().out.startswith("exported/model.onnx ")

    assert "deitlt_hf" not in without_package
    exec(without_package, {})
    answers = [line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in answers] == ["average", "CLS expert", "DIST expert"]
    with Image.open("digit.png") as picture:
        inputs = image_processor(16)(picture, return_tensors="pt")
    model = DeiTLTForImageClassification.from_pretrained("demo-output/student").eval()
    with torch.inference_mode():
        outputs = model(**inputs)
    expected = [outputs[name].argmax().item() for name in ("logits", "cls_logits", "distillation_logits")]
    assert [int(answer) for _, answer in answers] == expected

    exec(evaluate_export, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["average", "cls", "distillation"]
    assert all("tail" in line for line in lines)


def test_the_commands_of_inference_run(walk, tmp_path, monkeypatch):
    shutil.copytree(walk / "demo-output", tmp_path / "demo-output")
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("digit.png")
    Path("list.txt").write_text("3\n9\n")
    Path("site.csv").write_text("class,number\n" + "".join(f"{digit},{digit + 1}\n" for digit in range(10)))
    done = {
        words[1] for words in commands("inference.md") if words[1] in ("predict", "set-expert") and not main(words[1:])
    }
    assert done == {"predict", "set-expert"}  # the exports are run by its Python


def test_the_python_of_analysis_runs(walk, tmp_path, monkeypatch):
    """The page's fragment, with two models and a loader of a few images."""
    monkeypatch.chdir(tmp_path)
    models = {
        name: DeiTLTForImageClassification.from_pretrained(walk / "demo-output/student") for name in ("vit", "student")
    }
    batches = [{"pixel_values": torch.rand(20, 3, 16, 16), "labels": torch.arange(20) % 10}]
    given = {"loader": batches, "names": [str(digit) for digit in range(10)], "counts": [9, 8, 7, 6, 5, 4, 3, 2, 1, 1]}
    given["groups"] = models["student"].config.class_groups
    monkeypatch.setattr(deitlt_hf, "write_analysis", lambda analyses, out: Path(out).mkdir())
    exec(python_blocks("analysis.md")[0], models | given)
    assert Path("compared").is_dir()


def test_the_python_of_augmentation_runs(tmp_path):
    student = DeiTLTForImageClassification(
        DeiTLTConfig(image_size=32, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, num_labels=10)
    )
    splits = deitlt_hf.load_long_tailed_dataset("digits-lt")
    args = deitlt_hf.DeiTLTTrainingArguments(str(tmp_path), drw_start_epoch=None, report_to="none", use_cpu=True)
    teacher = deitlt_hf.CifarResNetForImageClassification(deitlt_hf.CifarResNetConfig(depth=20, num_labels=10))
    given = {"splits": splits, "student": student, "args": args, "teacher": teacher, **vars(deitlt_hf)}
    given |= {name: getattr(deitlt_hf, name) for name in ("device_views", "DeiTLTTrainer", "ViewedDataset")}
    exec(python_blocks("augmentation.md")[0], given)
    assert given["trainer"].train_dataset is not None


def test_the_python_of_pretrained_names_its_directory(monkeypatch):
    """`tests/training/test_adapting.py` loads such a directory, which takes a pretrained model."""
    asked = []
    monkeypatch.setattr(deitlt_hf, "load_adapted_student", asked.append)
    exec(python_blocks("pretrained.md")[0], {})
    assert asked == ["runs/pictures/adapter"]


# Lists and the site


@pytest.fixture(scope="module")
def tools():
    """The modules of docs/tools by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "tools"))
        yield importlib.import_module


def test_lists_are_those_of_the_code(tools):
    lists = tools("lists")
    for page in lists.LISTS:
        assert lists.with_lists(page) == PAGES[page], "run python docs/tools/lists.py"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_listed_with_its_epochs(name):
    (row,) = [line for line in PAGES["recipes.md"].splitlines() if line.startswith(f"| `{name}` |")]
    assert f"| {load_recipe(name)['num_train_epochs']} |" in row


def test_every_picture_is_shown():
    text = "".join(PAGES.values()) + (ROOT / "mkdocs.yml").read_text()
    pictures = {path.name for path in (ROOT / "docs" / "images").iterdir()}
    assert {name for name in pictures if f"images/{name}" not in text} == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site. A warning, such as a link that leads nowhere, ends the build."""
    config = importlib.import_module("mkdocs.config")
    build = importlib.import_module("mkdocs.commands.build")
    directory = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build.build(config.load_config("mkdocs.yml", strict=True, site_dir=str(directory)))
    return directory


def test_the_site_asks_for_nothing_from_outside(site):
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    assert len(pages) > 40
    for text in pages.values():
        assert re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="(?:https?:)?//', text) == []
        assert re.findall(r'<link[^>]*href="(?:https?:)?//', text) == []
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text()


def test_the_site_has_every_public_name_and_formulas_without_scripts(site, tools):
    names = tools("site_hooks").public_names()
    assert sorted(name for of in names.values() for name in of) == sorted({*deitlt_hf.__all__} - {"__version__"})
    for title, of in names.items():
        page = (site / "reference" / f"{title.lower()}.html").read_text()
        assert [name for name in of if f'id="deitlt_hf.{name}"' not in page] == []
    method = (site / "method.html").read_text()
    assert method.count("<math") > 10
    assert "\\" not in re.sub(
        r"<(script|pre|code).*?</\1>", "", method[method.index("<article") : method.index("</article")], flags=re.DOTALL
    )
