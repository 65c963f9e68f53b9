"""``Watcher``: a sweep as it goes, from its folder alone, so on any machine that sees the folder.

What the terminal, the JSON and the page show is one ``SweepView``; none of them counts anything by itself.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import pandas as pd

from vlmprof.analyze.comparability import groups
from vlmprof.analyze.pareto import DEFAULT_OBJECTIVES, Objective, pareto, parse_objectives, quality_column
from vlmprof.analyze.status import SweepStatus, status
from vlmprof.errors import UserError
from vlmprof.store import tables
from vlmprof.store.filesystem import Where
from vlmprof.store.heartbeat import Heartbeat, read_heartbeat
from vlmprof.store.schema import knobs_of

SHARE = 0.1
"""Of a watcher's time, for reading tables: thousands of trials take seconds to read, and the sweep needs the disk."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLeft:
    """How long a sweep still takes, and on what that rests."""

    seconds: float
    give_or_take: float | None
    """Half of a 95 % interval, seconds; None with fewer than three trials to go by."""
    basis: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One finished configuration: a coordinate an objective, and None where an interval has no end."""

    trial: str
    knobs: Mapping[str, str]
    values: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    on_front: bool


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFront:
    """The front of one group of comparable trials, so far."""

    group: str
    objectives: tuple[Objective, ...]
    spots: tuple[FrontPoint, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SweepView:
    """A sweep at one moment."""

    status: SweepStatus
    pulse: Heartbeat | None
    left: TimeLeft | None
    fronts: tuple[GroupFront, ...]
    front_note: str
    """Why there is no front, or what it leaves out; empty when there is nothing to say."""

    def to_json(self) -> dict[str, Any]:
        """For machines: plain values, and no number where none is known."""
        told = asdict(self)
        last = self.status.last_time
        told["status"] |= {
            "total": self.status.total,
            "finished": self.status.finished,
            "life": self.status.life,
            "last_time": last.isoformat() if last else None,
        }
        if self.status.sign != "alive" and told["pulse"]:
            told["pulse"] |= {"running": {}, "samples_per_s": None}
        return told


@final
class Watcher:
    """Looks at one folder again and again, and reads no more than has changed."""

    def __init__(self, folder: Where, clock: Callable[[], float] = time.monotonic) -> None:
        """Looks at nothing yet."""
        self._folder, self._clock = folder, clock
        self._beat: int | None = None
        self._changed = -math.inf
        self._fronts: tuple[tuple[GroupFront, ...], str] = ((), "no trial has finished")
        self._seen: Any = None
        self._not_before = -math.inf

    def look(self) -> SweepView:
        """The sweep now.

        Raises:
            StoreError: the folder holds no sweep.
        """
        pulse = read_heartbeat(self._folder)
        now = status(self._folder, heard_s=self._heard_s(pulse))
        self._read_fronts((now.counts["done"], now.counts["oom"], now.counts["failed"], len(now.seconds_of_ended)))
        fronts, note = self._fronts
        return SweepView(status=now, pulse=pulse, left=time_left(now, pulse), fronts=fronts, front_note=note)

    def _heard_s(self, pulse: Heartbeat | None) -> float | None:
        """Seconds since the pulse was seen to change, by this machine's clock; None where it never was."""
        if pulse is not None and self._beat is not None and pulse.beat != self._beat:
            self._changed = self._clock()
        self._beat = pulse.beat if pulse else None
        return self._clock() - self._changed if math.isfinite(self._changed) else None

    def _read_fronts(self, ended: Any) -> None:
        began = self._clock()
        if ended == self._seen or began < self._not_before:
            return
        try:
            self._fronts = fronts_of(tables.read(self._folder, "trials"))
        except UserError as error:
            self._fronts = (), str(error)
        self._seen = ended
        took = self._clock() - began
        self._not_before = self._clock() + took * (1 / SHARE - 1)


def time_left(now: SweepStatus, pulse: Heartbeat | None) -> TimeLeft | None:
    """How long the rest takes if it is like what ended in this run; None where nothing says.

    The interval is that of a sum of independent trials with a mean that is itself estimated:
    1.96 s sqrt(k + k^2 / n) for k trials to come and n known ones with standard deviation s.
    """
    took, waiting = now.seconds_of_ended, now.counts["waiting"]
    if now.sign != "alive" or pulse is None or not took or not (waiting or now.running):
        return None
    mean, lanes = statistics.fmean(took), max(1, len(now.running))
    # A trial that has outlasted the mean is near no end that we know of: a tenth more is a guess, and small.
    under_way = [max(mean - one.seconds, mean / 10) for one in pulse.running.values()]
    seconds = max([(waiting * mean + sum(under_way)) / lanes, *under_way])
    to_come, known = waiting + len(under_way), len(took)
    spread = 1.96 * statistics.stdev(took) * math.sqrt(to_come + to_come**2 / known) / lanes if known > 2 else None
    at_once = f", {lanes} at a time" if lanes > 1 else ""
    ended = f"the {known} trials that ended in this run" if known > 1 else "the one trial that ended in this run"
    return TimeLeft(seconds=seconds, give_or_take=spread, basis=f"{ended} took {mean:.3g} s on average{at_once}")


def fronts_of(trials: pd.DataFrame) -> tuple[tuple[GroupFront, ...], str]:
    """The front of each group so far, and what is to be said of it.

    Raises:
        UserError: finished trials that lack an objective, as with ``pareto``.
    """
    if not (trials["state"] == "done").any():
        return (), "no trial has finished"
    defaults = [quality_column(trials) if name == "accuracy" else name for name in DEFAULT_OBJECTIVES]
    measured = [name for name in defaults if trials.loc[trials["state"] == "done", name].notna().any()]
    objectives = parse_objectives(measured or DEFAULT_OBJECTIVES, trials.attrs["schema"])
    frame = pareto(trials, objectives)
    left_out = ", ".join(f"{count} {state}" for state, count in frame.attrs["left_out"].items())
    found = tuple(_front_of(name, part, objectives) for name, part in groups(frame))
    return found, f"left out: {left_out}" if left_out else ""


def _front_of(name: str, part: pd.DataFrame, objectives: Sequence[Objective]) -> GroupFront:
    knobs = [knob for knob in knobs_of(part.columns) if part[f"knob_{knob}"].notna().any()]
    spots = tuple(_spot(row, knobs, objectives) for _, row in part.iterrows())
    return GroupFront(group=name, objectives=tuple(objectives), spots=spots)


def _spot(row: pd.Series[Any], knobs: Sequence[str], objectives: Sequence[Objective]) -> FrontPoint:
    return FrontPoint(
        trial=row["trial"],
        knobs={knob: _text(row[f"requested_{knob}"]) for knob in knobs},
        values=tuple(float(row[one.column]) for one in objectives),
        low=tuple(_number(row.get(f"{one.column}_low")) for one in objectives),
        high=tuple(_number(row.get(f"{one.column}_high")) for one in objectives),
        on_front=bool(row["on_front"]),
    )


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _text(value: Any) -> str:
    return "-" if value is None or pd.isna(value) else str(value)
