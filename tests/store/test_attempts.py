"""Whatever dies, repeats itself or comes late: each sample is kept once, and only its owner speaks for a trial."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.builders import trial_row
from vlmprof.errors import StoreError, Superseded
from vlmprof.store import tables
from vlmprof.store.attempts import MAX_QUARANTINED, SUSPECT_AFTER, AttemptStart, Chunk
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.ledger import read

SAMPLES = [f"q{number}" for number in range(6)]


def row(sample: str, error: str | None = None) -> dict[str, Any]:
    return {"sample": sample, "text": "yes", "ids": (5,), "end": "eos", "tokens": 1, "batch_size": 2, "error": error}


def chunk(begun: AttemptStart, number: int, *samples: str, trial: str = "abc", **fields: Any) -> Chunk:
    rows = tuple(row(sample) for sample in samples)
    return Chunk(**{"trial": trial, "attempt": begun.attempt, "number": number, "rows": rows, "seconds": 1.0, **fields})


def result(state: Any = "done", trial: str = "abc", **fields: Any) -> TrialResult:
    told = {**trial_row({"max_crops": 4}, state=state), "trial": trial}
    return TrialResult(trial=trial, knobs=("max_crops",), state=state, row=told, **fields)


def kept(begun: AttemptStart) -> list[str]:
    return [str(one["sample"]) for each in begun.chunks for one in each.rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def collector(folder: Path) -> Any:
    writer = Collector(folder, "mine", wait_s=0.1)
    writer.open_run(["abc"], {})
    yield writer
    writer.close()


def again(collector: Collector, folder: Path) -> Collector:
    """As after kill -9 of its process."""
    collector._ledger.close()
    collector._lease._released.set()  # no heartbeat any more, and no word that it let go
    collector._lease._lock.release()
    return Collector(folder, "mine", wait_s=0.1)


def test_the_next_attempt_is_given_what_the_last_one_kept(collector: Collector, folder: Path) -> None:
    first = collector.begin("abc")
    assert (first.number, first.chunks) == (1, ())
    collector.keep(chunk(first, 0, "q0", "q1"))
    collector.keep(chunk(first, 1, "q2"))
    collector.died("abc")
    second = collector.begin("abc")
    assert second.number == 2 and kept(second) == ["q0", "q1", "q2"]
    assert second.chunks[0].rows[0]["ids"] == [5] and second.chunks[0].seconds == 1.0
    collector.finish(result(), second.attempt)
    assert not list((folder / "chunks").iterdir()), "they are in the tables now"


def test_the_data_come_before_the_line(collector: Collector, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, seen = collector.begin("abc"), []
    monkeypatch.setattr(tables, "write", lambda *told: seen.append([e["event"] for e in read(folder)]))
    collector.keep(chunk(begun, 0, "q0"))
    assert seen == [["sweep", "started"]]
    assert [entry["event"] for entry in read(folder)][-1] == "chunk"


def test_who_was_overtaken_is_refused(collector: Collector) -> None:
    zombie = collector.begin("abc")
    owner = collector.begin("abc")
    for say in (
        lambda: collector.keep(chunk(zombie, 0, "q0")),
        lambda: collector.under_way("abc", zombie.attempt, ["q0"]),
        lambda: collector.finish(result(), zombie.attempt),
        lambda: collector.begin("abc", zombie.attempt),
    ):
        with pytest.raises(Superseded):
            say()
    collector.finish(result(), owner.attempt)
    with pytest.raises(Superseded):
        collector.keep(chunk(owner, 0, "q0"))
    assert collector.begin("abc").state == "done", "there is nothing left to do"


def test_a_call_that_comes_twice_changes_nothing(collector: Collector, folder: Path) -> None:
    begun = collector.begin("abc", "token")
    for _ in range(2):
        assert collector.begin("abc", "token").number == 1
        collector.keep(chunk(begun, 0, "q0"))
    collector.finish(result(), begun.attempt)
    collector.finish(result(), begun.attempt)
    assert [entry["event"] for entry in read(folder)] == ["sweep", "started", "chunk", "done"]


def test_the_sweep_s_verdict_does_not_overrule_a_result(collector: Collector) -> None:
    begun = collector.begin("abc")
    collector.finish(result("done"), begun.attempt)
    collector.finish(result("failed"))
    assert collector.settled() == {"abc": "done"}


def test_answers_of_other_software_are_forgotten(collector: Collector) -> None:
    begun = collector.begin("abc", software="torch 1")
    collector.keep(chunk(begun, 0, "q0", software="torch 1"))
    assert kept(collector.begin("abc", software="torch 1")) == ["q0"]
    begun = collector.begin("abc", software="torch 2")
    assert kept(begun) == []
    collector.keep(chunk(begun, 0, "q0", software="torch 2"))
    assert kept(collector.begin("abc", software="torch 2")) == ["q0"]


@pytest.mark.parametrize("distrusted", [False, True])
def test_a_failure_keeps_answers_but_not_those_that_are_not_to_be_trusted(
    collector: Collector, distrusted: bool
) -> None:
    begun = collector.begin("abc")
    collector.keep(Chunk(trial="abc", attempt=begun.attempt, number=0, rows=(row("q0"), row("q1", "gone")), seconds=1))
    assert kept(collector.begin("abc")) == ["q0", "q1"], "within one run a broken sample stays broken"
    collector.finish(result("failed", distrusted=distrusted))
    collector.open_run(["abc"], {})
    assert kept(collector.begin("abc")) == ([] if distrusted else ["q0"]), "what failed is tried again"


def test_a_sample_that_kills_alone_is_found_in_three_deaths(collector: Collector, folder: Path) -> None:
    for death in range(SUSPECT_AFTER):
        begun = collector.begin("abc")
        assert begun.alone == frozenset()
        collector.under_way("abc", begun.attempt, ["q0", "q1"])
        found = collector.died("abc")
        assert found is not None and found.progress == (0 if death == 0 else 2)
    begun = collector.begin("abc")
    assert begun.alone == {"q0", "q1"}
    collector.under_way("abc", begun.attempt, ["q1"])
    collector.dying("abc", begun.attempt, "timed out: no progress for 5 s")
    collector.died("abc")
    collector = again(collector, folder)
    begun = collector.begin("abc")
    assert begun.quarantined == {"q1": "timed out: no progress for 5 s"} and begun.alone == {"q0"}
    collector.finish(result("failed"), begun.attempt)
    collector.open_run(["abc"], {})
    begun = collector.begin("abc")
    assert not begun.quarantined and begun.alone == {"q0", "q1"}, "a new run tries it once more, by itself"
    collector.close()


def test_a_batch_of_one_that_kills_twice_is_found_in_two(collector: Collector) -> None:
    for _ in range(SUSPECT_AFTER):
        begun = collector.begin("abc")
        collector.under_way("abc", begun.attempt, ["q0"])
        collector.died("abc")
    assert set(collector.begin("abc").quarantined) == {"q0"}


def test_a_death_between_batches_and_the_end_of_a_run_blame_nobody(collector: Collector) -> None:
    for _ in range(4):
        begun = collector.begin("abc")
        collector.under_way("abc", begun.attempt, ["q0"])
        collector.under_way("abc", begun.attempt, [])
        collector.died("abc")
        begun = collector.begin("abc")
        collector.under_way("abc", begun.attempt, ["q0"])
        collector.open_run(["abc"], {})  # the driver was killed, not the process
        assert collector.died("abc") is None
    begun = collector.begin("abc")
    assert not begun.quarantined and not begun.alone


def test_a_killer_from_outside_blames_no_sample(collector: Collector, folder: Path) -> None:
    for _ in range(2 * SUSPECT_AFTER):
        begun = collector.begin("abc")
        collector.under_way("abc", begun.attempt, ["q0"])
        death = collector.died("abc", "its host was short of memory")
        assert death is not None and (death.reason, death.under_way) == ("its host was short of memory", ())
    begun = collector.begin("abc")
    assert not begun.quarantined and not begun.alone
    collector.dying("abc", begun.attempt, "timed out")
    death = collector.died("abc", "its host was short of memory")
    assert death is not None and death.reason == "timed out", "what it said itself is nearer"


def test_a_configuration_that_kills_with_every_sample_is_no_matter_of_samples(collector: Collector) -> None:
    for sample in range(MAX_QUARANTINED + 3):
        for _ in range(SUSPECT_AFTER):
            begun = collector.begin("abc")
            collector.under_way("abc", begun.attempt, [f"q{sample}"])
            collector.died("abc")
    assert len(collector.begin("abc").quarantined) == MAX_QUARANTINED


def test_a_damaged_chunk_is_named_and_one_that_is_gone_is_answered_again(collector: Collector, folder: Path) -> None:
    begun = collector.begin("abc")
    collector.keep(chunk(begun, 0, "q0"))
    collector.keep(chunk(begun, 1, "q1"))
    first, second = sorted((folder / "chunks").iterdir())
    first.unlink()
    assert kept(collector.begin("abc")) == ["q1"]
    second.write_bytes(b"PAR1 torn")
    with pytest.raises(StoreError, match="is damaged"):
        collector.begin("abc")


def test_after_a_write_that_failed_nothing_is_written_and_every_call_says_why(
    collector: Collector, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = collector.begin("abc")

    def full(*told: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write", full)
        with pytest.raises(StoreError, match="No space left on device"):
            collector.keep(chunk(begun, 0, "q0"))
    before = (folder / "ledger.jsonl").read_bytes()
    for say in (lambda: collector.finish(result(), begun.attempt), lambda: collector.begin("def")):
        with pytest.raises(StoreError, match="No space left on device"):
            say()
    assert "No space left" in collector.broken
    assert (folder / "ledger.jsonl").read_bytes() == before
    again(collector, folder).close()


def test_a_folder_that_was_taken_away_is_not_made_anew(collector: Collector, folder: Path) -> None:
    collector.begin("abc")
    folder.rename(folder.with_name("moved"))
    with pytest.raises(StoreError, match="is gone"):
        collector.finish(result())
    assert not folder.exists()


class Service(RuleBasedStateMachine):
    """Two trials, any number of processes that think they run them, and a collector that may die at any time."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        for old in [*self.folder.rglob("*.parquet"), *self.folder.glob("ledger.jsonl")]:
            old.unlink()
        self.collector = Collector(self.folder, "mine", wait_s=1)
        self.collector.open_run(["a", "b"], {})
        self.attempts: list[tuple[str, AttemptStart]] = []
        self.owner: dict[str, str] = {}
        self.sent: dict[tuple[str, str], list[Chunk]] = {}
        self.truth: dict[str, list[str]] = {"a": [], "b": []}
        self.done: set[str] = set()

    def teardown(self) -> None:
        self.collector.close()

    @rule(trial=st.sampled_from("ab"))
    def begin(self, trial: str) -> None:
        begun = self.collector.begin(trial)
        if trial in self.done:
            assert begun.state == "done"
            return
        assert sorted(kept(begun)) == sorted(self.truth[trial])
        self.attempts.append((trial, begun))
        self.owner[trial] = begun.attempt

    @rule(data=st.data(), samples=st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=3, unique=True))
    def keep(self, data: Any, samples: list[str]) -> None:
        """Any process, overtaken or not, sends what it scored of what it was not given."""
        if not self.attempts:
            return
        trial, begun = data.draw(st.sampled_from(self.attempts))
        sent = self.sent.setdefault((trial, begun.attempt), [])
        given = {*kept(begun), *(str(one["sample"]) for each in sent for one in each.rows)}
        fresh = chunk(begun, len(sent), *[one for one in samples if one not in given], trial=trial)
        if not fresh.rows:
            return
        owns = self.owner.get(trial) == begun.attempt and trial not in self.done
        try:
            self.collector.keep(fresh)
            assert owns
            sent.append(fresh)
            self.truth[trial] += [str(one["sample"]) for one in fresh.rows]
        except Superseded:
            assert not owns

    @rule(data=st.data())
    def repeat(self, data: Any) -> None:
        """A call that was in flight when the collector died comes once more."""
        sent = [each for chunks in self.sent.values() for each in chunks]
        if sent:
            try:
                self.collector.keep(data.draw(st.sampled_from(sent)))
            except Superseded:
                return

    @rule(trial=st.sampled_from("ab"))
    def worker_dies(self, trial: str) -> None:
        self.collector.died(trial)
        self.owner.pop(trial, None)

    @rule()
    def collector_dies(self) -> None:
        self.collector = again(self.collector, self.folder)

    @rule()
    def driver_dies(self) -> None:
        self.collector = again(self.collector, self.folder)
        assert self.collector.open_run(["a", "b"], {}) == self.done
        self.owner.clear()

    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        if not self.attempts:
            return
        trial, begun = data.draw(st.sampled_from(self.attempts))
        owns = self.owner.get(trial) == begun.attempt
        try:
            self.collector.finish(result(trial=trial), begun.attempt)
            assert owns or trial in self.done
            self.done.add(trial)
        except Superseded:
            assert not owns or trial in self.done

    @invariant()
    def each_sample_is_kept_once(self) -> None:
        for trial in {"a", "b"} - self.done:
            assert len(set(self.truth[trial])) == len(self.truth[trial])


def test_any_interleaving_of_chunks_deaths_and_repeats_keeps_each_sample_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a process that is killed loses nothing that it has written

    class Here(Service):
        folder = tmp_path / "results"

    Here.folder.mkdir()
    quick = settings(
        max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(Here, settings=quick)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(data=st.data())
def test_a_ledger_torn_anywhere_gives_back_a_beginning_of_what_was_kept(tmp_path: Path, data: Any) -> None:
    folder = tmp_path / "results"
    for old in [*folder.rglob("*.parquet"), *folder.glob("ledger.jsonl")]:
        old.unlink()
    writer = Collector(folder, "mine", wait_s=1)
    writer.open_run(["abc"], {})
    begun = writer.begin("abc")
    for number, sample in enumerate(SAMPLES):
        writer.keep(chunk(begun, number, sample))
    writer.close()
    raw = (folder / "ledger.jsonl").read_bytes()
    (folder / "ledger.jsonl").write_bytes(raw[: data.draw(st.integers(raw.index(b"\n") + 1, len(raw)))])
    writer = Collector(folder, "mine", wait_s=1)
    given_back = kept(writer.begin("abc"))
    writer.close()
    assert given_back == SAMPLES[: len(given_back)]
