"""Tokenizer for captions, after the tokenizer of the COCO caption evaluation.

That evaluation runs the Java PTBTokenizer of Stanford CoreNLP 3.4.1 with ``-lowerCase`` and drops punctuation. This
module needs no Java. It reimplements these rules: text is lower-cased; punctuation marks are separate tokens and
dropped; a contraction is two words (``don't`` is ``do n't``, ``dog's`` is ``dog 's``, ``cannot`` is ``can not``); a
hyphen within a word is kept, as are the periods of single-letter abbreviations (``u.s.``) and periods and commas within
numbers.

Differences: the original also rewrites some characters (British spelling, fractions, currency, quotes by position) and
has lists of abbreviations (``mr.``, ``st.`` keep their period, which is dropped here). COCO captions contain few of
these.
"""

from __future__ import annotations

import re

DROPPED = {"''", "'", "``", "`", "-lrb-", "-rrb-", "-lcb-", "-rcb-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
"""The punctuation tokens that the evaluation drops, with its bracket tokens in lower case."""

_BRACKETS = {"(": " ", ")": " ", "{": " ", "}": " "}
_QUOTES = {'"': " ", "\u201c": " ", "\u201d": " ", "\u2018": "'", "\u2019": "'"}
_CHARACTERS = str.maketrans(_BRACKETS | _QUOTES)
_TWO_WORDS = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "lemme": "lem me"}
_CONTRACTION = re.compile(r"^(.+?)(n't|'(?:s|m|d|re|ve|ll))$")
_WORD = re.compile(
    r"(?:[a-z]\.){2,}"  # u.s.
    r"|\d+(?:[.,:]\d+)+"  # 1,000 and 3.5 and 10:30
    r"|[^\W_]+(?:['\-&/_][^\W_]+)*(?:'(?=\s|$))?"  # words, which may contain hyphens and apostrophes
    r"|\.\.\.|--|[^\w\s]"
)


def words(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation."""
    tokens = _WORD.findall(caption.translate(_CHARACTERS).lower())
    return [word for token in tokens for word in _parts(token) if word not in DROPPED]


def _parts(token: str) -> list[str]:
    if token in _TWO_WORDS:
        return _TWO_WORDS[token].split()
    contraction = _CONTRACTION.match(token)
    if contraction:
        return [*_parts(contraction[1]), contraction[2]]
    return [part for part in re.split(r"(')$", token) if part]
