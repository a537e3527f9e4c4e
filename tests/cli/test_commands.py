"""The commands as a user types them, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from deitlt_hf import CifarResNetConfig, CifarResNetForImageClassification
from deitlt_hf.cli.main import COMMANDS, main
from deitlt_hf.data.views import image_processor
from deitlt_hf.evaluation.measures import expert_metrics, format_class_table
from deitlt_hf.recipes import is_teacher_recipe, load_recipe, recipe_names, teacher_recipe
from hub_server import HubServer

TINY = [
    "--hidden_size",
    "24",
    "--num_hidden_layers",
    "2",
    "--num_attention_heads",
    "2",
    "--dataloader_num_workers",
    "0",
]
TINY += ["--dataloader_persistent_workers", "false", "--use_cpu", "true", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("models") / "teacher"
    names = {index: str(index) for index in range(10)}
    config = CifarResNetConfig(
        depth=20, image_size=16, id2label=names, label2id={name: index for index, name in names.items()}
    )
    torch.manual_seed(0)
    CifarResNetForImageClassification(config).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def student(tmp_path_factory, teacher) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "student"
    argv = ["train", "--recipe", "digits-lt", "--teacher", teacher, "--output_dir", str(directory), *TINY]
    assert main([*argv, "--num_train_epochs", "2", "--drw_start_epoch", "1"]) == 0
    return directory


def fails(capsys, *argv: str) -> str:
    """The one line that a command which must fail prints."""
    capsys.readouterr()
    try:
        status = main(list(argv))
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert error.startswith("deitlt")
    assert len(error.splitlines()) == 1, error
    return error


def test_help_names_every_command_and_loads_nothing_heavy():
    """Seconds are of no use as a limit where the suite shares its cores; what takes them is known by name."""
    script = (
        "import sys, deitlt_hf.cli.main as m; m.main(['--help']); "
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pyarrow', 'PIL', 'matplotlib'} & {*sys.modules}; "
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in COMMANDS)


def test_train_leaves_a_student_its_numbers_and_a_picture(student, capsys):
    model = AutoModelForImageClassification.from_pretrained(student)
    processor = AutoImageProcessor.from_pretrained(student)
    inputs = processor(Image.new("RGB", (8, 8)), return_tensors="pt")
    assert model(**inputs).logits.shape == (1, 10)
    assert model.config.class_counts == [134, 96, 68, 49, 35, 25, 18, 13, 9, 6]
    assert model.config.class_groups == {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
    metrics = json.loads((student / "metrics.json").read_text())
    assert metrics["num_images"] == 400
    with Image.open(student / "report.png") as picture:
        assert picture.width > 800
    assert not list(student.glob("*.bin"))


def test_evaluate_repeats_what_training_measured(student, capsys, tmp_path):
    output = tmp_path / "metrics.json"
    assert main(["evaluate", str(student), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "CLS expert" in printed
    assert {"split": "test"} | json.loads(output.read_text()) == json.loads((student / "metrics.json").read_text())
    assert "exists" in fails(capsys, "evaluate", str(student), "--output", str(output))
    assert main(["evaluate", str(student), "--group_boundaries", "1", "9"]) == 0
    assert "head: 1 class with 134 training images" in capsys.readouterr().out


def test_evaluate_takes_a_revision_of_the_hub(student, capsys, tmp_path, monkeypatch):
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        HfApi().create_repo("me/student")
        HfApi().create_branch("me/student", branch="second")
        HfApi().upload_folder(repo_id="me/student", folder_path=student, revision="second")
        assert "me/student" in fails(capsys, "evaluate", "me/student")
        assert main(["evaluate", "me/student", "--revision", "second"]) == 0
    assert "CLS expert" in capsys.readouterr().out


def test_evaluate_adds_intervals_on_request(student, capsys, tmp_path):
    output = tmp_path / "metrics.json"
    assert main(["evaluate", str(student), "--confidence_intervals", "true", "--output", str(output)]) == 0
    assert "95 % intervals" in capsys.readouterr().out
    for expert, measured in json.loads((student / "metrics.json").read_text())["experts"].items():
        evaluated = json.loads(output.read_text())["experts"][expert]
        intervals = evaluated.pop("confidence_intervals")
        assert evaluated == measured
        for name in ("overall", "head", "mid", "tail", "balanced_accuracy"):
            assert intervals[name][0] <= measured[name] <= intervals[name][1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_takes(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: deitlt {command}" in capsys.readouterr().out


def test_predict_shows_both_experts_side_by_side(student, capsys, tmp_path):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.jpg")
    assert main(["predict", str(student), str(tmp_path), "--top", "2", "--expert", "cls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith((".png", ".jpg"))] == [
        str(tmp_path / "colour.png"),
        str(tmp_path / "grey.jpg"),
    ]
    assert lines.pop(2 * (1 + 1 + 2)).startswith("2 images in ")  # the summary follows

    model = AutoModelForImageClassification.from_pretrained(student).eval()
    with torch.inference_mode():
        outputs = model(**image_processor(16)(Image.open(tmp_path / "colour.png"), return_tensors="pt"))
    best = outputs.cls_logits.argmax().item()
    row = lines[2].split()
    experts = (outputs.logits, outputs.cls_logits, outputs.distillation_logits)
    assert row == [str(best), *(f"{100 * logits.softmax(-1)[0, best]:.1f}%" for logits in experts)]


def test_recipes_lists_and_prints(capsys):
    assert main(["recipes"]) == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(listed) == recipe_names()
    assert listed["digits-lt"].endswith("; teacher: digits-lt-teacher")
    assert listed["cifar10-lt-small-no-drw"].endswith("; teacher: cifar10-lt-small-teacher")
    assert "; teacher" not in listed["cifar10-lt-small-vit"] + listed["digits-lt-teacher"]
    assert main(["recipes", "digits-lt"]) == 0
    assert "num_train_epochs: 240" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in recipe_names() if not is_teacher_recipe(name)])
def test_every_recipe_has_its_teacher_and_says_known_settings(name, tmp_path, monkeypatch):
    from deitlt_hf.cli.parsing import parse_with_recipe
    from deitlt_hf.data.arguments import TrainingDataArguments
    from deitlt_hf.runs.training import StudentArguments, TeacherArguments
    from deitlt_hf.training.arguments import DeiTLTTrainingArguments, TeacherTrainingArguments

    data, student, args = parse_with_recipe(
        "train", [TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments], ["--recipe", name]
    )
    assert args.output_dir == f"runs/{name}"
    if name.startswith("finetune"):  # for any data, with the pretrained model's own class means
        assert (student.teacher, student.adapt) == ("class_means", "lora" if name.endswith("lora") else "full")
        return
    assert data.image_size % student.patch_size == 0
    if args.distillation_type == "none":
        assert teacher_recipe(name) is None
        return
    teacher_data, *_ = parse_with_recipe(
        "teacher",
        [TrainingDataArguments, TeacherArguments, TeacherTrainingArguments],
        ["--recipe", teacher_recipe(name)],
    )
    assert (data.data, data.imbalance_factor) == (teacher_data.data, teacher_data.imbalance_factor)


BASELINES = {
    "-vit": {"expert", "distillation_type", "distillation_alpha", "drw_start_epoch"},
    "-deit": {"drw_start_epoch"},  # and its teacher
    "-no-drw": {"drw_start_epoch"},
}
OF_DRW = {"mixup_in_drw", "class_balanced_beta"}  # say nothing without it


@pytest.mark.parametrize(
    ("paper", "base"), [("cifar10-lt-small-paper", "cifar10-lt-small"), ("cifar10-lt-if100", "cifar10-lt-if100")]
)
@pytest.mark.parametrize("suffix", BASELINES)
def test_a_baseline_differs_in_what_it_is_for_alone(paper, base, suffix):
    settings, baseline = load_recipe(paper), load_recipe(f"{base}{suffix}")
    differ = {name for name in settings | baseline if settings.get(name) != baseline.get(name)}
    assert differ - OF_DRW == BASELINES[suffix]
    assert baseline.get("drw_start_epoch") is None
    if suffix == "-vit":
        assert (baseline["expert"], baseline["distillation_type"], baseline["distillation_alpha"]) == ("cls", "none", 0)


@pytest.mark.parametrize("base", ["cifar10-lt-small-teacher", "cifar10-lt-if100-teacher-ldam"])
@pytest.mark.parametrize(("suffix", "change"), [("-strong", {"training_view": "strong"}), ("-no-sam", {"sam_rho": 0})])
def test_a_teacher_for_comparison_differs_in_one_setting(base, suffix, change):
    assert load_recipe(f"{base}{suffix}") == load_recipe(base) | change


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
@pytest.mark.parametrize("factor", [100, 50])
def test_the_papers_recipes_have_the_papers_settings(data, factor):
    settings = load_recipe(f"{data}-lt-if{factor}")
    paper = {
        "imbalance_factor": factor,
        "student_size": "base",
        "patch_size": 16,
        "image_size": 224,
        "num_train_epochs": 1200,
        "drw_start_epoch": 1100,
        "per_device_train_batch_size": 128,
        "gradient_accumulation_steps": 4,
        "mixup_in_drw": False,
        "learning_rate": 5e-4,
        "weight_decay": 0.05,
        "warmup_epochs": 5,
        "drop_path_rate": 0.1,
        "label_smoothing_factor": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "repeated_augmentation": 3,
        "distillation_type": "hard",
        "distillation_alpha": 0.5,
        "class_balanced_beta": 0.9999,
        "ema_decay": 0.99996,
        "group_boundaries": [3, 7] if data == "cifar10" else [36, 71],
    }
    assert {name: settings[name] for name in paper} == paper


PACO = {"loss": "paco", "num_train_epochs": 400, "weight_decay": 5e-4, "paco_momentum": 0.999, "drw_start_epoch": None}
PACO |= {"paco_beta": 1.0, "paco_gamma": 1.0, "sam_rho": [0.05], "classifier": "linear", "warmup_epochs": 10}
PACO_AT_32 = {"learning_rate": 0.05, "paco_dim": 32, "paco_queue": 1024, "paco_temperature": 0.05, "paco_alpha": 0.01}
PACO_AT_32 |= PACO | {"architecture": "cifar_resnet", "depth": 32, "image_size": 32, "schedule": "steps"}
PACO_AT_224 = {"learning_rate": 0.02, "paco_dim": 128, "paco_queue": 8192, "paco_temperature": 0.2, "paco_alpha": 0.05}
PACO_AT_224 |= PACO | {"architecture": "resnet50", "image_size": 224, "schedule": "cosine", "min_learning_rate": 0.0}
LDAM = {"loss": "ldam", "classifier": "cosine", "ldam_scale": 30.0}
LDAM_AT_32 = {"num_train_epochs": 200, "drw_start_epoch": 160, "learning_rate": 0.1, "sam_rho": [0.8], "depth": 32}
LDAM_AT_32 |= LDAM | {"weight_decay": 2e-4, "warmup_epochs": 5, "decay_epochs": [160, 180], "decay_factor": 0.01}
LDAM_AT_224 = {"num_train_epochs": 90, "sam_rho": [0.05, 0.1, 0.5, 0.5], "ldam_max_margin": 0.3, "warmup_epochs": 0}
LDAM_AT_224 |= LDAM | {"architecture": "resnet50", "image_size": 224, "schedule": "cosine", "min_learning_rate": 0.0}
IMAGENET, INATURALIST = {"group_boundaries": [390, 835]}, {"group_boundaries": [842, 4543]}
CIFAR_NAMES = [f"{data}-lt-if{factor}" for data in ("cifar10", "cifar100") for factor in (100, 50)]


PAPERS_TEACHERS = dict(
    [
        *((f"{name}-teacher", PACO_AT_32) for name in CIFAR_NAMES),
        *((f"{name}-teacher-ldam", LDAM_AT_32) for name in CIFAR_NAMES),
        ("imagenet-lt-teacher", PACO_AT_224 | IMAGENET),
        ("inaturalist-2018-teacher", PACO_AT_224 | INATURALIST),
        ("imagenet-lt-teacher-ldam", LDAM_AT_224 | IMAGENET | {"learning_rate": 0.2, "weight_decay": 2e-4}),
        ("inaturalist-2018-teacher-ldam", LDAM_AT_224 | INATURALIST | {"learning_rate": 0.1, "weight_decay": 1e-4}),
        ("cifar10-lt-if100-teacher-ldam-strong", LDAM_AT_32 | {"training_view": "strong"}),
        ("cifar10-lt-if100-teacher-ldam-no-sam", LDAM_AT_32 | {"sam_rho": [0]}),
    ]
)


@pytest.mark.parametrize("name", [name for name in recipe_names() if is_teacher_recipe(name)])
def test_teachers_recipes_parse_and_have_the_papers_settings(name):
    from deitlt_hf.cli.parsing import parse_with_recipe
    from deitlt_hf.data.arguments import TrainingDataArguments
    from deitlt_hf.runs.training import TeacherArguments
    from deitlt_hf.teachers.build import make_classifier
    from deitlt_hf.training.arguments import TeacherTrainingArguments

    kinds = [TrainingDataArguments, TeacherArguments, TeacherTrainingArguments]
    data, teacher, args = parse_with_recipe("teacher", kinds, ["--recipe", name])
    settings = vars(data) | vars(teacher) | vars(args)
    paper = PAPERS_TEACHERS.get(name, {})
    assert {name: settings[name] for name in paper} == paper
    assert name.startswith(data.data)
    assert name.startswith(f"{data.data}-if{data.imbalance_factor}-teacher") == (
        name.split("-teacher")[0] in CIFAR_NAMES
    )
    with torch.device("meta"):
        labels = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
        make_classifier(
            teacher.architecture, data.image_size, labels, classifier=teacher.classifier, depth=teacher.depth
        )


def test_every_teachers_recipe_of_the_paper_is_tested_above():
    papers = (*CIFAR_NAMES, "imagenet-lt", "inaturalist-2018")
    names = {name for name in recipe_names() if is_teacher_recipe(name) and name.startswith(papers)}
    assert names == PAPERS_TEACHERS.keys()


def test_a_flag_stands_over_the_recipe_and_a_file_is_a_recipe_too(tmp_path):
    from deitlt_hf.cli.parsing import parse_with_recipe
    from deitlt_hf.training.arguments import DeiTLTTrainingArguments

    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 1e-3\nnum_train_epochs: 7\n")
    (args,) = parse_with_recipe(
        "train", [DeiTLTTrainingArguments], ["--recipe", str(recipe), "--num-train-epochs", "9"]
    )
    assert (args.learning_rate, args.num_train_epochs, args.output_dir) == (1e-3, 9, "runs/mine")


def train(*more: str) -> list[str]:
    return ["train", "--recipe", "digits-lt", *TINY, *more]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["trian"], ["trian", "train"]),
        (["train", "--recipe", "cifar10-lt-if10"], ["cifar10-lt-if10", "cifar10-lt-if100"]),
        (train("--expert", "rare"), ["'rare'", "distillation"]),
        (train("--data", "digits"), ["'digits'", "digits-lt"]),
        (train("--data", "cifar10-lt", "--data_dir", "/no/such/directory"), ["/no/such/directory"]),
        (train("--imbalance_factor", "0.5"), ["0.5", "at least 1"]),
        (train("--imbalance_factor", "500"), ["500", "class 8", "134"]),
        (train("--patch_size", "5"), ["16", "patch_size 5"]),
        (train("--drw_start_epoch", "240"), ["240", "beyond"]),
        (train("--group_boundaries", "3"), ["[3]", "3 7"]),
        (train("--student_size", "huge"), ["'huge'", "tiny"]),
        (train("--teacher", "/no/such/teacher"), ["/no/such/teacher", "no such directory"]),
        (train("--distillation_typ", "soft"), ["--distillation_typ", "--distillation_type"]),
        (train("--learning_rate", "fast"), ["fast"]),
        (train("--evaluate_ema"), ["ema_decay"]),
        (train(), ["needs a teacher"]),
        (["evaluate", "/no/such/model"], ["/no/such/model", "no such directory"]),
        (["convert", "/no/such/file.pth", "out"], ["/no/such/file.pth"]),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_2(capsys, monkeypatch, tmp_path, argv, parts):
    monkeypatch.chdir(tmp_path)
    error = fails(capsys, *argv)
    assert all(part in error for part in parts), error
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_teachers_line_has_the_headings_of_the_tables(capsys, monkeypatch):
    groups = {"head": [0], "mid": [1], "tail": [2]}
    metrics = expert_metrics([[0], [1], [0]], [0, 1, 1], [9, 5, 1], groups, "abc", experts=("model",))
    metrics["accuracy"] = metrics["experts"]["model"]
    monkeypatch.setattr("deitlt_hf.runs.training.run_teacher", lambda *settings: metrics)
    assert main(["teacher", "--recipe", "digits-lt-teacher", "--use_cpu", "true"]) == 0
    line, _, *table = capsys.readouterr().out.splitlines()
    assert line == "overall 66.7, head 100.0, mid 50.0, tail -, balanced 75.0 % on 3 test images"
    assert table[:4] == format_class_table(metrics).splitlines()[:4]


def test_a_teacher_of_other_classes_is_refused(capsys, tmp_path):
    names = {0: "cat", 1: "lynx"}
    config = CifarResNetConfig(depth=20, id2label=names, label2id={"cat": 0, "lynx": 1})
    CifarResNetForImageClassification(config).save_pretrained(tmp_path / "teacher")
    error = fails(capsys, *train("--teacher", str(tmp_path / "teacher"), "--output_dir", str(tmp_path / "out")))
    assert "different label sets" in error
    assert "'0'" in error


@pytest.mark.parametrize("command", [["predict"], ["train", "--recipe", "digits-lt", "--init_from"]])
def test_a_model_of_another_type_is_refused(capsys, tmp_path, command):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=10)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    more = [str(tmp_path)] if command == ["predict"] else []
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    assert "resnet" in fails(capsys, *command, str(tmp_path / "resnet"), *more)


def test_a_run_is_not_overwritten_unasked(capsys, student, teacher, tmp_path):
    before = (student / "model.safetensors").read_bytes()
    assert "--overwrite" in fails(capsys, *train("--teacher", teacher, "--output_dir", str(student)))
    (tmp_path / "photo.png").write_bytes(b"mine")
    error = fails(capsys, *train("--teacher", teacher, "--output_dir", str(tmp_path), "--overwrite"))
    assert "no run" in error
    assert "checkpoint" in fails(capsys, *train("--teacher", teacher, "--output_dir", str(tmp_path), "--resume"))
    assert (student / "model.safetensors").read_bytes() == before
    assert (tmp_path / "photo.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("content", "part"), [("learning_rat: 1", "learning_rate"), ("- a\n- b", "no settings"), ("a: [", "not YAML")]
)
def test_a_broken_recipe_is_refused(capsys, tmp_path, content, part):
    (tmp_path / "recipe.yaml").write_text(content)
    assert part in fails(capsys, "train", "--recipe", str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["no-such.png"], "no-such.png"),
        (["text.png"], "cannot be read"),
        (["empty"], "holds no images"),
        (["text.png", "--expert", "distilation"], "distillation"),
        (["image.png", "--top", "0"], "top is 0"),
    ],
)
def test_predict_refuses(capsys, student, tmp_path, monkeypatch, argv, part):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no image")
    Path("empty").mkdir()
    Image.new("L", (9, 9)).save("image.png")
    assert part in fails(capsys, "predict", str(student), *argv)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(capsys, teacher, tmp_path):
    argv = train("--teacher", teacher, "--output_dir", str(tmp_path / "run"), "--learning_rate", "1e30")
    error = fails(capsys, *argv, "--save_strategy", "steps", "--save_steps", "1", "--warmup_epochs", "0")
    assert "not finite at step" in error
    checkpoints = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert checkpoints
    for checkpoint in checkpoints:
        weights = AutoModelForImageClassification.from_pretrained(checkpoint).state_dict()
        assert all(weight.isfinite().all() for weight in weights.values())
    step = int(error.split("step ")[1].split()[0])
    assert all(int(path.name.split("-")[1]) < step for path in checkpoints)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_class_without_training_images_is_refused(capsys, tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "lynx", "owl"])})
    split = Dataset.from_dict({"image": [Image.new("RGB", (8, 8))] * 2, "label": [0, 2]}, features=features)
    DatasetDict(train=split, test=split).save_to_disk(tmp_path / "cats")
    argv = train("--data", str(tmp_path / "cats"), "--imbalance_factor", "none", "--output_dir", str(tmp_path / "run"))
    assert "class without training images: class 1 of 3" in fails(capsys, *argv)


def test_evaluating_on_other_classes_is_refused(capsys, student, tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "lynx"])})
    rows = {"image": [Image.new("RGB", (8, 8))] * 4, "label": [0, 0, 1, 1]}
    split = Dataset.from_dict(rows, features=features)
    DatasetDict(train=split, test=split).save_to_disk(tmp_path / "cats")
    assert "'cat'" in fails(capsys, "evaluate", str(student), "--data", str(tmp_path / "cats"))


def test_starting_from_weights_interpolates_positions_and_says_so(capsys, student, tmp_path, caplog):
    argv = train("--init_from", str(student), "--image_size", "8", "--distillation_type", "none")
    argv += ["--num_train_epochs", "1", "--drw_start_epoch", "none"]
    assert main([*argv, "--output_dir", str(tmp_path / "run")]) == 0
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "run").config.image_size == 8
    said = [record.message for record in caplog.records if record.name == "deitlt_hf"]
    assert any("images of 16 pixels: its position embeddings are interpolated to those of 8" in line for line in said)
    assert any("not used: hidden_size 24, num_hidden_layers 2, num_attention_heads 2, patch_size 4" in x for x in said)


def test_averaged_weights_are_evaluated_on_request(capsys, student, tmp_path):
    argv = train("--init_from", str(student), "--distillation_type", "none", "--output_dir", str(tmp_path / "run"))
    argv += ["--num_train_epochs", "1", "--drw_start_epoch", "0", "--ema_decay", "1.0", "--evaluate_ema"]
    assert main(argv) == 0
    assert "averaged weights" in capsys.readouterr().out
    # A decay of 1 never leaves the weights that training started from.
    before = json.loads((student / "metrics.json").read_text())
    after = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert after["averaged_weights"] == before["experts"]


def test_a_runs_recipe_makes_the_same_run_again_and_elsewhere(capsys, student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = ["train", "--recipe", str(student / "recipe.yaml"), "--use_cpu", "true", "--disable_tqdm", "true"]
    assert main(again) == 0
    made = tmp_path / "runs" / "recipe"
    assert json.loads((made / "metrics.json").read_text()) == json.loads((student / "metrics.json").read_text())
    assert (made / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()
    assert "--overwrite" in fails(capsys, *again)


def test_none_takes_back_what_a_recipe_sets(capsys):
    assert "needs a teacher" in fails(capsys, *train("--drw_start_epoch", "none", "--num_train_epochs", "2"))


def test_resuming_with_a_model_of_another_size_is_refused(capsys, teacher, tmp_path):
    argv = train("--teacher", teacher, "--output_dir", str(tmp_path / "run"), "--save_strategy", "steps")
    argv += ["--save_steps", "1", "--num_train_epochs", "1", "--drw_start_epoch", "none"]
    assert main(argv) == 0
    assert "another size" in fails(capsys, *argv, "--resume", "--hidden_size", "48")


def test_a_damaged_parquet_file_is_refused(capsys, tmp_path):
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1 cut off")
    assert str(tmp_path) in fails(capsys, *train("--data", "cifar10-lt", "--data_dir", str(tmp_path)))


def test_accelerate_launches_the_same_commands(tmp_path):
    argv = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "deitlt_hf"]
    argv += ["train", "--recipe", "digits-lt", "--distillation_type", "none", "--output_dir", str(tmp_path / "run")]
    argv += [*TINY, "--num_train_epochs", "1", "--drw_start_epoch", "0"]
    result = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "DIST expert" in result.stdout
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_what_is_interrupted_before_it_has_begun_says_just_that(capsys, monkeypatch):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("deitlt_hf.cli.train.run", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "deitlt train: interrupted\n"
