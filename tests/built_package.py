"""Build the wheel and the source distribution, and use both as somebody who has nothing else of this package.

    python -m pip install uv
    python tests/built_package.py          # two minutes; downloads torch where uv's cache does not have it

Each is checked by twine, installed alone in an environment of its own, and tried. Then mypy and pyright must know the
type of every exported name. Tools come by `uv tool run` and are not installed anywhere else.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
UV = [sys.executable, "-m", "uv"]
TOOLS = {"mypy": ("mypy", ["--python-executable"]), "pyright": ("pyright[nodejs]", ["--pythonpath"])}
NAMES = "import deitlt_hf; [getattr(deitlt_hf, name) for name in deitlt_hf.__all__]; print(*deitlt_hf.__all__)"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        dist, elsewhere = Path(folder, "dist"), Path(folder, "elsewhere")
        elsewhere.mkdir()
        _run(*UV, "build", "--quiet", "--out-dir", dist, ROOT, cwd=elsewhere)
        files = sorted(path for path in dist.iterdir() if path.name.endswith((".whl", ".tar.gz")))
        assert len(files) == 2, files
        print(_run(*UV, "tool", "run", "--quiet", "twine", "check", "--strict", *files, cwd=elsewhere).strip())
        for file in files:
            environment = Path(folder, f"environment-of-{file.name}")
            _run(*UV, "venv", "--quiet", environment, cwd=elsewhere)
            python = environment / "bin" / "python"
            _run(*UV, "pip", "install", "--quiet", "--python", python, file, cwd=elsewhere)
            names = _run(python, "-c", NAMES, cwd=elsewhere).split()
            _run(environment / "bin" / "deitlt", "data", "inspect", "digits-lt", cwd=elsewhere)
            print(f"{file.name}: installed alone, {len(names)} names imported, deitlt data inspect runs")
        _run(*UV, "pip", "install", "--quiet", "--python", python, f"{files[0]}[app,onnx,peft]", cwd=elsewhere)
        _check_types(names, python, elsewhere)


def _check_types(names: list[str], python: Path, folder: Path) -> None:
    """Both checkers must tell a type that is not `Any` or unknown for each name."""
    revealing = folder / "names_of_deitlt_hf.py"
    revealing.write_text("import deitlt_hf\n" + "".join(f"reveal_type(deitlt_hf.{name})\n" for name in names))
    for tool, (package, option) in TOOLS.items():
        said = _run(*UV, "tool", "run", "--quiet", "--from", package, tool, *option, python, revealing, cwd=folder)
        types = re.findall(r"(?:Revealed type is|Type of \S+ is) \"(.+)\"", said)
        unknown = [of for of in types if of in ("Any", "Unknown") or of.endswith("-> Unknown")]
        if len(types) != len(names) or unknown:
            sys.exit(f"{tool} knows {len(types)} of {len(names)} names, without a type of their own: {unknown}\n{said}")
        print(f"{tool}: {len(types)} of {len(names)} names have a type")


def _run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; its error ends the script."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
