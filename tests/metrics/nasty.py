"""Answers that are hard to score, made from seeds: how models really phrase, punctuate and decorate, and plain noise.

A generator gives the same cases on every machine and version of Python: it draws only by ``Random.random``, whose
sequence Python promises to keep. The scores that official evaluators give to these cases are in ``data/``.
"""

# ruff: noqa: SIM905 -- long lists of words are easier to read as one text
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar, final

from vlmprof.metrics.multiple_choice import LETTERS

T = TypeVar("T")
CASES = 12_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One answer and what it is compared with."""

    answer: str
    gold: tuple[str, ...]
    choices: tuple[str, ...] = ()


class Draw:
    """Draws that depend on ``Random.random`` alone."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def number(self, below: int) -> int:
        return int(self._random.random() * below)

    def one(self, items: Sequence[T]) -> T:
        return items[self.number(len(items))]

    def some(self, items: Sequence[T], most: int) -> list[T]:
        return [self.one(items) for _ in range(self.number(most + 1))]

    def noise(self, alphabet: str, most: int) -> str:
        return "".join(self.some(alphabet, most))


WORDS = (
    "yes no red Red blue a an the The two Two ten eleven none cat dog stop STOP coca-cola o'clock dont don't cant she's"
    " somebody'd twas yall'd've left right 2 10 1,000 2.5 .5 3. $5 50% 12:30 u.s.a. U.S. tv t-shirt new york Starbucks"
    " mcdonald's kids' café naïve straße İstanbul 10'000 1st 7-eleven & at&t unanswerable couldn'tve ow's'at let's"
).split()
MARKS = ".,;:!?'\"()[]{}/\\-_+=<>@`|~^#*$%&\u2019\u201c\u201d\u2013\u2014\u2026"
BLANKS = (" ", " ", " ", " ", "  ", "\n", "\t", "", " , ", ", ", ",", ". ", "-", " - ", "/", " / ", "'")


def phrase(draw: Draw, most: int = 4) -> str:
    """Words with marks and blanks in odd places; sometimes noise, sometimes nothing."""
    if draw.chance(0.06):
        return draw.noise("aA1 .,'-/!\n\t%b", 9)
    parts = []
    for word in [draw.one(WORDS), *draw.some(WORDS, most - 1)]:
        parts += [word.upper() if draw.chance(0.08) else word.title() if draw.chance(0.08) else word, draw.one(BLANKS)]
    text = "".join(parts[: len(parts) - draw.chance(0.7)])
    if draw.chance(0.25):
        at = draw.number(len(text) + 1)
        text = text[:at] + draw.one(MARKS) + text[at:]
    return f" {text}" if draw.chance(0.05) else "" if draw.chance(0.01) else text


def changed(draw: Draw, text: str) -> str:
    """The same text as a model might write it: other case, a period, an article, a blank, a wrong letter."""
    changes: tuple[Callable[[str], str], ...] = (
        str.upper,
        str.title,
        str.lower,
        lambda same: same,
        lambda same: f"{same}.",
        lambda same: f"The {same}",
        lambda same: f"{same}!",
        lambda same: same.replace(" ", "  "),
        lambda same: same.replace(",", ""),
        lambda same: same.replace("'", ""),
        lambda same: f'"{same}"',
        lambda same: same[:-1],
        lambda same: same[: len(same) // 2] + draw.one("xe 1") + same[len(same) // 2 :],
        lambda same: f"{same} {draw.one(WORDS)}",
        lambda same: same.replace("two", "2").replace("ten", "10"),
        lambda same: f"\n{same}\t",
    )
    for _ in range(1 + draw.number(2)):
        text = draw.one(changes)(text)
    return text


def _ten(draw: Draw) -> tuple[str, ...]:
    """Ten people's answers: unanimous, nearly so, or of several opinions."""
    first = phrase(draw)
    if draw.chance(0.35):
        return (first,) * 10
    opinions = [first, changed(draw, first), changed(draw, first), phrase(draw), phrase(draw)]
    return tuple(opinions[min(draw.number(5), draw.number(5))] for _ in range(10))


def people(seed: int = 1) -> list[Case]:
    """Ten answers each, for ``vqa`` and ``text_vqa``."""
    draw, cases = Draw(seed), []
    for _ in range(CASES):
        gold = _ten(draw)
        answer = changed(draw, draw.one(gold)) if draw.chance(0.8) else phrase(draw)
        cases.append(Case(answer=answer, gold=gold))
    return cases


def texts(seed: int = 2) -> list[Case]:
    """One to three answers each, for ``anls``, ``exact_match`` and ``realworld_qa`` without options."""
    draw, cases = Draw(seed), []
    for _ in range(CASES):
        gold = tuple(phrase(draw, 5) for _ in range(1 + draw.number(3)))
        answer = changed(draw, draw.one(gold)) if draw.chance(0.8) else phrase(draw, 5)
        cases.append(Case(answer=answer, gold=gold))
    return cases


def _figure(draw: Draw) -> str:
    value = draw.one((draw.number(100), draw.number(3000), draw.number(1000) / 10, draw.number(10000) / 10000, 0))
    signed = f"-{value}" if draw.chance(0.1) else str(value)
    return draw.one(("{}", "{}", "{}", "{}%", "{}.0", "${}", "{},000", "{} %", "{} million", "+{}", "{}e2")).format(
        signed
    )


def charts(seed: int = 3) -> list[Case]:
    """Numbers and labels of charts, for ``relaxed_accuracy``."""
    draw, cases = Draw(seed), []
    for _ in range(CASES):
        gold = _figure(draw) if draw.chance(0.8) else draw.one((*WORDS, "nan", "inf", "Yes", "2010-2015", "Dark blue"))
        answer = changed(draw, gold) if draw.chance(0.5) else _near(draw, gold)
        cases.append(Case(answer=answer, gold=(gold,)))
    return cases


def _near(draw: Draw, gold: str) -> str:
    """A number within some per cent of the reference, in another notation."""
    try:
        value = float(gold.rstrip("%")) * (0.9 + draw.number(21) / 100)
    except ValueError:
        return _figure(draw)
    return draw.one(
        (f"{value:.4g}", f"{value}", f"{value:.2f}%", f"{value / 100:.4g}", f"{value:.0f}", f" {value:.3g}")
    )


COUNTS = (
    "zero one two three four five six seven eight nine ten none 0 1 2 3 4 5 10 11 12 1,000 -2 2.0 3.5 no eleven".split()
)
VALUES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 1, 2, 3, 4, 5, 10, 11, 12, 1000, 2, 2, 3, 0, 11)


def counts(seed: int = 4) -> list[Case]:
    """Counts as digits, words and sentences, for ``count``."""
    draw, cases = Draw(seed), []
    forms = (
        "{}",
        "{}",
        "{}",
        "{}.",
        "{}!",
        "({})",
        "There are {}.",
        "{} dogs",
        "about {}",
        "the {}",
        " {} ",
        "{}\n",
        "- {}",
    )
    for _ in range(CASES):
        at = draw.number(len(COUNTS))
        answer = draw.one(forms).format(COUNTS[at])
        gold = VALUES[at] if draw.chance(0.6) else draw.number(13)
        cases.append(Case(answer=answer.capitalize() if draw.chance(0.3) else answer, gold=(str(gold),)))
    return cases


SENTENCES = (
    "{}", "{}.", "{}!", "{},", "{}, there is a dog.", "{} there is.", "{}. There is not.", "The answer is {}.", "{}\n",
    "I think {}", "\"{}\"", "{}: it is there", "({})", "**{}**", "Is it? {}", "{};", "well,{} it is", "{}-",
    "{}, no", "",
)  # fmt: skip
MEANINGS = "yes no Yes No YES NO not Not none nope yeah there is isn't cannot maybe dog yes, no, nothing yes/no".split()


def presence(seed: int = 5) -> list[Case]:
    """Yes-or-no answers, for ``pope_f1``."""
    draw = Draw(seed)
    return [
        Case(answer=draw.one(SENTENCES).format(draw.one(MEANINGS)), gold=(draw.one(("yes", "no")),))
        for _ in range(CASES)
    ]


OBJECTS = "cat,dog,black dog,owl,red,blue,10 m,12 m,3.5,north,the left one,both,none of these,soft rock,a lever".split(
    ","
)
NAMING = (
    "{letter}", "{letter}.", "({letter})", "{letter})", "**{letter}**", "{letter}: {text}", "{letter}. {text}",
    "{letter}\n{text}", "({letter}) {text}", "{text}", "{text}.", "{letter} {text}", "{small}", "{small}. {text}",
    "The answer is {letter}", "The answer is {letter}.", "The answer is ({letter}).", "The answer is {letter}. {text}",
    "Answer: {letter}", "Answer: {text}", "answer: ({letter})", "**Answer:** {letter}", "Answer:\n{letter}",
    "The correct option is {letter}", "The correct answer is {letter}: {text}.", "The answer is {text}.",
    "Option {letter}", "option ({letter}) is right", "I would choose {letter}.", "{letter} is correct.",
    "\\boxed{{{letter}}}", "The picture shows a {other}. So the answer is {letter}.", "Because it moves, {letter}.",
    "It is {letter}", "It's {letter}.", "I think it is {text}", "Let me look.\nIt is soft.\n{letter}",
    "<think>the answer is {wrong}</think> {letter}", "<think>{wrong} or {letter}?</think>\n\nThe answer is {letter}.",
    "The answer is not {wrong}, it is {letter}.", "{wrong} is wrong. {letter} is right.", "not {wrong} but {letter}",
    "The answer is {letter}, not {wrong}.", "First I thought ({wrong}), but it is ({letter})",
    "{wrong}. {other}\n{letter}. {text}\nThe answer is {letter}",
)  # fmt: skip
NAMING_NONE = (
    "It is not option {letter}", "neither {letter} nor {wrong}", "{letter} or {wrong}", "I do not know", "", "?",
    "A thing",
    "option {letter} or option {wrong}", "The options are {letter} and {wrong}", "A {other} is in the picture",
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An answer to a multiple-choice question, and the letter that its writer meant; empty if none."""

    case: Case
    form: str
    meant: str


def options(seed: int = 6) -> list[Named]:
    """Answers that name an option in many forms, or none, for ``multiple_choice`` and ``mmmu``."""
    draw, named = Draw(seed), []
    for _ in range(CASES):
        choices = _distinct(draw, 2 + draw.number(4))
        right, wrong = draw.number(len(choices)), draw.number(len(choices))
        wrong = wrong if wrong != right else (right + 1) % len(choices)
        names_one = draw.chance(0.85)
        form = draw.one(NAMING if names_one else NAMING_NONE)
        answer = form.format(
            letter=LETTERS[right],
            small=LETTERS[right].lower(),
            text=choices[right],
            wrong=LETTERS[wrong],
            other=choices[wrong],
        )
        case = Case(answer=answer, gold=(LETTERS[right],), choices=choices)
        named.append(Named(case=case, form=form, meant=LETTERS[right] if names_one else ""))
    return named


def _distinct(draw: Draw, count: int) -> tuple[str, ...]:
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        chosen[draw.one(OBJECTS)] = None
    return tuple(chosen)


RESULTS = "12.5 1200 1,200 -3 5 kidney left kidney x = 2 0.33 1/3 H2O increase no 2e3 50% $8.50 (B) π 3.14159".split()
REASONING = (
    "{}", "{}.", "The answer is {}.", "So x = {}", "Therefore the result is {}", "it could be {} or {}", "= {}",
    "First {}.\nFinal answer {}", "We get {}. Thus {}", "{}\n{}", "the {} of {}", "is", "So ", "{} is what we see", "",
)  # fmt: skip


def open_answers(seed: int = 7) -> list[Case]:
    """Open answers with numbers and key phrases, for ``mmmu``."""
    draw, cases = Draw(seed), []
    for _ in range(CASES):
        gold = [*draw.some(RESULTS, 1), draw.one(RESULTS)]
        answer = draw.one(REASONING).format(draw.one([*RESULTS, *gold, *gold]), draw.one(RESULTS))
        cases.append(Case(answer=answer, gold=tuple(gold)))
    return cases


SCENE = (
    "a the man woman dog's dogs' cat two 2 (red) \"stop\" bus t-shirt mother-in-law's u.s. U.S. plan b. b. St. Mr. mrs."
    " don't can't cannot gonna it's they're o'clock y'all 'n' 10:30 a.m. p.m 1,000 3.5 $5 50% #1 no. 5 50's '90s and/or"
    " black-and-white - -- \u2013 \u2014 ... & at&t @ 1/2 \u00bd \u2019s 5-year-old x-ray hello,world end."
    " [sign] {x} wait... ok! what?"
    " etc. vs. jr. ft. in. is sitting on near of street, grass; ocean: wave standing with large"
    " \u201cgo\u201d 'hi' cat. dog,"
    " 6' 2\" 3d 2x4 :) www.stop.com stop.go +5 -5 a/c caf\u00e9 \u20ac5 <b> ma'am ol' rock-n-roll 12/25/2010"
    " red-- tv's ?! Dr. I. A."
).split()


def captions(seed: int = 8) -> list[str]:
    """Captions of ordinary words, with marks where people and models put them."""
    draw, made = Draw(seed), []
    for _ in range(CASES):
        words = [draw.one(SCENE) for _ in range(3 + draw.number(9))]
        text = " ".join(word.capitalize() if draw.chance(0.1) else word for word in words)
        if draw.chance(0.3):
            at = draw.number(len(text))
            text = text[:at] + draw.one(MARKS) + text[at:]
        made.append(text + draw.one(("", "", ".", " .", "!", "\n")))
    return made
