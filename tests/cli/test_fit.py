"""`deitlt fit`: one command from images to a calibrated student, cut off anywhere, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from deitlt_hf import DeiTLTTrainingArguments, Resizing, StudentArguments, TrainingDataArguments, evaluation_view
from deitlt_hf.cli.fit_settings import format_settings, parse_stages
from deitlt_hf.cli.main import main
from deitlt_hf.cli.resuming import same_command
from deitlt_hf.data.arguments import DataArguments, load_images
from deitlt_hf.data.suggestion import Suggestion
from deitlt_hf.durable.trainer import DurableTrainer
from deitlt_hf.runs import calibrating, estimate, fitting, stage_times, training
from deitlt_hf.runs.estimate import EVALUATED, TrainingTime, time_training
from noisy_images import write_images

COUNTS = {"a": 90, "b": 60, "c": 40}
RUN = ["--use_cpu", "true", "--dataloader_num_workers", "0", "--report_to", "none", "--disable_tqdm", "true"]
RUN += ["--image_size", "8"]
STUDENT = ["--patch_size", "4", "--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
STUDENT += ["--num_train_epochs", "2", "--per_device_train_batch_size", "32"]
FLAGS = [*RUN, *STUDENT, "--teacher_epochs", "2"]


class Killed(BaseException):
    """What no command expects."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """A folder of images, in which commands run; what a training will take is timed on two steps."""
    folder = tmp_path_factory.mktemp("fit")
    write_images(folder / "pics", COUNTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(estimate, "FEW_STEPS", 2)
        patch.setattr(training, "report_figure", lambda *args: None)  # drawing takes a second
        patch.setattr(training, "save_figure", lambda figure, file: file.touch())
        yield folder


@pytest.fixture(scope="module")
def fitted(place: Path) -> tuple[Path, str]:
    """The directory of an undisturbed run, and what it printed."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main(["fit", "pics", *FLAGS]) == 0
    return place / "runs" / "pics", printed.getvalue()


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_its_plan_comes_first_and_its_result_last(fitted):
    directory, printed = fitted
    assert sorted(path.name for path in directory.iterdir()) == ["data.json", "fit.json", "student", "teacher"]
    at = [printed.index(part) for part in (
        "classes           3, from ", "for both\n", "for the teacher\n", "for the student\n", "The plan, ",
        "1/3 teacher", "2/3 student", "3/3 calibration", "Accuracy in percent on ", "\nmodel    runs/pics/student\n",
        "\ncard     runs/pics/student/README.md\n", "\nteacher  runs/pics/teacher\n", "\ntime     ",
        "next: deitlt predict runs/pics/student photo.jpg\n", " deitlt app runs/pics/student\n",
    )]  # fmt: skip
    assert at == sorted(at)
    images = load_images(DataArguments("pics", validation_fraction=0.1))
    assert f"for the calibration {len(images.validation)} images are held out of train" in printed
    # Two epochs in steps of 32 images; what is left of an epoch is not trained on.
    assert f"student      {2 * (len(images.train) // 32)} steps of 32 images" in printed


def test_it_does_what_the_single_commands_do(fitted, place, tmp_path):
    directory, teacher, student = fitted[0], tmp_path / "teacher", tmp_path / "student"
    data = ["--data", "pics", "--validation_fraction", "0.1", *RUN]
    assert main(["teacher", *data, "--num_train_epochs", "2", "--output_dir", str(teacher)]) == 0
    assert main(["train", *data, *STUDENT, "--teacher", str(teacher), "--output_dir", str(student)]) == 0
    for stage in ("teacher", "student"):
        assert_same_weights(directory / stage, tmp_path / stage)


def test_a_pretrained_model_is_timed_with_its_own_resizing(place, tmp_path, monkeypatch):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **shape)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}, resample=2).save_pretrained(tmp_path)  # 2 is bilinear
    seen = []
    monkeypatch.setattr(stage_times, "features_of", lambda body, few, args: seen.append(few[0]["pixel_values"]))
    monkeypatch.setattr(stage_times, "time_training", lambda *args: TrainingTime(1, 1.0, 1, 1))
    monkeypatch.setattr(stage_times, "make_student_trainer", lambda *args: None)
    data = TrainingDataArguments("pics", image_size=16)
    args = DeiTLTTrainingArguments(str(tmp_path / "run"), distillation_type="none", use_cpu=True, report_to="none")
    images = load_images(data)
    stage_times.time_stages(None, (data, StudentArguments(init_from=str(tmp_path)), args), images, False)
    expected = evaluation_view(16, Resizing("bilinear", 1.0, keeps_shape=False))(images.train[0]["image"])
    torch.testing.assert_close(seen[0], expected, atol=0, rtol=0)


def test_a_pretrained_model_teaches_itself(place, tmp_path, said):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=8, patch_size=4, **shape)).save_pretrained(tmp_path / "vit")
    run = [*RUN[:-2], "--adapt", "head", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")]
    printed = said("fit", "pics", "--init_from", str(tmp_path / "vit"), *run)
    images = load_images(DataArguments("pics", validation_fraction=0.1))
    # A batch is at most a tenth of the training images, and a power of two; an epoch has its whole batches alone.
    number, batch = len(images.train), 8
    assert batch <= number / 10 < 2 * batch
    assert f"student      features of {number} images, {number // batch} steps of the heads  about " in printed
    assert printed.index("1/2 student") < printed.index("2/2 calibration") < printed.rindex("\nteacher ")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["data.json", "fit.json", "student"]
    settings = yaml.safe_load((tmp_path / "run" / "student" / "recipe.yaml").read_text())
    assert (settings["teacher"], settings["adapt"], settings["image_size"]) == ("class_means", "head", 8)


def killing(then: Callable) -> Callable:
    """A function that does its work and is killed."""

    def killed(*args, **kwargs):
        then(*args, **kwargs)
        raise Killed

    return killed


def test_a_run_that_is_killed_in_every_stage_ends_as_the_undisturbed_one(fitted, place, tmp_path, monkeypatch, said):
    again = ["fit", "pics", *FLAGS, "--output_dir", str(tmp_path / "run")]

    def nothing(*args, **kwargs) -> None: ...

    for module, name, before in (
        (fitting.Plan, "write", None),  # before the first stage
        (DurableTrainer, "_save_checkpoint", None),  # in the teacher's training
        (training, "train_student", nothing),  # between the two
        (training, "_train", nothing),  # in the student's training, before its first checkpoint
        (DurableTrainer, "_save_checkpoint", None),  # and after it
        (training, "finish_run", nothing),  # when it is trained and evaluated, without its card
        (calibrating, "fit_fusion", None),  # in the calibration
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killing(before or getattr(module, name)))
            with pytest.raises(Killed):
                main(again)
    printed = said(*again)
    assert "1/3 teacher: done before" in printed
    assert "2/3 student: done before" in printed
    for stage in ("teacher", "student"):
        runs = [fitted[0] / stage, tmp_path / "run" / stage]
        assert_same_weights(*runs)
        first, second = (json.loads((run / "metrics.json").read_text()) for run in runs)
        assert first == second
    printed = said(*again)  # nothing is left to be done
    assert "3/3 calibration: " in printed
    assert "Accuracy in percent" in printed


def test_other_flags_and_other_data_do_not_go_on(fitted, place, tmp_path, said):
    directory = tmp_path / "run"
    shutil.copytree(fitted[0], directory)
    begun = ["fit", "pics", *FLAGS, "--output_dir", str(directory)]
    printed = said(*begun, "--seed", "7", "--patch_size", "2", status=2)
    assert "was begun with other flags: patch_size 4, now 2; seed not given, now 7; pass the same to go on" in printed
    assert "is no flag of `deitlt fit`" in said(*begun, "--resume", status=2)
    shutil.rmtree(directory / "student")
    shutil.copytree(place / "pics", tmp_path / "pics")
    plan = json.loads((directory / "fit.json").read_text())
    plan["given"]["data"] = str(tmp_path / "pics")
    (directory / "fit.json").write_text(json.dumps(plan))
    begun[1] = str(tmp_path / "pics")
    write_images(tmp_path / "pics", {"b": 9}, first=500)
    assert "is not what it was when the run of" in said(*begun, status=2)
    assert not (directory / "student").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "no data are named; pass a folder of images, as in `deitlt fit pictures`"),
        ("nowhere", "unknown data source 'nowhere'"),
        ("--data pics", "--data is no flag of `deitlt fit`: name the data without a flag"),
        ("pics --push_to_hub true", "push it at the end with `deitlt push`"),
        ("pics --teacher ./nowhere", "./nowhere: there is no such directory"),
        ("pics --teacher_epochs 0", "teacher_epochs is 0.0; pass a number"),
        ("pics --output_dir used", "holds 'mine.txt' and is no run of `deitlt fit`; pass another --output_dir"),
        ("pics --output_dir used --overwrite", "holds 'mine.txt' and is no run"),
        ("empty", "empty"),
        ("one", "class"),
        ("two", "none: add images, pass a larger test_fraction, or a test split"),
        ("list.csv", "list.csv"),
        ("pics --image_size 10 --patch_size 4", "patch"),
    ],
)
def test_what_it_refuses_is_said_in_a_line(argv, message, place, tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "pics", "pics")
    for name in ("empty", "used"):
        Path(name).mkdir()
    Path("used/mine.txt").write_text("")
    write_images(Path("one"), {"a": 20})
    write_images(Path("two"), {"a": 1, "b": 1})
    Path("list.csv").write_text("file_name\npics/a/0000.png\npics/b/0000.png\n")
    monkeypatch.setattr(stage_times, "time_training", lambda *args: pytest.fail("a training was begun"))
    assert message in said("fit", *argv.split(), status=2)
    assert not Path("runs").exists()
    assert sorted(path.name for path in Path("used").iterdir()) == ["mine.txt"]


def test_an_unknown_flag_is_refused_with_a_near_one(capsys):
    with pytest.raises(SystemExit) as end:
        main(["fit", "pics", "--epoch", "3"])
    assert end.value.code == 2
    assert "unknown option --epoch; did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("counts", "may_hold_out", "validation", "reason"),
    [
        ({"a": 90, "b": 60}, True, True, None),
        ({"a": 90, "b": 60}, False, False, "there is no validation split; it takes 10"),
        ({"a": 20, "b": 20}, True, False, "a tenth of train would be "),
        ({"a": 150, "b": 4}, True, False, "with two of at least two classes"),  # b has one at most
    ],
)
def test_images_are_held_out_where_they_are_enough_to_calibrate(counts, may_hold_out, validation, reason, tmp_path):
    write_images(tmp_path / "pics", counts)
    images, found = fitting.with_validation(DataArguments(str(tmp_path / "pics")), may_hold_out)
    assert (images.validation is not None) == validation
    assert (found is None) == (reason is None)
    assert reason is None or reason in found


def test_the_teacher_takes_flags_of_data_and_machine():
    given = {"data": "pics", "image_size": 32, "seed": 3, "num_train_epochs": 5.0, "mixup": 0.5, "teacher_epochs": 7.0}
    given |= {"use_cpu": True, "group_boundaries": [1, 2], "validation_fraction": None}
    teacher, student = parse_stages(given, Path("runs/x"), lambda *_: {})
    for data, _, args in (teacher, student):
        assert (data.image_size, data.group_boundaries, data.validation_fraction, args.seed) == (32, [1, 2], None, 3)
    assert (teacher[2].num_train_epochs, student[2].num_train_epochs, student[2].mixup) == (7, 5, 0.5)
    assert (student[1].teacher, teacher[2].output_dir) == ("runs/x/teacher", "runs/x/teacher")


@pytest.mark.parametrize("flag", [{"teacher": "me/resnet"}, {"distillation_type": "none"}, {"init_from": "me/vit"}])
def test_no_teacher_is_trained_where_one_is_given_or_none_is_wanted(flag):
    teacher, student = parse_stages({"data": "pics", "use_cpu": True} | flag, Path("runs/x"), lambda *_: {})
    assert (teacher, student[1].teacher) == (None, flag.get("teacher"))


def test_settings_of_both_are_shown_once():
    one = Suggestion(settings={"size": 8, "epochs": 2}, reasons={"size": "small", "epochs": "few"})
    other = Suggestion(settings={"size": 8, "epochs": 3}, reasons={"size": "small", "epochs": "few"})
    assert format_settings({"student": other, "teacher": one}) == (
        "for both\nsize  8  small\n\nfor the teacher\nepochs  2  few\n\nfor the student\nepochs  3  few"
    )


def test_the_time_of_a_training_is_that_of_its_steps_and_evaluations(monkeypatch):
    # The first three steps are slow; then one takes two seconds.
    ticks, now = iter([5.0, 5.0, 5.0] + [2.0] * 100), [0.0]
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])

    def few(trainer, callback) -> None:
        callback.on_train_begin(None, None, None)
        while not trainer.control.should_training_stop:
            now[0] += next(ticks)
            callback.on_step_end(None, None, trainer.control)

    monkeypatch.setattr(estimate, "train_for_the_clock", few)
    args = SimpleNamespace(
        dataloader_num_workers=1, dataloader_prefetch_factor=2, device=torch.device("cpu"), eval_strategy="epoch",
        train_batch_size=16, gradient_accumulation_steps=2, world_size=1,
    )  # fmt: skip
    trainer = SimpleNamespace(
        args=args, eval_dataset=[0] * 40, control=SimpleNamespace(should_training_stop=False),
        state=SimpleNamespace(max_steps=30, num_train_epochs=3, epoch=0.2),
    )  # fmt: skip
    found = time_training(trainer, test_images=72)
    assert found == TrainingTime(steps=30, step=2.0, images=32, evaluated=3 * 40 + 72)
    assert EVALUATED == 1 / 3
    assert found.seconds == pytest.approx(2.0 * 30 + 192 * 2.0 / 32 / 3)  # 192 images of a third of 1/16 second each


def test_the_command_that_goes_on_replaces_nothing():
    words = ["fit", "my pics", "--overwrite", "true", "--hub-token=x", "--seed", "3"]
    assert same_command(words).endswith("fit 'my pics' --seed 3")
