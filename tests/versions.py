"""Run the tests with the lowest versions that pyproject.toml allows, together, and with the newest there are.

    python -m pip install uv
    python tests/versions.py versions 3.11 3.13         # without the slowest tests
    python tests/versions.py versions --all 3.11 3.13   # the whole suite

For each Python two environments are made in the folder `versions` (about 7 GB each, torch is the CUDA build) and the
tests run in them, five to eight minutes each on two cores. What ran through without a failure is not run again there,
until the folder is removed. The result is docs/versions.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "versions.md"
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
SHOWN = """torch torchvision transformers datasets huggingface_hub accelerate timm evaluate safetensors pyarrow numpy
pillow scikit-learn matplotlib itables pytorch_optimizer peft onnx onnxruntime onnxscript gradio mkdocs-material
mkdocstrings""".split()
# They start many processes, or check types, and take a third of the time.
SLOW = ["examples", "training/test_two_processes.py", "training/test_killed_runs.py", "test_types.py"]
FAILURES = re.compile("failed|error")
HEADER = """# Versions

The lowest versions that `pyproject.toml` allows, installed together, and the newest that the package index has, on the
oldest and the newest Python. Made by `python tests/versions.py {arguments}`, {date}; each column is a run of
{which}.

"""


def main(arguments: list[str]) -> None:
    """Try each Python with each resolution, and write the page; leave with status 1 if a test failed."""
    ignored = [] if "--all" in arguments else SLOW
    folder, *pythons = [argument for argument in arguments if argument != "--all"]
    runs = {
        f"Python {python}, {name}": _result(Path(folder) / f"{python}-{name}", python, resolution, ignored)
        for python in pythons
        for name, resolution in RESOLUTIONS.items()
    }
    rows = [("package", *runs), *((package, *(run["versions"][package] for run in runs.values())) for package in SHOWN)]
    rows.append(("**tests**", *(run["tests"] for run in runs.values())))
    table = ["| " + " | ".join(row) + " |" for row in rows]
    table.insert(1, "| --- " * len(rows[0]) + "|")
    left_out = ", ".join(f"`tests/{path}`" for path in ignored)
    which = f"the tests without {left_out}" if ignored else "the whole test suite"
    header = HEADER.format(arguments=" ".join(arguments), date=time.strftime("%Y-%m-%d"), which=which)
    PAGE.write_text(header + "\n".join(table) + "\n")
    if any(FAILURES.search(run["tests"]) for run in runs.values()):
        sys.exit(1)


def _result(environment: Path, python: str, resolution: str, ignored: list[str]) -> dict:
    """The result of an earlier run in this environment if it had no failure, else that of a new one."""
    kept = environment.with_name(f"{environment.name}.json")
    if kept.is_file():
        return json.loads(kept.read_text())
    result = _try(environment, python, resolution, ignored)
    if not FAILURES.search(result["tests"]):
        kept.write_text(json.dumps(result))
    return result


def _try(environment: Path, python: str, resolution: str, ignored: list[str]) -> dict:
    """Make an environment, run the tests in it, and tell its versions and pytest's last line."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", python, environment], check=True)
    executable = environment / "bin" / "python"
    install = ["pip", "install", "--quiet", "--python", executable, "--resolution", resolution, "-e", ".[test]"]
    subprocess.run([*uv, *install], check=True, cwd=ROOT)
    listed = subprocess.run(
        [*uv, "pip", "list", "--python", executable, "--format", "json"], check=True, capture_output=True, text=True
    )
    installed = {package["name"].replace("_", "-"): package["version"] for package in json.loads(listed.stdout)}
    print(f"{environment.name}: testing", flush=True)
    command = [executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]
    command += [f"--ignore=tests/{path}" for path in ignored]
    tested = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = tested.stdout.strip().splitlines()[-1]
    print(
        "\n".join(line for line in tested.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), last, flush=True
    )
    counts = ", ".join(re.findall(r"\d+ (?:passed|failed|skipped|errors?)", last))
    return {"versions": {name: installed[name.replace("_", "-")] for name in SHOWN}, "tests": counts or last}


if __name__ == "__main__":
    main(sys.argv[1:] or ["3.11", "3.13"])
