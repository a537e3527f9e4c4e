"""Settings that follow from inspections made by hand."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from deitlt_hf import DeiTLTConfig, DeiTLTError, DeiTLTTrainingArguments, TeacherTrainingArguments
from deitlt_hf.cli.parsing import parse_with_recipe
from deitlt_hf.data.arguments import TrainingDataArguments
from deitlt_hf.data.duplicates import Duplicates
from deitlt_hf.data.inspection import Inspection, SplitInspection
from deitlt_hf.data.long_tail import class_groups
from deitlt_hf.data.sampling import repeated_augmentation_sampler
from deitlt_hf.data.suggestion import format_suggestion, suggest_finetuning, suggest_recipe, suggest_teacher_recipe
from deitlt_hf.models.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from deitlt_hf.runs.training import StudentArguments, TeacherArguments

SIDES = (8, 28, 31.5, 32, 33, 63, 64, 100, 112, 159, 160, 224, 225, 500, 4000)
IMAGES = (2, 19, 57, 300, 2559, 2560, 9_999, 10_000, 20_000, 99_999, 115_846, 437_513, 2_000_000)


def inspection_of(images: int | list[int], side: float = 32) -> Inspection:
    counts = [max(images - images // 4, 1), max(images // 4, 1)] if isinstance(images, int) else images
    spread = dict.fromkeys(("min", "lower_quartile", "median", "upper_quartile", "max"), side)
    split = SplitInspection(sum(counts), counts, 0, [], spread, spread, spread, [], {}, {})
    return Inspection(
        class_names=[f"class {label}" for label in range(len(counts))],
        class_groups=class_groups(counts),
        drw_weights=[1.0] * len(counts),
        splits={"train": split},
        duplicates=Duplicates(0, 0, {"train": 0}, 0, {}, 0, []),
    )


@pytest.fixture(autouse=True)
def has_gpu(monkeypatch):
    """What is suggested on a machine with a GPU, whatever this machine is."""
    monkeypatch.setattr("deitlt_hf.data.suggestion.on_gpu", lambda: True)


@pytest.mark.parametrize(
    ("images", "side", "student", "teacher"),
    [
        # 40,000 and 15,000 views in tens of epochs: 67 and 25 for 600 images, and 25 is as near to 20 as to 30.
        (600, 500, (64, 70, 35, "tiny", 6), (64, 20, 20)),
        (600, 32, (32, 70, 35, "tiny", 6), (32, 20, 20)),
        (50, 32, (32, 400, 200, "tiny", 6), (32, 300, 20)),
        (50_000, 224, (64, 10, 5, "tiny", 6), (64, 10, 20)),
    ],
)
def test_without_a_gpu_a_shorter_run_is_suggested(images, side, student, teacher, monkeypatch):
    monkeypatch.setattr("deitlt_hf.data.suggestion.on_gpu", lambda: False)
    of_student = suggest_recipe(inspection_of(images, side))
    names = ("image_size", "num_train_epochs", "drw_start_epoch", "student_size", "num_hidden_layers")
    assert tuple(of_student.settings[name] for name in names) == student
    of_teacher = suggest_teacher_recipe(inspection_of(images, side)).settings
    assert tuple(of_teacher[name] for name in ("image_size", "num_train_epochs", "depth")) == teacher
    assert "no GPU" in of_student.reasons["num_train_epochs"]


@pytest.mark.parametrize(
    ("side", "image_size", "patch_size"),
    [(8, 32, 4), (32, 32, 4), (63, 32, 4), (64, 64, 8), (111, 64, 8), (112, 112, 8), (160, 160, 16), (500, 224, 16)],
)
def test_image_size_is_never_above_the_images_from_32_pixels_on(side, image_size, patch_size):
    settings = suggest_recipe(inspection_of(5000, side)).settings
    assert (settings["image_size"], settings["patch_size"]) == (image_size, patch_size)
    assert suggest_teacher_recipe(inspection_of(5000, side)).settings["image_size"] == image_size


@pytest.mark.parametrize(
    ("images", "epochs", "drw", "size", "batch", "repeats"),
    [
        (300, 1200, 600, "tiny", 16, 1),
        (1280, 1200, 1100, "tiny", 128, 1),
        (12_406, 1200, 1100, "small", 128, 3),  # CIFAR-10-LT
        (50_000, 400, 366, "small", 128, 3),
        (115_846, 170, 155, "base", 128, 3),  # ImageNet-LT
        (437_513, 100, 91, "base", 128, 3),  # iNaturalist-2018
    ],
)
def test_a_students_settings_by_number_of_images(images, epochs, drw, size, batch, repeats):
    settings = suggest_recipe(inspection_of(images)).settings
    assert settings["num_train_epochs"] == epochs
    assert settings["drw_start_epoch"] == drw
    assert settings["student_size"] == size
    assert settings["per_device_train_batch_size"] == batch
    assert settings["repeated_augmentation"] == repeats


@pytest.mark.parametrize(
    ("images", "side", "architecture", "epochs", "drw"),
    [
        (12_406, 32, "cifar_resnet", 200, 160),
        (12_406, 64, "cifar_resnet", 200, 160),
        (12_406, 112, "resnet18", 200, 160),
        (115_846, 400, "resnet50", 90, 72),
    ],
)
def test_a_teachers_settings(images, side, architecture, epochs, drw):
    settings = suggest_teacher_recipe(inspection_of(images, side)).settings
    assert (settings["architecture"], settings["num_train_epochs"], settings["drw_start_epoch"]) == (
        architecture,
        epochs,
        drw,
    )
    assert (settings["loss"], settings["classifier"], settings["learning_rate"]) == ("ldam", "cosine", 0.1)


def test_more_images_make_no_setting_smaller_but_the_epochs():
    order = {"tiny": 0, "small": 1, "base": 2}
    found = [suggest_recipe(inspection_of(images)).settings for images in IMAGES]
    for before, after in itertools.pairwise(found):
        assert after["num_train_epochs"] <= before["num_train_epochs"]
        assert order[after["student_size"]] >= order[before["student_size"]]
        assert after["per_device_train_batch_size"] >= before["per_device_train_batch_size"]
        assert after["repeated_augmentation"] >= before["repeated_augmentation"]
    views = [settings["num_train_epochs"] * images for settings, images in zip(found, IMAGES, strict=True)]
    assert views[:8] == sorted(views[:8])
    sizes = [suggest_recipe(inspection_of(300, side)).settings["image_size"] for side in SIDES]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("side", SIDES)
def test_every_suggestion_makes_a_valid_run(images, side, tmp_path):
    inspection = inspection_of(images, side)
    student, teacher = suggest_recipe(inspection), suggest_teacher_recipe(inspection)
    for suggestion in (student, teacher):
        assert suggestion.settings.keys() == suggestion.reasons.keys()
        assert all(suggestion.reasons.values())
    settings = student.settings
    DeiTLTConfig(image_size=settings["image_size"], patch_size=settings["patch_size"])
    assert settings["image_size"] % settings["patch_size"] == 0
    batch = settings["per_device_train_batch_size"]
    assert batch % 2 == 0
    assert batch <= max(images, 2)
    CifarResNetConfig(depth=teacher.settings.get("depth", 32))
    for kinds, suggestion in (
        ([TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments], student),
        ([TrainingDataArguments, TeacherArguments, TeacherTrainingArguments], teacher),
    ):
        left = dict(suggestion.settings)
        for kind in kinds:
            names = {field.name for field in dataclasses.fields(kind)}
            mine = {name: left.pop(name) for name in names & left.keys()}
            more = {"output_dir": str(tmp_path), "use_cpu": True} if kind is kinds[-1] else {}
            kind(**mine, **more)
        assert not left  # the commands know every setting


@pytest.mark.parametrize(
    ("counts", "boundaries"),
    [
        ([500, 50, 5], None),
        ([5000, 3000, 1000, 500, 300, 200], [2, 4]),
        ([19, 5, 3], [1, 2]),
        ([500, 5], None),  # thresholds and thirds agree
        ([90, 5], [1, 1]),
        ([150] * 10, None),  # equally frequent classes stay together
        ([9, 9, 9, 9, 3, 3], [4, 4]),
    ],
)
def test_groups_are_thirds_where_thresholds_leave_one_empty(counts, boundaries):
    settings = suggest_recipe(inspection_of(counts)).settings
    assert settings.get("group_boundaries") == boundaries
    if boundaries is not None:
        assert class_groups(counts, boundaries=tuple(boundaries))["head"]


@pytest.mark.parametrize(
    ("images", "given", "expected"),
    [
        (800, {}, {"mixup": 0.0, "cls_loss": "logit_adjusted", "distillation_type": "ltkd"}),  # 0.96 million views
        (840, {}, {"mixup": 0.8, "cutmix": 1.0}),  # 1.01 million
        (300, {}, {"mixup": 0.0, "cls_loss": "logit_adjusted"}),  # batches of 16
        (800, {"distillation_view": "weak"}, {"mixup": 0.0, "cls_loss": "logit_adjusted"}),
        (800, {"distillation_type": "none", "cls_loss": "ce"}, {"mixup": 0.0, "cls_loss": "ce"}),
    ],
)
def test_a_small_budget_gets_the_settings_that_won_at_one(images, given, expected):
    settings = suggest_recipe(inspection_of(images), given).settings
    names = ("mixup", "cutmix", "cls_loss", "distillation_type", "distillation_temperature")
    assert expected.items() <= settings.items()
    is_small = expected["mixup"] == 0.0
    assert ("distillation_temperature" in settings) is ("distillation_type" in expected)
    assert set(names) & settings.keys() >= ({"mixup", "cutmix", "cls_loss"} if is_small else {"mixup", "cutmix"})


def test_what_is_given_stays_and_what_hangs_on_it_follows():
    given = {"image_size": 36, "num_train_epochs": 24.0, "per_device_train_batch_size": 10, "mixup": 0.0}
    suggestion = suggest_recipe(inspection_of(3000, 64), given)
    settings = suggestion.settings
    assert {name: settings[name] for name in given} == given
    assert all(suggestion.reasons[name] == "given" for name in given)
    assert (settings["patch_size"], settings["drw_start_epoch"], settings["warmup_epochs"]) == (6, 12, 2.4)
    assert suggestion.reasons["drw_start_epoch"] != "given"
    assert suggest_recipe(inspection_of(3000), {"max_steps": 50}).settings["drw_start_epoch"] is None


@pytest.mark.parametrize("suggest", [suggest_recipe, suggest_teacher_recipe])
def test_a_validation_split_is_spoken_of_where_there_is_none(suggest):
    inspection = inspection_of(3000)
    suggestion = suggest(inspection)
    assert suggestion.settings["validation_fraction"] is None
    assert "0.1 holds out a split for `deitlt calibrate`" in suggestion.reasons["validation_fraction"]
    assert suggest(inspection, {"validation_fraction": 0.1}).settings["validation_fraction"] == 0.1
    inspection.splits["validation"] = inspection.splits["train"]
    assert "validation_fraction" not in suggest(inspection).settings


def test_weights_that_are_given_decide_the_size_of_the_model():
    settings = suggest_recipe(inspection_of(3000), {"init_from": "facebook/deit-tiny"}).settings
    assert not {"patch_size", "student_size", "num_hidden_layers"} & settings.keys()
    assert settings["image_size"] == 224
    assert suggest_finetuning(inspection_of(3000), {}, image_size=518).settings["image_size"] == 224
    assert suggest_finetuning(inspection_of(3000), {}, image_size=32).settings["image_size"] == 32
    settings = suggest_teacher_recipe(inspection_of(3000), {"init_from": "microsoft/resnet-50"}).settings
    assert not {"architecture", "classifier", "depth"} & settings.keys()
    assert settings["loss"] == "ce"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"loss": "ce"}, {"loss": "ce", "architecture": "cifar_resnet", "drw_start_epoch": 160}),
        ({"loss": "paco"}, {"loss": "paco", "drw_start_epoch": None}),
        ({"architecture": "convnext"}, {"loss": "ce"}),
        ({"depth": 56}, {"loss": "ldam", "depth": 56, "classifier": "cosine"}),
    ],
)
def test_a_teacher_of_another_kind(given, expected):
    settings = suggest_teacher_recipe(inspection_of(3000), given).settings
    assert {name: settings[name] for name in expected} == expected
    assert settings.get("classifier", "linear") == ("cosine" if settings["loss"] == "ldam" else "linear")


def test_without_a_readable_image_there_is_nothing_to_suggest():
    inspection = inspection_of(10)
    inspection.splits["train"].shorter_side = {}
    with pytest.raises(DeiTLTError, match="no training image can be read"):
        suggest_recipe(inspection)


def test_the_table_shows_every_setting_with_its_reason():
    suggestion = suggest_recipe(inspection_of(300, 100), {"patch_size": 16})
    lines = format_suggestion(suggestion, width=100).splitlines()
    assert all(len(line) <= 100 for line in lines)
    starts = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert starts == list(suggestion.settings)
    (row,) = [line for line in lines if line.startswith("patch_size")]
    assert row.split() == ["patch_size", "16", "given"]


class TestParsing:
    KINDS = [TrainingDataArguments, StudentArguments, DeiTLTTrainingArguments]

    def parse(self, *argv: str):
        seen = []

        def suggest(instances, given):
            seen.append(given)
            return suggest_recipe(inspection_of(3000, 64), given).settings

        data, student, args = parse_with_recipe("train", self.KINDS, ["--use_cpu", *argv], suggest)
        return vars(data) | vars(student) | vars(args), seen

    def test_flags_over_the_suggestion_over_defaults(self):
        settings, (given,) = self.parse("--data", "a/b/my-birds", "--num_train_epochs", "12", "--no_horizontal_flip")
        assert settings["image_size"] == 64  # suggested
        assert (settings["num_train_epochs"], settings["drw_start_epoch"]) == (12, 6)  # given, and what follows
        assert settings["horizontal_flip"] is False
        assert settings["weight_decay"] == 0.05  # the command's default
        assert settings["output_dir"] == "runs/my-birds"
        expected = {"data": "a/b/my-birds", "num_train_epochs": 12, "horizontal_flip": False, "use_cpu": True}
        assert given == expected

    def test_a_recipe_takes_the_place_of_the_suggestion(self):
        settings, seen = self.parse("--data", "birds", "--recipe", "digits-lt")
        assert seen == []
        assert (settings["image_size"], settings["data"], settings["output_dir"]) == (16, "birds", "runs/digits-lt")

    def test_nothing_is_suggested_without_data(self):
        settings, seen = self.parse()
        assert seen == []
        assert settings["image_size"] == 224

    def test_a_resumed_run_has_its_own_recipe(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run = tmp_path / "runs" / "birds"
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text("image_size: 48\npatch_size: 6\nlearning_rate: 0.25\n")
        for argv in (["--output_dir", str(run)], ["--data", "birds"], ["--data", "elsewhere/birds.csv"]):
            if argv[-1].endswith("csv"):
                (tmp_path / "elsewhere").mkdir()
                (tmp_path / "elsewhere" / "birds.csv").touch()
            settings, seen = self.parse(*argv, "--resume", "--learning_rate", "0.5")
            assert seen == []
            assert (settings["image_size"], settings["patch_size"], settings["learning_rate"]) == (48, 6, 0.5)
            assert settings["output_dir"] in (str(run), "runs/birds")

    def test_a_mistake_is_found_before_anything_is_inspected(self, capsys):
        with pytest.raises(SystemExit):
            self.parse("--data", "birds", "--learning_rat", "1")
        assert "--learning_rate" in capsys.readouterr().err
        with pytest.raises(DeiTLTError, match="class_balanced_beta"):
            self.parse("--data", "birds", "--class_balanced_beta", "2")


def test_what_is_said_of_repeating_is_what_the_sampler_does():
    for images in (200, 300):
        sampler = repeated_augmentation_sampler(images)
        views = list(sampler)
        reason = suggest_recipe(inspection_of([images - 2, 2])).reasons["repeated_augmentation"]
        shown = {200: f"{len(set(views))} of the 200 training images", 300: f"from 300 views to {len(views)}"}[images]
        assert shown in reason


def test_the_weights_are_counted_of_the_student_that_the_settings_make():
    small = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 16, "patch_size": 4}
    reason = suggest_recipe(inspection_of([80, 20]), given=small).reasons["student_size"]
    # A layer: 4 x 96^2 + 4 x 96 of attention, 8 x 96^2 + 5 x 96 of the perceptron, 4 x 96 of norms: 111,840. Around
    # them: patches 4,704, tokens and positions 1,920, the last norm 192, and two heads of 194.
    assert 4 * 111_840 + 4_704 + 1_920 + 192 + 2 * 194 == 454_564
    assert reason.startswith("0.45 million weights for 100 training images")


def test_sizes_that_do_not_go_together_are_refused_in_one_line():
    with pytest.raises(DeiTLTError, match=r"^hidden_size 64 is not divisible by num_attention_heads 3"):
        suggest_recipe(inspection_of([80, 20]), given={"hidden_size": 64})
