r"""Which letter an answer names, of the letters that a question's options have: read, never guessed.

``letter_named`` removes what is denied ("It is not option A") and then tries these rules, from the plainest to the
weakest; the first that finds one letter decides:

1. The answer is a letter, bare or in brackets or emphasis: ``B``, ``b.``, ``(B)``, ``**B**``.
2. The answer is the text of exactly one option, or differs from it in an article alone.
3. It states one: ``the answer is B``, ``correct option: (B)``, ``I choose B``, ``B is correct``, ``it is B``,
   ``\boxed{B}``; or states the text of an option: ``Answer: a dog``. ``A`` before another word is the article
   (``Answer: A dog``). If sentences state different letters, the last sentence counts.
4. It begins with a letter that is set off (``B. a dog``, ``B) a dog``, ``B`` on a line of its own), or with a letter
   before the text of that option, and no other line begins with another letter; or its last line, sentence or clause
   is a letter (``It barks. B``), and no other letter is named.
5. It mentions exactly one as ``option B``, ``labelled B`` or ``(B)``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

_MARKUP = re.compile(r"[*`#$]|__|\\[()\[\]]|<[^<>]{2,30}>")
_TAGGED = re.compile(r"<([biu])>([^<>]*)</\1>")
_LATEX = re.compile(r"\\(boxed|text|textbf|textit|mathrm|mathbf|mathsf|operatorname)\s*\{([^{}]*)\}")
_PLAIN = str.maketrans(
    "\u2018\u2019\u201c\u201d\u300c\u300d\u300e\u300f\u3010\u3011\u3014\u3015\u300a\u300b\u3002", "''\"\"''\"\"[][]''."
)
"""Typographic quotes, and brackets, quotes and the period of Chinese and Japanese."""
_LETTER = r"[(\[{\"'<]*\b([A-Za-z])\b(?!\w|'\w)"
_CLOSES = re.compile(r"[\s,;]+(?:and|but)?\s*$")
"""What is left at the end of an answer when what it denies there is removed: "B and"."""
_FILL = (
    r"(?:(?:but|clearly|definitely|most likely|likely|probably|therefore|simply|indeed|option|choice|letter|the)\s+)*"
)
_BE = r"(?:is|are|was|be|would be|should be|must be|will be|to be|seems to be|appears to be)"
_NOT = (
    r"(?:(?:do|does|did)(?:\s+not|n't)\s+(?:think|believe)(?:\s+that)?\s+(?:it|the answer)(?:'s|\s+is)"
    r"|can(?:not|'t|\s+not)\s+be|\bnot|n't(?:\s+be)?|\bneither|\bnor|\bexcept|\brather\s+than|\binstead\s+of"
    r"|\bother\s+than|\b(?:exclud|eliminat|reject)\w*|\brul\w+\s+out|\bwrong:?|\bincorrect:?)"
)
_SKIPPED = r"(?:\s+(?:be|the|an?|correct|right|best|answer|option|choice|is|letter))*\s+"
_CAPITAL = r"[(\[{\"']?(?:\b[B-HJ-Z]\b|\b[AI]\b(?!\s+[a-z]{2,})|\bA\b(?=\s+(?:or|nor|and)\b))[)\]}\"']?"
_DENIED_BEFORE = re.compile(
    rf"{_NOT}{_SKIPPED}{_CAPITAL}(?:\s*(?:,\s*)?\b(?:or|nor|and)\s+(?:option\s+|choice\s+)?{_CAPITAL})*"
)
_DENIED_AFTER = re.compile(
    r"[(\[{\"']?\b[A-Z]\b[)\]}\"']?\.?\s*(?:(?:is|are|was|can|could|would|does|do|should)(?:\s*n't|not|\s+not)"
    r"|(?:is|seems|looks|must be)\s+(?:(?:clearly|definitely|probably|obviously|also)\s+)?"
    r"(?:wrong|incorrect|false|impossible|ruled out|excluded|eliminated))\b"
    r"(?:\s+(?:be|the|an?|correct|right|best|true|answer|option|choice|it))*"
)
_STATED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:answer|option|choice|letter|solution)\b(?:\s+(?:here|to\s+\w+(?:\s+\w+)?))?"
        rf"(?:\s*(?::|=|→|\s-|\u2013|\u2014|\b{_BE}\b))+\s*",
        rf"\banswer\s+(?={_LETTER}\W*$)",
        r"\b(?:i|we)(?:'d|'ll|\s+would|\s+will|\s+must)?\s+(?:choose|chose|select|pick|think|guess|believe|go\s+(?:with|for)|opt\s+for|say)\s+",
        rf"\b(?:it|this|that)(?:'s|\s+{_BE})\s+",
        rf"\b(?:so|thus|hence|therefore|finally|conclusion|but|actually|correction)\b[,:]?\s+{_FILL}(?={_LETTER}\W*(?:$|\n|[.!]\s))",
        rf"^\W*(?:the\s+letter|letter|choose|select|pick)\s+(?={_LETTER}\W*$)",
        r"(?:答案|选项|選項|選択肢|正解|答え|정답)\s*(?:是|为|為|は|는|은|:)?\s*",
        r"(?:选择|選擇|选)\s*",
    )
)
_IS_RIGHT = re.compile(
    rf"{_LETTER}[)\]}}\"']*\.?\s+(?:{_BE}|seems)\s*(?:(?:the|most|clearly|my)\s+)*"
    r"(?:correct|right|best|answer|true|choice|likely|[.!]|$)"
)
_HEDGED = re.compile(r"[)\]}\"']*\s*(?:,|/|\bor\b|\band\b)\s*(?:\bor\b\s*)?(?:option\s+|choice\s+)?" + _LETTER)
_ENDS = re.compile(r"[)\]}\"'>]*\s*(?:$|[.,:;!?)\n]|\s\(|[-\u2013\u2014]\s)")
_CONNECTED = re.compile(r"[)\]}\"'>]*\s+(?:because|since|as|which|due|based|given|is|and|or)\b")
_LEADING = re.compile(
    r"\s*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])\s*[.:)\]、]|([A-Z])(?=\s*\n|\s+[-\u2013\u2014]\s|,?\s+(?:because|since|as)\b))"
)
_ONLY = re.compile(r"[\s\"'(\[{<•>_-]*([A-Za-z])[\s\"')\]}>.:,;!?_]*")
_ARTICLE = re.compile(r"^(?:a|an|the)\s+")
_SET_OFF = re.compile(r"(?:^|\n|[.!?]\s)\s*[(\[]?([A-Z])[.:)\]](?=\s)")
_CLAUSE = re.compile(r"(\n|[.!?:,;](?=\s))")
_CAPITALS = re.compile(r"\b(?:[B-HJ-Z]|[AI](?!\s+[a-z]))\b")
_MENTIONED = re.compile(
    rf"(?:\b(?:option|choice|(?:labell?ed|marked|indicated|denoted)\s+(?:(?:by|as|with|letter|the)\s+)*)\s*{_LETTER})|\(([A-Za-z])\)",
    re.IGNORECASE,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options of a question, as an answer may name them."""

    letters: frozenset[str]
    """Capital letters that may be named."""
    texts: Mapping[str, str]
    """Text of an option, from ``compared`` -> the letter of that option; texts of several options are left out."""
    repeated: frozenset[str]
    """These, without their articles."""

    def letter(self, character: str) -> str:
        """The capital letter if it is one of the options', else an empty string."""
        return character.upper() if character.upper() in self.letters else ""


def letter_named(answer: str, texts: Mapping[str, str]) -> str | None:
    """The letter that the answer names, or None.

    Args:
        answer: What the model said, without its reasoning.
        texts: Capital letter -> the text of its option, which may be empty.
    """
    shown = [compared(text) for text in texts.values()]
    by_text = {compared(text): letter for letter, text in texts.items() if shown.count(compared(text)) == 1}
    by_text.pop("", None)
    repeated = frozenset(_ARTICLE.sub("", text) for text in shown if shown.count(text) > 1)
    options = _Options(letters=frozenset(texts), texts=by_text, repeated=repeated)
    text = _undecorated(answer)
    if only := _letter_only(text, options) or by_text.get(compared(answer)) or _by_text(text, options):
        return only
    affirmed = _DENIED_AFTER.sub(" ", _DENIED_BEFORE.sub(" ", text)).strip(" \t,;")
    text = text if affirmed == text else _CLOSES.sub("", f"{affirmed} ")
    if bare := _letter_only(text, options):
        return bare
    stated = list(_statements(text, options))
    if stated:
        last = max(sentence for sentence, _ in stated)
        letters = {letter for _, letter in stated}
        letters = letters if len(letters) == 1 else {letter for sentence, letter in stated if sentence == last}
        return (letters.pop() or None) if len(letters) == 1 else None
    return _at_an_end(text, options) or _mentioned(text, options) or None


def _by_text(said: str, options: _Options) -> str:
    """The letter of the one option that has this text, or this text apart from an article: ``The dog``, ``a dog``."""
    text = compared(said)
    if text in options.texts:
        return options.texts[text]
    bare = _ARTICLE.sub("", text)
    letters = [letter for one, letter in options.texts.items() if _ARTICLE.sub("", one) == bare]
    return letters[0] if len(letters) == 1 and len(bare) > 1 and bare not in options.repeated else ""


def compared(text: str) -> str:
    """A text as it is compared with others: in lower case, with single spaces, without emphasis and final marks."""
    words = " ".join(_undecorated(text).lower().split())
    return words.rstrip(" .!?").strip("\"'\u201c\u201d\u2018\u2019") or words


def _undecorated(text: str) -> str:
    """Without Markdown, tags and LaTeX; a box becomes a statement, full-width characters become plain ones."""
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    while (plainer := _LATEX.sub(_unboxed, text)) != text:
        text = plainer
    return _MARKUP.sub("", _TAGGED.sub(r"\2", text)).strip()


def _unboxed(match: re.Match[str]) -> str:
    return f"\nanswer: {match[2]}\n" if match[1] == "boxed" else match[2]


def _letter_only(text: str, options: _Options) -> str:
    match = _ONLY.fullmatch(text)
    return options.letter(match[1]) if match else ""


def _statements(text: str, options: _Options) -> Iterator[tuple[int, str]]:
    """(number of the sentence, letter) of every statement; an empty letter for one that names two, or no option."""
    for pattern in _STATED:
        for match in pattern.finditer(text):
            if (letter := _stated_letter(text, match.end(), options)) is not None:
                yield _sentence(text, match.start()), letter
    for match in _IS_RIGHT.finditer(text):
        if match[1].isupper() and match[1] in options.letters:
            yield _sentence(text, match.start()), match[1]


def _stated_letter(text: str, start: int, options: _Options) -> str | None:
    """What is stated at this place: a letter, an empty string for an unclear or missing option, None for nothing."""
    whole = text[start:]
    tail = re.sub(rf"^\s*{_FILL}", "", whole, flags=re.IGNORECASE)
    if by_text := _text_at(whole, options) or _text_at(tail, options):
        return by_text
    match = re.match(rf"\s*{_LETTER}", tail)
    if match is None:
        return None
    rest, letter = tail[match.end() :], match[1]
    if (hedge := _HEDGED.match(rest)) and options.letter(hedge[1]) and options.letter(hedge[1]) != letter.upper():
        return "" if hedge[1].isupper() else None
    enclosed = not match[0].strip()[0].isalpha()
    set_off = enclosed or _ENDS.match(rest) or _CONNECTED.match(rest)
    if set_off or (letter.isupper() and letter not in "AI") or _continues(rest, letter, options):
        return options.letter(letter) if options.letter(letter) or letter.isupper() else None
    return None


def _text_at(tail: str, options: _Options) -> str:
    """The letter of the option whose text is all that follows, up to the end of its sentence or line."""
    line = tail.strip().split("\n", maxsplit=1)[0]
    for end in (line, re.split(r"[.;!?](?:\s|$)", line, maxsplit=1)[0], re.split(r"[,;]\s", line, maxsplit=1)[0]):
        if len(compared(end)) > 1 and (letter := _by_text(end, options)):
            return letter
    return ""


def _at_an_end(text: str, options: _Options) -> str:
    first = _leading(text, options)
    if not first:
        return _trailing(text, options)
    set_off = {match[1] for match in _SET_OFF.finditer(text) if match[1] in options.letters}
    last = _CLAUSE.split(text)[-1]
    ends_with = _letter_only(last, options) if last.strip("([\"' ")[:1].isupper() else ""
    return first if set_off <= {first} and ends_with in ("", first) else ""


def _trailing(text: str, options: _Options) -> str:
    """The letter that is all of the last line, sentence or clause, if the rest names no other letter."""
    *before, last = _CLAUSE.split(text)
    letter = _letter_only(last, options)
    others = {character for character in _CAPITALS.findall(" ".join(before)) if character in options.letters}
    return letter if before and last.strip("([\"' ")[:1].isupper() and others <= {letter} else ""


def _leading(text: str, options: _Options) -> str:
    """The letter that a text begins with, if it is set off, or if the text of its option follows."""
    if match := _LEADING.match(text):
        character = next(group for group in match.groups() if group)
        rest = text[match.end() :]
        if options.letter(character) and (not rest[:1].strip(", \n\t") or _continues(rest, character, options)):
            return character.upper()
    bare = re.match(r"\s*([A-Z])[\s,]+", text)
    if bare and options.letter(bare[1]) and _continues(text[bare.end() :], bare[1], options):
        return bare[1]
    return ""


def _continues(rest: str, letter: str, options: _Options) -> bool:
    """Whether the text of the letter's own option follows, and nothing else."""
    said = _ARTICLE.sub("", compared(rest.lstrip(" .:)]-\u2013\u2014,\n")))
    return any(_ARTICLE.sub("", text) == said for text, at in options.texts.items() if said and at == letter.upper())


def _mentioned(text: str, options: _Options) -> str:
    letters = set()
    for match in _MENTIONED.finditer(text):
        letter = match[1] or match[2]
        if letter.isupper() or match[2] or _ENDS.match(text[match.end() :]):
            letters.add(options.letter(letter))
        if (hedge := _HEDGED.match(text[match.end() :])) and hedge[1].isupper():
            letters.add(options.letter(hedge[1]))
    return letters.pop() if len(letters) == 1 else ""


def _sentence(text: str, position: int) -> int:
    return len(re.findall(r"[.;!?](?=\s)|\n", text[:position].rstrip()))
