"""Pieces of Markdown for cards, into which users' own texts go without becoming markup."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from deitlt_hf.errors import is_control

MAX_LISTED_CLASSES, SHOWN_ENDS = 100, 10
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")


def escape(text: object, longest: int = 80) -> str:
    """A user's text as one line of plain Markdown, also within a table; a long one is cut in the middle.

    Example:
        >>> print(escape("a|b <script>"))
        a\\|b &lt;script&gt;
    """
    line = " ".join("".join(" " if is_control(char) else char for char in str(text)).split())
    if len(line) > longest:
        line = f"{line[: longest // 2]}…{line[-longest // 2 + 1 :]}"
    return _MARKUP.sub(r"\\\g<0>", html.escape(line, quote=False))


def code_block(language: str, code: str) -> str:
    """Code between fences that are longer than any row of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def listed_labels(counts: Sequence[int]) -> list[int]:
    """Labels for a table of classes, the largest class first; of many classes the ten largest and the ten smallest."""
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    return order if len(order) <= MAX_LISTED_CLASSES else order[:SHOWN_ENDS] + order[-SHOWN_ENDS:]
