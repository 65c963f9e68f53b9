"""ANLS, exact match, relaxed accuracy and counting: published rules on cases worked out by hand."""

import pytest
from anls import anls_score
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics.samples import asked
from vlmprof import registry
from vlmprof.errors import UserError
from vlmprof.metrics._emphasis import without_emphasis
from vlmprof.metrics.anls import anls, levenshtein
from vlmprof.metrics.count import count
from vlmprof.metrics.exact_match import exact_match
from vlmprof.metrics.relaxed_accuracy import relaxed_accuracy

SHORT = st.text("abC 1.", max_size=9)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Bank of America", ("bank of america",), 1.0),
        ("  bank  of america ", ("bank of america",), 1.0),
        ("bank of amerika", ("bank of america",), 14 / 15),
        ("abcd", ("abxy",), 0.5),  # at the threshold: kept, as the evaluator of the competition does
        ("abc", ("axy",), 0.0),
        ("bank  of amerika", ("bank of america",), 15 / 16),  # the length counts the doubled blank, the distance not
        ("", ("a",), 0.0),
        ("12", ("1", "12"), 1.0),
    ],
)
def test_anls(prediction, answers, expected):
    assert anls(prediction, answers) == pytest.approx(expected)


@settings(max_examples=300)
@given(SHORT, st.lists(SHORT, min_size=1, max_size=3))
def test_anls_agrees_with_an_independent_implementation(prediction, answers):
    def plain(text):
        return " ".join(text.split())  # the package takes lengths without doubled blanks

    mine, theirs = anls(plain(prediction), tuple(map(plain, answers))), anls_score(prediction, answers)
    assert mine == pytest.approx(theirs) or mine == 0.5  # the package drops what is exactly at the threshold


@settings(max_examples=100)
@given(SHORT, SHORT, SHORT)
def test_levenshtein_is_a_distance(one, two, three):
    assert levenshtein(one, two) == levenshtein(two, one)
    assert (levenshtein(one, two) == 0) == (one == two)
    assert levenshtein(one, three) <= levenshtein(one, two) + levenshtein(two, three)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [("Yes.", ("yes",), 1), ("yes, it is", ("yes",), 0), ("the  left", ("the left",), 1), ("left", ("the left",), 0)],
)
def test_exact_match(prediction, answers, expected):
    assert exact_match(prediction, answers) == expected


DECORATED = (
    "**{}**", "__{}__", "*{}*", "_{}_", "`{}`", '"{}."', "'{}'", "\u201c{}\u201d", "**{}**.", "**{}.**", "***{}***",
    "<b>{}</b>", "```\n{}\n```", "\\boxed{{{}}}", "$\\boxed{{{}}}$", " **{}** \n",
)  # fmt: skip


@pytest.mark.parametrize("form", DECORATED)
@pytest.mark.parametrize("name", ["exact_match", "count", "realworld_qa", "mmmu"])
def test_a_whole_answer_in_emphasis_or_quotes_is_read_without_it(name, form):
    judge = registry.load("metrics", name).judge
    verdicts = [judge(form.format(said), asked(["3"])) for said in ("3", "4")]
    assert [(verdict.score, verdict.parsed) for verdict in verdicts] == [(1, True), (0, True)]


@pytest.mark.parametrize("form", DECORATED)
def test_an_option_and_a_yes_in_emphasis_are_read(form):
    for name in ("multiple_choice", "mmmu"):
        assert registry.load("metrics", name).judge(form.format("B"), asked(["B"], ("dog", "cat"))).score == 1
    assert registry.load("metrics", "pope_f1").judge(form.format("Yes"), asked(["yes"])).score == 1


@pytest.mark.parametrize("text", ["*red* and *blue*", "**", '"', "''", "snake_case_", "dogs'", "'90s", "", "~~red~~"])
def test_what_encloses_no_whole_answer_stays(text):
    assert without_emphasis(text) == text


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("105", "100", 1),
        ("94.9", "100", 0),
        ("-95", "-100", 1),
        ("50%", "0.5", 1),
        ("0.52", "50%", 1),
        ("0.001", "0", 0),  # a tolerance relative to 0 is none
        ("0", "0", 1),
        ("Yes", "yes", 1),
        ("1,000", "1000", 0),  # as published: the comma makes it a text
        ("two", "2", 0),
    ],
)
def test_relaxed_accuracy(prediction, answer, expected):
    assert relaxed_accuracy(prediction, (answer,)) == expected


@settings(max_examples=100)
@given(st.floats(min_value=0.01, max_value=1e6), st.floats(min_value=-0.2, max_value=0.2))
def test_relaxed_accuracy_is_a_band_of_five_percent(value, off):
    given_value = value * (1 + off)
    assert relaxed_accuracy(repr(given_value), (repr(value),)) == float(abs(given_value - value) / value <= 0.05)


@pytest.mark.parametrize(
    ("prediction", "score", "parsed"),
    [
        ("2", 1, True),
        ("Two.", 1, True),
        ("3", 0, True),
        ("2.0", 1, True),
        ("- 2", 1, True),
        ("-2", 0, False),
        ("about 2 dogs", 0, False),
        ("eleven", 0, True),
        ("0,2", 0, False),  # the normalisation of VQA would make it 2
        ("", 0, False),
    ],
)
def test_counting_reads_a_number_or_says_that_there_is_none(prediction, score, parsed):
    verdict = count(prediction, asked(["2"]))
    assert (verdict.score, verdict.parsed) == (score, parsed)


@pytest.mark.parametrize(
    ("prediction", "number"),
    [
        ("eleven", "11"),
        ("Twelve.", "12"),
        ("a fifteen", "15"),
        ("twenty", "20"),
        ("3,000", "3000"),
        ("1,234,567", "1234567"),
    ],
)
def test_counts_beyond_ten_are_read(prediction, number):
    assert count(prediction, asked([number])).score == 1


@pytest.mark.parametrize(
    ("prediction", "number"), [("1,2", "12"), ("1,2,3", "123"), ("12,34", "1234"), ("1,2345", "12345")]
)
def test_a_comma_that_separates_no_thousands_joins_nothing(prediction, number):
    verdict = count(prediction, asked([number]))
    assert (verdict.score, verdict.parsed) == (0, False)


@pytest.mark.parametrize("metric", [anls, exact_match, relaxed_accuracy])
def test_no_answers_is_an_error_and_not_a_wrong_answer(metric):
    with pytest.raises(UserError, match="choose a split"):
        metric("x", ())
