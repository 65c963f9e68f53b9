"""``Watcher``: follows a running sweep through its results folder, from any machine that sees the folder.

What the terminal, the JSON and the page show is one ``SweepView``; none of them counts anything by itself. The display
of ``vlmprof run`` is given one too, by ``monitor.live_state``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np
import pandas as pd

from vlmprof.analyze import wording
from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.objectives import Objective
from vlmprof.analyze.pareto import Front, fronts
from vlmprof.analyze.status import SweepStatus, status
from vlmprof.analyze.time_left import TimeLeft, time_left
from vlmprof.errors import UserError
from vlmprof.store import tables
from vlmprof.store.filesystem import Where
from vlmprof.store.heartbeat import BEAT_S, Heartbeat, read_heartbeat
from vlmprof.store.schema import knobs_of

DOMINATED_SHOWN = 1000
"""Of a group; the spots on the front are all there."""
SHARE = 0.1
"""Of a watcher's time, for reading tables: thousands of trials take seconds to read, and the sweep needs the disk."""


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
    marks: Mapping[str, str] = field(default_factory=dict)
    """Knob -> the mark that follows its value in every table, such as ``=``; most have none."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFront:
    """The current front of one group of comparable trials."""

    group: str
    objectives: tuple[Objective, ...]
    spots: tuple[FrontPoint, ...]
    beware: tuple[str, ...] = ()
    """The cautions that ``pareto`` prints below its table."""
    legend: tuple[str, ...] = ()
    """What the marks of the spots on the front mean."""
    not_shown: int = 0
    """Dominated configurations that have no spot here, since thousands look like a few hundred."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SweepView:
    """A sweep at one moment."""

    status: SweepStatus
    heartbeat: Heartbeat | None
    left: TimeLeft | None
    fronts: tuple[GroupFront, ...] = ()
    front_note: str = ""
    """Why there is no front, or what it leaves out; empty when there is nothing to say."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values; null where a number is not known."""
        told = asdict(self)
        last = self.status.last_time
        told["status"] |= {
            "total": self.status.total,
            "finished": self.status.finished,
            "life": self.status.life,
            "last_time": last.isoformat() if last else None,
        }
        del told["status"]["ended"]  # a line a trial; the counts and the reasons of failures say what a page needs
        if self.left:
            told["left"] |= {"low": self.left.low, "high": self.left.high}
        if self.status.sign != "alive" and told["heartbeat"]:
            told["heartbeat"] |= {"running": {}, "samples_per_s": None}
        return told


@final
class Watcher:
    """Reads one folder repeatedly, and only what has changed in it."""

    def __init__(self, folder: Where, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is read yet."""
        self._folder, self._clock = folder, clock
        self._beat: int | None = None
        self._changed = -math.inf
        self._fronts: tuple[tuple[GroupFront, ...], str] = ((), "no trial has finished")
        self._seen: Any = None
        self._not_before = -math.inf

    def look(self) -> SweepView:
        """The sweep as it is now.

        Raises:
            StoreError: the folder holds no sweep.
        """
        heartbeat = read_heartbeat(self._folder)
        now = status(self._folder, heard_s=self._heard_s(heartbeat))
        ended = now.counts["done"], now.counts["oom"], now.counts["failed"], len(now.seconds_of_ended)
        self._read_fronts(ended, at_once=now.sign in ("ended", "none"))  # what is seen last has to be the truth
        fronts, note = self._fronts
        return SweepView(
            status=now, heartbeat=heartbeat, left=time_left(now, heartbeat), fronts=fronts, front_note=note
        )

    def _heard_s(self, heartbeat: Heartbeat | None) -> float | None:
        """Seconds since the heartbeat was last seen to change, by this machine's clock; None if it never was.

        One that is dated in the future counts as changed when it is first seen: it then has as long as any to change.
        """
        first = heartbeat is not None and self._beat is None and heartbeat.is_of_the_future(time.time())
        if first or (heartbeat is not None and self._beat is not None and heartbeat.beat != self._beat):
            self._changed = self._clock()
        self._beat = heartbeat.beat if heartbeat else None
        return self._clock() - self._changed if math.isfinite(self._changed) else None

    def _read_fronts(self, ended: Any, *, at_once: bool) -> None:
        began = self._clock()
        if ended == self._seen or (began < self._not_before and not at_once):
            return
        try:
            self._fronts = fronts_of(tables.read(self._folder, "trials"))
        except UserError as error:
            self._fronts = (), str(error)
        self._seen = ended
        took = self._clock() - began
        self._not_before = self._clock() + took * (1 / SHARE - 1)


def standing(folder: Where) -> SweepView:
    """The sweep in a folder now, without its fronts.

    Where its heartbeat is dated in the future, a second look shows whether it changes.

    Raises:
        StoreError: the folder holds no sweep.
    """
    heartbeat, heard_s = read_heartbeat(folder), None
    if heartbeat is not None and heartbeat.is_of_the_future(time.time()) and not heartbeat.closed:
        time.sleep(1.5 * BEAT_S)
        before, heartbeat = heartbeat, read_heartbeat(folder)
        heard_s = 0.0 if heartbeat is not None and heartbeat.beat != before.beat else None
    now = status(folder, heard_s=heard_s)
    return SweepView(status=now, heartbeat=heartbeat, left=time_left(now, heartbeat))


def fronts_of(trials: pd.DataFrame) -> tuple[tuple[GroupFront, ...], str]:
    """The current fronts, as ``pareto`` prints them, and a note about what is on none.

    Raises:
        UserError: no finished trial measured what a front needs, as with ``pareto``.
    """
    found = fronts(trials)
    left_out = f"left out: {found.left_out_words}" if found.left_out else ""
    if not found.fronts:
        return (), "; ".join(filter(None, ["no trial has finished", left_out]))
    return tuple(_front_of(front) for front in found.fronts), left_out


def _front_of(front: Front) -> GroupFront:
    part = front.rows
    knobs = [knob for knob in knobs_of(part.columns) if part[f"knob_{knob}"].notna().any()]
    shown = _shown(part)
    spots = tuple(_spot(row, knobs, front.objectives) for _, row in shown.iterrows())
    beware = (*cautions(part), *part.attrs.get("mixed", ()))
    legend = wording.legend(mark for spot in spots if spot.on_front for mark in spot.marks.values())
    return GroupFront(
        group=front.name,
        objectives=front.objectives,
        spots=spots,
        beware=beware,
        legend=legend,
        not_shown=len(part) - len(shown),
    )


def _shown(part: pd.DataFrame) -> pd.DataFrame:
    """All on the front, and of the others evenly so many that a page can draw them."""
    others = np.flatnonzero(~part["on_front"].to_numpy(dtype=bool))
    if len(others) <= DOMINATED_SHOWN:
        return part
    chosen = others[np.linspace(0, len(others) - 1, DOMINATED_SHOWN).round().astype(int)]
    return part.iloc[np.union1d(chosen, np.flatnonzero(part["on_front"].to_numpy(dtype=bool)))]


def _spot(row: pd.Series[Any], knobs: Sequence[str], objectives: Sequence[Objective]) -> FrontPoint:
    return FrontPoint(
        trial=row["trial"],
        knobs={knob: wording.setting(row, knob) for knob in knobs},
        values=tuple(float(row[one.column]) for one in objectives),
        low=tuple(_number(row.get(f"{one.column}_low")) for one in objectives),
        high=tuple(_number(row.get(f"{one.column}_high")) for one in objectives),
        on_front=bool(row["on_front"]),
        marks={knob: mark for knob in knobs if (mark := wording.mark(row, knob))},
    )


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
