import io
import re
import time

import pytest
from rich.console import Console

from tests.builders import combined_sweep, trial_row, write_results
from vlmprof.analyze.watch_state import Watcher
from vlmprof.report.status_screen import duration, status_line, status_screen
from vlmprof.store.heartbeat import Heartbeat, RunningTrial, write_heartbeat
from vlmprof.store.ledger import Ledger


def folder_with(tmp_path, *, age_s=1.0, running=("r",)):
    """Sixteen done, one failed with brackets in its reason, some under way, two waiting."""
    write_results(tmp_path, combined_sweep())
    ledger = Ledger(tmp_path)
    ledger.append("sweep", name="combined", trials=[*running, "f", "w", "v"], time="2026-08-01T12:00:00+00:00")
    ledger.append("failed", trial="f", error="[enforce fail at alloc.cpp]", seconds=2.0)
    for trial in running:
        ledger.append("started", trial=trial)
    ledger.close()
    under_way = {
        trial: RunningTrial(name=f"demo {trial} [x]", phase="score", done=8, total=40, seconds=3.0) for trial in running
    }
    write_heartbeat(tmp_path, Heartbeat(time=time.time() - age_s, beat=1, running=under_way, samples_per_s=4.25))
    return Watcher(tmp_path).look()


def drawn(view, width=100):
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=False)
    console.print(status_screen(view, width))
    return text.getvalue()


def test_a_screen_says_all_that_is_known(tmp_path):
    said = drawn(folder_with(tmp_path))
    assert "combined  running, last sign of life 1 s ago" in said
    assert "16 of 20 trials done, 2 waiting, 1 running, 1 failed" in said
    assert re.search(r"4.25 samples/s, about \d s left, 0 s to \d+ s \(mean of 1 ended trial: 2 s\)", said)
    assert "demo r [x]" in said and "score 8/40" in said
    assert "failed f: [enforce fail at alloc.cpp]" in said
    assert "front so far: MolmoE-1B-0924" in said and "accuracy" in said
    assert "[0." in said and "±" not in said


def test_a_dead_driver_runs_nothing(tmp_path):
    view = folder_with(tmp_path, age_s=95)
    said = drawn(view)
    assert "no sign of life for 95 s" in said
    assert "1 cut off; run the job again to go on" in said
    assert "samples/s" not in said and "score 8/40" not in said and "left" not in said.split("front")[0]
    assert "no sign of life for 95 s" in status_line(view)


def test_a_line_for_a_log(tmp_path):
    said = status_line(folder_with(tmp_path))
    assert said.startswith("16 of 20 trials done, 2 waiting, 1 running, 1 failed  |  4.25 samples/s")
    assert said.endswith("demo r [x] score 8/40")


def test_many_trials_do_not_fill_the_screen(tmp_path):
    said = drawn(folder_with(tmp_path, running=tuple(f"r{i}" for i in range(40))))
    assert "and 28 more" in said
    assert len(said.splitlines()) < 40


def test_before_anything_has_ended(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append("sweep", name="x", trials=["a"])
    ledger.append("started", trial="a")
    ledger.close()
    write_heartbeat(tmp_path, Heartbeat(time=time.time(), beat=1))
    said = drawn(Watcher(tmp_path).look())
    assert "time left not known: no trial has ended in this run" in said
    assert "no trial has finished" in said


def test_a_metric_without_intervals_and_a_knob_that_a_trial_lacks(tmp_path):
    rows = [trial_row({"max_crops": 1}, accuracy_low=None, accuracy_high=None), trial_row({"moe_top_k": 2})]
    write_results(tmp_path, rows)
    said = drawn(Watcher(tmp_path).look(), width=160)
    assert "0.500" in said and " - " in said


@pytest.mark.parametrize(("seconds", "words"), [(9.4, "9 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (0, "0 s")])
def test_durations(seconds, words):
    assert duration(seconds) == words
