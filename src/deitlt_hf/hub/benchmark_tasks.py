"""Which tasks the `eval.yaml` of a data set on the hub defines."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from deitlt_hf.cards.eval_results import BENCHMARK_FILE, tasks_in
from deitlt_hf.errors import DeiTLTError
from deitlt_hf.files import read_settings


def benchmark_tasks(repo_id: str, config: str | None = None) -> list[str]:
    """The tasks of a data set's `eval.yaml` that this package measures, see `tasks_in`.

    Empty if there is no such file, or none that can be read; a run does not end with an error for its sake.
    """
    try:
        file = hf_hub_download(repo_id, BENCHMARK_FILE, repo_type="dataset")
        return tasks_in(read_settings(Path(file)) or {}, config)
    except (EntryNotFoundError, HfHubHTTPError, OSError, DeiTLTError):
        return []
