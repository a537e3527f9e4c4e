"""Pieces of Markdown for cards, into which users' own texts go without becoming markup."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

MAX_TEXT_LENGTH = 80
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")
_TURNS_DIRECTION = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}


def escape(text: str) -> str:
    """A user's text as one line of plain Markdown, also within a table; a long one is cut in the middle.

    Args:
        text: such as a class's name.

    Example:
        >>> print(escape("a|b <script>"))
        a\\|b &lt;script&gt;
    """
    shown = (" " if _is_control(character) else character for character in str(text))
    line = " ".join("".join(shown).split())
    if len(line) > MAX_TEXT_LENGTH:
        line = f"{line[: MAX_TEXT_LENGTH // 2]}…{line[-MAX_TEXT_LENGTH // 2 + 1 :]}"
    return _MARKUP.sub(r"\\\g<0>", html.escape(line, quote=False))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already.

    Example:
        >>> print(table(("a", "b"), [("1", "2")]))
        | a | b |
        | --- | --- |
        | 1 | 2 |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNS_DIRECTION
