"""Pieces of Markdown for cards, into which users' own texts go without becoming markup."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

MAX_TEXT_LENGTH = 80
MAX_LISTED_CLASSES, SHOWN_ENDS = 100, 10
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")
_TURNS_DIRECTION = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}


def escape(text: object, longest: int = MAX_TEXT_LENGTH) -> str:
    """A user's text as one line of plain Markdown, also within a table; a long one is cut in the middle.

    Example:
        >>> print(escape("a|b <script>"))
        a\\|b &lt;script&gt;
    """
    shown = (" " if _is_control(character) else character for character in str(text))
    line = " ".join("".join(shown).split())
    if len(line) > longest:
        line = f"{line[: longest // 2]}…{line[-longest // 2 + 1 :]}"
    return _MARKUP.sub(r"\\\g<0>", html.escape(line, quote=False))


def code_block(language: str, code: str) -> str:
    """Code between fences that are longer than any row of backticks in it.

    Example:
        >>> print(code_block("sh", "make test").replace("`", "'"))
        '''sh
        make test
        '''
    """
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def listed_labels(counts: Sequence[int]) -> list[int]:
    """Labels for a table of classes, the largest class first; of many classes the ten largest and the ten smallest.

    Example:
        >>> listed_labels([6, 134, 18])
        [1, 2, 0]
    """
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    return order if len(order) <= MAX_LISTED_CLASSES else order[:SHOWN_ENDS] + order[-SHOWN_ENDS:]


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNS_DIRECTION
