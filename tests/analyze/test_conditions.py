"""Conditions on columns: what they say, in which units, and what is said of those that are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.analyze.conditions import (
    DEEPEST,
    LONGEST,
    AllOf,
    AnyOf,
    Bound,
    Not,
    columns_of,
    comparisons,
    holds,
    parse,
    shortfall,
    text_of,
    without_not,
)
from vlmprof.errors import UserError
from vlmprof.store.schema import trials_schema

SCHEMA = trials_schema(["max_crops"])
COLUMNS = ("accuracy", "latency_ms_p50", "peak_bytes", "vision_tokens", "knob_max_crops")


def below(column, value, sign="<", **more):
    return Bound(column=column, operator=sign, value=value, **more)


def read(text, **options):
    return parse(text, SCHEMA, **options)


def test_the_condition_of_the_manual():
    found = read("latency_ms_inputs_p95 < 200 and peak_bytes < 24e9")
    assert found == AllOf(parts=(below("latency_ms_inputs_p95", 200.0), below("peak_bytes", 24e9)))
    assert columns_of(found) == ("latency_ms_inputs_p95", "peak_bytes")


@pytest.mark.parametrize(
    ("text", "column", "value"),
    [
        ("latency_ms_p50 < 0.2 s", "latency_ms_p50", 200.0),
        ("latency_ms_p50 < 200ms", "latency_ms_p50", 200.0),
        ("seconds < 1500 ms", "seconds", 1.5),
        ("peak_bytes < 24 GB", "peak_bytes", 24e9),
        ("peak_bytes < 24GiB", "peak_bytes", 24.0 * 1024**3),
        ("peak_bytes < 24G", "peak_bytes", 24e9),
        ("peak_bytes < 512 kB", "peak_bytes", 512e3),
        ("peak_bytes < 1 KiB", "peak_bytes", 1024.0),
        ("energy_j_per_sample < 3.5 J", "energy_j_per_sample", 3.5),
        ("accuracy < 61 %", "accuracy", 0.61),
        ("flops_first_token < 1.2 TFLOP", "flops_first_token", 1.2e12),
        ("vision_tokens < 1k", "vision_tokens", 1000.0),
        ("vision_tokens < 1000 tokens", "vision_tokens", 1000.0),
        ("samples_per_s < 3 samples/s", "samples_per_s", 3.0),
        ("accuracy < -.5e-1", "accuracy", -0.05),
        ("knob_max_crops < 4", "knob_max_crops", 4.0),
    ],
)
def test_units_are_those_of_the_column(text, column, value):
    assert read(text) == below(column, value)


def test_and_binds_closer_than_or_and_not_closest():
    a, b, c = below("accuracy", 1.0), below("seconds", 2.0), below("peak_bytes", 3.0)
    text = "accuracy < 1 or seconds < 2 and not peak_bytes < 3"
    assert read(text) == AnyOf(parts=(a, AllOf(parts=(b, Not(part=c)))))
    assert read("(accuracy < 1 or seconds < 2) AND peak_bytes < 3") == AllOf(parts=(AnyOf(parts=(a, b)), c))
    assert list(comparisons(read(text))) == [a, b, c]


def test_a_signed_percent_is_a_relative_difference():
    found = read("accuracy < -0.01 or latency_ms_p50 > +3%", differences=True)
    slower = below("latency_ms_p50", 3.0, ">", relative=True)
    assert found == AnyOf(parts=(below("accuracy", -0.01), slower))
    assert read("accuracy < -2 %", differences=True) == below("accuracy", -2.0, relative=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "condition, character 1: expected a column, got the end"),
        ("latncy_ms_p50 < 3", "character 1: no column named 'latncy_ms_p50'; did you mean 'latency_ms_p50'?"),
        ("accuracy > 0 and model < 3", "character 18: 'model' is not a column of numbers"),
        ("accuracy 3", "character 10: expected one of < <= > >= == !=, got '3'"),
        ("accuracy = 3", "got '='; did you mean '=='?"),
        ("accuracy > 0 && accuracy < 1", "character 14: expected 'and', 'or' or the end, got '&&'; did you mean 'and'"),
        ("accuracy <", "character 11: expected a number, got the end"),
        ("accuracy < seconds", "character 12: expected a number, got 'seconds'"),
        ("3 > accuracy", "character 1: expected a column, got '3'"),
        ("(accuracy < 1", "character 14: expected ')', got the end"),
        ("accuracy < 1)", "character 13: expected 'and', 'or' or the end"),
        ("accuracy < 1 and", "character 17: expected a column, got the end"),
        ("accuracy < 1 ms", "character 14: 'ms' is no unit of accuracy, which is in fraction"),
        ("latency_ms_p50 < 3 mss", "'mss' is no unit of latency_ms_p50, which is in ms; did you mean 'ms'?"),
        ("latency_ms_p50 < 3%", "'%' is no unit of latency_ms_p50"),
        ("latency_ms_p50 < +3%", "a percent with a sign is a relative difference, and here values are compared"),
        ("accuracy < 1e999", "character 12: the number is too large"),
        ("accuracy < 1e999999999999999999999", "the number is too large"),
        ("accuracy < $3", "character 12: expected a column, a number or a comparison, got '$'"),
        ("accuracy < 1 and __import__(os)", "no column named '__import__'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, said):
    with pytest.raises(UserError) as caught:
        read(text)
    assert said in str(caught.value)


def test_a_percent_without_sign_says_nothing_of_a_difference():
    with pytest.raises(UserError, match=r"--fail-if, character 13: .* has a sign, such as \+3%"):
        read("accuracy < 1%", differences=True, source="--fail-if")


def test_length_and_depth_are_bounded():
    with pytest.raises(UserError, match=f"at most {LONGEST} characters"):
        read("accuracy < 1" + " " * LONGEST)
    assert read("(" * DEEPEST + "accuracy < 1" + ")" * DEEPEST) == below("accuracy", 1.0)
    for opening in ("(", "not "):
        with pytest.raises(UserError, match=f"nested deeper than {DEEPEST}"):
            read(opening * (DEEPEST + 1) + "accuracy < 1")


@st.composite
def compared(draw, signed):
    relative = signed and draw(st.booleans())
    value = draw(st.floats(allow_nan=False, allow_infinity=False, width=64))
    sign = draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
    return below(draw(st.sampled_from(COLUMNS)), value, sign, relative=relative)


def trees(signed):
    several = {"min_size": 2, "max_size": 3}
    return st.recursive(
        compared(signed),
        lambda inner: st.one_of(
            st.builds(lambda parts: AllOf(parts=tuple(parts)), st.lists(inner, **several)),
            st.builds(lambda parts: AnyOf(parts=tuple(parts)), st.lists(inner, **several)),
            st.builds(lambda part: Not(part=part), inner),
        ),
        max_leaves=6,
    )


@given(trees(signed=False))
def test_printing_and_parsing_gives_the_same_tree(tree):
    assert read(text_of(tree)) == tree


@given(trees(signed=True))
def test_printing_and_parsing_gives_the_same_tree_of_differences(tree):
    assert read(text_of(tree), differences=True) == tree


@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_a_user_error(text):
    try:
        read(text)
    except UserError:
        return


VALUES = {"accuracy": np.array([0.5, 0.6, 0.7]), "latency_ms_p50": np.array([100.0, 200.0, 300.0])}


def of(comparison):
    return VALUES[comparison.column]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy >= 0.6", [False, True, True]),
        ("accuracy == 0.6", [False, True, False]),
        ("accuracy != 0.6", [True, False, True]),
        ("not accuracy >= 0.6", [True, False, False]),
        ("accuracy > 0.55 and latency_ms_p50 <= 200", [False, True, False]),
        ("accuracy < 0.55 or latency_ms_p50 > 200", [True, False, True]),
    ],
)
def test_where_it_holds(text, expected):
    assert holds(read(text), of).tolist() == expected


def test_a_value_that_is_not_finite_neither_holds_nor_fails():
    with pytest.raises(ValueError, match="finite values of accuracy"):
        holds(read("not accuracy < 1"), lambda _: np.array([np.nan]))


def test_by_how_much_it_is_missed():
    both = read("accuracy >= 0.6 and latency_ms_p50 <= 200")
    np.testing.assert_allclose(shortfall(both, of), [0.1 / 0.6, 0, 0.5])
    either = read("accuracy >= 1 or latency_ms_p50 <= 100")
    np.testing.assert_allclose(shortfall(either, of), [0, 0.4, 0.3])
    np.testing.assert_allclose(shortfall(read("not (accuracy < 1 and latency_ms_p50 > 100)"), of), [0, 0.4, 0.3])


@given(trees(signed=False))
def test_it_is_missed_only_where_it_does_not_hold(tree):
    values = {name: np.array([-1.0, 0.0, 0.5, 7.0]) * (i + 1) for i, name in enumerate(COLUMNS)}
    missed = shortfall(tree, lambda one: values[one.column])
    assert (missed[holds(tree, lambda one: values[one.column])] == 0).all()
    assert (missed >= 0).all()
    plain = without_not(tree)
    assert "not" not in text_of(plain)
    assert (holds(plain, lambda one: values[one.column]) == holds(tree, lambda one: values[one.column])).all()


@given(trees(signed=False))
def test_it_means_what_python_means_by_the_same_text(tree):
    """An independent implementation: the words and their precedence are those of Python."""
    values = {name: np.array([-1.0, 0.0, 0.5, 7.0, 1e300]) * (i + 1) for i, name in enumerate(COLUMNS)}
    expected = [
        bool(eval(text_of(tree), {name: float(of_column[i]) for name, of_column in values.items()})) for i in range(5)
    ]
    assert holds(tree, lambda one: values[one.column]).tolist() == expected
