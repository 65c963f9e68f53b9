"""What a sweep looks like on a terminal: one live line a running trial and an overall bar; plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from vlmprof.monitor.live_state import Snapshot
from vlmprof.report.status_screen import duration

PLAIN_EVERY_S = 10.0
"""Between two plain lines, where nothing moves on a screen."""

WORDS = {"done": "done", "oom": "out of memory", "failed": "failed"}


@final
class LiveDisplay:
    """For a terminal: redraws in place. Use as a context manager."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._console, self._names = console, names
        self._started = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self, snapshot: Snapshot) -> None:
        """See ``monitor.live_state.Display``."""
        lines = [Text(f"  {self._names[trial]}  {_phase(p)}") for trial, p in sorted(snapshot.running.items())]
        self._live.update(Group(*lines, self._bar(snapshot)))

    def note(self, line: str) -> None:
        """See ``monitor.live_state.Display``."""
        self._live.console.print(Text(line, style="yellow"))

    def _bar(self, snapshot: Snapshot) -> Progress:
        tail = _tail(snapshot, time.monotonic() - self._started)
        bar = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("trials  {task.description}"), console=self._console
        )
        bar.add_task(tail, total=snapshot.total, completed=snapshot.skipped + len(snapshot.settled))
        return bar


@final
class PlainDisplay:
    """For a file, a pipe or a log: a line when a trial ends, and now and then where things stand."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._console, self._names = console, names
        self._started = self._spoke = time.monotonic()
        self._told: set[str] = set()
        self._turn = threading.Lock()

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def update(self, snapshot: Snapshot) -> None:
        """See ``monitor.live_state.Display``."""
        with self._turn:
            for trial, state in snapshot.settled.items():
                if trial not in self._told:
                    self._told.add(trial)
                    self._say(f"{WORDS[state]:>13}  {self._names[trial]}  ({_count(snapshot)})")
            if time.monotonic() - self._spoke > PLAIN_EVERY_S:
                running = "; ".join(f"{self._names[t]} {_phase(p)}" for t, p in sorted(snapshot.running.items()))
                self._say(f"{_count(snapshot)}  {_tail(snapshot, time.monotonic() - self._started)}  {running}")

    def note(self, line: str) -> None:
        """See ``monitor.live_state.Display``."""
        with self._turn:
            self._say(line)

    def _say(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)


def display(console: Console, names: Mapping[str, str]) -> LiveDisplay | PlainDisplay:
    """The display that fits where the output goes."""
    return LiveDisplay(console, names) if console.is_terminal else PlainDisplay(console, names)


def _phase(progress: object) -> str:
    phase, done, total = (getattr(progress, name) for name in ("phase", "done", "total"))
    return f"{phase} {done}/{total}" if phase == "score" else str(phase)


def _count(snapshot: Snapshot) -> str:
    return f"{snapshot.skipped + len(snapshot.settled)} of {snapshot.total}"


def _tail(snapshot: Snapshot, elapsed_s: float) -> str:
    states = Counter(snapshot.settled.values())
    bad = [f"{states[state]} {WORDS[state]}" for state in ("failed", "oom") if states[state]]
    ended = len(snapshot.settled)
    left = snapshot.total - snapshot.skipped - ended
    if ended and left:
        bad.append(f"about {duration(elapsed_s / ended * left)} left")
    return ", ".join(bad)
