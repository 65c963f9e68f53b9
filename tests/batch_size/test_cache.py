"""One world on disk: replayed, torn, shared by two processes, begun anew."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.batch_size.devices import GIB, Device, demand_of, question, told
from vlmprof.batch_size import cache
from vlmprof.batch_size.cache import CacheFile, parse_entries, read_about
from vlmprof.batch_size.coordinator import ProbeCoordinator

DEMAND = demand_of(blocks=2.0, crops=3.0)
ABOUT = {"gpu": "Some GPU", "torch": "2.13.0"}


def settle(journal: CacheFile, device: Device, requester: str = "a") -> int:
    """Drive a journal to an answer, as the facade does."""
    asked = question(DEMAND, device.total, device.floor, requester=requester)
    for now in range(0, 3000, 100):  # so that a lease that was cut off is over
        with journal.current() as book:
            answer, entries = book.ask(asked, float(now))
            journal.append(entries)
        if answer.action == "use":
            return answer.size
        with journal.current() as book:
            journal.append(book.tell(told(asked, answer, device.probe(DEMAND, answer.size))))
    raise AssertionError("never settles")


def journal_at(path: Path) -> CacheFile:
    return CacheFile(path, ABOUT, ProbeCoordinator())


def test_what_is_on_disk_is_known_to_the_next_process(tmp_path: Path) -> None:
    path, device = tmp_path / "w-1.jsonl", Device()
    size = settle(journal_at(path), device)
    probes = device.probes
    assert settle(journal_at(path), device, requester="b") == size
    assert device.probes == probes
    assert read_about(path) == ABOUT


def test_two_processes_see_each_other_at_once(tmp_path: Path) -> None:
    path, device = tmp_path / "w-1.jsonl", Device()
    one, two = journal_at(path), journal_at(path)
    asked = question(DEMAND, device.total, device.floor)
    with one.current() as book:
        answer, entries = book.ask(asked, 0.0)
        one.append(entries)
    with two.current() as book:
        assert book.ask(replace(asked, requester="b"), 1.0)[0].action == "wait"
    with one.current() as book:
        one.append(book.tell(told(asked, answer, device.probe(DEMAND, answer.size))))
    with two.current() as book:
        assert answer.size in book.observations.configurations[asked.configuration].peaks


@given(cut=st.integers(1, 400), noise=st.binary(max_size=40))
@settings(max_examples=25, deadline=None)
def test_a_torn_end_costs_what_was_torn_and_no_more(
    tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn") / "w-1.jsonl"
    device = Device()
    size = settle(journal_at(path), device)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut] + noise.replace(b"\n", b""))
    again = settle(journal_at(path), device, requester="b")
    assert again == pytest.approx(size, rel=0.1)
    left = whole[:-cut]
    untouched = left[: left.rfind(b"\n") + 1]
    healed = path.read_bytes()
    assert healed.startswith(untouched) and healed.endswith(b"\n")
    behind = healed[len(untouched) :].split(b"\n")[1:-1]  # without the line that was torn
    for line in behind:
        json.loads(line)  # raises where another line than the torn one was damaged


def test_files_keep_the_keys_that_earlier_versions_wrote_and_read(tmp_path: Path) -> None:
    path = tmp_path / "w-1.jsonl"
    size = settle(journal_at(path), Device())
    head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert head.keys() == {"kind", "format", "id", "about"} and head["kind"] == "world"
    by_kind = {line["kind"]: line for line in lines}
    assert by_kind["lease"].keys() == {"kind", "configuration", "asker", "token", "until"}
    assert by_kind["told"].keys() == {
        *("kind", "id", "world", "configuration", "demand", "size", "outcome", "worst_case", "token", "peak_bytes"),
        *("phases", "floor_bytes", "usable_bytes", "predicted_bytes", "seconds"),
    }
    assert by_kind["told"]["world"] == "w"
    coordinator = ProbeCoordinator()
    for line in lines:
        coordinator.apply(line)
    assert size in coordinator.observations.configurations[str(DEMAND)].peaks


def test_a_damaged_line_in_the_middle_is_passed_over() -> None:
    good = b'{"kind": "lease", "configuration": "c", "asker": "a", "token": 1, "until": 5.0}'
    assert [entry["token"] for entry in parse_entries(b"{not json\n" + good + b"\n[1]\n")] == [1]


def test_tokens_stay_ahead_of_those_before_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "w-1.jsonl"
    asked = question(DEMAND, 80 * GIB, 15 * GIB)
    tokens = []
    for now in (0.0, 100.0, 200.0):
        journal = journal_at(path)
        with journal.current() as book:
            answer, entries = book.ask(replace(asked, requester=str(now)), now)
            journal.append(entries)
        tokens.append(answer.token)
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("began_anew", [False, True])
def test_what_was_cleared_is_forgotten_by_those_who_had_read_it(tmp_path: Path, began_anew: bool) -> None:
    device, path = Device(), tmp_path / "w-1.jsonl"
    journal = journal_at(path)
    settle(journal, device)
    assert cache.clear(tmp_path, "w") == ["w-1"]
    smaller = Device(total=60 * GIB)
    if began_anew:
        for requester in "bcdefg":  # more lines than there were before
            settle(journal_at(path), smaller, requester)
    with journal.current() as book:
        known = [size for one in book.observations.configurations.values() for size in one.peaks]
    assert sorted(known) == sorted(smaller.ran.get(DEMAND, set()))


def test_a_stale_world_says_where_to_start_and_nothing_more(tmp_path: Path) -> None:
    device = Device()
    grid = [demand_of(blocks=float(b), crops=float(c)) for b in (1, 2, 3) for c in (1, 2, 3)]
    old = ProbeCoordinator()
    for demand in grid:
        device.settle(old, demand)
    first = cache.open_cache_file(tmp_path, "w-1", ABOUT)
    with first.current() as book:
        for demand in grid:
            asked = question(demand, device.total, device.floor)
            while (given := book.ask(asked, 0.0))[0].action == "probe":
                first.append(given[1])
                first.append(book.tell(told(asked, given[0], device.probe(demand, given[0].size))))
    fresh, stale = ProbeCoordinator(), cache.open_cache_file(tmp_path, "w-2", ABOUT)
    probes = {}
    for name, book in (("fresh", fresh), ("stale", None)):
        before = device.probes
        if book is not None:
            device.settle(book, grid[4])
        else:
            with stale.current() as known:
                answer = device.settle(known, grid[4])
                assert answer.source == "probed"
        probes[name] = device.probes - before
    assert 1 <= probes["stale"] < probes["fresh"]


def test_worlds_are_listed_kept_with_results_results_and_taken_back(tmp_path: Path) -> None:
    device = Device()
    settle(CacheFile(tmp_path / "atlas" / "w-1.jsonl", ABOUT, ProbeCoordinator()), device)
    (world,) = cache.summaries(tmp_path / "atlas")
    assert (world.memory_key, world.about, world.configurations) == ("w-1", ABOUT, 1)
    assert world.probes == device.probes
    worlds = cache.files_used(tmp_path / "atlas", 0.0)
    cache.add_missing(tmp_path / "elsewhere", worlds)
    assert [one.memory_key for one in cache.summaries(tmp_path / "elsewhere")] == ["w-1"]
    assert not cache.files_used(tmp_path / "atlas", world.last_used + 10)


def test_what_is_adopted_never_takes_the_place_of_what_is_known(tmp_path: Path) -> None:
    settle(journal_at(tmp_path / "w-1.jsonl"), Device())
    before = (tmp_path / "w-1.jsonl").read_bytes()
    cache.add_missing(tmp_path, {"w-1.jsonl": b"{}\n", "../w-3.jsonl": b"{}\n", "w-2.txt": b""})
    assert (tmp_path / "w-1.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w-1.jsonl", "w-1.lock"]
    assert not (tmp_path.parent / "w-3.jsonl").exists()
