import io

from rich.console import Console

from vlmprof.monitor.live_state import Snapshot
from vlmprof.report.run_display import LiveDisplay, PlainDisplay, display
from vlmprof.trial.progress import Progress

NAMES = {"a": "demo top_k=1", "b": "demo top_k=4"}
SCORING = Progress(phase="score", done=8, total=40)


def shown(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100), text


def test_a_pipe_gets_a_line_when_a_trial_ends_and_only_one() -> None:
    console, text = shown(terminal=False)
    with display(console, NAMES) as told:
        assert isinstance(told, PlainDisplay)
        for _ in range(3):
            told.update(Snapshot(total=3, skipped=1, settled={"a": "done"}, running={"b": SCORING}))
        told.update(Snapshot(total=3, skipped=1, settled={"a": "done", "b": "failed"}))
    lines = text.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["done", "failed"]
    assert "(2 of 3)" in lines[0]


def test_a_terminal_gets_a_line_for_each_running_trial_and_a_bar_with_the_time_left() -> None:
    console, text = shown(terminal=True)
    with display(console, NAMES) as told:
        assert isinstance(told, LiveDisplay)
        told.update(Snapshot(total=4, skipped=1, settled={"a": "oom"}, running={"b": SCORING}))
        told._live.refresh()
    drawn = text.getvalue()
    assert "demo top_k=4" in drawn and "score 8/40" in drawn
    assert "2/4" in drawn
    assert "1 out of memory" in drawn and "left" in drawn


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
