"""Conditions on changes: surely, surely not, open; what cannot be tested is refused; the logic of three values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.analyze.comparing.alarms import FAMILY, parse_alarm, raised, reasons
from vlmprof.analyze.comparing.changes import Change
from vlmprof.errors import UserError
from vlmprof.stats.estimates import Estimates
from vlmprof.store.schema import schema_of_row

SCHEMA = schema_of_row(())
NORMAL = 1.6448536269514722
"""The quantile of 95 %."""


def change(column, values, error=0.01, relative=None, **options):
    def estimates(of):
        of = np.array(of, dtype=float)
        return Estimates(value=of, error=np.full(len(of), error), freedom=np.full(len(of), np.inf))

    by_ratio = column.startswith("latency")
    return Change(
        column=column,
        unit="",
        by_ratio=by_ratio,
        first=np.ones(len(values)),
        second=np.ones(len(values)),
        estimates=estimates(values),
        relative=None if relative is None else estimates(relative),
        **options,
    )


def judged(text, *changes):
    return raised(parse_alarm(text, SCHEMA), {one.column: one for one in changes})


def test_beyond_by_the_bound_and_not_by_the_value():
    edge = -0.01 - NORMAL * 0.01
    assert judged("accuracy < -0.01", change("accuracy", [edge - 1e-6])).surely.tolist() == [True]
    assert judged("accuracy < -0.01", change("accuracy", [edge + 1e-6])).surely.tolist() == [False]
    assert judged("accuracy < -0.01", change("accuracy", [-0.01 + NORMAL * 0.01 + 1e-6])).surely_not.tolist() == [True]


def test_the_bound_is_for_all_pairs_and_comparisons_together():
    alone = judged("accuracy < 0", change("accuracy", [-0.02]))
    among = judged("accuracy < 0", change("accuracy", [-0.02, *[0] * 9]))
    assert (alone.statements, alone.is_raised) == (1, True) and (among.statements, among.is_raised) == (10, False)
    both = judged("accuracy < 0 or latency_ms_p50 > +3%", change("accuracy", [-0.02]), change("latency_ms_p50", [0]))
    assert both.statements == 2 and FAMILY == 0.05


def test_percentages_are_of_the_ratio():
    found = judged("latency_ms_p50 > +3%", change("latency_ms_p50", [math.log(1.03) + 0.02, math.log(1.03)]))
    assert found.surely.tolist() == [True, False]


def test_both_readings_of_a_time_must_show_it():
    one = change("latency_ms_p50", [0.1, 0.1, 0.0, 0.1], relative=[0.1, 0.0, 0.1, math.nan])
    found = judged("latency_ms_p50 > +3%", one)
    assert found.surely.tolist() == [True, False, False, True]


def test_pairs_without_a_change_are_open_and_counted():
    found = judged("accuracy < -0.01", change("accuracy", [math.nan, -0.1]))
    assert found.surely.tolist() == [False, True] and found.surely_not.tolist() == [False, False]
    assert found.statements == 1 and "is not tested in 1 of 2 pairs" in found.caveats[0]


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=2, max_size=2), st.sampled_from(["and", "or"]), st.booleans())
def test_logic_of_three_values(values, word, negated):
    # -1: surely below, 0: open, 1: surely above.
    one, other = (change(name, [0.2 * value]) for name, value in zip(("accuracy", "score"), values, strict=True))
    text = f"accuracy < 0 {word} score < 0"
    found = judged(f"not ({text})" if negated else text, one, other)
    possible = {
        (a and b if word == "and" else a or b) ^ negated
        for a, b in itertools.product(*({-1: [True], 0: [True, False], 1: [False]}[value] for value in values))
    }
    assert found.surely[0] == (possible == {True}) and found.surely_not[0] == (possible == {False})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accuracy == 0", "never surely equal"),
        ("latency_ms_p50 > -100%", "more than -100 %"),
        ("acuracy < -0.01", "did you mean 'accuracy'"),
        ("accuracy <", "a number"),
        ("accuracy < -0.01 and", "a column"),
        ("__import__('os')", "no column named|expected"),
        ("accuracy < -1%", "compared as a difference: write one"),
        ("latency_ms_p50 > 3 ms", "compared as a ratio: write a percentage"),
        ("latency_ms_p50 > 3%", "a relative difference has a sign"),
        ("tpot_ms_p50 > +3%", "no pair of trials is compared in tpot_ms_p50"),
    ],
)
def test_what_cannot_be_tested_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        judged(text, change("accuracy", [0.0]), change("latency_ms_p50", [0.0]))


def test_an_unknown_error_is_refused():
    with pytest.raises(UserError, match="has no interval"):
        judged("accuracy < 0", change("accuracy", [0.0], has_error=False))


def test_reasons_name_the_change_and_the_bound():
    one = change("latency_ms_p50", [math.log(1.2)])
    condition = parse_alarm("latency_ms_p50 > +3%", SCHEMA)
    (why,) = reasons(raised(condition, {"latency_ms_p50": one}), condition, {"latency_ms_p50": one}, 0)
    assert why == f"latency_ms_p50 +20.0 %, surely above {100 * math.expm1(math.log(1.2) - NORMAL * 0.01):+.1f} %"
