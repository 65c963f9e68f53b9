"""Files that are deleted, torn, truncated or garbage: the trial is missing and runs again, the rest is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders import combined_sweep
from tests.store.folders import KINDS, place_of
from vlmprof.analyze.comparability import LOST
from vlmprof.analyze.status import status
from vlmprof.report.pareto_table import read_front
from vlmprof.store import lease, tables
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.filesystem import ResultsFolder
from vlmprof.store.lease import LeaseTimings
from vlmprof.store.lost_trials import _sound, lost_trials, read_states


@pytest.fixture(autouse=True)
def quick_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store is written to by one process here: nobody's late claim is waited for."""
    monkeypatch.setattr(lease, "TIMINGS", LeaseTimings(beat_s=0.1, stale_s=1.5, poll_s=0.05, settle_s=0.3))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:8] + bytes(byte ^ 0xFF for byte in data[8:middle]) + data[middle:]


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-1],
    "text": lambda data: b"garbage\n" * 40,
    "zeros": lambda data: bytes(len(data)),
    "flipped": flipped,
}


def results_of(rows: list[dict[str, object]]) -> list[TrialResult]:
    sample = {"sample": "s1", "prediction": "a", "score": 1.0}
    return [
        TrialResult(
            trial=str(row["trial"]),
            knobs=("max_crops", "moe_top_k", "active_blocks"),
            state="done",
            row={**row, "samples": 40, "repeats": 20},
            samples=tuple({"trial": row["trial"], **sample, "sample": f"s{n}"} for n in range(40)),
            timings=tuple({"trial": row["trial"], "repeat": n, "end_to_end_ms": 1.0} for n in range(20)),
        )
        for row in rows
    ]


def swept(place: ResultsFolder) -> list[TrialResult]:
    found = results_of(combined_sweep())
    writer = Collector(place, "mine", wait_s=0.1)
    writer.open_run([one.trial for one in found], {})
    for one in found:
        writer.finish(one)
    writer.close()
    return found


def own(place: ResultsFolder, table: str, trial: str) -> str:
    return next(f"{table}/{name}" for name in place.names(table) if name.startswith(trial))


def overwrite(place: ResultsFolder, name: str, harm: Callable[[bytes], bytes]) -> None:
    data = place.read(name)
    assert data is not None
    place.rewrite(name, harm(data))


@pytest.mark.parametrize("table", ["trials", "samples", "timings"])
@pytest.mark.parametrize(
    ("kind", "harm"),
    [*(("disk", harm) for harm in [*HARMS, "deleted"]), ("objects", "truncated"), ("objects", "deleted")],
)
def test_a_lost_trial_is_missing_and_the_rest_is_read(
    kind: str, table: str, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(kind, tmp_path / "results", monkeypatch)
    trials = [one.trial for one in swept(place)]
    assert lost_trials(place) == [] and status(place).counts["done"] == 16
    victim = trials[5]
    if harm == "deleted":
        place.remove(own(place, table, victim))
    else:
        overwrite(place, own(place, table, victim), HARMS[harm])
    assert lost_trials(place) == [victim]
    assert read_states(place).keys() == set(trials) - {victim}
    said = status(place)
    assert (said.finished, said.counts["waiting"], said.total) == (15, 1, 16)
    assert any(what == f"lost {victim}" for what, _ in said.lines())
    front = read_front(place)
    assert len(front) == (15 if table == "trials" else 16)
    assert front.attrs["left_out"] == ({LOST: 1} if table == "trials" else {})
    writer = Collector(place, "mine", wait_s=0.1)
    assert writer.open_run(trials, {}) == set(trials) - {victim}
    begun = writer.begin(victim)
    assert begun.state is None
    again = next(one for one in results_of(combined_sweep()) if one.trial == victim)
    writer.finish(again, begun.attempt)
    writer.close()
    assert lost_trials(place) == [] and len(tables.read(place, table)["trial"].unique()) == 16
    assert status(place).finished == 16


@pytest.mark.parametrize("table", ["trials", "samples", "timings"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_the_content_of_another_trials_is_damaged(
    kind: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(kind, tmp_path / "results", monkeypatch)
    trials = [one.trial for one in swept(place)]
    other = place.read(own(place, table, trials[6]))
    assert other is not None
    place.rewrite(own(place, table, trials[5]), other)
    _sound.clear()  # two writes in one tick of the object store's clock look alike
    assert lost_trials(place) == [trials[5]]
    read = tables.read(place, table)
    assert sorted(read["trial"].unique()) == sorted(set(trials) - {trials[5]})
    assert len(read) == len(read.drop_duplicates()), "no row counts twice"


@pytest.mark.parametrize(
    ("table", "rows"),
    [("trials", [0, 0]), ("trials", []), ("samples", list(range(20))), ("samples", []), ("timings", [])],
)
def test_a_table_with_rows_too_few_or_too_many_is_not_a_whole_trial(
    table: str, rows: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of("disk", tmp_path / "results", monkeypatch)
    victim = swept(place)[5].trial
    sound = pq.read_table(pa.BufferReader(place.read(own(place, table, victim))))
    place.rewrite(own(place, table, victim), tables.parquet_bytes(sound.take(pa.array(rows, pa.int64()))).to_pybytes())
    assert lost_trials(place) == [victim]
    assert list(tables.read(place, "trials")["trial"]).count(victim) == (0 if table == "trials" else 1)


@pytest.mark.parametrize("harm", [b"\xff", b"[1]", b"{"])
def test_a_damaged_heartbeat_or_claim_keeps_nobody_out(
    harm: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of("disk", tmp_path / "results", monkeypatch)
    trials = [one.trial for one in swept(place)]
    for file in (tmp_path / "results" / lease.CLAIMS).iterdir():
        file.write_bytes(harm)
    writer = Collector(place, "mine", wait_s=5)
    assert writer.open_run(trials, {}) == set(trials)
    writer.close()


@pytest.mark.parametrize("kind", KINDS)
def test_all_trials_in_a_merged_object_are_lost_with_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmprof.store.compaction.MERGE_BATCH", 8)
    place = place_of(kind, tmp_path / "results", monkeypatch)
    trials = [one.trial for one in swept(place)]
    merged = [f"trials/{name}" for name in place.names("trials") if name.startswith("merged")]
    assert len(merged) == 2
    overwrite(place, merged[0], HARMS["truncated"])
    assert len(lost_trials(place)) == 8
    assert status(place).finished == 8 and len(read_front(place)) == 8
    writer = Collector(place, "mine", wait_s=0.1)
    assert len(writer.open_run(trials, {})) == 8
    for one in results_of(combined_sweep()):
        if writer.begin(one.trial).state is None:
            writer.finish(one)
    writer.close()
    assert lost_trials(place) == [] and len(tables.read(place, "trials")) == 16


def test_a_damaged_object_is_not_merged_and_stops_no_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of("disk", tmp_path / "results", monkeypatch)
    trials = [one.trial for one in swept(place)]
    overwrite(place, own(place, "trials", trials[0]), HARMS["text"])
    monkeypatch.setattr("vlmprof.store.compaction.MERGE_BATCH", 8)
    writer = Collector(place, "mine", wait_s=0.1)
    writer.open_run([], {})
    further = results_of(combined_sweep(sweep="more"))
    writer.finish(next(one for one in further if one.trial not in trials))
    writer.close()
    assert len(tables.read(place, "trials")) == 16 and lost_trials(place) == [trials[0]]
