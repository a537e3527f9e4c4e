"""Results as the hub's own library reads them, and only where a benchmark of the hub was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features
from huggingface_hub import EvalResultEntry, HfApi, parse_eval_result_entries

from deitlt_hf import DeiTLTConfig, DeiTLTError, DeiTLTForImageClassification
from deitlt_hf.cards.dataset_card import BuiltDataset
from deitlt_hf.cards.eval_results import RESULTS_FILE, eval_results, write_eval_results
from deitlt_hf.cards.record import read_record
from deitlt_hf.cli.main import main
from deitlt_hf.data.benchmarks import BENCHMARKS
from deitlt_hf.evaluation.measures import expert_metrics
from deitlt_hf.files import write_json
from deitlt_hf.hub import dataset_directory
from deitlt_hf.hub.benchmark_tasks import benchmark_tasks
from deitlt_hf.hub.dataset_directory import push_dataset, write_dataset
from deitlt_hf.hub.pushing import push_model
from deitlt_hf.inference.default_expert import change_files, set_expert
from hub_server import HubServer
from published_layouts import encoded

TASKS = ["overall", "balanced_accuracy", "macro_f1"]
COUNTS = [12, 6, 3]
DATA = {"name": "me/birds-lt", "kind": "hub", "test_split": "given", "dropped": None, "benchmark_tasks": TASKS}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with HubServer(tmp_path) as hub:
        hub.connect(monkeypatch)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A student's directory. Its average has 3 of 4 images right, its CLS expert 1."""
    run = tmp_path / "run"
    shape = {"image_size": 16, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    groups = {"head": [0], "mid": [1], "tail": [2]}
    config = DeiTLTConfig(num_labels=3, class_counts=COUNTS, class_groups=groups, **shape)
    DeiTLTForImageClassification(config).save_pretrained(run)
    predictions = [[0, 0, 0], [1, 0, 1], [1, 0, 1], [2, 0, 2]]
    write_json(run / "metrics.json", expert_metrics(predictions, [0, 1, 2, 2], COUNTS, groups, list("abc")))
    write_json(run / "run.json", {"hub_ids": {"data": "me/birds-lt"}, "data": DATA})
    (run / "recipe.yaml").write_text("data: me/birds-lt\n")
    return run


def built() -> BuiltDataset:
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=list("abc"))})
    labels = {"train": np.repeat(range(3), COUNTS), "test": np.repeat(range(3), 2)}
    splits = {
        split: Dataset.from_dict(
            {"image": [{"bytes": encoded(place), "path": None} for place in range(len(of))], "label": of},
            features=features,
        )
        for split, of in labels.items()
    }
    return BuiltDataset(BENCHMARKS["cifar10-lt"], splits, COUNTS, embedded=True)


def entry(task: str, value: float, notes: str | None = None) -> EvalResultEntry:
    return EvalResultEntry("me/birds-lt", task, value, notes=notes)


def parsed(text: str | bytes) -> list[EvalResultEntry]:
    return parse_eval_result_entries(yaml.safe_load(text))


def test_the_library_reads_what_a_model_answers_with(run: Path, hub: HubServer) -> None:
    push_model(run, "me/birds")
    # F1 of the classes: 1, 2/3 and 2/3.
    expected = [entry("overall", 75.0), entry("balanced_accuracy", 83.33), entry("macro_f1", 77.78)]
    for one in expected:
        one.notes = "answers of the average"
    assert parsed(hub.files("me/birds")[RESULTS_FILE]) == expected
    write_eval_results(run)
    assert RESULTS_FILE in set_expert(run, "cls")
    first = parsed((run / RESULTS_FILE).read_text())[0]
    assert (first.value, first.notes) == (25.0, "answers of the CLS expert")


def test_another_push_removes_its_own_results_alone(run: Path, hub: HubServer) -> None:
    push_model(run, "me/birds")
    HfApi().upload_file(path_or_fileobj=b"[]", path_in_repo=".eval_results/other.yaml", repo_id="me/birds")
    (run / "metrics.json").unlink()
    push_model(run, "me/birds")
    assert [name for name in hub.files("me/birds") if "eval" in name] == [".eval_results/other.yaml"]


@pytest.mark.parametrize(
    ("hub_ids", "data", "settings"),
    [
        ({}, {}, {}),
        ({"data": "me/birds-lt"}, {"benchmark_tasks": []}, {}),
        ({"data": "me/birds-lt"}, {"benchmark_tasks": ["tail"]}, {}),
        ({"data": "me/birds-lt"}, {"test_split": "held out of train"}, {}),
        ({"data": "me/birds-lt"}, {"dropped": {"copies": 0, "in_other_split": 0, "conflicting": 1}}, {}),
        ({"data": "me/birds-lt"}, {}, {"on_bad_image": "skip"}),
    ],
    ids=["local data", "no benchmark", "no such task", "own test split", "conflicting dropped", "unreadable skipped"],
)
def test_without_the_benchmarks_own_test_split_there_is_no_file(
    run: Path, hub_ids: dict, data: dict, settings: dict
) -> None:
    assert len(write_eval_results(run)) == 3
    write_json(run / "run.json", {"hub_ids": hub_ids, "data": DATA | data})
    (run / "recipe.yaml").write_text(yaml.safe_dump({"data": "me/birds-lt"} | settings))
    assert write_eval_results(run) == []
    assert not (run / RESULTS_FILE).exists()


def test_an_answer_that_was_not_tested_has_no_result(run: Path) -> None:
    write_eval_results(run)
    before = (run / RESULTS_FILE).read_text()
    fusion = {"cls": 0.5, "distillation": 0.5, "bias": [0.0, 0.1, 0.2]}
    assert RESULTS_FILE in change_files(run, {"expert": "fused", "fusion": fusion})
    assert not (run / RESULTS_FILE).exists()
    change_files(run, {"expert": "average", "fusion": None})
    assert (run / RESULTS_FILE).read_text() == before


def test_what_a_training_logged_is_no_result(run: Path) -> None:
    (run / "metrics.json").unlink()
    logged = {"step": 7, "eval_average_overall": 75.0, "eval_cls_overall": 25.0, "eval_distillation_overall": 75.0}
    write_json(run / "trainer_state.json", {"global_step": 7, "log_history": [logged]})
    record = read_record(run)
    assert record.results["average"]["overall"] == 75.0
    assert eval_results(record) == []


def test_a_wrong_value_in_the_files_is_one_line(run: Path) -> None:
    write_json(run / "run.json", {"hub_ids": {"data": "me/birds-lt"}, "data": DATA | {"dropped": "no"}})
    with pytest.raises(DeiTLTError, match=r"run.json .*holds what this package never writes"):
        write_eval_results(run)


def test_from_a_built_data_set_to_a_result(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert benchmark_tasks("me/birds-lt") == []  # not there yet
    write_dataset(built(), "birds-lt")
    assert yaml.safe_load(Path("birds-lt/eval.yaml").read_text()) == {
        "name": "CIFAR-10-LT",
        "description": f"{BENCHMARKS['cifar10-lt'].about} The tasks are measures in percent: accuracy over all images, "
        "the mean over classes of their accuracies, and the mean over classes of their F1.",
        "evaluation_framework": "deitlt-hf",
        "tasks": [{"id": task, "config": "default", "split": "test"} for task in TASKS],
    }
    push_dataset("birds-lt", "me/birds-lt")
    assert benchmark_tasks("me/birds-lt", "another") == []
    tiny = "--image_size 8 --depth 20 --num_train_epochs 1 --drw_start_epoch 0 --use_cpu true --disable_tqdm true"
    command = ["teacher", "--data", "me/birds-lt", "--output_dir", "teacher", "--dataloader_num_workers", "0"]
    assert main([*command, *tiny.split()]) == 0
    measured = json.loads(Path("teacher/metrics.json").read_text())["accuracy"]
    expected = [entry(task, round(measured[task], 2)) for task in TASKS]
    assert parsed(Path("teacher", RESULTS_FILE).read_text()) == expected


@pytest.mark.parametrize("text", ["evaluation_framework: inspect-ai\ntasks: [{id: overall}]", "tasks: 7", "[", "- a"])
def test_tasks_of_others_are_not_taken(text: str, hub: HubServer) -> None:
    HfApi().create_repo("me/other", repo_type="dataset")
    file = {"path_or_fileobj": text.encode(), "path_in_repo": "eval.yaml"}
    HfApi().upload_file(**file, repo_id="me/other", repo_type="dataset")
    assert benchmark_tasks("me/other") == []


def test_a_hub_that_refuses_the_benchmark_file_still_gets_the_data(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder, repo_id, message, *args, **kwargs):
        if message == "Add eval.yaml":
            raise DeiTLTError("cannot push to me/birds-lt: the hub answered 400")
        return commit(folder, repo_id, message, *args, **kwargs)

    commit = dataset_directory.commit_folder
    monkeypatch.setattr(dataset_directory, "commit_folder", refuse)
    write_dataset(built(), tmp_path / "birds-lt")
    push_dataset(tmp_path / "birds-lt", "me/birds-lt")
    assert {"README.md", "class_counts.png"} <= set(hub.files("me/birds-lt", kind="datasets"))
    assert "the hub answered 400; the data set is there, without its eval.yaml" in caplog.text
