"""Ratios of latencies in both readings: by hand, and where the process effect comes from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlmprof.stats.latency_change import (
    OF_MEDIAN,
    ProcessEffect,
    TimedRun,
    canary_times,
    latency_ratios,
    process_effect,
)
from vlmprof.stats.resampling import log_times


def test_canaries_by_hand():
    e = math.e
    found = canary_times([[[1.0, e, e**2]], [[e, e**2, e**3]]])
    assert found.level == pytest.approx([1, 2]) and found.freedom == 4
    assert found.variance == pytest.approx([OF_MEDIAN / 3] * 2)  # pooled variance 1
    assert found.spread == 0 and found.spread_freedom == 1  # 1 apart: less than noise explains
    apart = canary_times([[[1.0, 1.0]], [[e, e]]])
    assert apart.spread == pytest.approx(math.sqrt(0.5)) and apart.variance == pytest.approx([0, 0])


def test_canaries_of_one_time_and_two_sessions():
    found = canary_times([[[2.0], [8.0]]])
    assert found.level == pytest.approx([math.log(4)]) and found.freedom == 0 and found.spread_freedom == 1


@pytest.mark.parametrize("sessions", [[], [[]], [[[]]], [[[0.0]]], [[[math.nan]]]])
def test_bad_canaries_are_refused(sessions):
    with pytest.raises(ValueError, match="expected times"), np.errstate(divide="ignore"):
        canary_times(sessions)


def quiet(configurations, processes=1):
    return [[[100.0 * (1 + 0.01 * k)] * 4 for k in range(processes)]] * configurations


def test_where_the_process_effect_comes_from():
    once = log_times(quiet(3))
    wild, calm = canary_times([[[1.0, 1.0]], [[1.1, 1.1]], [[1.2, 1.2]]]), canary_times([[[1.0, 1.0]], [[1.0, 1.0]]])
    assert process_effect(once, []) == ProcessEffect(size=0.004, freedom=math.inf, source="assumed")
    assert process_effect(once, [calm]).source == "assumed"
    shown = process_effect(once, [wild])
    assert shown.source == "canary" and shown.freedom == 2 and shown.size == pytest.approx(wild.spread)
    measured = process_effect(log_times(quiet(3, processes=2)), [wild])
    assert measured.source == "measured" and measured.size == pytest.approx(math.log(1.01) / math.sqrt(2))
    assert "measured" in measured.words and "assumed" in process_effect(once, []).words


def run(latency, level=math.nan, variance=math.nan):
    return TimedRun(
        log_latency=np.log([latency]),
        sessions=[[[latency] * 4]],
        canary_level=np.array([level]),
        canary_variance=np.array([variance]),
        canary_freedom=np.array([10.0]),
    )


def test_ratios_by_hand():
    effect = ProcessEffect(size=0.01, freedom=math.inf, source="assumed")
    found = latency_ratios(run(100.0, 1.0, 0.0001), run(110.0, 1.05, 0.0001), effect)
    assert found.measured.value[0] == pytest.approx(math.log(1.1))
    assert found.measured.error[0] == pytest.approx(math.sqrt(2) * 0.01)
    assert math.isinf(found.measured.freedom[0])
    assert found.relative.value[0] == pytest.approx(math.log(1.1) - 0.05)
    assert found.relative.error[0] == pytest.approx(0.02)
    assert found.relative.freedom[0] == pytest.approx(0.0004**2 / (2 * 0.0001**2 / 10))


def test_without_a_canary_the_relative_reading_is_unknown():
    found = latency_ratios(run(100.0), run(110.0), ProcessEffect(size=0.01, freedom=5.0, source="canary"))
    assert np.isnan(found.relative.value[0]) and found.measured.freedom[0] == pytest.approx(5)
