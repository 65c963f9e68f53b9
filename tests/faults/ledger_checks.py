"""What a sweep left, counted: nothing lost, nothing doubled, the same tables as without disturbance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tests.sweep.sweeps import samples, what_was_measured
from vlmprof.store import tables
from vlmprof.store.ledger import FINISHED, read, read_states


@dataclass
class Books:
    """The account of one results folder against an undisturbed one."""

    trials: int
    lost: list[str] = field(default_factory=list)
    """Trials without a result, and (trial, sample) pairs without a row."""
    doubled: list[str] = field(default_factory=list)
    """Rows that are there twice, in any of the three tables."""
    rerun: list[str] = field(default_factory=list)
    """Trials that were started again after they had finished."""
    different: list[str] = field(default_factory=list)
    """Tables that are not equal to the undisturbed ones, and where."""
    executions: dict[int, int] = field(default_factory=dict)
    """How often trials were started -> how many of them."""
    samples: int = 0
    """Rows of the samples table."""
    resumed: int = 0
    """Answers that a later process of a trial was given instead of asking the model again."""
    kept_twice: list[str] = field(default_factory=list)
    """Trials of which the ledger says that more answers were kept than there are samples."""
    died: int = 0
    """Deaths of a process with a trial under way that the ledger tells of."""
    quarantined: list[str] = field(default_factory=list)
    """Samples that the ledger blames; no sample of this sweep is guilty."""
    ledger_lines: int = 0
    partial_files: int = 0
    """Left by processes that died while writing; nobody lists them, a later write replaces them."""

    @property
    def sound(self) -> bool:
        return not (self.lost or self.doubled or self.rerun or self.different or self.kept_twice)


def audit(folder: Path, undisturbed: Path) -> Books:
    """Read everything back.

    Raises:
        StoreError: the ledger cannot be read.
    """
    lines = list(read(folder))
    expected = sorted(tables.read(undisturbed, "trials")["trial"])
    starts = Counter(line["trial"] for line in lines if line["event"] == "started")
    each = tables.read(folder, "samples").groupby("trial").size()
    return Books(
        trials=len(expected),
        lost=_lost(folder, undisturbed, expected),
        doubled=_doubled(folder),
        rerun=_rerun(lines),
        different=_different(folder, undisturbed),
        executions=dict(sorted(Counter(starts[trial] for trial in expected).items())),
        samples=int(each.sum()),
        resumed=int(tables.read(folder, "trials")["samples_resumed"].sum()),
        kept_twice=_kept_twice(lines, each.to_dict()),
        died=sum(line["event"] == "died" for line in lines),
        quarantined=[f"{line['trial']} {line['sample']}" for line in lines if line["event"] == "quarantined"],
        ledger_lines=len(lines),
        partial_files=len(list(folder.rglob("*.partial"))),
    )


def _lost(folder: Path, undisturbed: Path, expected: list[str]) -> list[str]:
    states, rows = read_states(folder), set(tables.read(folder, "trials")["trial"])
    lost = [f"trial {one} is {states.get(one, 'missing')}" for one in expected if states.get(one) not in FINISHED]
    lost += [f"trial {one} has no row" for one in expected if one not in rows]
    wanted, had = (set(_pairs(samples(one))) for one in (undisturbed, folder))
    return lost + [f"sample {one}" for one in sorted(wanted - had)]


def _pairs(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(frame["trial"], frame["sample"], strict=True))


_KEYS = {
    "trials": ["trial"],
    "samples": ["trial", "sample"],
    "timings": ["trial", "session", "block", "canary", "repeat", "request"],
}


def _doubled(folder: Path) -> list[str]:
    found = []
    for table, key in _KEYS.items():
        rows = tables.read(folder, table)  # type: ignore[arg-type]
        again = rows[rows.duplicated(key)]
        found += [f"{table}: {dict(zip(key, row, strict=True))}" for row in again[key].itertuples(index=False)]
    return found


def _rerun(lines: list) -> list[str]:
    finished: set[str] = set()
    found = []
    for line in lines:
        if line["event"] in FINISHED:
            finished.add(line["trial"])
        elif line["event"] == "started" and line["trial"] in finished:
            found.append(line["trial"])
    return found


def _kept_twice(lines: list, each: dict[str, int]) -> list[str]:
    """By the ledger alone: a sample that was scored anew after it had been kept would be in a second chunk."""
    kept = Counter[str]()
    for line in lines:
        if line["event"] == "chunk":
            kept[line["trial"]] += line["samples"]
    return [
        f"{trial}: {count} kept of {each.get(trial, 0)}" for trial, count in kept.items() if count > each.get(trial, 0)
    ]


def _different(folder: Path, undisturbed: Path) -> list[str]:
    found = []
    for name, view in (("samples", samples), ("trials", what_was_measured)):
        try:
            pd.testing.assert_frame_equal(view(folder), view(undisturbed))
        except AssertionError as error:
            found.append(f"{name}: {' '.join(str(error).split())[:300]}")
    return found
