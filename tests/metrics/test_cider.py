"""CIDEr-D against numbers of pycocoevalcap 1.2, whose 104 MB are not installed for five sentences."""

import numpy as np
import pytest

from tests.metrics.samples import asked
from vlmprof.errors import UserError
from vlmprof.metrics._ptb import words
from vlmprof.metrics.cider import METRIC

REFERENCES = [
    ["a man riding a wave on a surfboard", "a surfer rides a large wave", "man on surfboard in the ocean"],
    ["a dog catches a frisbee in the park", "a brown dog jumping for a frisbee"],
    [
        "two people sit on a bench near the water",
        "a couple sitting on a park bench",
        "two people on a bench looking at the sea",
        "people on bench",
    ],
    ["a plate of food with rice and beans"],
    ["a red bus driving down a city street", "a bus on the street", "a double decker bus in traffic"],
]
GIVEN = [
    "a man riding a wave on a surfboard",
    "a dog in the park",
    "two people sit on a bench",
    "a cat",
    "a red bus on a street in the city in the traffic of a city",
]
# pycocoevalcap.cider.cider_scorer.CiderScorer() over the pairs above, as printed
WHOLE = 1.9106045437535104
EACH = [3.983649501762307, 1.9735308800868854, 2.973114551084678, 0.0, 0.6227277858336816]
EXAMPLES = [asked(references, name=str(number)) for number, references in enumerate(REFERENCES)]


def test_agrees_with_the_published_code_to_the_digit():
    assert METRIC.corpus is not None and METRIC.corpus.per_sample is not None
    parts = METRIC.corpus.parts(GIVEN, EXAMPLES)
    assert METRIC.corpus.value(parts) == pytest.approx(WHOLE, abs=1e-12)
    assert METRIC.corpus.per_sample(parts) == pytest.approx(EACH, abs=1e-12)


def test_case_and_punctuation_do_not_count_and_order_does_not_matter():
    assert METRIC.corpus is not None
    loud = [f"{text.upper()}." for text in GIVEN]
    assert METRIC.corpus.value(METRIC.corpus.parts(loud, EXAMPLES)) == pytest.approx(WHOLE, abs=1e-12)
    backwards = METRIC.corpus.parts(GIVEN[::-1], EXAMPLES[::-1])
    assert METRIC.corpus.value(backwards) == pytest.approx(WHOLE, abs=1e-12)


def test_it_is_a_number_of_the_corpus_and_not_a_mean_over_parts_of_it():
    assert METRIC.kind == "corpus" and METRIC.corpus is not None
    halves = [METRIC.corpus.value(METRIC.corpus.parts(GIVEN[i : i + 2], EXAMPLES[i : i + 2])) for i in (0, 2)]
    whole = METRIC.corpus.value(METRIC.corpus.parts(GIVEN[:4], EXAMPLES[:4]))
    assert abs(np.mean(halves) - whole) > 0.01


def test_an_empty_caption_scores_0_and_is_unparsable():
    assert METRIC.corpus is not None
    parts = METRIC.corpus.parts(["", *GIVEN[1:]], EXAMPLES)
    assert parts[0, 0] == 0
    assert not METRIC.judge("...", EXAMPLES[0]).parsed
    assert METRIC.judge("a dog", EXAMPLES[0]).score is None


def test_one_image_is_refused_because_every_weight_would_be_0():
    assert METRIC.corpus is not None
    with pytest.raises(UserError, match="two images"):
        METRIC.corpus.parts(GIVEN[:1], EXAMPLES[:1])
    with pytest.raises(UserError, match="'7' has no captions"):
        METRIC.corpus.parts(["a", "b"], [EXAMPLES[0], asked([], name="7")])


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man's dog doesn't sit.", "a man 's dog does n't sit"),
        ("It's a t-shirt, isn't it?", "it 's a t-shirt is n't it"),
        ("Two (2) dogs -- running...", "two -lrb- 2 -rrb- dogs running"),  # brackets stay, as in the evaluation
        ("plan b.", "plan b."),
        ("Mr. Smith of St. Louis vs. no. 5.", "mr. smith of st. louis vs. no. 5"),
        ("a man sat. the end.", "a man sat the end"),
        ("red \u2013 blue \u2014 green", "red blue green"),
        ("red\u2014blue - green--white", "red blue green white"),
        ("[sign] {x}", "-lsb- sign -rsb- -lcb- x -rcb-"),
        ("ma'am ate \u00bd at 5 p.m. on 12/25/2010 :)", "ma'am ate 1/2 at 5 p.m. on 12/25/2010 :-rrb-"),
        ("The U.S. flag at 10:30; 1,000 people", "the u.s. flag at 10:30 1,000 people"),
        ("they cannot stop", "they can not stop"),
        ("a dog\u2019s \u201cnice\u201d ball", "a dog 's nice ball"),
        ("the boys' toys!", "the boys toys"),
        ("", ""),
    ],
)
def test_words_are_cut_as_the_caption_evaluation_cuts_them(caption, expected):
    assert words(caption) == expected.split()
