"""Plays a recording to a real ``LiveState`` on a clock of its own, and looks at what it shows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmprof.analyze.watch_state import SweepView
from vlmprof.monitor.live_state import LiveState, NoMetricSink, TrialLabel
from vlmprof.store.collector import TrialResult
from vlmprof.store.heartbeat import TrialWork
from vlmprof.trial.progress import Progress

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What was shown at one moment, and what was true."""

    at: float
    view: SweepView
    truly_left: float


def read(name: str) -> dict[str, Any]:
    """A committed recording."""
    return json.loads((HERE / f"{name}.json").read_text())


def play(recording: Mapping[str, Any], *, every: float = 1.0, costs: bool = True) -> Iterator[Frame]:
    """A frame every so many seconds until the last event, and one after it.

    Args:
        recording: As ``tests.recordings.record`` writes it.
        every: Seconds between frames.
        costs: Whether the state is told what trials cost.
    """
    works = {trial: TrialWork(load=w[0], score=w[1], timing=w[2]) for trial, w in recording["works"].items()}
    events, now = recording["events"], [0.0]
    end = events[-1][0]
    with tempfile.TemporaryDirectory() as folder:
        state = LiveState(folder, NoMetricSink(), clock=lambda: now[0])
        state.opened(list(works))
        if costs:
            state.expect(works)
        place, at = 0, events[0][0]
        while place < len(events):
            while place < len(events) and events[place][0] <= at:
                now[0] = events[place][0]
                _tell(state, events[place])
                place += 1
            now[0] = at
            yield Frame(at=at, view=state.view(), truly_left=max(0.0, end - at))
            at = min(at + every, end) if at < end else end
        state.close()


def _tell(state: LiveState, event: list[Any]) -> None:
    _, what, trial, *more = event
    if what == "began":
        state.began(trial, TrialLabel(name=trial, model="", task=""))
    elif what == "progress":
        state.progress(trial, Progress(phase=more[0], done=more[1], total=more[2]))
    else:
        row = {"trial": trial, "seconds": more[1]}
        state.ended(TrialResult(trial=trial, knobs=(), state=more[0], row=row))
