"""The study's verdicts, and its page, which is made of what runs saved."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator

from deitlt_hf import DeiTLTConfig, DeiTLTForImageClassification
from deitlt_hf.data.arguments import DataArguments, load_images
from deitlt_hf.data.views import evaluation_view
from deitlt_hf.evaluation.evaluate import evaluate_images
from deitlt_hf.recipes import load_recipe

ROOT = Path(__file__).parent.parent
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
GROUPS = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}


@pytest.fixture(scope="module")
def module():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([3.0, 4.0, 5.0], "holds"),  # 4 with a standard error of 0.58
        ([-3.0, -4.0, -5.0], "does not hold at this scale"),
        ([-0.1, 4.0, 5.0], "not decided by this budget"),  # one seed says otherwise
        ([0.0, 4.0, 5.0], "not decided by this budget"),
        ([0.1, 0.1, 9.0], "not decided by this budget"),  # 3.07 with a standard error of 2.97
        ([1.0, 3.0], "not decided by this budget"),  # 2 with a standard error of 1
        ([1.0, 2.9], "holds"),
        ([50.0], "not decided by this budget"),
        ([], "not decided by this budget"),
        ([0.0, 0.0, 0.0], "not decided by this budget"),
        ([2.0, 2.0], "holds"),
    ],
)
def test_a_verdict_wants_every_seed_and_twice_the_standard_error(module, differences, expected):
    assert module("study.claims").verdict(differences) == expected


def test_the_page_says_how_often_the_rule_errs(module):
    verdict = module("study.claims").verdict
    verdicts = [verdict(row) for row in np.random.default_rng(0).normal(size=(4000, 3)).tolist()]
    assert verdicts.count("holds") / 4000 == pytest.approx(0.09, abs=0.015)
    assert verdicts.count("does not hold at this scale") / 4000 == pytest.approx(0.09, abs=0.015)
    assert "9 of 100" in (ROOT / "docs" / "results.md").read_text()


def accuracies(head: float, mid: float, tail: float) -> dict:
    """An expert that is as good on every class of a group; of ten classes, three are head and three tail."""
    per_class = [head] * 3 + [mid] * 4 + [tail] * 3
    return {"overall": sum(per_class) / 10, "head": head, "mid": mid, "tail": tail, "per_class": per_class}


def save_run(directory: Path, recipe: str, experts: dict, distance: float, rank: int, **settings) -> None:
    directory.mkdir(parents=True)
    metrics = {"class_names": NAMES, "class_counts": COUNTS, "groups": GROUPS, "experts": experts}
    analysis = {
        "model": {"image_size": 32, "patch_size": 8},
        "attention_distance": {"all": [[distance, distance + 2.0], [distance, distance]] + [[15.0, 15.0]] * 4},
        "feature_rank": {"distillation": [rank, rank + 2] * 3},
    }
    took = {"images_seen": 148224, "epochs": 12.0, "hours": 0.25, "hours_of": "the whole run"}
    recipe = load_recipe(recipe) | {"data_dir": "../cifar10", "num_train_epochs": 12.0, "patch_size": 8} | settings
    for name, content in (("metrics", metrics), ("analysis", analysis), ("run", {"training": took})):
        (directory / f"{name}.json").write_text(json.dumps(content))
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs of ViT and DeiT-LT, with two seeds and three; the others have not ended."""
    folder = tmp_path_factory.mktemp("study")
    directory = folder / "runs" / "study"
    for seed, tail in enumerate((40.0, 50.0, 60.0)):
        experts = {
            "average": accuracies(70.0, 40.0, tail),
            "cls": accuracies(80.0, 30.0, 10.0),
            "distillation": accuracies(50.0, 40.0, tail + 1.0),
        }
        settings = {"seed": seed, "drw_start_epoch": 9, "teacher": "runs/study/teacher"}
        save_run(directory / f"deit-lt-seed{seed}", "cifar10-lt-small-paper", experts, 10.0 + seed, 20, **settings)
    for seed in range(2):
        nothing = accuracies(10.0, 10.0, 10.0)
        experts = {"average": nothing, "cls": accuracies(60.0, 10.0, 0.0), "distillation": nothing}
        save_run(directory / f"vit-seed{seed}", "cifar10-lt-small-vit", experts, 14.0, 30, seed=seed)
    (directory / "deit-seed0").mkdir()
    (directory / "deit-seed0" / "recipe.yaml").write_text("seed: 0")
    (directory / "teacher").mkdir()
    accuracy = {"overall": 61.8, "head": 77.3, "mid": 57.3, "tail": 52.3}
    (directory / "teacher" / "metrics.json").write_text(json.dumps({"accuracy": accuracy}))
    return folder


@pytest.fixture(scope="module")
def report(module, folder):
    """Writes the page of the runs in a folder, and returns its text."""

    def write(runs: str = "runs/study") -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            module("cifar10_lt_study").main(["--report_only", "--output_dir", runs, "--page", "results.md"])
        return (folder / "results.md").read_text()

    return write


@pytest.fixture(scope="module")
def page(folder, report) -> str:
    shutil.copy(ROOT / "docs" / "results.md", folder)
    return report()


def part(text: str, name: str) -> str:
    return text.partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0]


def row(text: str, table: str, *titles: str) -> list[str]:
    """The cells of a row of one of the page's tables, without its title or titles."""
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in part(text, table).splitlines()]
    (found,) = [cells[len(titles) :] for cells in rows if cells[: len(titles)] == list(titles)]
    return found


def test_the_page_is_made_of_what_was_saved(page):
    # By hand: overall is 0.3 head + 0.4 mid + 0.3 tail; tails of 40, 50 and 60 deviate by 10.
    of_student = ["3", "52.0 ± 3.0", "70.0 ± 0.0", "40.0 ± 0.0", "50.0 ± 10.0"]
    assert row(page, "students", "DeiT-LT") == of_student
    assert row(page, "students", "ViT") == ["2", "22.0 ± 0.0", "60.0 ± 0.0", "10.0 ± 0.0", "0.0 ± 0.0"]  # its CLS
    assert row(page, "students", "DeiT") == ["0", "-", "-", "-", "-"]
    papers = row(page, "students", "*the paper's DeiT-LT: ViT-B/16, 224 pixels, 1200 epochs*")
    assert papers == ["", "*87.5*", "*94.5*", "*84.1*", "*85.0*"]
    assert row(page, "experts", "DeiT-LT", "average") == of_student[1:]
    assert row(page, "experts", "DeiT-LT", "DIST expert") == ["46.3 ± 3.0", "50.0 ± 0.0", "40.0 ± 0.0", "51.0 ± 10.0"]
    assert row(page, "experts", "DeiT-LT", "teacher") == ["61.8", "77.3", "57.3", "52.3"]
    against = row(page, "experts", "DeiT-LT", "average - teacher")  # 52.0 - 61.8 and so on
    assert against == ["-9.8 ± 3.0", "-7.3 ± 0.0", "-17.3 ± 0.0", "-2.3 ± 10.0"]
    assert "| ViT " not in part(page, "experts")
    assert row(page, "teachers", "as the paper's: weak views, SAM") == ["61.8", "77.3", "57.3", "52.3"]
    assert row(page, "budget", "DeiT-LT") == ["148,224", "12", "0.25, 0.25, 0.25", "0.75"]


def test_claims_are_judged_by_the_seeds_that_both_sides_have(page):
    of_tail = row(page, "claims", "DIST is better than CLS on the tail")
    assert of_tail == ["+41.0 ± 5.8 points", "+31.0, +41.0, +51.0", "holds"]
    assert row(page, "claims", "DeiT-LT is above ViT on the tail") == ["+45.0 ± 5.0 points", "+40.0, +50.0", "holds"]
    assert row(page, "claims", "DeiT-LT is above DeiT overall") == ["-", "", "not decided by this budget"]
    # Two of six blocks are the first: 14.5 for ViT, and 10.5 and 11.5 for DeiT-LT.
    nearer = row(page, "claims", "DeiT-LT attends nearer than ViT in its first blocks")
    assert nearer == ["+3.5 ± 0.5 pixels", "+4.0, +3.0", "holds"]


def test_the_commands_are_those_that_were_run(page):
    lines = [line.strip() for line in part(page, "commands").splitlines()]
    study = "python benchmarks/cifar10_lt_study.py --data_dir cifar10 --epochs 12 --seeds 0 1 2 -- --patch_size 8"
    assert lines.count(study) == 1
    (vit,) = [line for line in lines if line.startswith("deitlt train --recipe cifar10-lt-small-vit ")]
    (student,) = [line for line in lines if line.startswith("deitlt train --recipe cifar10-lt-small-paper ")]
    for flag in ("--num_train_epochs 12", "--patch_size 8", "--data_dir cifar10", "--seed SEED"):
        assert flag in vit
        assert flag in student
    assert "--teacher" not in vit
    assert "--teacher runs/study/teacher " in student
    assert "--drw_start_epoch 9" in student


def test_prose_stays_and_a_second_report_changes_nothing(page, report, folder):
    parts = re.compile(r"<!-- ([\w ]+) -->.*?<!-- end of \1 -->", flags=re.DOTALL)
    assert parts.sub("", page) == parts.sub("", (ROOT / "docs" / "results.md").read_text())
    drawn = {f"images/study-{name}.png" for name in ("accuracy", "experts", "attention-distance", "rank")}
    assert {file.relative_to(folder).as_posix() for file in (folder / "images").iterdir()} == drawn
    assert set(re.findall(r"\]\((images/.*?)\)", page)) == drawn
    assert report() == page


def test_a_page_without_the_markers_is_left_as_it_is(module, folder, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("mine")
    study = ["--report_only", "--output_dir", str(folder / "runs" / "study"), "--page"]
    with pytest.raises(SystemExit, match="lacks the lines <!-- students --> and <!-- end of students -->"):
        module("cifar10_lt_study").main([*study, str(page)])
    with pytest.raises(SystemExit, match=r"no-page.md is not there; pass a page with markers"):
        module("cifar10_lt_study").main([*study, str(tmp_path / "no-page.md")])
    assert [file.name for file in tmp_path.iterdir()] == ["page.md"]
    assert page.read_text() == "mine"


def test_the_committed_page_is_made_of_the_committed_numbers(module, tmp_path):
    for name in ("results.md", "results.json"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    emptied = re.sub(
        r"(<!-- ([\w ]+) -->).*?(<!-- end of \2 -->)", r"\1\3", (tmp_path / "results.md").read_text(), flags=re.DOTALL
    )
    (tmp_path / "results.md").write_text(emptied)
    numbers = ["--numbers", str(tmp_path / "results.json"), "--page", str(tmp_path / "results.md")]
    module("cifar10_lt_study").main(numbers)
    for name in ("results.md", "results.json"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("num_train_epochs", 100.0, r"vit-seed1 and .* with other settings, num_train_epochs 100.0 and 12.0"),
        ("mixup", 0.0, r"vit-seed1 and .* with other settings, mixup 0.0 and as there"),
        ("teacher", "runs/study/teacher", r"vit-seed1 has the teacher runs/study/teacher, not None"),
    ],
)
def test_runs_of_other_settings_are_no_page(module, folder, tmp_path, setting, value, said):
    runs = shutil.copytree(folder / "runs" / "study", tmp_path / "study")
    recipe = runs / "vit-seed1" / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {setting: value}))
    with pytest.raises(SystemExit, match=said):
        module("cifar10_lt_study").main(["--report_only", "--output_dir", str(runs)])


def test_finished_runs_of_other_flags_are_not_gone_on_with(module, folder):
    study = ["--output_dir", str(folder / "runs" / "study"), "--only", "vit", "--seeds", "0", "--epochs"]
    with pytest.raises(SystemExit, match=r"vit-seed0 was trained with num_train_epochs 12.0, and now it is 50"):
        module("cifar10_lt_study").main([*study, "50"])
    with pytest.raises(SystemExit, match=r"vit-seed0 was trained with patch_size 8, and now it is 4"):
        module("cifar10_lt_study").main([*study, "12", "--", "--patch_size", "4"])
    with pytest.raises(SystemExit, match=r"vit-seed0 was trained with weight_decay 0.05, and now it is 0.3"):
        module("cifar10_lt_study").main([*study, "12", "--", "--weight-decay=0.3"])


def test_other_files_are_not_taken_for_a_pages_numbers(module, tmp_path):
    shutil.copy(ROOT / "docs" / "results.md", tmp_path / "package.md")
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"package.json is no such page's; take it away"):
        module("cifar10_lt_study").main(["--page", str(tmp_path / "package.md")])
    for file in (tmp_path / "package.json", tmp_path / "none.json"):
        with pytest.raises(SystemExit, match="json holds no numbers of a page; pass"):
            module("cifar10_lt_study").main(["--numbers", str(file)])
    assert (tmp_path / "package.json").read_text() == "{}"


def test_nothing_trained_gives_no_page(report):
    with pytest.raises(SystemExit, match="no finished run in elsewhere"):
        report("elsewhere")


def test_uniform_attention_is_drawn_at_its_distance(module):
    # Two patches of 8 pixels to a side: 0, 8, 8 and 8 * sqrt(2) pixels away.
    distance = module("study.figures").uniform_distance({"image_size": 16, "patch_size": 8})
    assert distance == pytest.approx((16 + 8 * 2**0.5) / 4)


def test_a_run_is_analysed_as_it_was_evaluated(module, tmp_path):
    study: ModuleType = module("cifar10_lt_study")
    images = load_images(DataArguments("digits-lt", imbalance_factor=20, group_boundaries=[3, 7]))
    images.test = images.test.select(range(40))
    torch.manual_seed(0)
    shape = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = DeiTLTForImageClassification(DeiTLTConfig(**shape, intermediate_size=48, **images.label_maps)).eval()
    model.save_pretrained(tmp_path)
    metrics = evaluate_images(model, images, evaluation_view(16), Accelerator(), batch_size=8).metrics
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    record = study.analyse(tmp_path, images)
    assert record["num_images"] == 40
    assert len(record["feature_rank"]["distillation"]) == 2
    metrics["experts"]["cls"]["overall"] += 1
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(SystemExit, match=r"cls is not what metrics.json says; remove the run"):
        study.analyse(tmp_path, images)
