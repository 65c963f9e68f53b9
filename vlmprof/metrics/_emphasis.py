r"""The words of an answer that stands as a whole in emphasis, quotes or a box: ``**Yes**``, ``"3"``, ``\boxed{3}``.

Chat models decorate a short answer as they decorate the key words of a long one; the decoration is no part of what they
say. Metrics that are held to an official evaluator which compares decorated texts as they are do not use this.
"""

from __future__ import annotations

import re

_PAIRS = (
    re.compile(r"(\*{1,3}|_{1,3}|`{1,3})(?P<inside>(?:(?!\1).)+)\1", re.DOTALL),
    re.compile(r"(?P<mark>[\"'])(?P<inside>(?:(?!(?P=mark)).)+)(?P=mark)", re.DOTALL),
    re.compile(
        "[\u201c\u2018\u00ab\u300c](?P<inside>[^\u201c\u201d\u2018\u00ab\u00bb\u300d]+)[\u201d\u2019\u00bb\u300d]"
    ),
    re.compile(r"<(?P<tag>b|i|u|em|strong|mark|code)>(?P<inside>[^<>]+)</(?P=tag)>", re.IGNORECASE),
    re.compile(r"\\(?:boxed|text|textbf|textit|mathrm|mathbf)\s*\{(?P<inside>[^{}]+)\}"),
    re.compile(r"(?:\$\$?|\\\[|\\\()(?P<inside>\s*\\[a-z]+\s*\{[^{}$]+\}\s*)(?:\$\$?|\\\]|\\\))"),
)
"""What may enclose a whole answer. A mark may not stand within: ``*red* and *blue*`` is no text in one emphasis."""


def without_emphasis(text: str) -> str:
    """The text within all that encloses it; a period, ``!``, ``,`` or ``;`` after the closing mark goes with the mark.

    A text that nothing encloses is returned as it is, without blanks at its ends.
    """
    text = text.strip()
    body = text.rstrip(" .!,;")
    for pattern in _PAIRS:
        match = pattern.fullmatch(body)
        if match and match["inside"].strip():
            return without_emphasis(match["inside"])
    return text
