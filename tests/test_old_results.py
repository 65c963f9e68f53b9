"""Results of an earlier version are read, plotted and resumed.

``fixtures/before_restructuring`` was written by the version before packages and modules were renamed: a sweep of the
demo model over four configurations, killed in the middle of the third. Its folder was another one, which is gone, and
the process that held the folder's lease ran on another machine.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

import vlmprof
from tests.sweep.sweeps import starts
from vlmprof.measure.versions import software
from vlmprof.plots.plot import render
from vlmprof.store import lease
from vlmprof.store.lease import LeaseTimings
from vlmprof.store.ledger import read

WRITTEN = Path(__file__).parent / "fixtures" / "before_restructuring"
FIRST, SECOND, THIRD, FOURTH = TRIALS = ("23a64d16e43b", "3e565d06d598", "8fb86cbd44f7", "997430196edd")
KEPT = 8
"""Answers of the third trial in its two chunks; it asks 24 questions."""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> vlmprof.Results:
    """A copy, with the last heartbeat an hour ago by this machine's clock, whatever that of the writer was."""
    monkeypatch.setattr(lease, "TIMINGS", LeaseTimings(beat_s=0.1, stale_s=1.0, poll_s=0.1, settle_s=0.3))
    folder = tmp_path / "moved"
    shutil.copytree(WRITTEN, folder)
    beat = json.loads((folder / ".progress.json").read_text())
    (folder / ".progress.json").write_text(json.dumps({**beat, "time": time.time() - 3600}))
    monkeypatch.chdir(tmp_path)
    return vlmprof.load("moved")


def test_the_fixture_is_whole() -> None:
    held = sorted(str(path.relative_to(WRITTEN)) for path in WRITTEN.rglob("*") if path.is_file())
    assert len(held) == 14 and {".progress.json", ".writer.lock", ".writer/000001.claim", "job.yaml"} < set(held)
    cwd = next(line["cwd"] for line in read(WRITTEN) if line["event"] == "sweep")
    assert cwd and not (Path(cwd) / "results" / "moved").exists()


def test_it_is_read(old: vlmprof.Results) -> None:
    status = old.status()
    assert status.name == "before-restructuring" and status.finished == 2 and status.total == 4
    assert status.cut_off == (THIRD,) and status.sign == "silent" and not status.without_row
    assert old.trials["trial"].tolist() == [FIRST, SECOND]
    assert old.trials["requested_moe_top_k"].tolist() == ["2", "8"]
    assert old.samples.groupby("trial").size().to_dict() == {FIRST: 24, SECOND: 24}
    assert (old.timings["end_to_end_ms"] > 0).all()
    whole = old.front(dominated=True)
    assert set(whole["trial"]) == {FIRST, SECOND} and whole["on_front"].any()
    assert "2 of 4 trials finished" in old._repr_html_()


def test_it_is_plotted(old: vlmprof.Results, tmp_path: Path) -> None:
    drawn = render(old.where, tmp_path / "figures")
    assert "pareto_front.png" in [path.name for path in drawn]
    assert all(path.stat().st_size > 1000 for path in drawn)


def test_its_job_gives_the_trials_it_had(old: vlmprof.Results) -> None:
    assert {plan.id for plan in old.job().plans} == set(TRIALS)
    states = vlmprof.list_trials(old.job()).set_index("trial")["state"]
    assert states.to_dict() == {FIRST: "done", SECOND: "done", THIRD: "started", FOURTH: "missing"}


def test_the_same_file_gives_them_too_and_says_so(old: vlmprof.Results, tmp_path: Path) -> None:
    """Run again in place of resumed; with other values, or where nothing was begun, the defaults of today."""
    text = f"{(old.folder / 'job.yaml').read_text()}storage: {old.folder}\n"
    again = vlmprof.check(text)
    assert {plan.id for plan in again.plans} == set(TRIALS)
    assert any("exclusive: True" in note and "begun by an earlier version" in note for note in again.notes)
    assert again.submitted.text == text
    other = vlmprof.check(text.replace("timing: {", "timing: {exclusive: auto, energy_seconds: 3, "))
    assert not {plan.id for plan in other.plans} & set(TRIALS) and not other.notes
    fresh = vlmprof.check(text.replace(str(old.folder), str(tmp_path / "fresh")))
    assert {plan.timing.exclusive for plan in fresh.plans} == {"auto"} and not fresh.notes


def test_it_is_resumed(old: vlmprof.Results) -> None:
    ledger = old.folder / "ledger.jsonl"
    (written_by,) = {line["software"] for line in read(WRITTEN) if "software" in line}
    # Answers of other versions of torch, transformers or vlmprof are not gone on from, by intent: here they are equal.
    ledger.write_text(ledger.read_text().replace(written_by, software()))
    before = old.trials.set_index("trial")
    assert vlmprof.run(old.job(), inline=True) == old
    assert starts(old.folder) == [FIRST, SECOND, THIRD, THIRD, FOURTH]
    after = old.trials.set_index("trial")
    assert after.index.tolist() == [*TRIALS] and set(after["state"]) == {"done"}
    assert before["latency_ms_p50"].to_dict() == after["latency_ms_p50"][[FIRST, SECOND]].to_dict()
    assert after["samples_resumed"].to_dict() == {FIRST: 0, SECOND: 0, THIRD: KEPT, FOURTH: 0}
    assert old.samples.groupby("trial")["sample"].nunique().to_dict() == dict.fromkeys(TRIALS, 24)
    assert len(old.samples) == 4 * 24
    assert old.status().finished == 4 and not [*(old.folder / "chunks").glob("*.parquet")]
    assert set(vlmprof.list_trials(old.job())["state"]) == {"done"}, "nothing is missing"
