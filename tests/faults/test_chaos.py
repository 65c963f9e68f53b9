"""Kills of every kind over one small sweep; the long run is ``python -m tests.faults.chaos``."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.chaos import Plan, as_json, markdown, run
from tests.faults.kills import KINDS, order
from tests.faults.ledger_checks import audit
from tests.faults.writers import write_one
from vlmprof.store.collector import Collector


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_one_kill_of_each_kind_loses_nothing_and_doubles_nothing() -> None:
    plan = Plan(kills=5, seed=3, samples=8, configurations=4, pauses_s=(0.2, 1.5), minutes=8, hurry=True)
    report = run(plan)
    told = json.dumps(as_json(report), indent=1)
    assert report.sound, told
    assert Counter(kill.kind for kill in report.kills) == dict.fromkeys(KINDS, 1)
    assert "| lost | 0 |\n| doubled | 0 |" in markdown(json.loads(told))


def test_kills_come_in_equal_shares_in_a_seeded_order() -> None:
    one, same, other = (order(100, random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert set(Counter(one).values()) == {20}


def test_the_books_see_what_is_lost_and_what_was_done_again(tmp_path: Path) -> None:
    """An auditor that finds nothing is worth nothing unless it can find something."""
    whole, lacking = tmp_path / "whole", tmp_path / "lacking"
    for folder, trials in ((whole, ["a", "b"]), (lacking, ["a"])):
        collector = Collector(folder, "written", wait_s=1)
        collector.open_run(trials, {})
        for trial in trials:
            write_one(collector, trial)
        collector.close()
    assert audit(whole, whole).sound
    books = audit(lacking, whole)
    assert not books.sound
    assert any(lost.startswith("trial b") for lost in books.lost)
    assert any(lost.startswith("sample ('b',") for lost in books.lost)
    assert books.different
    ledger = whole / "ledger.jsonl"
    chunk = {"event": "chunk", "trial": "a", "samples": 41, "file": "a-x-00000", "software": "", "number": 0}
    ledger.write_text(f"{ledger.read_text()}{json.dumps(chunk)}\n")
    assert audit(whole, lacking).kept_twice == ["a: 41 kept of 40"]
    started = next(line for line in ledger.read_text().splitlines() if '"started"' in line and '"a"' in line)
    ledger.write_text(ledger.read_text() + started + "\n")
    assert audit(whole, lacking).rerun == ["a"]
