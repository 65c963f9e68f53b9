"""The official accuracy of VQA v2, reimplemented from the behaviour of the official evaluator.

Source of the rules and tables: ``PythonEvaluationTools/vqaEvaluation/vqaEval.py`` of GT-Vision-Lab/VQA at a013f00, by
Aishwarya Agrawal after Tsung-Yi Lin's COCO caption evaluation (BSD-2-Clause); the formula is that of Antol et al., VQA:
Visual Question Answering, ICCV 2015. Its oddities are kept, because otherwise numbers would not be comparable:

- Answers are normalised only if the annotators disagree. If all gave the same answer, the prediction must equal it
  exactly: ``Yes`` scores 0 against ten times ``yes``. The author says this protects text read from the image (issue 14
  of the repository).
- A period is removed unless a digit follows it (the look-behind in the official pattern is mistyped and always
  matches), and only the first 32 periods are removed (the flag ``re.UNICODE`` is passed where ``re.sub`` expects a
  count).
- One comma between digits anywhere in the answer causes every punctuation mark to be removed rather than replaced by a
  space.
- Apostrophes and colons are kept. ``none`` becomes ``0``. An answer that is only an article becomes empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from vlmprof.errors import UserError
from vlmprof.metrics._gold import texts
from vlmprof.metrics.metric import Metric

FULL_SCORE_MATCHES = 3
"""Number of annotators who must agree with the prediction for a full score."""

# The official pattern has the look-ahead "(?!<=\d)" in place of a look-behind; at a period it always matches.
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = int(re.UNICODE)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = ("a", "an", "the")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}

# written=replacement; every entry of the official table, including the four with capitals, which can never match
_CONTRACTION_PAIRS = """
    aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've
    couldnt've=couldn't've didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've hadn'tve=hadn't've
    hasnt=hasn't havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's howd=how'd howll=how'll hows=how's
    Id've=I'd've I'dve=I'd've Im=I'm Ive=I've isnt=isn't itd=it'd itd've=it'd've it'dve=it'd've itll=it'll
    let's=let's maam=ma'am mightnt=mightn't mightnt've=mightn't've mightn'tve=mightn't've mightve=might've
    mustnt=mustn't mustve=must've neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at
    'ows'at='ow's'at 'ow'sat='ow's'at shant=shan't shed've=she'd've she'dve=she'd've she's=she's shouldve=should've
    shouldnt=shouldn't shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd
    somebodyd've=somebody'd've somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's
    someoned=someone'd someoned've=someone'd've someone'dve=someone'd've someonell=someone'll someones=someone's
    somethingd=something'd somethingd've=something'd've something'dve=something'd've somethingll=something'll
    thats=that's thered=there'd thered've=there'd've there'dve=there'd've therere=there're theres=there's
    theyd=they'd theyd've=they'd've they'dve=they'd've theyll=they'll theyre=they're theyve=they've twas='twas
    wasnt=wasn't wed've=we'd've we'dve=we'd've weve=we've werent=weren't whatll=what'll whatre=what're whats=what's
    whatve=what've whens=when's whered=where'd wheres=where's whereve=where've whod=who'd whod've=who'd've
    who'dve=who'd've wholl=who'll whos=who's whove=who've whyll=why'll whyre=why're whys=why's wont=won't
    wouldve=would've wouldnt=wouldn't wouldnt've=wouldn't've wouldn'tve=wouldn't've yall=y'all yall'll=y'all'll
    y'allll=y'all'll yall'd've=y'all'd've y'alld've=y'all'd've y'all'dve=y'all'd've youd=you'd youd've=you'd've
    you'dve=you'd've youll=you'll youre=you're youve=you've
"""
CONTRACTIONS = dict(pair.split("=") for pair in _CONTRACTION_PAIRS.split())


def vqa(prediction: str, answers: tuple[str, ...]) -> float:
    """The score of a prediction against the answers of several annotators (ten in VQA v2), from 0 to 1.

    The mean of ``min(1, matches / 3)`` over the subsets that leave out one answer: with ten answers 0, 0.3, 0.6, 0.9
    and 1 for zero, one, two, three and more matches. This is not ``min(1, matches / 3)`` over all answers.

    With a number of answers other than ten, the same rule applies to the existing subsets: a prediction can reach 1
    only with four answers or more, and a single answer leaves only the empty subset, which scores 0.

    Raises:
        UserError: there are no answers, as in the test splits, which publish none.
    """
    if not answers:
        raise UserError("this question has no reference answers to score against; choose a split that publishes them")
    predicted, references = _trimmed(prediction), [_trimmed(answer) for answer in answers]
    if len(set(references)) > 1:
        predicted, references = normalised(predicted), [normalised(reference) for reference in references]
    return leave_one_out(predicted, references)


@lru_cache(maxsize=2**15)
def normalised(text: str) -> str:
    """A trimmed answer without punctuation and articles, with number words as digits and apostrophes restored."""
    words = (_NUMBERS.get(word, word) for word in _without_punctuation(text).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def leave_one_out(predicted: str, references: Sequence[str]) -> float:
    """The score of a normalised prediction against normalised answers, as in ``vqa``."""
    # A subset that leaves out a match has one match fewer; there are as many such subsets as matches. Integer sums.
    total, matches = len(references), sum(reference == predicted for reference in references)
    leaving_out_matches = matches * min(FULL_SCORE_MATCHES, matches - 1)
    leaving_out_others = (total - matches) * min(FULL_SCORE_MATCHES, matches)
    return (leaving_out_matches + leaving_out_others) / (FULL_SCORE_MATCHES * total)


def _trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    # The position of each mark is checked in the original text, not in the text left by earlier replacements.
    remove_all = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        next_to_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if remove_all or next_to_space else " ")
    return _PERIOD.sub("", result, count=_MAX_PERIODS)


def answers_of_people(values: Sequence[Any], choices: Sequence[str]) -> tuple[str, ...]:
    """The answers of several people, as texts.

    Raises:
        UserError: there are fewer than four, so that not even they themselves could reach 1.
    """
    answers = texts(values, choices)
    if len(answers) <= FULL_SCORE_MATCHES:
        count = f"{len(answers)} reference answer{'s' if len(answers) > 1 else ''}"
        raise UserError(
            f"{count}: this metric compares with those of at least {FULL_SCORE_MATCHES + 1} people (VQA v2 has ten) and"
            " gives no full score for fewer; for one answer choose the metric 'exact_match' or 'anls'"
        )
    return answers


METRIC = Metric.of_answers("vqa", vqa, gold=answers_of_people)
