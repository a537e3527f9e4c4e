"""Pages from the templates beside this file."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from deitlt_hf.errors import printable


def render(template: str, **values: Any) -> str:
    """A page in which a text is escaped; a name stays one line without control characters, and no markup.

    The page runs nothing but its `script`, a `lookup.Script`, where it is given.
    """

    def as_text(value: object) -> Markup:
        return value if isinstance(value, Markup) else Markup(html.escape(printable(value)))

    loader = FileSystemLoader(Path(__file__).parent)
    options = {"autoescape": True, "trim_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=loader, finalize=as_text, **options)
    return environment.get_template(template).render({"script": None} | values)
