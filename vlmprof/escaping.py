"""Text from outside as people may be shown it: names, paths, answers, errors and settings of jobs and data.

Such text may hold what a terminal, a browser or a spreadsheet obeys instead of showing it: escape sequences, characters
that turn the direction of writing or take no room, markup, formulas. This is the one place where it is made harmless.
Each way out calls it once, where the text leaves: ``report.terminal``, ``report.server``, ``report.notebook``,
``report.paper_table``, ``plots.plot`` and the files of ``vlmprof data --to`` and ``vlmprof export --csv``. Tables of
results keep every text as it is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters of one byte, all but the tab and the line break
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"  # halves of characters, and what is no character
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "]"
)
"""What is not seen itself: it has no glyph, or turns, joins or hides what is beside it."""
_FORMULA = re.compile(r"\s*[=+\-@\t\r]")
_OF_MARKDOWN = re.compile(r"[\\`*_\[\]|~#!$]")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "†": r"$^{\dagger}$",
    "±": r"$\pm$",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}
"""What LaTeX obeys -> how to write it. ``textasciigrave`` is part of LaTeX since 2020, ``textquotedbl`` needs fontenc
with T1."""
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


def visible(text: str) -> str:
    r"""The text with everything that is not seen written as Python writes it: ``\x1b``, ``\u202e``."""
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(_written, text)


def _written(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_in(value: Any) -> Any:
    """The same for every text in a value that JSON can hold."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible_in(key): visible_in(inner) for key, inner in value.items()}
    return [visible_in(inner) for inner in value] if isinstance(value, list | tuple) else value


def as_html(text: str) -> str:
    """The text as text of an HTML page."""
    return html.escape(visible(text))


def as_latex(text: str) -> str:
    """The text as text of a LaTeX document, on one line: nothing in it is a command, a comment or mathematics."""
    return "".join(_LATEX.get(char, char) for char in " ".join(visible(text).split()))


def as_markdown(text: str) -> str:
    """The text as a cell of a table in Markdown, on one line: no markup, no HTML, no further cell."""
    return _OF_MARKDOWN.sub(r"\\\g<0>", html.escape(" ".join(visible(text).split()), quote=False))


def as_cell(value: Any) -> Any:
    """A cell of a CSV file: a text that a spreadsheet would take for a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    shown = visible(value)
    return f"'{shown}" if _FORMULA.match(shown) and not _NUMBER.fullmatch(shown) else shown
