"""Lets griffe read this package's docstrings: their section of examples is headed `Example:`."""

from __future__ import annotations

import re

import griffe


class OneExample(griffe.Extension):
    """Renames the section to the one that griffe knows."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
