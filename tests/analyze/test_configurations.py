"""Naming configurations: by settings, by id, and ``full``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import combined_sweep, read_rows, trial_row
from vlmprof.analyze.comparability import comparable
from vlmprof.analyze.comparing.matching import matched
from vlmprof.analyze.configurations import chosen, full_trials, settings_in
from vlmprof.errors import UserError


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return comparable(read_rows(tmp_path_factory.mktemp("combined"), combined_sweep()))


def test_by_settings(rows):
    found = chosen(rows, "max_crops=4 active_blocks=prefix 8")
    assert len(found.rows) == 2 and found.knobs == ("max_crops", "active_blocks")
    assert set(found.rows["requested_active_blocks"]) == {"prefix 8"}
    assert len(chosen(rows, "").rows) == len(rows)


def test_by_id(rows):
    trial = rows["trial"].iloc[3]
    assert chosen(rows, trial[:7]).rows["trial"].tolist() == [trial]
    assert chosen(rows, f" {trial} ").rows["trial"].tolist() == [trial]


def test_an_id_that_begins_several_is_refused(tmp_path):
    twice = comparable(read_rows(tmp_path, [trial_row({"max_crops": i}, trial=f"abcd{i}") for i in (1, 2)]))
    with pytest.raises(UserError, match="begins the ids of 2 trials: abcd1, abcd2"):
        chosen(twice, "abcd")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("max_crop=4", "no knob 'max_crop' in these trials; did you mean 'max_crops'"),
        ("max_crops=5", "no finished trial has 'max_crops=5'"),
        ("everything", "expected 'full', the id of a trial, or settings"),
        ("dead", "no configuration 'dead'"),
        ("max_crops=4, moe_top_k=1", "no finished trial has"),
    ],
)
def test_unknown_names_say_what_there_is(rows, words, said):
    with pytest.raises(UserError, match=said):
        chosen(rows, words)


def test_full_is_the_trial_without_knobs(tmp_path):
    rows = comparable(read_rows(tmp_path, [trial_row({"max_crops": 1}), trial_row(trial="bare")]))
    assert chosen(rows, "full").rows["trial"].tolist() == ["bare"]


def test_full_is_what_changes_nothing(tmp_path):
    def trial(crops, effect):
        return trial_row({"max_crops": crops}, trial=f"t{crops}", effect_max_crops=effect)

    given = [trial(1, "effective"), trial(9, "no-op"), trial(12, "effective")]
    rows = comparable(read_rows(tmp_path, given))
    found = chosen(rows, "full")
    assert found.rows["trial"].tolist() == ["t9"] and found.caveats == ()


def test_full_is_else_the_largest_and_that_is_said(tmp_path):
    rows = comparable(read_rows(tmp_path, [trial_row({"max_crops": i}, trial=f"t{i}") for i in (1, 4)]))
    found = chosen(rows, "full")
    assert found.rows["trial"].tolist() == ["t4"] and "no trial runs the model without changes" in found.caveats[0]
    assert next(iter(full_trials(rows).values()))[0] == "t4"


def test_no_full_model(tmp_path):
    corners = [trial_row({"max_crops": a, "moe_top_k": b}, trial=f"t{a}{b}") for a, b in ((1, 4), (4, 1))]
    with pytest.raises(UserError, match="no trial is that of the full model"):
        chosen(comparable(read_rows(tmp_path, corners)), "full")


def test_partial_settings_are_matched_by_the_others(rows):
    pairs = matched(chosen(rows, "max_crops=1"), chosen(rows, "max_crops=4"), ("one", "four"))
    assert len(pairs.first) == 4
    for knob in ("moe_top_k", "active_blocks"):
        assert pairs.first[f"requested_{knob}"].tolist() == pairs.second[f"requested_{knob}"].tolist()


def test_two_single_configurations_are_compared_whatever_they_set(rows):
    named = "max_crops=1 moe_top_k=1 active_blocks=prefix 8"
    pairs = matched(chosen(rows, named), chosen(rows, rows["trial"].iloc[-1]), ("one", "other"))
    assert len(pairs.first) == 1


def test_one_against_many_takes_the_other_settings_from_the_one(rows):
    pairs = matched(chosen(rows, "full"), chosen(rows, "moe_top_k=1"), ("full", "one expert"))
    assert len(pairs.first) == 1 and pairs.first["requested_max_crops"][0] == pairs.second["requested_max_crops"][0]
    assert any("7 of 8 trials" in caveat for caveat in pairs.caveats)


LABELS = st.from_regex(r"[a-z0-9,]{1,6}( [a-z0-9,]{1,6}){0,2}", fullmatch=True)


@given(st.dictionaries(st.sampled_from(["max_crops", "moe_top_k", "active_blocks"]), LABELS))
def test_settings_are_read_as_they_are_written(settings):
    assert settings_in(" ".join(f"{knob}={label}" for knob, label in settings.items())) == settings


@pytest.mark.parametrize("words", ["", "nothing", "4 max_crops=3", "=3"])
def test_what_are_no_settings(words):
    assert settings_in(words) == {}
