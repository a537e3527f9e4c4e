"""The `uv` script trains from a data set of a hub and pushes; its header names what it needs."""

from __future__ import annotations

import io
import runpy
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import HfApi
from packaging.requirements import Requirement
from PIL import Image

from hub_server import HubServer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "train_on_hub.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSECTS = {"ant": 24, "bee": 8, "moth": 4}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with the private data set `me/insects`."""
    with HubServer(tmp_path / "hub") as hub:
        hub.connect(monkeypatch)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo("me/insects", repo_type="dataset", private=True)
        for split, counts in (("train", INSECTS.values()), ("test", (2, 2, 2))):
            file = io.BytesIO()
            _pictures(counts).to_parquet(file)
            api.upload_file(
                path_or_fileobj=file.getvalue(),
                path_in_repo=f"data/{split}-00000-of-00001.parquet",
                repo_id="me/insects",
                repo_type="dataset",
            )
        yield hub


def _pictures(counts) -> datasets.Dataset:
    labels = np.repeat(np.arange(len(INSECTS)), list(counts))
    noise = np.random.RandomState(0).randint(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(INSECTS))}
    return datasets.Dataset.from_dict(
        {"image": [Image.fromarray(pixels) for pixels in noise], "label": labels}, datasets.Features(features)
    )


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *arguments])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as error:
        return error.code
    return 0


def test_it_trains_from_the_hub_and_pushes_teacher_and_student(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # or the suggestion would have workers, which are slow to start
    options = ["--epochs", "1", "--teacher-epochs", "1", "--private", "--output-dir", str(tmp_path / "runs")]
    assert run_script(monkeypatch, "me/insects", "me/student", *options) == 0
    for name in ("me/student", "me/student-teacher"):
        assert hub.repos["models", name].private
        assert {"README.md", "config.json", "model.safetensors", "metrics.json"} <= hub.files(name).keys()
        assert "me/insects" in hub.files(name)["README.md"].decode()
        assert hub.messages(name)[-1] == "End of training"


@pytest.mark.parametrize(
    ("token", "data", "says"),
    [("hf_wrong", "me/insects", "the hub refused the token"), (HubServer.token, "me/no-such-data", "me/no-such-data")],
)
def test_what_the_hub_refuses_is_one_line(hub, tmp_path, monkeypatch, capsys, token, data, says):
    monkeypatch.setenv("HF_TOKEN", token)
    assert run_script(monkeypatch, data, "me/student", "--output-dir", str(tmp_path / "runs")) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("epochs", ["five", "0", "-1", "nan"])
def test_wrong_epochs_of_the_student_are_refused_before_its_teacher_is_trained(monkeypatch, capsys, epochs):
    assert run_script(monkeypatch, "me/insects", "me/student", f"--epochs={epochs}") == 2
    assert capsys.readouterr().err.endswith(f"error: argument --epochs: invalid epochs value: '{epochs}'\n")


def test_its_header_names_this_package_as_pyproject_does():
    """PEP 723: comment lines between `# /// script` and `# ///`, which are TOML without their `# `."""
    lines = SCRIPT.read_text().splitlines()
    first, last = lines.index("# /// script"), lines.index("# ///")
    assert all(line == "#" or line.startswith("# ") for line in lines[first + 1 : last])
    header = tomllib.loads("\n".join(line[2:] for line in lines[first + 1 : last]))
    assert header["requires-python"] == PROJECT["requires-python"]
    (dependency,) = map(Requirement, header["dependencies"])
    assert dependency.name == PROJECT["name"]
    assert dependency.specifier.contains(PROJECT["version"])
