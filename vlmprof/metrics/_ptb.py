"""The words of a caption, as the tokenizer of the COCO caption evaluation cuts them.

That evaluation runs the Java PTBTokenizer of Stanford CoreNLP 3.4.1 with ``-lowerCase`` and drops punctuation. Java is
not needed here; these of its rules are written anew: small letters; punctuation stands alone and is dropped; a
contraction is two words (``don't`` is ``do n't``, ``dog's`` is ``dog 's``, ``cannot`` is ``can not``); a hyphen inside
a word stays, as do periods of abbreviations of single letters (``u.s.``) and those and commas inside numbers.

What differs: the original also rewrites some characters (British spelling, fractions, currency, quotes by position) and
knows lists of abbreviations (``mr.``, ``st.`` keep their period, which here goes). Captions of COCO hold few of these.
"""

from __future__ import annotations

import re

DROPPED = {"''", "'", "``", "`", "-lrb-", "-rrb-", "-lcb-", "-rcb-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
"""The punctuation that the evaluation drops, its brackets in small letters."""

_BRACKETS = {"(": " ", ")": " ", "{": " ", "}": " "}
_QUOTES = {'"': " ", "\u201c": " ", "\u201d": " ", "\u2018": "'", "\u2019": "'"}
_TABLE = str.maketrans(_BRACKETS | _QUOTES)
_SPLIT_IN_TWO = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "lemme": "lem me"}
_CONTRACTION = re.compile(r"^(.+?)(n't|'(?:s|m|d|re|ve|ll))$")
_WORD = re.compile(
    r"(?:[a-z]\.){2,}"  # u.s.
    r"|\d+(?:[.,:]\d+)+"  # 1,000 and 3.5 and 10:30
    r"|[^\W_]+(?:['\-&/_][^\W_]+)*(?:'(?=\s|$))?"  # words, hyphens and apostrophes inside them
    r"|\.\.\.|--|[^\w\s]"
)


def words(caption: str) -> list[str]:
    """The words of a caption, in small letters, punctuation dropped."""
    found = _WORD.findall(caption.translate(_TABLE).lower())
    return [word for token in found for word in _parts(token) if word not in DROPPED]


def _parts(token: str) -> list[str]:
    if token in _SPLIT_IN_TWO:
        return _SPLIT_IN_TWO[token].split()
    contraction = _CONTRACTION.match(token)
    if contraction:
        return [*_parts(contraction[1]), contraction[2]]
    return [part for part in re.split(r"(')$", token) if part]
