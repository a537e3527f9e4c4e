"""A card tells what its directory's files tell and nothing else, its snippets run, and the hub takes it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import jinja2.meta
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, ResNetConfig

from deitlt_hf import (
    CifarResNetConfig,
    DeiTLTConfig,
    DeiTLTError,
    DeiTLTForImageClassification,
    convert_reference_checkpoint,
    export_model,
)
from deitlt_hf.cards.model_card import is_generated, model_card, write_model_card
from deitlt_hf.cli.main import main
from deitlt_hf.evaluation.measures import EXPERTS, GROUPS, MEASURES
from deitlt_hf.foreign.adapters import save_classes
from deitlt_hf.reference.convert import save_model_and_processor
from hub_server import HubServer

TINY = "--dataloader_num_workers 0 --dataloader_persistent_workers false --use_cpu true --disable_tqdm true".split()
SIZE = "--hidden_size 24 --num_hidden_layers 1 --num_attention_heads 2".split()
KEYS = [measure.key for measure in MEASURES]
LABELS = {"average": "average", "cls": "CLS expert", "distillation": "DIST expert"}
COUNTS = [134, 96, 68, 49, 35, 25, 18, 13, 9, 6]

# Runs the Python of cards where this package cannot be imported, and tells what each piece printed.
STRANGER = """
import contextlib, io, json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "deitlt_hf":
            raise ModuleNotFoundError("no deitlt_hf here")

sys.meta_path.insert(0, Absent())
printed = []
for code in json.load(open("snippets.json")):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    printed.append(out.getvalue().splitlines())
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory):
    """A directory with `photo.jpg` and two short runs, made by commands; the student went to a hub on loopback."""
    directory = tmp_path_factory.mktemp("alice")
    before = Path.cwd()
    with HubServer(tmp_path_factory.mktemp("hub")) as hub, pytest.MonkeyPatch.context() as monkeypatch:
        os.chdir(directory)
        try:
            hub.connect(monkeypatch)
            Image.effect_noise((40, 30), 90).convert("RGB").save("photo.jpg")
            assert main(["teacher", "--recipe", "digits-lt-teacher", "--num_train_epochs", "1", *TINY, *DRW]) == 0
            argv = ["train", "--recipe", "digits-lt", "--teacher", str(directory / "runs/digits-lt-teacher"), *SIZE]
            argv += ["--num_train_epochs", "1", "--ema_decay", "0.9", "--evaluate_ema", "true", *TINY, *DRW]
            argv += ["--save_strategy", "epoch", "--eval_strategy", "epoch", "--push_to_hub", "true"]
            argv += ["--hub_model_id", "me/digits", "--hub_token", hub.token, "--hub_strategy", "end"]
            assert main(argv) == 0
            yield SimpleNamespace(path=directory, hub=hub, student=Path("runs/digits-lt"))
        finally:
            os.chdir(before)


DRW = ["--drw_start_epoch", "0"]


@pytest.fixture
def here(work, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(work.path)
    return work


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def rows(card: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]


def numbers(text: str, name: str) -> list[str]:
    """The cells of the rows of that name, without it, one table after another."""
    return [cell for found in rows(text) if found[0] == name for cell in found[1:]]


def row(card: str, first: str) -> list[str]:
    """The first row with that first cell."""
    return next(cells for cells in rows(card) if cells[0] == first)


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def saved(directory: Path, config, **files: object) -> Path:
    """A directory with a configuration, and JSON or YAML files by their stem."""
    directory.mkdir(parents=True)
    config.save_pretrained(directory)
    for name, content in files.items():
        text = yaml.safe_dump(content) if name == "recipe" else json.dumps(content)
        (directory / f"{name}.{'yaml' if name == 'recipe' else 'json'}").write_text(text)
    return directory


def student_config(names: list[str] | None = None, **settings) -> DeiTLTConfig:
    shape = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    labels = {"id2label": dict(enumerate(names or ["cat", "lynx"]))}
    labels["label2id"] = {name: label for label, name in labels["id2label"].items()}
    return DeiTLTConfig(**shape, **labels, **settings)


def test_snippets_of_transformers_run_where_this_package_is_absent(here) -> None:
    pushed = here.hub.files("me/digits")["README.md"].decode()
    assert '"me/digits"' in pushed
    pipeline, auto_classes, _ = snippets(pushed)
    teacher = snippets(Path("runs/digits-lt-teacher/README.md").read_text())
    assert len(teacher) == 2
    Path("snippets.json").write_text(json.dumps([pipeline, auto_classes, *teacher]))
    result = subprocess.run(
        [sys.executable, "-c", STRANGER], env=here.hub.environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    by_pipeline, by_classes, teacher_pipeline, teacher_classes = json.loads(result.stdout.splitlines()[-1])

    image = Image.open("photo.jpg")
    outputs = run_model("runs/digits-lt", image)
    assert len(by_pipeline) == 5
    assert by_pipeline[0].split()[1] == str(outputs.logits.argmax().item())
    heads = (outputs.logits, outputs.cls_logits, outputs.distillation_logits)
    expected = [str(logits.argmax().item()) for logits in heads]
    assert [line.split() for line in by_classes] == [
        list(pair) for pair in zip(("average", "CLS", "DIST"), expected, strict=True)
    ]
    top = str(run_model("runs/digits-lt-teacher", image).logits.argmax().item())
    assert teacher_pipeline[0].split()[1] == top
    assert teacher_classes == [top]


@torch.inference_mode()
def run_model(directory: str, image: Image.Image):
    model = AutoModelForImageClassification.from_pretrained(directory).eval()
    return model(**AutoImageProcessor.from_pretrained(directory)(image, return_tensors="pt"))


def test_the_packages_snippet_shows_both_experts_and_draws_their_attention(here, capsys) -> None:
    *_, code = snippets(str(model_card(here.student)))
    capsys.readouterr()
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    outputs = run_model("runs/digits-lt", Image.open("photo.jpg"))
    cls, dist = outputs.cls_logits.softmax(-1)[0], outputs.distillation_logits.softmax(-1)[0]
    assert len(lines) == 3
    for line in lines:
        label = int(line.split()[-1])
        assert line == f"CLS {cls[label]:.3f}  DIST {dist[label]:.3f}  {label}"
    for name in ("cls", "distillation"):
        assert Image.open(f"attention-{name}.png").size == (40, 30)


def test_numbers_are_those_of_the_run(here) -> None:
    card = (here.student / "README.md").read_text()
    metrics = json.loads((here.student / "metrics.json").read_text())
    results = section(card, "Results")
    assert "on 400 test images" in results
    shown, averaged = results.split("averaged weights (EMA)")
    for part, experts in ((shown, metrics["experts"]), (averaged, metrics["averaged_weights"])):
        for expert in EXPERTS:
            values = [experts[expert][group] for group in KEYS]
            assert numbers(part, LABELS[expert]) == [f"{value:.1f}" for value in values]
    data = section(card, "Data")
    for label, count in enumerate(COUNTS):
        columns = [*(metrics["experts"][expert] for expert in EXPERTS), metrics["teacher"]]
        accuracies = [f"{of['per_class'][label]:.1f}" for of in columns]
        group = next(name for name in GROUPS if label in metrics["groups"][name])
        assert row(data.split("### Classes")[1], str(label)) == [str(label), str(count), group, "40", *accuracies]
    # 134 + 96 + 68, 49 + 35 + 25 + 18, 13 + 9 + 6
    assert row(data, "head") == ["head", "3", "134 to 68", "298"]
    assert row(data, "mid") == ["mid", "4", "49 to 18", "127"]
    assert row(data, "tail") == ["tail", "3", "13 to 6", "28"]
    assert ["training images", "453"] in rows(data)
    assert ["imbalance factor (largest / smallest)", "22.33"] in rows(data)
    assert "report.png" in data

    loaded = ModelCard.load(here.student / "README.md").data
    measured = {result.metric_name: result.metric_value for result in loaded.eval_results}
    assert len(measured) == 3 * len(KEYS)
    tail = metrics["experts"]["distillation"]["tail"]
    assert measured["Accuracy, tail classes (DIST expert)"] == round(tail, 2)
    balanced = metrics["experts"]["distillation"]["balanced_accuracy"]
    assert measured["Balanced accuracy (DIST expert)"] == round(balanced, 2)
    first = loaded.eval_results[0]
    assert (first.task_type, first.dataset_type, first.metric_type) == ("image-classification", "digits-lt", "accuracy")
    assert (loaded.library_name, loaded.pipeline_tag, loaded.license) == ("transformers", "image-classification", None)


def test_limits_speak_of_the_numbers_at_hand(here) -> None:
    limits = section((here.student / "README.md").read_text(), "Limits and risks")
    metrics = json.loads((here.student / "metrics.json").read_text())
    # 1.96 * sqrt(0.5 * 0.5 / 40) = 0.155
    assert "The rarest class, 9, has 6 training images and 40 test images: one test image is 2.5 points" in limits
    assert "within about 15 points" in limits
    per_class = metrics["experts"]["cls"]["per_class"]
    assert f"{np.dot(per_class, COUNTS) / 453:.1f} % for CLS" in limits


def test_training_is_told_with_settings_teacher_time_and_versions(here) -> None:
    training = section((here.student / "README.md").read_text(), "Training")
    settings, teacher_settings = (
        yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", training, re.DOTALL)
    )
    assert settings["hidden_size"] == 24
    assert settings["teacher"] == "digits-lt-teacher"
    assert not [name for name in settings if "hub" in name]
    assert teacher_settings["sam_rho"] == [0.1]
    assert "`digits-lt-teacher`: CIFAR ResNet-20, for images of 16 pixels." in training
    accuracy = json.loads(Path("runs/digits-lt-teacher/metrics.json").read_text())["accuracy"]
    assert f"overall {accuracy['overall']:.1f}" in training
    # 453 images in full batches of 32
    assert ["optimiser steps", "14"] in rows(training)
    assert ["images seen", "448"] in rows(training)
    assert ["torch", torch.__version__.split("+")[0]] in rows(training) or ["torch", torch.__version__] in rows(
        training
    )
    assert "deitlt train --recipe recipe.yaml --teacher runs/teacher\n" in training
    assert "\nhidden_size: 24\n" in training  # a line each, as in the file


def test_the_settings_in_a_card_train_again(here, capsys) -> None:
    card = (here.student / "README.md").read_text()
    teacher_settings = re.findall(r"```yaml\n(.*?)```", card, re.DOTALL)[1]
    (commands,) = re.findall(r"```sh\n(.*?)```", section(card, "Training"), re.DOTALL)
    Path("teacher.yaml").write_text(teacher_settings)
    shutil.copy(here.student / "recipe.yaml", "recipe.yaml")
    for command in commands.splitlines():
        program, *argv = command.split()
        assert program == "deitlt"
        assert main([*argv, *TINY]) == 0
    again = json.loads(Path("runs/recipe/run.json").read_text())
    assert again["teacher"]["name"] == "teacher"
    assert again["training"]["steps"] == 14


def test_nothing_of_the_machine_or_the_account_is_told(here) -> None:
    for text in (here.hub.files("me/digits")["README.md"].decode(), (here.student / "run.json").read_text()):
        assert str(here.path) not in text
        assert "alice" not in text
        assert here.hub.token not in text
        assert str(Path.home()) not in text
    assert here.hub.token not in (here.student / "recipe.yaml").read_text()
    card = str(model_card(here.path / here.student))  # an absolute path
    assert str(here.path) not in card
    assert 'from_pretrained("digits-lt"' in card


def test_the_end_of_a_run_is_pushed_with_its_numbers_in_one_commit(here) -> None:
    files = here.hub.files("me/digits")
    assert {"README.md", "metrics.json", "run.json", "recipe.yaml", "report.png", "model.safetensors"} <= set(files)
    assert files["metrics.json"] == (here.student / "metrics.json").read_bytes()
    assert len([message for message in here.hub.messages("me/digits") if "initial" not in message]) == 1
    assert here.hub.token.encode() not in b"".join(files.values())
    assert is_generated(files["README.md"].decode())


def test_the_hub_accepts_the_header(here) -> None:
    for directory in (here.student, "runs/digits-lt-teacher", here.student / "ema", here.student / "checkpoint-14"):
        card = model_card(directory, "me/x")
        assert _header_answer(here.hub, str(card)) == (200, "")
        again = ModelCard(str(card))
        assert again.data.eval_results == card.data.eval_results
        assert again.data.eval_results[0].metric_value == card.data.eval_results[0].metric_value
    status, answer = _header_answer(here.hub, "---\nlicense: mine\n---\n")
    assert status == 400
    assert "license" in answer


def _header_answer(hub: HubServer, card: str) -> tuple[int, str]:
    """Status and errors of the hub's check. `ModelCard.validate` of huggingface_hub 1 would ask the real hub."""
    answer = httpx.post(f"{hub.endpoint}/api/validate-yaml", json={"repoType": "model", "content": card})
    return answer.status_code, answer.text if answer.status_code != 200 else ""


def test_parts_of_a_run_have_their_own_numbers(here) -> None:
    metrics = json.loads((here.student / "metrics.json").read_text())
    ema = str(model_card(here.student / "ema"))
    assert "# digits-lt, averaged weights\n" in ema
    assert "report.png" not in ema
    expected = metrics["averaged_weights"]["cls"]["head"]
    assert row(section(ema, "Results"), "CLS expert")[2] == f"{expected:.1f}"

    checkpoint = here.student / "checkpoint-14"
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    logged = {key: value for entry in log for key, value in entry.items()}
    for directory, prefix in ((checkpoint, "eval_"), (checkpoint / "ema", "eval_ema_")):
        card = str(model_card(directory))
        assert "# digits-lt, step 14" in card
        assert "measured by the Trainer at step 14" in card
        of_class_ids = [measure.key for measure in MEASURES if measure.of_class_ids]
        values = [logged[f"{prefix}distillation_{group}"] for group in of_class_ids]
        assert numbers(section(card, "Results"), "DIST expert") == [f"{value:.1f}" for value in values]


def test_a_checkpoint_without_an_evaluation_has_no_numbers_of_its_run(here, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(here.student, run)
    (run / "checkpoint-14" / "trainer_state.json").unlink()
    card = str(model_card(run / "checkpoint-14"))
    assert "\n## Results" not in card
    assert "No measurement of these weights is known" in card
    assert ModelCard(card).data.eval_results is None


def test_a_teachers_card_has_one_row_and_says_how_to_teach(here) -> None:
    card = Path("runs/digits-lt-teacher/README.md").read_text()
    accuracy = json.loads(Path("runs/digits-lt-teacher/metrics.json").read_text())["accuracy"]
    assert numbers(section(card, "Results"), "accuracy") == [f"{accuracy[group]:.1f}" for group in KEYS]
    assert "deitlt train --data pictures --teacher runs/digits-lt-teacher" in card
    model = AutoModelForImageClassification.from_pretrained("runs/digits-lt-teacher")
    assert f"{sum(weight.numel() for weight in model.parameters()):,} weights" in card
    assert "DIST" not in card
    assert "cross-entropy, deferred re-weighting (DRW) from epoch 0, SAM (rho 0.1), 1 epoch," in card


def test_the_teachers_command_trains_a_student_on_a_folder_of_pictures(here) -> None:
    for label, count in enumerate(COUNTS):
        folder = Path("pictures", str(label))
        folder.mkdir(parents=True)
        for number in range(2 + count // 20):
            Image.effect_noise((16, 16), 90 + number).save(folder / f"{number}.png")
    card = Path("runs/digits-lt-teacher/README.md").read_text()
    (command,) = re.findall(r"```sh\n(.*?)\n```", section(card, "How to use"), re.DOTALL)
    assert main([*command.split()[1:], "--num_train_epochs", "1", *SIZE, *TINY]) == 0
    card = Path("runs/pictures/README.md").read_text()
    assert "It was tested on its own test split or, where it has none, on images held out of its train split." in card
    assert ModelCard(card).data.eval_results[0].dataset_split is None  # the folder has none
    # Its teacher was measured on the digits, by another run.
    assert "Its accuracy on the test split of its own run, in percent: overall" in card


def test_what_was_chosen_and_what_is_alike_is_told(tmp_path: Path) -> None:
    accuracies = {"overall": 50.0, "head": 50.0, "mid": None, "tail": 50.0}
    files = {"metrics": {"experts": dict.fromkeys(EXPERTS, accuracies)}, "run": {"data": {"test_counts": [4, 4]}}}
    recipe = {"load_best_model_at_end": True, "metric_for_best_model": "average_tail", "distillation_type": "none"}
    config = student_config(class_counts=[9, 9])
    card = str(model_card(saved(tmp_path / "a", config, recipe=recipe, **files)))
    assert "that with the best average_tail was kept" in card
    assert "\n### What chose what\n\nThe test split chose the step of the weights, by average_tail.\n" in card
    assert "One of the rarest classes, cat, has 9 training images and 4 test images" in card
    # Without a teacher and without weights for rare classes, nothing makes DIST an expert for them.
    assert "on the distillation token (DIST), which learns the labels too. Its" in card
    recipe = {"distillation_type": "none", "drw_start_epoch": 3}
    card = str(model_card(saved(tmp_path / "b", config, recipe=recipe, **files)))
    assert "chose these weights" not in card
    assert "\n### What chose what\n\nThe last weights were kept; no split chose them.\n" in card
    assert "learns the labels too, with more weight on rare classes from epoch 3 on, and is for tail classes." in card


def test_what_no_file_tells_is_left_out(tmp_path: Path) -> None:
    card = str(model_card(saved(tmp_path / "plain", student_config()), "me/plain"))
    for title in ("Training", "Results"):
        assert f"\n## {title}\n" not in card
    assert "scratch" not in card
    assert "digits" not in card
    assert "of each class" not in card
    assert ["classes", "2"] in rows(card)
    assert ModelCard(card).data.eval_results is None
    # Without the modeling files beside it, the snippets import this package.
    assert "trust_remote_code" not in card
    assert snippets(card)[0].startswith("import deitlt_hf")


def test_a_converted_checkpoint_has_a_card(tmp_path: Path, golden: Path) -> None:
    model = convert_reference_checkpoint(golden / "student.pth", num_attention_heads=2)
    save_model_and_processor(model, tmp_path / "converted")
    card = str(model_card(tmp_path / "converted"))
    weights = sum(weight.numel() for weight in model.parameters())
    assert f"{weights:,} weights" in card
    assert "\n## Training\n" not in card
    largest, smallest = max(model.config.class_counts), min(model.config.class_counts)
    assert ["training images of the largest class", f"{largest:,}"] in rows(card)
    assert ["training images of the smallest class", f"{smallest:,}"] in rows(card)


def test_a_teacher_of_transformers_needs_no_code(tmp_path: Path) -> None:
    labels = {"id2label": {0: "cat", 1: "lynx"}, "label2id": {"cat": 0, "lynx": 1}}
    card = str(model_card(saved(tmp_path / "resnet", ResNetConfig(**labels))))
    assert "resnet of transformers" in card
    assert "trust_remote_code" not in card
    assert "import deitlt_hf" not in card


def test_the_snippet_of_an_exported_model_runs(here, capsys) -> None:
    export_model(here.student, "exported", format="torch")
    (code,) = snippets(str(model_card("exported")))
    capsys.readouterr()
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    cls = run_model("runs/digits-lt", Image.open("photo.jpg")).cls_logits.softmax(-1)[0]
    assert [line.split()[1] for line in lines] == [f"{cls[int(line.split()[-1])]:.3f}" for line in lines]
    assert len(lines) == 3


def test_the_snippet_of_an_adapter_runs(here) -> None:
    peft = pytest.importorskip("peft")
    names = dict(enumerate("abc"))  # other classes than the student's
    student = DeiTLTForImageClassification.from_pretrained(here.student, id2label=names, label2id={})
    heads = ["cls_classifier", "distillation_classifier"]
    settings = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=heads, init_lora_weights=False)
    adapted = peft.get_peft_model(student, settings).eval()
    adapted.save_pretrained("adapter")
    pixel_values = torch.rand(2, 3, 16, 16)
    for names in ([], ["a", "b", "c"]):
        if names:
            save_classes(adapted.config, "adapter")
        write_model_card("adapter")  # over the form that PEFT writes
        (code,) = snippets(Path("adapter/README.md").read_text())
        loaded: dict = {}
        exec(code, loaded)
        with torch.inference_mode():
            torch.testing.assert_close(loaded["model"](pixel_values).logits, adapted(pixel_values).logits)
        assert list(loaded["model"].config.id2label) == [0, 1, 2]
        assert not names or list(loaded["model"].config.id2label.values()) == names
    assert 'load_adapted_student("me/abc", base=' in str(model_card("adapter", "me/abc", "late"))


def test_a_program_on_the_hub_is_downloaded_first(here, capsys, monkeypatch) -> None:
    export_model(here.student, "program", format="torch")
    monkeypatch.setattr("huggingface_hub.snapshot_download", {"me/program": "program"}.get)
    (code,) = snippets(str(model_card("program", "me/program")))
    exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_an_exported_model_is_used_with_this_package(tmp_path: Path) -> None:
    directory = saved(tmp_path / "exported", student_config())
    (directory / "model.onnx").write_bytes(b"")
    card = model_card(directory, "me/exported")
    (code,) = snippets(str(card))
    assert 'ExpertClassifier.from_pretrained("me/exported")' in code
    assert "deitlt-hf[onnx]" in str(card)
    assert card.data.library_name == "deitlt_hf"
    assert "onnx" in card.data.tags


def test_an_export_in_8_bits_says_so(tmp_path: Path) -> None:
    directory = saved(tmp_path / "exported", student_config(exported_precision="int8"))
    (directory / "model.onnx").write_bytes(b"")
    assert "an export for ONNX Runtime in 8 bits, whose predictions differ" in str(model_card(directory))


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    for base, known in (("me/student", "me/student"), ("/home/alice/student", None)):
        directory = tmp_path / f"adapter-{known is None}"
        directory.mkdir()
        config = {"base_model_name_or_path": base, "peft_type": "LORA"}
        (directory / "adapter_config.json").write_text(json.dumps(config))
        card = model_card(directory, "me/adapter")
        assert (card.data.library_name, card.data.base_model) == ("peft", known)
        assert "alice" not in str(card)
        assert "PeftModel.from_pretrained(base, " in snippets(str(card))[0]
        assert is_generated(str(card))


NAMES = [
    "a|b",
    "line\nbreak",
    "<script>alert(1)</script>",
    "`code`",
    "日本語",
    "---",
    "*_~#$[x](y)",
    "& &lt; \\",
    "{{ 1+1 }}",
    "{% for %} {# a #}",
    "x" * 500,
]
HOSTILE = ["<b onclick=a> {{ 12345679*9 }} {% for %} [b](c)", "` <b> `", "x\n\n```\n# b\n<b>"]


def test_class_names_are_text_and_not_markup(tmp_path: Path) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    counts = [*range(20, 20 - len(NAMES), -1)]
    config = student_config(NAMES, class_counts=counts)
    card = model_card(saved(tmp_path / "odd", config), "me/odd")
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    tokens = markdown.parse(card.text)
    cells = [
        "".join(part.content for part in token.children)
        for before, token in itertools.pairwise(tokens)
        if before.type == "td_open"
    ]
    for name in NAMES[:-1]:
        assert " ".join(name.split()) in cells
    assert not any(len(cell) > 100 for cell in cells)
    assert markup(tokens) == ["<!-- generated by deitlt_h"]
    assert is_generated(str(card))


def markup(tokens: list) -> list[str]:
    """What of a parsed card is HTML, or leads elsewhere than to a page."""
    parts = [part for token in tokens for part in (token, *(token.children or ()))]
    links = [part.attrs["href"] for part in parts if part.type == "link_open"]
    return [
        *(part.content[:26] for part in parts if part.type.startswith("html_")),
        *(link for link in links if not link.startswith("https://")),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_a_file_holds_becomes_markup_or_a_template(tmp_path: Path, text: str) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    settings = {"loss": text, "init_from": text, "x": text}
    run = {
        "teacher": {"name": text, "architecture": text, "settings": settings},
        "training": {"device": text, "hours": 1, "hours_of": text, "seed": 1},
        "versions": {text: text},
        "python": text,
        "data": {"name": text, "kind": "local", "test_counts": [3, 20]},
        "hub_ids": {"data": text, "teacher": text, "init_from": text},
    }
    run["training"]["resumed"] = [{"step": 3, "changed": {text: [text, text]}}]
    named = dict.fromkeys(("teacher", "init_from", "imbalance_profile", "split_seed", "distillation_view"), text)
    recipe = {**named, "imbalance_factor": 9, "drw_start_epoch": text, "metric_for_best_model": text}
    recipe["load_best_model_at_end"] = True
    metrics = {"experts": dict.fromkeys(EXPERTS, dict.fromkeys(("overall", *GROUPS), 50.0))}
    config = student_config([text, "lynx"], class_counts=[2, 3])
    directory = saved(tmp_path / "<b>`{{ 12345679*9 }}`", config, recipe=recipe, run=run, metrics=metrics)
    teacher = saved(tmp_path / "teacher", CifarResNetConfig(depth=20, num_labels=2), recipe=settings, run=run)
    for card in (model_card(directory), model_card(teacher), model_card(directory, "me/x", "late")):
        tokens = markdown.parse(card.text)
        assert markup(tokens) == ["<!-- generated by deitlt_h"]
        assert not [token for token in tokens if token.content == "b"]  # a heading
        assert "111111111" not in card.text
        assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_templates_use_only_what_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def from_template(header, template_path, **values):
        given[Path(template_path)] = values
        return ModelCard("---\ntags: []\n---\n")

    monkeypatch.setattr(ModelCard, "from_template", from_template)
    model_card(saved(tmp_path / "model", student_config()))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "me/student"}')
    model_card(tmp_path)
    assert len(given) == 2
    for template, values in given.items():
        text = template.read_text(encoding="utf-8")
        parsed = jinja2.Environment().parse(text)
        assigned = {name.name for name in parsed.find_all(jinja2.nodes.Name) if name.ctx == "store"}
        assert jinja2.meta.find_undeclared_variables(parsed) <= {"card_data", *values, *assigned}
        assert set(re.findall(r"\brecord\.(\w+)", text)) <= set(dir(values.get("record")))


def test_thousands_of_classes_make_a_short_card(tmp_path: Path) -> None:
    names = [f"species {label}" for label in range(8142)]
    counts = [max(1000 - label, 2) for label in range(8142)]
    groups = {"head": [*range(842)], "mid": [*range(842, 4543)], "tail": [*range(4543, 8142)]}
    per_class = [50.0] * 8142
    accuracies = {"overall": 50.0, "head": 50.0, "mid": None, "tail": 50.0, "per_class": per_class}
    metrics = {"num_images": 24426, "experts": dict.fromkeys(EXPERTS, accuracies)}
    config = student_config(names, class_counts=counts, class_groups=groups)
    card = model_card(saved(tmp_path / "many", config, metrics=metrics), "me/many")
    assert len(str(card)) < 16_000
    assert len(card.data.to_yaml()) < 2_000
    listed = [cells[0] for cells in rows(card.text) if cells[0].startswith("species")]
    assert listed == names[:10] + names[-10:]
    assert row(section(str(card), "Results"), "average") == ["average", "50.0", "50.0", "-", "50.0"]
    assert len(card.data.eval_results) == 9  # none for the group that was not measured


def test_paths_are_cut_and_hub_ids_kept(tmp_path: Path) -> None:
    recipe = {"data": "/home/alice/pets", "teacher": "..\\bob\\cnn", "init_from": "me/deit", "hub_token": "hf_secret"}
    run = {"hub_ids": {"init_from": "me/deit"}, "data": {"name": "pets", "kind": "local"}}
    card = model_card(saved(tmp_path / "pets", student_config(), recipe=recipe, run=run), "me/pets")
    text = str(card)
    assert card.data.base_model == "me/deit"
    assert card.data.datasets is None
    assert "Fine-tuned from [me/deit](https://huggingface.co/me/deit)" in text
    assert "**pets.** A local collection" in text
    assert "deitlt train --recipe recipe.yaml --data DATA --teacher TEACHER\n" in text
    for secret in ("alice", "bob", "hf_secret"):
        assert secret not in text


def test_data_of_the_hub_are_named_in_the_header(tmp_path: Path) -> None:
    for recipe, hub_ids, expected in (
        ({"data": "me/pets"}, {"data": "me/pets"}, ["me/pets"]),
        ({"data": "cifar100-lt"}, {}, ["uoft-cs/cifar100"]),
        ({"data": "runs/pets"}, {}, None),
    ):
        directory = saved(tmp_path / recipe["data"], student_config(), recipe=recipe, run={"hub_ids": hub_ids})
        assert model_card(directory).data.datasets == expected


def test_an_edited_card_stays(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model", CifarResNetConfig(depth=20, num_labels=3))
    path = write_model_card(directory)
    text = path.read_text()
    assert is_generated(text)
    assert is_generated(text.replace("\n", "\r\n"))
    assert not is_generated(text.replace("three", "four").replace("3 classes", "4 classes"))
    assert not is_generated(text.replace("pipeline_tag", "license: mit\npipeline_tag"))
    assert not is_generated(f"{text}\nMy own words.\n")
    assert write_model_card(directory, "me/model") == path
    assert '"me/model"' in path.read_text()
    path.write_text("# Mine\n")
    write_model_card(directory)
    assert path.read_text() == "# Mine\n"
    assert not [file.name for file in directory.iterdir() if "part" in file.name]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no config.json"),
        ({"config.json": "{"}, "config.json cannot be read"),
        ({"config.json": '{"model_type": "no_such"}'}, "no model that transformers or this package knows"),
        (
            {"config.json": '{"model_type": "cifar_resnet"}', "metrics.json": "[1]"},
            "metrics.json does not hold a JSON object",
        ),
        ({"config.json": '{"model_type": "cifar_resnet"}', "recipe.yaml": "a: ["}, "recipe.yaml cannot be read"),
        ({"config.json": '{"model_type": "cifar_resnet"}', "model.safetensors": "x"}, "pass a directory with complete"),
        ({"config.json": '{"model_type": "bert", "architectures": ["BertModel"]}'}, "a BertModel, which is no image"),
        ({"config.json": '{"model_type": "deit_lt", "architectures": ["DeiTLTModel"]}'}, "no image classifier"),
        ({"adapter_config.json": "{}"}, "names no base_model_name_or_path"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DeiTLTError, match=re.escape(message)) as error:
        write_model_card(tmp_path)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeiTLTError, match="nowhere is no directory"):
        model_card(tmp_path / "nowhere")
