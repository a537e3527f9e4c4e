"""What `mkdocs build` adds to the pages of docs/: the reference from the code, and files from beside docs/."""

from __future__ import annotations

import ast
import contextlib
import html
import io
import json
import os
import re
from pathlib import Path

import latex2mathml.converter
from mkdocs.structure.files import File

import deitlt_hf
from deitlt_hf.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
PACKAGE = Path(deitlt_hf.__file__).parent
BESIDE_DOCS = ["CHANGELOG.md", "CONTRIBUTING.md", "model_cards/*.md", "examples/*.py"]
GROUPS = {
    "Models": ["models"],
    "Losses": ["losses"],
    "Data": ["data"],
    "Training": ["training", "runs.training", "runs.student_models", "runs.adapting"],
    "Measuring": ["evaluation", "long_tail_accuracy", "runs.analyzing", "runs.calibrating"],
    "Predicting": ["inference"],
    "Sharing": ["hub", "cards", "reference"],
    "Errors": ["errors"],
}
HELPS = [[name] for name in COMMANDS if name != "data"] + [["data", "build"], ["data", "inspect"]]


def on_files(files, config):
    """Add the pages that are made from the code, and those that lie beside docs/."""
    pages = {f"reference/{title.lower()}.md": _reference(title) for title in GROUPS}
    pages |= {"reference/index.md": _index(), "reference/commands.md": _commands()}
    for pattern in BESIDE_DOCS:
        for path in sorted(ROOT.glob(pattern)):
            name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
            pages[name if path.suffix == ".md" else f"{name}.md"] = (
                text if path.suffix == ".md" else f"# {name}\n\n```python\n{text}```\n"
            )
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links out of docs/, which are right in a clone, lead to the pages that `on_files` added."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # it would have one line
    markdown = re.sub(r"\]\(\.\./(examples/\w+\.py)\)", r"](\1.md)", markdown)
    return re.sub(r"\]\(\.\./(CHANGELOG|CONTRIBUTING|model_cards/)", r"](\1", markdown)


def on_page_content(content, page, config, files):
    """Write formulas as MathML, which browsers show without a script."""

    def formula(match: re.Match) -> str:
        tex, is_block = html.unescape(match[2]), match[1] == "["
        return latex2mathml.converter.convert(tex, display="block" if is_block else "inline")

    return re.sub(
        r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', formula, content, flags=re.S
    )


def public_names() -> dict[str, list[str]]:
    """The names of `deitlt_hf.__all__` by group, in the order of the package's list."""
    modules = deitlt_hf._MODULE_OF | {"DeiTLTError": "errors"}
    return {
        title: [name for name, module in modules.items() if any(f"{module}.".startswith(f"{room}.") for room in rooms)]
        for title, rooms in GROUPS.items()
    }


def _reference(title: str) -> str:
    parts = [f"# {title}\n"]
    for name in public_names()[title]:
        parts.append(f"::: deitlt_hf.{name}\n{_fields(name)}")
    return "\n".join(parts)


def _fields(dataclass: str) -> str:
    """A table of the fields of a command's dataclass, without those of transformers."""
    table, flags, of = json.loads((PACKAGE / "cli" / "flags.json").read_text())["dataclasses"], [], dataclass
    while of in table and of != "TrainingArguments":
        flags, of = table[of]["flags"] + flags, table[of]["extends"]
    if not flags:
        return ""
    rows = [
        f"| `{flag['name']}` | `{json.dumps(flag.get('default'))}` | {_cell(flag.get('help', ''))} |" for flag in flags
    ]
    return "\n".join(["", "| field and flag | default | what it is |", "| --- | --- | --- |", *rows, ""])


def _index() -> str:
    lines = [
        "# API reference",
        "",
        "The public names of `deitlt_hf`, from their docstrings. Importing the package is quick: a name loads its "
        "module on first use.",
    ]
    for title, names in public_names().items():
        lines += ["", f"## {title}", "", "| name | what it is |", "| --- | --- |"]
        lines += [f"| [`{name}`]({title.lower()}.md#deitlt_hf.{name}) | {_cell(_summary(name))} |" for name in names]
    return "\n".join(lines)


def _summary(name: str) -> str:
    """The first line of a public name's docstring, read without importing torch."""
    module = deitlt_hf._MODULE_OF.get(name, "errors")
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    (node,) = [node for node in tree.body if getattr(node, "name", None) == name]
    return (ast.get_docstring(node) or "").splitlines()[0]


def _commands() -> str:
    parts = [
        "# Commands",
        "What `deitlt COMMAND --help` prints. [The command line](../command-line.md) says when to use which.",
    ]
    os.environ["COLUMNS"] = "88"
    for words in HELPS:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            main([*words, "--help"])
        parts.append(f"## deitlt {' '.join(words)}\n\n```text\n{output.getvalue().rstrip()}\n```")
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")
