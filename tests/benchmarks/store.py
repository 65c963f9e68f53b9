"""What the store costs, beside two plain ways of keeping the same rows: one SQLite file, one file of JSON lines.

    python -m tests.benchmarks.store --out store.json                # 10,000 trials: ten minutes on an idle machine
    python -m tests.benchmarks.store --trials 300 --rows 2000        # tries the code

``answers``: a trial sends its answers in chunks, and each is on disk before the next is sent; then the trial ends. Rows
a second, for several chunk sizes. The plain ways commit a chunk by one transaction, or by one write and one fsync.

``trials``: many trials, each one row, committed one by one. Time to keep one, to open the folder and learn what is
done, to read all states, and to read the table; ours before its objects are merged and after. Every way gives back the
same rows, which is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pyarrow as pa

from tests.builders import trial_row
from vlmprof.store import compaction, schema, tables
from vlmprof.store.attempts import Chunk
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.ledger import read_states

CHUNKS = (1, 16, 128, 1024)
KNOBS = ("max_crops", "moe_top_k")


def answer(number: int) -> dict[str, Any]:
    """One row of a chunk, as large as those of a real answer."""
    counts = {name: 2 for name in ("tiling_rows", "tiling_cols", "natural_rows", "natural_cols", "crops", "batch_size")}
    words = {"text": "two red circles", "ids": [17, 4, 99, 2], "end": "eos", "error": None}
    return {
        "sample": f"val/{number:08d}/q1",
        "tokens": 4,
        "vision_tokens": 720,
        "prompt_tokens": 756,
        **counts,
        **words,
    }


def scored(trial: str, number: int) -> dict[str, Any]:
    """The same as a row of ``samples``."""
    return {
        "trial": trial,
        "sample": f"val/{number:08d}/q1",
        "prediction": "two red circles",
        "score": 1.0,
        "end": "eos",
    }


@contextmanager
def folder(base: Path | None) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="vlmprof-store-", dir=base))
    try:
        yield made
    finally:
        shutil.rmtree(made)


class SqliteWay:
    """One SQLite file that survives a loss of power as ours does: a full fsync a transaction."""

    def __init__(self, path: Path) -> None:
        self.base = sqlite3.connect(path)
        self.base.execute("pragma journal_mode=wal")
        self.base.execute("pragma synchronous=full")
        self.base.execute("create table if not exists rows (key text, data text)")

    def commit(self, rows: list[dict[str, Any]], key: str = "") -> None:
        with self.base:
            self.base.executemany("insert into rows values (?, ?)", [(key, json.dumps(row)) for row in rows])

    def states(self) -> dict[str, Any]:
        return {key: json.loads(data)["state"] for key, data in self.base.execute("select key, data from rows")}

    def count(self) -> int:
        return int(self.base.execute("select count(*) from rows").fetchone()[0])

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame([json.loads(data) for (data,) in self.base.execute("select data from rows order by key")])

    def close(self) -> None:
        self.base.close()


class LinesWay:
    """One file of JSON lines, fsynced at every commit."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path.open("ab", buffering=0)

    def commit(self, rows: list[dict[str, Any]], key: str = "") -> None:
        self.file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        os.fsync(self.file.fileno())

    def states(self) -> dict[str, Any]:
        return {row["trial"]: row["state"] for row in map(json.loads, self.path.open())}

    def count(self) -> int:
        return len(self.path.read_bytes().splitlines())

    def frame(self) -> pd.DataFrame:
        rows: list[dict[str, Any]] = [json.loads(line) for line in self.path.open()]
        rows.sort(key=lambda row: str(row["trial"]))
        return pd.DataFrame(rows)

    def close(self) -> None:
        self.file.close()


PlainWay = SqliteWay | LinesWay


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The median of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def answers_of_ours(where: Path, rows: int, size: int) -> float:
    collector = Collector(where, "bench", wait_s=1)
    attempt = collector.begin("a", "one").attempt
    chunks = [range(start, min(start + size, rows)) for start in range(0, rows, size)]
    made = [
        Chunk(trial="a", attempt=attempt, number=n, rows=tuple(map(answer, part)), seconds=1.0)
        for n, part in enumerate(chunks)
    ]
    row = {**trial_row(dict[str, Any].fromkeys(KNOBS, 1)), "trial": "a"}
    samples = tuple(scored("a", number) for number in range(rows))

    def run() -> None:
        for chunk in made:
            collector.keep(chunk)
        collector.finish(TrialResult(trial="a", knobs=KNOBS, state="done", row=row, samples=samples), attempt)

    taken = seconds(run)
    collector.close()
    assert len(tables.read(where, "samples")) == rows
    return taken


def answers_of(way: PlainWay, rows: int, size: int) -> float:
    parts = [[answer(n) for n in range(start, min(start + size, rows))] for start in range(0, rows, size)]
    taken = seconds(lambda: [way.commit(part) for part in parts])
    assert way.count() == rows
    way.close()
    return taken


def answers(rows: int, base: Path | None) -> list[dict[str, Any]]:
    """Rows a second by chunk size."""
    found = []
    for size in CHUNKS:
        some = min(rows, size * 500)  # small chunks take long, and their rate shows soon
        with folder(base) as where:
            ours = answers_of_ours(where / "ours", some, size)
            sqlite = answers_of(SqliteWay(where / "rows.sqlite"), some, size)
            lines = answers_of(LinesWay(where / "rows.jsonl"), some, size)
        rates = {"ours": some / ours, "sqlite": some / sqlite, "json_lines": some / lines}
        found.append({"chunk": size, "rows": some, **{name: round(rate) for name, rate in rates.items()}})
        print(found[-1], flush=True)
    return found


def rows_of(count: int) -> list[dict[str, Any]]:
    return [
        {**trial_row({"max_crops": i % 36 + 1, "moe_top_k": i % 8 + 1}, accuracy=i / count), "trial": f"{i:012x}"}
        for i in range(count)
    ]


def filled(where: Path, rows: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """Keep trials one by one; seconds for all, and how long it takes to read them."""
    collector = Collector(where, "bench", wait_s=1)
    collector.open_run([row["trial"] for row in rows], {})

    def run() -> None:
        for row in rows:
            attempt = collector.begin(row["trial"], "one").attempt
            collector.finish(TrialResult(trial=row["trial"], knobs=KNOBS, state="done", row=row), attempt)

    taken = seconds(run)
    collector.close()
    return taken, read(where, rows)


def read(where: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How long it takes to learn what is there."""

    def resumed() -> None:
        collector = Collector(where, "bench", wait_s=1)
        assert len(collector.open_run([row["trial"] for row in rows], {})) == len(rows)
        collector.close()

    frame = tables.read(where, "trials")
    assert frame["accuracy"].tolist() == [row["accuracy"] for row in rows]
    return {
        "open_and_resume_s": seconds(resumed),
        "read_states_s": seconds(lambda: read_states(where), 3),
        "read_trials_s": seconds(lambda: tables.read(where, "trials")),
        "objects": len(list((where / "trials").iterdir())),
    }


def trials_of_ours(where: Path, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    at_once, compaction.MERGE_BATCH = compaction.MERGE_BATCH, sys.maxsize
    taken, apart = filled(where / "apart", rows)
    compaction.MERGE_BATCH = at_once
    merging, together = filled(where / "together", rows)
    each = 1e3 / len(rows)
    return {"ours, unmerged": {"ms_a_trial": taken * each, **apart}, "ours": {"ms_a_trial": merging * each, **together}}


def trials_of(way: PlainWay, rows: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [{**row, "sweep": "bench"} for row in rows]
    taken = seconds(lambda: [way.commit([row], row["trial"]) for row in rows])
    assert way.frame()["accuracy"].tolist() == [row["accuracy"] for row in rows]
    found = {"read_states_s": seconds(way.states, 3), "read_trials_s": seconds(way.frame, 3), "objects": 1}
    way.close()
    return {"ms_a_trial": taken * 1e3 / len(rows), "open_and_resume_s": found["read_states_s"], **found}


def trials(count: int, base: Path | None) -> dict[str, dict[str, Any]]:
    """Milliseconds a trial, and seconds to read."""
    rows = rows_of(count)
    with folder(base) as where:
        found = trials_of_ours(where, rows)
        found["sqlite"] = trials_of(SqliteWay(where / "rows.sqlite"), rows)
        found["json_lines"] = trials_of(LinesWay(where / "rows.jsonl"), rows)
    for name, figures in found.items():
        print(name, {key: round(value, 3) for key, value in figures.items()}, flush=True)
    return found


def machine(base: Path | None) -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "pandas": pd.__version__,
        "sqlite": sqlite3.sqlite_version,
        "filelock": filelock.__version__,
        "schema": schema.SCHEMA_VERSION,
        "fsync_ms": round(1e3 * fsync_s(base), 3),
    }


def fsync_s(base: Path | None) -> float:
    """A plain append and fsync on this disk: what every way pays."""
    with folder(base) as where, (where / "plain").open("ab", buffering=0) as file:

        def append() -> None:
            file.write(b"x" * 100)
            os.fsync(file.fileno())

        return seconds(append, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="On the disk to measure; by default the system's temporary one.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = {"machine": machine(options.folder), "answers": answers(options.rows, options.folder)}
    report["trials"] = trials(options.trials, options.folder)
    print(json.dumps(report["machine"]))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
