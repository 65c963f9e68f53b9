"""The display of a run: live on a terminal, in lines elsewhere."""

import contextlib
import io

from rich.console import Console

from vlmprof.analyze.status import SweepStatus
from vlmprof.analyze.time_left import TimeLeft
from vlmprof.analyze.watch_state import SweepView
from vlmprof.report.run_display import LiveDisplay, PlainDisplay, display
from vlmprof.store.heartbeat import Heartbeat, RunningTrial

NAMES = {"a": "demo top_k=1", "b": "demo top_k=4"}
SCORING = RunningTrial(name="demo top_k=4", phase="score", done=8, total=40, seconds=3.0)
LEFT = TimeLeft(seconds=200.0, give_or_take=80.0, basis="from the work of 1 ended trial")


def shown(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100), text


def view(*, total, earlier=0, running=(), left=None, **ended) -> SweepView:
    """So many trials, of which an earlier run did some and this one ended these."""
    states = list(ended.values())
    counts = {state: states.count(state) for state in ("done", "oom", "failed")}
    counts["done"] += earlier
    counts |= {"running": len(running), "waiting": total - len(running) - sum(counts.values())}
    status = SweepStatus(name="x", counts=counts, sign="alive", running=tuple(running), ended=ended)
    heartbeat = Heartbeat(time=0.0, beat=1, running=dict.fromkeys(running, SCORING))
    return SweepView(status=status, heartbeat=heartbeat, left=left)


def test_a_pipe_gets_a_line_when_a_trial_ends_and_only_one() -> None:
    console, text = shown(terminal=False)
    with display(console, NAMES) as told:
        assert isinstance(told, PlainDisplay)
        for _ in range(3):
            told.update(view(total=3, earlier=1, a="done", running="b"))
        told.update(view(total=3, earlier=1, a="done", b="failed"))
    lines = text.getvalue().splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["done", "failed"]
    assert "(2 of 3)" in lines[0] and "(3 of 3)" in lines[1]
    assert lines[2:] == ["2 of 3 trials done, 1 failed"]


def test_a_terminal_gets_a_line_for_each_running_trial_and_a_bar_with_the_time_left() -> None:
    console, text = shown(terminal=True)
    with display(console, NAMES) as told:
        assert isinstance(told, LiveDisplay)
        told.update(view(total=4, earlier=1, a="oom", running="b", left=LEFT))
        told._live.refresh()
    drawn = text.getvalue()
    assert "demo top_k=4" in drawn and "score 8/40" in drawn
    assert "1 of 4 trials done" in drawn and "1 out of memory" in drawn
    assert "about 3 min 20 s left, 2 min 00 s to 4 min 40 s" in drawn


def test_the_last_line_says_how_all_trials_ended() -> None:
    for terminal in (False, True):
        console, text = shown(terminal)
        with display(console, NAMES) as told:
            told.update(view(total=12, earlier=10, a="done", running="b", left=LEFT))
            told.update(view(total=12, earlier=10, a="done", b="done"))
        last = text.getvalue().rstrip().splitlines()[-1]
        assert last.endswith("12 of 12 trials done")
        assert "left" not in last


def test_a_trial_that_was_cut_off_is_not_said_to_run() -> None:
    for terminal in (False, True):
        console, text = shown(terminal)
        with contextlib.suppress(KeyError), display(console, NAMES) as told:
            told.update(view(total=4, a="done", running="b"))
            raise KeyError("the folder is gone")
        last = text.getvalue().rstrip().splitlines()[-1]
        assert last.endswith("1 of 4 trials done, 3 waiting, 1 of those cut off")


def test_a_run_that_never_began_says_nothing() -> None:
    console, text = shown(terminal=False)
    with display(console, NAMES):
        pass
    assert text.getvalue() == ""


def test_a_note_is_read_on_both() -> None:
    for terminal in (False, True):
        console, text = shown(terminal)
        with display(console, NAMES) as told:
            told.note("something happened")
        assert "something happened" in text.getvalue()


def test_brackets_in_a_reason_are_words_and_no_style() -> None:
    reason = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
    for terminal in (False, True):
        console, text = shown(terminal)
        with display(console, NAMES) as told:
            told.note(reason)
        assert reason in text.getvalue()
