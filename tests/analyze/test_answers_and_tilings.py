"""Answer lengths and tilings, worked out by hand."""

import pytest

from tests.metrics.samples import asked
from vlmprof import registry
from vlmprof.analyze.answers import answers
from vlmprof.analyze.tilings import tilings
from vlmprof.errors import UserError
from vlmprof.models.family import Checkpoint
from vlmprof.surfaces import Anatomy

DEMO = Checkpoint(path="", revision="", dtype="float32")


def test_lengths_are_those_of_the_reference_that_most_people_gave():
    examples = [asked(["a b c", "a", "a"]), asked(["x y"]), asked(["one two three four", "five"])]
    seen = answers("t", "s", examples)
    # 1, 2 and, of two that one person gave each, the shorter: 1
    assert (seen.samples, seen.unit, seen.longest, seen.recommended) == (3, "words", 2, None)
    assert seen.mean == pytest.approx(4 / 3)
    assert dict(seen.cut)[1] == pytest.approx(1 / 3)
    assert dict(seen.cut)[2] == 0


def test_tokens_count_the_end_and_the_cap_may_cut_one_in_a_thousand():
    examples = [asked(["x" * 3])] * 999 + [asked(["x" * 40])]
    seen = answers("t", "s", examples, len)
    assert (seen.unit, seen.recommended, seen.longest) == ("tokens", 4, 41)
    assert dict(seen.percentiles) == {50: 4, 90: 4, 99: 4, 99.9: 4}
    assert answers("t", "s", examples[-2:], len).recommended == 64
    assert answers("t", "s", [asked(["x" * 999])], len).recommended is None


def test_a_split_without_answers_is_told():
    with pytest.raises(UserError, match="publishes no answers"):
        answers("t", "test", [asked([])])


@pytest.fixture(scope="module")
def demo() -> Anatomy:
    return registry.load("models", "demo").describe(DEMO)


def test_caps_under_which_every_picture_is_the_same_are_one(demo: Anatomy):
    small = tilings("demo", demo, [(60, 60)] * 5)
    assert small.distinct == (1,)
    assert {cap.same_as for cap in small.caps} == {None, 1}
    assert all(cap.capped_share == 0 for cap in small.caps)


def test_counts_are_weighed_by_how_many_pictures_have_a_size(demo: Anatomy):
    sizes = [(60, 60)] * 3 + [(190, 190)]
    seen = tilings("demo", demo, sizes)
    for cap in seen.caps:
        tokens = [demo.count_tokens(height, width, cap.budget).vision_tokens for width, height in sizes]
        assert cap.tokens_mean == sum(tokens) / 4
        assert cap.tokens_most == max(tokens)
    assert seen.caps[0].capped_share == 0.25
    assert seen.caps[-1].capped_share == 0
    assert seen.sizes == (((60, 60), 3), ((190, 190), 1))
    told = {cap.budget: cap for cap in seen.caps}
    assert all(told[cap.same_as].tokens_mean == cap.tokens_mean for cap in seen.caps if cap.same_as is not None)


def test_no_pictures_is_an_error(demo: Anatomy):
    with pytest.raises(UserError, match="no pictures"):
        tilings("demo", demo, [])
