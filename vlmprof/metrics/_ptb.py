"""Tokenizer for captions, after the tokenizer of the COCO caption evaluation.

That evaluation runs the Java PTBTokenizer of Stanford CoreNLP 3.4.1 with ``-lowerCase`` and drops the tokens of
``DROPPED``. It compares them with the bracket tokens in capitals, but receives them in lower case, so that a bracket
stays as ``-lrb-``. This module needs no Java: it reimplements the behaviour as a table of patterns, of which the one
with the longest match makes the next token. ``docs/metrics.md`` says how often the two differ.
"""

from __future__ import annotations

import re
from functools import lru_cache

DROPPED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
"""The tokens that the evaluation drops."""

_LETTER, _WORD_CHARACTER, _HYPHEN = r"[^\W\d_]", r"[^\W_]", r"[-_\u058a\u2010\u2011]"
_ELISION = rf"(?:[dol]'(?={_WORD_CHARACTER}{{2}}))?"
_ENDS = r"(?![^\W_])"
_ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co col
    colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon
    inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon
    mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof pte ptes pty ptys pvt rd
    rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs tue tues univ va vs vt
    wed wis wisc wm wyo
"""
"""Words that keep their period, in any case."""
_NAMES = "Ark ARK Az AZ Del DEL Ill ILL La LA Mass MASS Miss MISS Ore ORE Pa PA Tex TEX Wash WASH"
"""Words that keep it with a capital only; in lower case they are other words."""
_STARTS = """
    A About According Additionally After An As At But He Her Here However If In It Last Many More Mr\\. Ms\\. Now Once
    One Our She Since So Some Such That The Their Then There These They This We What When While Yet You <[a-z]+>
"""
"""Words before which the period after a single letter ends a sentence."""
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"</?[a-z][\w:-]*(?:\s[^<>]*)?/?>|<![^<>]*>",  # a tag is one token
        r"https?://[^\s\"<>|(){}]+[^\s\"<>|(){}.,;:!?'-]",
        r"www\.[^\s\"<>|.!?(){},]+(?:\.[^\s\"<>|.!?(){},]+)*\.(?:com|net|org|edu|gov)\b",
        r"[^\s\"<>|(){}]+@[^\s\"<>|(){}]*[^\s\"<>|(){}.]",  # an address
        r"@[a-z_]\w*",
        r"#[^\W\d_]\w*",
        rf"{_LETTER}{_WORD_CHARACTER}*(?:[.!?]{_LETTER}{_WORD_CHARACTER}*)*",  # also stop.go
        rf"{_ELISION}{_WORD_CHARACTER}+(?:{_HYPHEN}{_ELISION}{_WORD_CHARACTER}+)*",  # o'clock, 5-year-old
        r"[a-z0-9]+(?:-[a-z]+){0,2}(?:\\?/[a-z0-9]+(?:-[a-z]+){0,2}){1,2}",  # and/or, 10/31/2010
        r"\d{1,4}[- ]\d{1,4}/\d{1,4}",  # 3 1/2
        r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)",  # 10:30, -5, .5
        r"\(\d{2,3}\)[ -]?\d{3,4}-?\d{4}",  # a telephone number
        rf"[a-z]\.(?!\s+(?-i:{'|'.join(_STARTS.split())})\s)",  # the b. of "plan b."
        r"(?:[a-z]\.){2,}",  # u.s.
        rf"{_WORD_CHARACTER}+\.(?=[,;:])",
        r"ph\.d\.?",
        rf"(?:{'|'.join(_ABBREVIATIONS.split())})\.",
        rf"(?:{'|'.join(_BEFORE_NUMBERS.split())})\.(?=\s*\d)",
        rf"(?-i:{'|'.join(_NAMES.split())})\.",
        rf"['\u2019](?:[msd]|re|ve|ll){_ENDS}",
        rf"n['\u2019]t{_ENDS}",
        rf"['\u2019](?:[2-9]0s|n['\u2019]|n|em|til|till|cause){_ENDS}",
        r"(?:ol|somethin|dunkin)['\u2019]|c'mon|s'mores|y['\u2019]|[dlj]['\u2019]",
        rf"(?:{_LETTER}+y|{_LETTER}*[aeiou])'[aeiou]{_LETTER}*",  # ma'am
        r"[<>]?[:;=][-o*']?[()dp\\{@|\[\]](?![^\W_])|\^_\^",  # faces
        r"[?!]+|\.\.\.|\.(?:\s\.){2}|''|``|--+|__+|\*\*+|<<|>>|\$",
        r"&(?:amp|lt|gt|quot|apos);",
    )
)
_SPLIT_BEFORE = re.compile(
    rf"(?P<word>{_WORD_CHARACTER}+(?:{_HYPHEN}{_WORD_CHARACTER}+)*)['\u2019](?:[msd]|re|ve|ll){_ENDS}"
    rf"|(?P<not>{_WORD_CHARACTER}+?(?:{_HYPHEN}{_WORD_CHARACTER}+?)*)n['\u2019]t{_ENDS}"
    rf"|(?P<head>can|gon|got|lem|gim|wan|['\u2019]t)(?:(?<=can)not|(?<=gon)na|(?<=got)ta|(?<=lem)me|(?<=gim)me|(?<=wan)na"
    rf"|(?<=t)is|(?<=t)was){_ENDS}",
    re.IGNORECASE,
)
"""A word that is cut: ``dog 's``, ``do n't``, ``can not``, ``'t is``."""
_REWRITTEN = {
    **{"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-"},
    **{"\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"},
    **{"\u20ac": "$", "\u00a3": "#", "\u00a2": "cents", "\u2026": "..."},
    **{"\u2013": "--", "\u2014": "--", "\u2015": "--", "\u2018": "`", "\u2019": "'"},
    **dict.fromkeys(('"', "\u201c", "\u201d", "\u00ab", "\u00bb", "&quot;"), "''"),
    **{"&amp;": "&", "&lt;": "<", "&gt;": ">", "&apos;": "'"},
}
_BRACKETS = {bracket: token for bracket, token in _REWRITTEN.items() if bracket in "(){}[]"}


def words(caption: str) -> list[str]:
    """The tokens of a caption in lower case, without those that the evaluation drops."""
    return list(_kept_tokens(caption))


@lru_cache(maxsize=2**14)
def _kept_tokens(caption: str) -> tuple[str, ...]:
    text, found, position = caption, [], 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        token = _next_token(text, position)
        position += len(token)
        found += _written(token).split()
    return tuple(token for token in found if token not in DROPPED)


def _next_token(text: str, position: int) -> str:
    """The longest token that begins here."""
    matches = [match[0] for pattern in _PATTERNS if (match := pattern.match(text, position))]
    longest = max(matches, key=len, default=text[position])
    cut = _SPLIT_BEFORE.match(text, position)
    if cut and len(cut[0]) >= len(longest):
        return cut["word"] or cut["not"] or cut["head"]
    return longest


def _written(token: str) -> str:
    """A token as the tokenizer prints it; characters beyond the basic plane are not printed."""
    if token in _REWRITTEN:
        return _REWRITTEN[token]
    if set(token) <= {"-"} and len(token) > 1:
        return "--"
    if token.replace(" ", "") == "...":
        return "..."
    plain = "".join(_BRACKETS.get(character, character) for character in token if ord(character) <= 0xFFFF)
    return plain.lower().replace("\u2019", "'")
