"""Results through a log: what comes is what was sent, in its place, or nothing is written."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import trial_row
from vlmprof.errors import NothingYet, StoreError, UserError
from vlmprof.store import tables
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.filesystem import ResultsFolder, results_folder
from vlmprof.store.heartbeat import HEARTBEAT, Heartbeat, write_heartbeat
from vlmprof.store.ledger import read_states
from vlmprof.store.ledger_log import SegmentLog
from vlmprof.submit import export
from vlmprof.submit import fetch as fetching
from vlmprof.submit.export import ID, KINDS, MARK, PIECE_BYTES, clean, pieces
from vlmprof.submit.fetch import FetchResult, Unpacker, _require_usable, inside
from vlmprof.submit.submission import of_details


def results(folder: Path, name: str = "mine", crops: tuple[int, ...] = (1, 4)) -> Path:
    collector = Collector(folder, name, wait_s=1)
    collector.open_run([], {})
    for value in crops:
        row = trial_row({"max_crops": value})
        collector.finish(TrialResult(trial=row["trial"], knobs=("max_crops",), state="done", row=row))
    collector.close()
    return folder


def text_of(folder: Path, have: dict[str, str] | None = None) -> str:
    said = "".join(f"{MARK}{json.dumps(piece)}\n" for piece in pieces(folder, have or {}))
    return f"Running entrypoint for job x\n{said}"


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.suffix in KINDS and path.name != ".writer.json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_comes_is_what_was_sent_in_whatever_pieces(tmp_path: Path) -> None:
    there, here = results(tmp_path / "there"), tmp_path / "here"
    (there / ".writer.json").write_text("not for others")
    write_heartbeat(there, Heartbeat(time=1.0, beat=1))
    (there / "large.json").write_bytes(b"0123456789" * 20_000)
    text = text_of(there)
    assert text.count('"is": "data"') > 200_000 // PIECE_BYTES
    unpacker = Unpacker(here)
    for start in range(0, len(text), 997):
        unpacker.take(text[start : start + 997])
    assert unpacker.files == unpacker.new_files == len(digests(here)) and digests(here) == digests(there)
    assert tables.read(here, "trials").equals(tables.read(there, "trials"))
    assert [path.name for path in here.rglob(".*")] == [HEARTBEAT], "the sign of life comes along"


def test_again_only_what_is_new_comes(tmp_path: Path) -> None:
    there, here = results(tmp_path / "there"), tmp_path / "here"
    Unpacker(here).take(text_of(there))
    results(there, crops=(9,))
    unpacker = Unpacker(here)
    unpacker.take(text_of(there, digests(here)))
    assert unpacker.new_files == 2, "one trial, and the ledger"
    assert digests(here) == digests(there)


def test_a_stream_that_breaks_off_lists_nothing_that_did_not_come(tmp_path: Path) -> None:
    there = results(tmp_path / "there", crops=tuple(range(1, 9)))
    text = text_of(there)
    for share in (0.2, 0.5, 0.9, 0.99):
        here = tmp_path / f"here{share}"
        unpacker = Unpacker(here)
        unpacker.take(text[: int(len(text) * share)])
        assert unpacker.files == 0
        assert not (here / "ledger.jsonl").exists()
        kept = digests(here)
        assert kept == {name: digest for name, digest in digests(there).items() if name in kept}


@given(st.data())
def test_damage_never_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    there = tmp_path_factory.getbasetemp() / "damaged-there"
    if not there.exists():
        results(there)
    lines = text_of(there).splitlines(keepends=True)
    at = data.draw(st.sampled_from([i for i, line in enumerate(lines) if '"is": "data"' in line]))
    piece = json.loads(lines[at].removeprefix(MARK))
    content = bytearray(base64.b64decode(piece["base64"]))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    lines[at] = f"{MARK}{json.dumps({**piece, 'base64': base64.b64encode(content).decode()})}\n"
    unpacker = Unpacker(tmp_path_factory.mktemp("here"))
    with pytest.raises(UserError, match=r"arrived damaged"):
        unpacker.take("".join(lines))


@pytest.mark.parametrize(
    "name",
    ["../x.json", "/etc/x.json", "a/../../x.json", ".ssh/x.json", "x/.hidden.json", ".x.json", f"trials/{HEARTBEAT}",
     "x.pkl", "x.py", "x", "", "..",
     "a\\..\\x.json", "x.json\0.parquet", "trials/x.parquet.sh"],
)  # fmt: skip
def test_a_cluster_cannot_write_outside_the_folder_nor_anything_but_results(tmp_path: Path, name: str) -> None:
    content = b"evil"
    sent: list[dict[str, Any]] = [
        {"is": "file", "name": name, "bytes": 4, "sha256": hashlib.sha256(content).hexdigest()},
        {"is": "data", "base64": base64.b64encode(content).decode()},
        {"is": "whole", "name": name},
    ]
    folder = tmp_path / "here"
    folder.mkdir()
    with pytest.raises(UserError, match=r"no results folder contains; it was not written"):
        Unpacker(folder).take("".join(f"{MARK}{json.dumps(piece)}\n" for piece in sent))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_link_in_the_folder_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "trials").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"leads out of .* by a link"):
        inside(tmp_path / "here", "trials/x.parquet")


def test_a_trial_that_ends_while_the_folder_is_read_is_left_for_the_next_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here, names = results(tmp_path / "there"), tmp_path / "here", export._names
    late = [(9,), (16,)]

    def slow(place: ResultsFolder) -> list[str]:
        results(there, crops=late.pop())
        return names(place)

    monkeypatch.setattr(export, "_names", slow)
    Unpacker(here).take(text_of(there))
    assert len(late) == 1
    listed = {trial for trial, state in read_states(here).items() if state == "done"}
    assert len(listed) == 2 and listed == set(tables.read(here, "trials")["trial"])


def test_a_ledger_in_parts_comes_as_one_file(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    lines = [json.dumps({"event": "sweep", "name": "mine", "number": n}).encode() + b"\n" for n in range(5)]
    segments = SegmentLog(results_folder(there), 1, lines[:2])
    for line in lines[2:]:
        segments.append(line)
    segments.close()
    assert not (there / "ledger.jsonl").exists()
    unpacker = Unpacker(here)
    unpacker.take(text_of(there))
    assert unpacker.files == 1 and (here / "ledger.jsonl").read_bytes() == b"".join(lines)


def test_a_sweep_is_followed_until_it_has_ended_and_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends, answers, told = [False, False, True], [None, 3, 5], []

    class Played:
        def info(self, id_: str) -> Any:
            return SimpleNamespace(ended=ends.pop(0))

    def play(jobs: Any, submission: Any, folder: Path) -> FetchResult:
        if (files := answers.pop(0)) is None:
            raise NothingYet("no sweep has begun")
        return FetchResult(files=files, new_files=1, bytes=1, source="")

    monkeypatch.setattr(fetching, "fetch", play)
    monkeypatch.setattr(fetching, "FOLLOW_S", 0)
    fetching.follow(Played(), SimpleNamespace(id="x"), tmp_path, lambda got: told.append(got.files))
    assert told == [3, 5] and not ends


def test_logs_of_earlier_exports_do_not_pile_up_on_the_head(tmp_path: Path) -> None:
    names = [f"job-driver-{ID}{n}.log" for n in ("old", "young", "own")] + ["job-driver-small-0123456789.log", "x.log"]
    for name in names:
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0) if "young" not in name else None)
    clean(tmp_path / f"job-driver-{ID}own.log")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(name for name in names if "old" not in name)


def test_a_folder_without_a_sweep_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sweep has begun"):
        Unpacker(tmp_path / "here").take(text_of(tmp_path))


def test_only_a_folder_of_the_same_sweep_is_written_over(tmp_path: Path) -> None:
    class Details:
        submission_id, metadata, status, message = "mine-0123456789-r3", {"name": "mine"}, "SUCCEEDED", ""
        start_time, end_time, driver_exit_code = 1000, 2000, 0

    submission = of_details(Details())
    assert (submission.base, submission.attempt, submission.took_s) == ("mine-0123456789", 3, 1.0)
    _require_usable(tmp_path / "new", submission)
    _require_usable(results(tmp_path / "same"), submission)
    with pytest.raises(StoreError, match=r"holds another sweep \(other\)"):
        _require_usable(results(tmp_path / "other", name="other"), submission)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match=r"exists and holds no sweep"):
        _require_usable(tmp_path / "home", submission)
