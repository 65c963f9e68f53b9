"""The official accuracy of VQA v2, written anew from what the official evaluator does.

Source of the rules and tables: ``PythonEvaluationTools/vqaEvaluation/vqaEval.py`` of GT-Vision-Lab/VQA at a013f00, by
Aishwarya Agrawal after Tsung-Yi Lin's COCO caption evaluation (BSD-2-Clause); the formula is that of Antol et al., VQA:
Visual Question Answering, ICCV 2015. Its oddities are kept, because a number is comparable only if they are:

- Answers are normalised only where the people disagree. Where all gave one answer, the prediction has to be that
  answer to the letter: ``Yes`` scores 0 against ten times ``yes``. Its author says this protects text read from the
  image (issue 14 of the repository).
- A period goes unless a digit follows it (the look-behind in the official pattern is mistyped and always holds), and
  only the first 32 go (the flag ``re.UNICODE`` stands where ``re.sub`` expects a count).
- One comma between digits anywhere makes every punctuation mark vanish rather than become a blank.
- Apostrophes and colons stay. ``none`` is ``0``. A lone article normalises to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmprof.errors import UserError
from vlmprof.metrics.metric import Metric

FULL_MARKS = 3
"""So many people who agree with the prediction make it right."""

# The look-behind of the official pattern is the look-ahead "(?!<=\d)", which a period always passes.
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_AT_MOST = int(re.UNICODE)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = ("a", "an", "the")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}

# written=meant; the official table entry by entry, the four that can never match (they have capitals) included
_WRITTEN_AND_MEANT = """
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
CONTRACTIONS = dict(pair.split("=") for pair in _WRITTEN_AND_MEANT.split())


def vqa(prediction: str, answers: tuple[str, ...]) -> float:
    """The score of a prediction against the answers of several people, ten in VQA v2: a fraction from 0 to 1.

    The mean of ``min(1, matches / 3)`` over the subsets that leave out one answer: with ten answers 0, 0.3, 0.6, 0.9
    and 1 for zero, one, two, three and more matches. This is not ``min(1, matches / 3)`` over all answers.

    With another number of answers than ten the same rule runs over the subsets there are; a prediction can reach 1
    only with four answers or more, and one answer alone leaves the empty subset, which scores 0.

    Raises:
        UserError: there are no answers, as in the test splits, which publish none.
    """
    if not answers:
        raise UserError("nothing to score against: this question has no answers; choose a split that publishes them")
    given, references = _trimmed(prediction), [_trimmed(answer) for answer in answers]
    if len(set(references)) > 1:
        given, references = normalised(given), [normalised(reference) for reference in references]
    return _leave_one_out(given, references)


def normalised(text: str) -> str:
    """A trimmed answer without punctuation, periods, articles and number words, its contractions spelt out."""
    words = (_NUMBERS.get(word, word) for word in _without_punctuation(text).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _leave_one_out(given: str, references: Sequence[str]) -> float:
    # In whole numbers: a subset that leaves out a match has one match less, and there is one such subset a match.
    total, matches = len(references), sum(reference == given for reference in references)
    without_a_match = matches * min(FULL_MARKS, matches - 1)
    without_another = (total - matches) * min(FULL_MARKS, matches)
    return (without_a_match + without_another) / (FULL_MARKS * total)


def _trimmed(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    # Each mark is judged by where it stands in the text as given, not in what the marks before it left over.
    vanish = _COMMA_IN_NUMBER.search(text) is not None
    kept = text
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if vanish or beside_blank else " ")
    return _PERIOD.sub("", kept, count=_PERIODS_AT_MOST)


METRIC = Metric.of_answers("vqa", vqa)
