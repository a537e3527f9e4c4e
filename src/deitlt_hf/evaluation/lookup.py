"""The script of a page whose tables of classes sort and filter: DataTables, as the package itables brings it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from deitlt_hf.errors import notice

_BUNDLE = "html/dt_bundle.js"  # a module of JavaScript, whose default export is DataTables


class Script(NamedTuple):
    """A script inside a page, and the hash by which the page's policy knows it: nothing else is run."""

    text: Markup
    hash: str


def lookup_script() -> Script | None:
    """The script for the tables in `.lookup`; None, with a notice, if this version of itables has another bundle."""
    text = _text()
    if text is None:
        notice(f"tables of the page cannot be sorted: itables has no {_BUNDLE} that is known; install another version")
        return None
    return Script(Markup(text), "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


@cache
def _text() -> str | None:
    # Not imported: only its file is needed.
    found = importlib.util.find_spec("itables")
    bundle = Path(found.origin).parent / _BUNDLE if found and found.origin else None
    if bundle is None or not bundle.is_file():
        return None
    library = bundle.read_text(encoding="utf-8")
    name = re.search(r"export\{[^}]*?([\w$]+) as default\b", library)
    if name is None:
        return None
    own = Path(__file__).with_name("lookup.js").read_text(encoding="utf-8")
    text = f"{library}\n(DataTable => {{\n{own}}})({name[1]});\n"
    # These would change where the browser sees the end of the script; all are in strings and regular expressions.
    return re.sub(r"<(?=!--|/?script)", r"\\x3C", text, flags=re.IGNORECASE)
