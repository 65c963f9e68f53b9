"""One folder, five readers: the table of ``pareto``, the screen, the page, ``status`` and a notebook say the same."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.builders import combined_sweep, trial_row, write_results
from vlmprof import api
from vlmprof.analyze.watch_state import SweepView, Watcher
from vlmprof.cli import app
from vlmprof.report import server
from vlmprof.report.pareto_table import front_report, read_front
from vlmprof.report.status_screen import left_words, status_screen
from vlmprof.store.heartbeat import Heartbeat, RunningTrial, write_heartbeat
from vlmprof.store.ledger import Ledger

INTERVAL = re.compile(r"\d+\.\d+ \[\d+\.\d+, \d+\.\d+\]")
PAGE = Path(__file__).with_name("page.mjs")
NODE = shutil.which("node")
WIDE_INTERVAL = {"latency_ms_p50": 56.1, "latency_ms_p50_low": 50.1, "latency_ms_p50_high": 283.0}
"""Half its width is more than the value: a ``±`` would say that it may be negative."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that runs: sixteen done, each with a caution, one running, one waiting, one failed."""
    folder = tmp_path_factory.mktemp("agreement")
    rows = combined_sweep(canary_drift_session=0.02, canary_ms_p50=3.0)
    rows[0] |= WIDE_INTERVAL
    write_results(folder, rows)
    ledger = Ledger(folder)
    ledger.append("sweep", name="combined", trials=["r", "w", "f"], time="2026-08-01T12:00:00+00:00")
    ledger.append("failed", trial="f", error="RuntimeError: no", seconds=20.0, point='max_crops=7 dtype="float16"')
    ledger.append("started", trial="r")
    ledger.close()
    beat(folder)
    return folder


def beat(folder: Path) -> None:
    """The sweep lives, however long the tests before this one took."""
    running = {"r": RunningTrial(name="demo r", phase="score", done=8, total=40, seconds=3.0)}
    write_heartbeat(folder, Heartbeat(time=time.time(), beat=1, running=running, not_begun=1))


@pytest.fixture(scope="module")
def view(folder: Path) -> SweepView:
    return Watcher(folder).look()


def printed(*parts: object) -> str:
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=False)
    for part in parts:
        console.print(part)
    return text.getvalue()


def table(folder: Path, view: SweepView) -> str:
    return printed(*front_report(read_front(folder)))


def screen(folder: Path, view: SweepView) -> str:
    return printed(status_screen(view, 200))


def page(folder: Path, view: SweepView) -> str:
    if NODE is None:
        pytest.skip("no node here")
    (folder / "view.json").write_text(json.dumps(view.to_json()))
    script = Path(server.__file__).with_name("watch.js")
    command = [NODE, str(PAGE), str(script), str(folder / "view.json")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def notebook(folder: Path, view: SweepView) -> str:
    return re.sub(r"<[^>]+>", "\n", api.load(folder)._repr_html_()).replace("&#x27;", "'")


READERS: list[Callable[[Path, SweepView], str]] = [table, screen, page, notebook]


@pytest.mark.parametrize("reader", READERS[1:])
def test_intervals_of_the_front_are_those_of_the_table(
    folder: Path, view: SweepView, reader: Callable[[Path, SweepView], str]
) -> None:
    front = [line for line in table(folder, view).splitlines() if line.startswith("●")]
    expected = {interval for line in front for interval in INTERVAL.findall(line)}
    assert len(front) > 3 and expected and "[50.10, 283.00]" in " ".join(expected)
    assert set(INTERVAL.findall(reader(folder, view))) == expected, "and no others"


@pytest.mark.parametrize("reader", READERS)
def test_units_settings_marks_and_cautions_are_the_same_words(
    folder: Path, view: SweepView, reader: Callable[[Path, SweepView], str]
) -> None:
    said = reader(folder, view)
    assert "±" not in said
    assert "prefix 16" in said and '"' not in said and "{" not in said
    assert "latency_ms_p50" in said and re.search(r"latency_ms_p50 \(ms\)| ms \[95 %\]", said), "the unit"
    assert not re.search(r"%\)|fraction", said), "accuracy is a fraction, not a percentage"
    assert "16 of 16 " in said and "the machine drifted by more than 1.5 % while timing" in said
    (group,) = (front.group for front in view.fronts)
    assert group in " ".join(said.split())


@pytest.mark.parametrize("reader", READERS)
def test_a_limit_that_did_not_bind_is_marked(tmp_path: Path, reader: Callable[[Path, SweepView], str]) -> None:
    row = combined_sweep()[-1]
    assert row["effect_max_crops"] == "saturated"
    write_results(tmp_path, [row])
    said = reader(tmp_path, Watcher(tmp_path).look())
    assert re.search(r"\b9=\s", said) and "= saturated: this limit did not bind for any sample" in said


@pytest.mark.parametrize("reader", READERS)
def test_samples_that_were_not_timed_are_told_where_nothing_was_scored(
    tmp_path: Path, reader: Callable[[Path, SweepView], str]
) -> None:
    unscored = {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "samples": 0, "samples_failed": None}
    untimed = [{"samples_untimed": 3, "untimed_set": "abc"}, {"samples_untimed": 0}]
    rows = [
        trial_row({"max_crops": n}, **unscored, **left_out, latency_ms_p50=50.0 * n, peak_bytes=2**30 // n)
        for n, left_out in enumerate(untimed, 1)
    ]
    write_results(tmp_path, rows)
    said = " ".join(reader(tmp_path, Watcher(tmp_path).look()).split())
    assert "in 1 of 2 trials samples could not be given to the model: others were timed" in said
    assert "times are of different samples" in said


@pytest.mark.parametrize("reader", [screen, page])
def test_the_time_left_is_that_of_status(
    folder: Path, view: SweepView, reader: Callable[[Path, SweepView], str]
) -> None:
    beat(folder)
    assert view.left is not None and left_words(view.left) in reader(folder, view)
    told = CliRunner().invoke(app, ["status", str(folder)]).output
    assert left_words(view.left).partition(" (")[0] in told
    for words in ("16 of 19", "1 failed" if reader is screen else "1"):
        assert words in reader(folder, view)
    assert (
        json.loads(CliRunner().invoke(app, ["status", "--json", str(folder)]).output)["left"] == view.to_json()["left"]
    )


@pytest.mark.parametrize("reader", [screen, page, notebook])
def test_a_failure_has_its_reason(folder: Path, view: SweepView, reader: Callable[[Path, SweepView], str]) -> None:
    said = reader(folder, view)
    assert "RuntimeError: no" in said and "max_crops=7 dtype=float16" in said
    assert "RuntimeError: no" in CliRunner().invoke(app, ["status", str(folder)]).output
