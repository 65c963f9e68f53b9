"""A running sweep on the terminal: progress, running trials, time left and the current front.

``vlmprof run`` shows ``progress_screen``; ``status --watch`` shows it with the fronts. Both are given a ``SweepView``.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vlmprof.analyze.objectives import Objective
from vlmprof.analyze.status import PHASES, WORDS
from vlmprof.analyze.time_left import TimeLeft
from vlmprof.analyze.watch_state import FrontPoint, GroupFront, SweepView
from vlmprof.analyze.wording import with_interval, with_unit
from vlmprof.store.heartbeat import RunningTrial

MANY = 12
"""Lines of running trials, and of a front: a screen has some forty."""
COLOURS = {"alive": "green", "ended": "blue", "silent": "bold red", "none": "yellow"}


def status_screen(view: SweepView, width: int) -> RenderableType:
    """One screen."""
    now = view.status
    head = Text.assemble((now.name or "sweep", "bold"), "  ", (now.life, COLOURS[now.sign]))
    parts: list[RenderableType] = [head, progress_screen(view, width)]
    if now.cut_off:
        parts.append(Text(f"{len(now.cut_off)} cut off; run the job again to go on", style="yellow"))
    parts += _failed(view)
    parts += [part for front in view.fronts for part in _front(front)]
    if view.front_note:
        parts.append(Text(f"\n{view.front_note}", style="dim"))
    return Group(*parts)


def progress_screen(view: SweepView, width: int) -> RenderableType:
    """Progress, time left and running trials."""
    now = view.status
    bar = ProgressBar(total=max(1, now.total), completed=now.finished + now.counts["failed"], width=min(40, width // 3))
    row = Table.grid(padding=(0, 2))
    row.add_row(bar, Text(counts(view)))
    return Group(row, *([Text(words, style="dim")] if (words := pace(view)) else []), *_running(view))


def status_line(view: SweepView) -> str:
    """The same in one line, for a log."""
    running = "; ".join(f"{one.name} {_far(one)}" for one in _alive(view).values())
    parts = [counts(view), pace(view), view.status.life if view.status.sign != "alive" else "", running]
    return "  |  ".join(part for part in parts if part)


def counts(view: SweepView) -> str:
    """The number of trials in each state."""
    now = view.status
    states = [f"{now.counts[phase]} {WORDS[phase]}" for phase in PHASES if phase != "done" and now.counts[phase]]
    return ", ".join([f"{now.counts['done']} of {now.total} trials done", *states])


def pace(view: SweepView) -> str:
    """Samples per second, and the time left with its basis."""
    parts = []
    if view.status.sign == "alive" and view.heartbeat and view.heartbeat.samples_per_s is not None:
        parts.append(f"{view.heartbeat.samples_per_s:.3g} samples/s")
    if view.left:
        parts.append(left_words(view.left))
    elif view.status.sign == "alive" and view.status.running:
        parts.append("time left not known: no trial has ended in this run")
    return ", ".join(parts)


def left_words(left: TimeLeft) -> str:
    """The estimate with its range and its basis."""
    return f"about {duration(left.seconds)} left, {duration(left.low)} to {duration(left.high)} ({left.basis})"


def duration(seconds: float) -> str:
    """A duration in words: ``2 h 05 min``, ``3 min 20 s``, ``9 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _alive(view: SweepView) -> dict[str, RunningTrial]:
    return dict(view.heartbeat.running) if view.heartbeat and view.status.sign == "alive" else {}


def _far(one: RunningTrial) -> str:
    far = f"{one.phase} {one.done}/{one.total}" if one.total > 1 else one.phase
    return f"{far}, {one.note}" if one.note else far


def _running(view: SweepView) -> Iterator[RenderableType]:
    running = list(_alive(view).values())
    if not running:
        return
    table = Table("\nrunning", "", "", box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for one in running[:MANY]:
        table.add_row(Text(one.name), Text(_far(one), style="cyan"), Text(duration(one.seconds), style="dim"))
    yield table
    if len(running) > MANY:
        yield Text(f"and {len(running) - MANY} more", style="dim")


def _failed(view: SweepView) -> Iterator[RenderableType]:
    failed = list(view.status.failed)
    for trial in failed[:3]:
        yield Text(f"failed {trial}: {view.status.why(trial)}", style="yellow", no_wrap=True, overflow="ellipsis")
    if len(failed) > 3:
        yield Text(f"and {len(failed) - 3} more failed; 'vlmprof status' without --watch lists them", style="yellow")


def _front(front: GroupFront) -> Iterator[RenderableType]:
    best = [spot for spot in front.spots if spot.on_front]
    yield Text(
        f"\nfront so far: {front.group} ({len(best)} of {len(front.spots) + front.not_shown} finished; [95 %])",
        style="bold",
    )
    table = Table(box=None, header_style="dim", pad_edge=False)
    knobs = list(best[0].knobs)
    for header in (*knobs, *(with_unit(one) for one in front.objectives)):
        table.add_column(header, justify="right", no_wrap=True)
    for spot in best[:MANY]:
        table.add_row(
            *(Text(spot.knobs[knob] + spot.marks.get(knob, "")) for knob in knobs),
            *_values(spot, front.objectives),
            style="green",
        )
    yield table
    if len(best) > MANY:
        yield Text(f"and {len(best) - MANY} more; 'vlmprof pareto' shows all", style="dim")
    for sentence in front.legend:
        yield Text(sentence, style="dim")
    for sentence in front.beware:
        yield Text(f"beware: {sentence}", style="yellow")


def _values(spot: FrontPoint, objectives: tuple[Objective, ...]) -> Iterator[Text]:
    for value, low, high, one in zip(spot.values, spot.low, spot.high, objectives, strict=True):
        yield Text(with_interval(value, low, high, one.unit))
