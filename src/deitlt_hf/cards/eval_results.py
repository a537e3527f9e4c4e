"""Results and benchmarks as the hub reads them: `.eval_results/*.yaml` of a model, and `eval.yaml` of a data set.

See https://huggingface.co/docs/hub/eval-results. A result is of a task that the data set's own `eval.yaml` defines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from deitlt_hf.cards.dataset_card import BuiltDataset
from deitlt_hf.cards.record import ONLY_ROW, RunRecord, files_of_a_run, read_record
from deitlt_hf.evaluation.measures import EXPERT_LABELS
from deitlt_hf.files import whole_file

BENCHMARK_FILE = "eval.yaml"
RESULTS_FILE = ".eval_results/deitlt_hf.yaml"  # no other, because the folder may hold results that others added
FRAMEWORK = "deitlt-hf"  # the name of this package as an `evaluation_framework`
# Measures by key. Not head, mid and tail: which classes these are depends on the settings of a run.
TASKS = ("overall", "balanced_accuracy", "macro_f1")
CONFIG, SPLIT = "default", "test"


def benchmark_file(built: BuiltDataset) -> str:
    """The text of a built data set's `eval.yaml`: one task for each of `TASKS`, all on the test split."""
    content = {
        "name": built.benchmark.title,
        "description": f"{built.benchmark.about} The tasks are measures in percent: accuracy over all images, the mean "
        "over classes of their accuracies, and the mean over classes of their F1.",
        "evaluation_framework": FRAMEWORK,
        "tasks": [{"id": task, "config": CONFIG, "split": SPLIT} for task in TASKS],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def tasks_in(content: Mapping[str, Any], config: str | None = None) -> list[str]:
    """Those of `TASKS` that a data set's `eval.yaml` defines for this package and for the configuration's test split.

    Example:
        >>> task = {"id": "overall", "config": "default", "split": "test"}
        >>> tasks_in({"evaluation_framework": "deitlt-hf", "tasks": [task]})
        ['overall']
        >>> tasks_in({"evaluation_framework": "inspect-ai", "tasks": [task]})
        []
    """
    tasks = content.get("tasks")
    if content.get("evaluation_framework") != FRAMEWORK or not isinstance(tasks, list):
        return []
    return [task for task in TASKS if {"id": task, "config": config or CONFIG, "split": SPLIT} in tasks]


def eval_results(record: RunRecord) -> list[EvalResultEntry]:
    """The results of what the model answers, for the tasks of the benchmark that it was tested on.

    None where the data are no such benchmark, where the test images are not all those of its test split, or where the
    results are of a validation split.
    """
    of_data, settings = record.run.get("data") or {}, record.settings or {}
    is_whole_test_split = (
        of_data.get("test_split") == "given"
        and not (of_data.get("dropped") or {}).get("conflicting")
        and settings.get("on_bad_image", "error") == "error"
    )
    own = record.config.expert if record.is_student else ONLY_ROW
    values = record.results.get(own)
    if "data" not in record.hub_ids or not is_whole_test_split or values is None or record.results_step is not None:
        return []
    return [
        EvalResultEntry(
            dataset_id=record.hub_ids["data"],
            task_id=task,
            value=round(values[task], 2),
            notes=f"answers of the {EXPERT_LABELS[own]}" if record.is_student else None,
        )
        for task in of_data.get("benchmark_tasks") or ()
        if task in TASKS and values.get(task) is not None
    ]


def write_eval_results(
    directory: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> list[EvalResultEntry]:
    """Write `.eval_results/deitlt_hf.yaml` into a model's directory, or into `folder`, or remove it if there are none.

    Args:
        directory: of a model, as for `write_model_card`.
        folder: where to write instead.

    Returns:
        The results; empty if they cannot be told, see `eval_results`.

    Raises:
        DeiTLTError: a file of the directory that cannot be read, or no room to write.
    """
    path = Path(directory if folder is None else folder) / RESULTS_FILE
    with files_of_a_run(directory):
        results = eval_results(read_record(directory))
    if results:
        with whole_file(path, "pass a directory that can be") as unfinished:
            unfinished.write_text(yaml.safe_dump(eval_result_entries_to_yaml(results), sort_keys=False))
    else:
        path.unlink(missing_ok=True)
    return results
