"""Golden cases are worked out by hand from the official rules; the formula is checked against its definition."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.errors import UserError
from vlmprof.metrics.vqa import CONTRACTIONS, normalised, vqa


def ten(*answers: tuple[str, int]) -> tuple[str, ...]:
    given = tuple(answer for answer, times in answers for _ in range(times))
    assert len(given) == 10
    return given


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (7, 1.0), (10, 1.0)])
def test_score_by_number_of_people_who_agree(matches, score):
    assert vqa("red", ("red",) * matches + ("blue",) * (10 - matches)) == score


def test_worked_example_of_the_authors():
    # Issue 1 of the official repository: 8 times "yes", 2 times "no".
    answers = ten(("yes", 8), ("no", 2))
    assert vqa("no", answers) == 0.6
    assert vqa("yes", answers) == 1.0


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        ("The red  car.", "red car"),
        ("YES!", "yes"),
        ("a", ""),
        ("none", "0"),
        ("Two", "2"),
        ("ten of them", "10 of them"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("don't know", "don't know"),
        ("somebody'd", "somebodyd"),  # the official table has it the wrong way round
        ("she's", "she's"),
        ("Im here", "im here"),  # the table's key has a capital, the text has none left
        ("red/blue", "red blue"),  # between words: a blank
        ("red / blue", "red blue"),  # beside a blank: nothing
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),  # a comma in a number makes every mark vanish
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),  # judged by mark, not by place
        ("2.5", "2.5"),
        ("2.5.", "2.5"),
        (".5", ".5"),
        ("v.2", "v.2"),
        ("5.", "5"),  # the pattern means to keep this one; its look-behind is mistyped
        ("u.s.a.", "usa"),
        ("10:30", "10:30"),
        ("o'clock", "o'clock"),
        ("twas", "'twas"),
    ],
)
def test_normalised_as_the_official_code_does(raw, meant):
    assert normalised(raw) == meant
    mixed = ten((meant, 4), ("something else", 6))
    assert vqa(raw, mixed) == 1.0


def test_only_the_first_32_periods_go():
    assert normalised("." * 40 + "x") == "." * 8 + "x"


def test_nothing_is_normalised_when_all_people_agree():
    assert vqa("Yes", ten(("yes", 10))) == 0.0
    assert vqa("yes.", ten(("yes", 10))) == 0.0
    assert vqa(" yes\n", ten((" yes ", 10))) == 1.0
    assert vqa("The Cat!", ten(("The Cat!", 10))) == 1.0


def test_both_sides_are_normalised_when_people_disagree():
    assert vqa("two cats", ten(("The 2 cats.", 4), ("dogs", 6))) == 1.0


def test_blanks_alone_are_no_disagreement():
    assert vqa("Yes", ten(("yes", 5), (" yes", 5))) == 0.0


def test_contraction_table_is_whole():
    assert len(CONTRACTIONS) == 120
    assert CONTRACTIONS["y'allll"] == "y'all'll"
    assert CONTRACTIONS["ow's'at"] == "'ow's'at"


def test_no_answers_is_an_error():
    with pytest.raises(UserError, match="no reference answers"):
        vqa("red", ())


@pytest.mark.parametrize(("count", "score"), [(1, 0.0), (2, 1 / 3), (3, 2 / 3), (4, 1.0), (11, 1.0)])
def test_other_numbers_of_answers_than_ten(count, score):
    assert vqa("red", ("red",) * count) == pytest.approx(score)


def by_definition(prediction: str, answers: tuple[str, ...]) -> float:
    """The formula as it is written: over all subsets that leave out one answer."""
    subsets = list(itertools.combinations(answers, len(answers) - 1))
    return sum(min(1, subset.count(prediction) / 3) for subset in subsets) / len(subsets)


words = st.sampled_from(["red", "blue", "green", "left", "7"])  # normalised already: only the formula is at stake


@given(words, st.lists(words, min_size=1, max_size=12))
def test_equals_its_definition(prediction, answers):
    assert vqa(prediction, tuple(answers)) == pytest.approx(by_definition(prediction, tuple(answers)), abs=1e-12)


messy = st.text(alphabet="aA ,.'-/!12etwohn\n\t", max_size=12)


@given(messy, st.lists(messy, min_size=10, max_size=10), st.randoms())
def test_range_and_indifference_to_order(prediction, answers, rng: random.Random):
    score = vqa(prediction, tuple(answers))
    assert 0 <= score <= 1
    rng.shuffle(answers)
    assert vqa(prediction, tuple(answers)) == score


@given(messy)
def test_an_answer_all_people_gave_scores_one(answer):
    assert vqa(answer, (answer,) * 10) == 1.0


@given(messy)
def test_normalised_has_no_stray_blanks(text):
    assert normalised(text) == " ".join(normalised(text).split())
