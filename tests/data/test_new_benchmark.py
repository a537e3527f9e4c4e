"""A new data set is one new file, as CONTRIBUTING.md says: the commands, the loader and the cards know it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deitlt_hf

# What a contributor writes: src/deitlt_hf/data/benchmarks/stripes_lt.py
NEW_FILE = '''
"""stripes-lt: pictures of stripes, upright, level and slanted."""

from pathlib import Path

from datasets import DatasetDict

from deitlt_hf.data.benchmarks.benchmark import Benchmark
from deitlt_hf.data.sources import read_directory
from deitlt_hf.errors import DeiTLTError


def read_stripes(data_dir: str | Path | None = None) -> DatasetDict:
    """The splits of the unpacked archive, which has a folder of images per class in `train` and `test`."""
    if data_dir is None:
        raise DeiTLTError("stripes-lt is not downloaded: pass data_dir, the directory with train and test")
    return read_directory(data_dir)


BENCHMARKS = [
    Benchmark(
        name="stripes-lt",
        title="Stripes-LT",
        about="Stripes of three directions, eight pixels wide and high.",
        homepage="https://example.org/stripes",
        licence="cc0-1.0",
        licence_note="The stripes are in the public domain.",
        origin="--data_dir DIR with the unpacked archive (train/, test/)",
        read=read_stripes,
        imbalance_factor=4,
        boundaries=(1, 2),
    )
]
'''

COMMANDS = """
import json
from deitlt_hf import load_long_tailed_dataset
from deitlt_hf.cli.main import main
from deitlt_hf.data.loading import class_counts

print(json.dumps(class_counts(load_long_tailed_dataset("stripes-lt", data_dir="stripes")["train"])))
data = ["stripes-lt", "--data_dir", "stripes"]
assert main(["data", "build", *data, "--out", "built", "--embed"]) == 0
flags = "--num_train_epochs 1 --image_size 8 --depth 20 --sam_rho 0 --use_cpu true --disable_tqdm true"
assert main(["teacher", "--data", *data, "--output_dir", "teacher", *flags.split()]) == 0
main(["data", "build", *data, "--out", "x", "--no_check"])
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A checkout with the new file, and its images in the working directory."""
    shutil.copytree(
        Path(deitlt_hf.__file__).parent, tmp_path / "src" / "deitlt_hf", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "src" / "deitlt_hf" / "data" / "benchmarks" / "stripes_lt.py").write_text(NEW_FILE)
    rows, columns = np.mgrid[:8, :8]
    stripes = {"level": rows % 2, "slanted": (rows + columns) % 2, "upright": columns % 2}
    for split, images in (("train", 8), ("test", 2)):
        for name, pattern in stripes.items():
            folder = tmp_path / "stripes" / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                Image.fromarray((pattern * (250 - number)).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def test_a_new_file_is_known_to_the_loader_the_commands_and_the_cards(package: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(package / "src")}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], cwd=package, env=environment, capture_output=True, text=True
    )
    # All commands ran but the last, which has a flag for other data sets.
    assert done.returncode == 2, done.stderr
    assert "--lists_dir and --no_check go with imagenet-lt, inaturalist-2018, not with stripes-lt" in done.stderr
    # The default imbalance factor of 4: 8, 8 / 2, 8 / 4.
    assert json.loads(done.stdout.splitlines()[0]) == [8, 4, 2]
    card = (package / "built" / "README.md").read_text()
    assert "# Stripes-LT\n" in card
    assert "license: cc0-1.0" in card
    assert "imbalance factor 4, profile exp, seed 0" in card
    card = (package / "teacher" / "README.md").read_text()
    assert "**Stripes-LT.** Stripes of three directions" in card
    assert "Source: https://example.org/stripes. The stripes are in the public domain." in card
    assert json.loads((package / "teacher" / "run.json").read_text())["data"]["kind"] == "named"
