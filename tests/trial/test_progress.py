"""How long each phase of a trial took, from its reports."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vlmprof.trial.progress import SECONDS_COLUMNS, Phase, PhaseSeconds, Progress

PHASES: list[Phase] = ["load", "count", "probe", "score", "audit", "wait", "warm up", "time"]


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.integers(0, 100)), max_size=20))
def test_seconds_of_a_phase_last_until_the_next_report_of_another(reports: list[tuple[Phase, int]]) -> None:
    now, passed_on = 0.0, list[Progress]()
    phases = PhaseSeconds(passed_on.append, lambda: now)
    times = []
    for phase, after in reports:
        phases(Progress(phase=phase, done=0, total=1))
        times.append(now)
        now += after
    times.append(now)
    expected: dict[str, float] = {}
    for (phase, _), (began, ended) in zip(reports, pairwise(times), strict=True):
        expected[phase] = expected.get(phase, 0.0) + ended - began
    assert phases.columns() == {column: expected.get(phase) for phase, column in SECONDS_COLUMNS.items()}
    assert phases.columns() == phases.columns()  # asked twice without time passing
    assert [progress.phase for progress in passed_on] == [phase for phase, _ in reports]
