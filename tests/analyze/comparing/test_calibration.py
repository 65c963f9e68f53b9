"""False alarms among independent runs of one job: which are compared, the rate with its interval, bad input."""

from __future__ import annotations

import pytest

from tests.analyze.comparing.compared_runs import write_run
from vlmprof.analyze.comparing.calibration import calibrate
from vlmprof.analyze.comparing.comparison import Settings
from vlmprof.errors import StoreError, UserError
from vlmprof.stats.intervals import proportion_interval

SLOWER = Settings(fail_if="latency_ms_p50 > +3%")


def test_quiet_runs_raise_no_alarm(tmp_path):
    folders = [write_run(tmp_path / name, [0.5, 0.6], [50, 100], seed=i) for i, name in enumerate("abc")]
    found = calibrate(folders, SLOWER)
    assert len(found.frame) == 6 and found.alarms == 0 and found.runs == 3
    assert found.rate == proportion_interval(0.0, 1.5) and found.rate.high > 0.5
    assert (found.frame["latency_ms_p50_highest"] >= found.frame["latency_ms_p50_lowest"]).all()
    assert any("3 runs find frequent false alarms only" in caveat for caveat in found.caveats)


def test_a_run_that_is_slower_is_found_in_one_order(tmp_path):
    folders = [write_run(tmp_path / name, [0.5], [of]) for name, of in (("a", 50), ("b", 70))]
    found = calibrate(folders, SLOWER)
    assert found.frame["alarm"].tolist() == [True, False] and found.rate.mean == 0.5


def test_runs_that_are_not_alike_are_named(tmp_path):
    first = write_run(tmp_path / "a", [0.5, 0.6], [50, 100])
    found = calibrate([first, write_run(tmp_path / "b", [0.5], [50], torch="2.11")], SLOWER)
    said = " ".join(found.caveats)
    assert "the runs differ in torch" in said and "in 2 of 2 comparisons some trials have no partner" in said


def test_bad_input(tmp_path):
    folder = write_run(tmp_path / "a", [0.5], [50])
    with pytest.raises(UserError, match="add --fail-if"):
        calibrate([folder, folder], Settings())
    with pytest.raises(UserError, match="two runs or more"):
        calibrate([folder], SLOWER)
    with pytest.raises(UserError, match="compared with itself"):
        calibrate([folder, folder], SLOWER)
    with pytest.raises(StoreError):
        calibrate([folder, tmp_path / "none"], SLOWER)
