"""The pages of the documentation, and the commands and the Python that stand in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from textwrap import indent

ROOT = Path(__file__).parent.parent
PAGES = {
    path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
# What a reader fills in.
_LEFT_OUT = {"...", "FLAGS"}
_FILLED_IN = {"SEED": "0"}
_PROGRAMS = r"deitlt|python|\.venv/bin/python|accelerate|uv run|hf jobs|make"


def python_blocks(page: str) -> list[str]:
    """The Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", PAGES[page], flags=re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The words of each command line that stands alone on a page, with shell variables of the page put in."""
    text = re.sub(r" *\\\n +", " ", in_blocks(PAGES[page]))
    variables = dict(re.findall(r'^    ([A-Z]+)="(.*)"$', text, flags=re.MULTILINE))
    lines = re.findall(rf"^    (?:[A-Z_]+=\S+ )?((?:{_PROGRAMS}) .*)$", text, flags=re.MULTILINE)
    for name, value in variables.items():
        lines = [line.replace(f"${name}", value) for line in lines]
    # An output that names its command, such as `deitlt train: ...`, is none.
    return [_words(line) for line in lines if not re.match(r"deitlt [\w-]+:", line)]


def in_blocks(text: str) -> str:
    """A page whose fenced blocks of a console are indented, like all other commands."""
    return re.sub(
        r"^```console\n(.*?)^```", lambda block: indent(block[1], "    "), text, flags=re.DOTALL | re.MULTILINE
    )


def commands_in_sentences(page: str) -> list[list[str]]:
    """The words of the commands with flags that stand in the text of a page."""
    spans = re.findall(r"`((?:deitlt|accelerate launch)\s[^`]*)`", PAGES[page])
    return [_words(" ".join(span.split())) for span in spans if " --" in span]


def links(page: str) -> set[str]:
    """The files that a page links to or shows, as paths from the repository's folder."""
    folder = ROOT if page == "README.md" else ROOT / "docs"
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL))
    return {str((folder / link).resolve()) for link in found if "://" not in link}


def flags(page: str) -> set[str]:
    """The flags that stand between backticks on a page, with underscores."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL))
    return {flag.replace("-", "_") for span in spans for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*)", span)}


def _words(line: str) -> list[str]:
    words = shlex.split(re.sub(r"(--\S+) \.\.\.", r"\1 VALUE", line), comments=True)
    return [_FILLED_IN.get(word, word) for word in words if word not in _LEFT_OUT]
