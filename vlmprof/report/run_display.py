"""Display of a running sweep: on a terminal a live line a running trial and a progress bar, elsewhere plain lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vlmprof.analyze.status import WORDS
from vlmprof.analyze.watch_state import SweepView
from vlmprof.report.status_screen import counts, progress_screen, status_line

PLAIN_EVERY_S = 10.0
"""Between two plain lines, where nothing moves on a screen."""


@final
class LiveDisplay:
    """For a terminal: redraws in place, and ends with one line of totals. Use as a context manager."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._console, self._names = console, names
        self._told: set[str] = set()
        self._view: SweepView | None = None
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)
        _say_last(self._console, self._view)

    def update(self, view: SweepView) -> None:
        """See ``monitor.live_state.Display``."""
        self._view = view
        for trial, why in view.status.failed.items():
            if trial in view.status.ended and trial not in self._told:
                self._told.add(trial)
                self._live.console.print(Text(f"failed: {self._names.get(trial, trial)}\n  {why}", style="yellow"))
        self._live.update(progress_screen(view, self._console.width))

    def note(self, line: str) -> None:
        """See ``monitor.live_state.Display``."""
        self._live.console.print(Text(line, style="yellow"))


@final
class PlainDisplay:
    """For a file, a pipe or a log: a line when a trial ends, and the progress at intervals."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._console, self._names = console, names
        self._view: SweepView | None = None
        self._spoke = time.monotonic()
        self._told: set[str] = set()
        self._turn = threading.Lock()

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        _say_last(self._console, self._view)

    def update(self, view: SweepView) -> None:
        """See ``monitor.live_state.Display``."""
        with self._turn:
            self._view, now = view, view.status
            ended = sum(now.counts[phase] for phase in ("done", "oom", "failed"))
            new = [trial for trial in now.ended if trial not in self._told]
            for place, trial in enumerate(new, start=ended - len(new) + 1):
                self._told.add(trial)
                self._say(f"{WORDS[now.ended[trial]]:>13}  {self._names[trial]}  ({place} of {now.total})")
                if why := now.failed.get(trial):
                    self._say(f"{'':>13}  {why}")
            if time.monotonic() - self._spoke > PLAIN_EVERY_S:
                self._say(status_line(view))

    def note(self, line: str) -> None:
        """See ``monitor.live_state.Display``."""
        with self._turn:
            self._say(line)

    def _say(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)


def _say_last(console: Console, view: SweepView | None) -> None:
    """Print how many trials ended in which state, after the last redraw: nothing runs any more, whatever ended it."""
    if view is None:
        return
    standing = view.status.counts
    if cut_off := standing["running"]:
        at_rest = {**standing, "running": 0, "waiting": standing["waiting"] + cut_off}
        view = replace(view, status=replace(view.status, counts=at_rest, running=()))
    said = f"{counts(view)}, {cut_off} of those cut off" if cut_off else counts(view)
    console.print(said, highlight=False, markup=False, soft_wrap=True)


def display(console: Console, names: Mapping[str, str]) -> LiveDisplay | PlainDisplay:
    """The display for this kind of output."""
    return LiveDisplay(console, names) if console.is_terminal else PlainDisplay(console, names)
