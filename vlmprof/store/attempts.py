"""The state of trials that have not ended: which process runs each, which answers are kept, why processes crashed.

Pure, and a function of the ledger: ``Attempts.apply`` is given every line, in order, and nothing else changes the
state, except which samples are being scored right now, which is not in the ledger. So a collector that was killed has
the same state after its restart.

An attempt is one process that runs one trial. The latest attempt to begin owns the trial; what an earlier one still
sends is refused. Otherwise a process that was wrongly believed dead could score a sample twice. Before the first
attempt, helper processes may each answer a part of the samples (a shard); once an attempt begins, they are refused
too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from vlmprof.records import Row
from vlmprof.store.ledger import ENDED, FINISHED, State

SUSPECT_AFTER = 2
"""Crashes while a sample was being scored before it is scored alone; if it is alone at the next, it is quarantined."""
LOST_DEVICE, TIMED_OUT = "lost its accelerator", "timed out"
"""Prefixes of the reason of such a crash."""
MAX_QUARANTINED = 8
"""Samples quarantined in one trial. If the process still crashes, the configuration is at fault, not its samples."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some answers of a trial that has not ended."""

    trial: str
    attempt: str
    number: int
    """Within its attempt, from 0. A chunk that is sent twice is kept once."""
    rows: tuple[Row, ...]
    """In the columns of ``schema.CHUNKS``."""
    seconds: float
    """Time it took to score them."""
    peak_bytes: int | None = None
    """Most that the process has reserved on its device so far; None on a CPU."""
    made_on: Mapping[str, str] = field(default_factory=dict)
    """Column of ``trials`` -> its value in the process that scored: device, engine, kernels."""
    software: str = ""
    """See ``measure.versions``."""

    @property
    def name(self) -> str:
        """Name of its file, without the suffix."""
        return f"{self.trial}-{self.attempt}-{self.number:05d}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStart:
    """What a process gets from the collector when it begins a trial."""

    attempt: str
    """Its token; every later call of this process about the trial carries it."""
    number: int = 1
    """How many processes have begun this trial, including this one."""
    state: State | None = None
    """How the trial has already ended, so there is nothing to run. None: run it."""
    chunks: tuple[Chunk, ...] = ()
    """Answers of earlier attempts."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Sample -> why it must not be scored."""
    alone: frozenset[str] = frozenset()
    """Samples that were being scored in several crashes: each is scored as a batch of its own, after all others."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The state of a trial whose process has died."""

    reason: str
    """The cause that the process reported before it died; empty if it reported none."""
    progress: int
    """Grows with every sample that is kept, suspected or quarantined. While it grows, crashes do not use up retries."""
    under_way: tuple[str, ...] = ()
    """Samples that were being scored."""


@final
@dataclass(slots=True)
class _TrialRecord:
    """The state of one trial, as recorded in the ledger."""

    tokens: list[str] = field(default_factory=list)
    helpers: set[str] = field(default_factory=set)
    """Processes that may only answer some of the samples, until an attempt begins."""
    alive: bool = False
    """Whether calls of its latest attempt are still accepted."""
    chunks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """File -> its ledger line."""
    faulty: set[str] = field(default_factory=set)
    """Files from before the last recorded failure: their failed samples are tried again, their answers are kept."""
    kept: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    """Sample -> crashes while it was being scored."""
    quarantined: dict[str, str] = field(default_factory=dict)
    under_way: tuple[str, ...] = ()
    cause: str = ""
    finished: State | None = None

    def forget_answers(self) -> None:
        self.chunks, self.faulty, self.kept = {}, set(), 0

    def require_software(self, software: str) -> None:
        """Forget the answers if other software versions made any of them."""
        if any(chunk["software"] != software for chunk in self.chunks.values()):
            self.forget_answers()

    def progress(self) -> int:
        return self.kept + sum(count >= SUSPECT_AFTER for count in self.deaths.values()) + len(self.quarantined)


@final
class Attempts:
    """The attempts of all trials in a results folder."""

    def __init__(self) -> None:
        self._trials: dict[str, _TrialRecord] = {}

    def apply(self, line: Mapping[str, Any]) -> None:
        """Update the state by one line of the ledger."""
        event, trial = line["event"], line.get("trial")
        if event == "sweep":  # its writer holds the folder's lease, so no process of an earlier run is running
            for record in self._trials.values():
                record.alive, record.under_way, record.cause, record.helpers = False, (), "", set()
            return
        if trial is None:
            return
        record = self._record(trial)
        if event == "started":
            self._apply_started(record, line)
        elif event == "shard":
            record.helpers.add(line["attempt"])
            record.require_software(line["software"])
        elif event == "chunk":
            record.chunks[line["file"]] = line
            record.kept += line["samples"]
        elif event == "died":
            record.alive, record.under_way, record.cause = False, (), ""
            record.deaths.update(line["under_way"])
        elif event == "quarantined":
            record.quarantined[line["sample"]] = line["reason"]
        elif event in ENDED:
            self._apply_ended(record, line)

    @staticmethod
    def _apply_started(record: _TrialRecord, line: Mapping[str, Any]) -> None:
        record.alive, record.under_way, record.cause, record.helpers = True, (), "", set()
        record.tokens.append(line.get("attempt", ""))
        record.require_software(line.get("software", ""))

    @staticmethod
    def _apply_ended(record: _TrialRecord, line: Mapping[str, Any]) -> None:
        record.alive, record.under_way, record.cause = False, (), ""
        record.quarantined = {}  # the next run tries each once more, alone: the cause may have been fixed since
        if line["event"] in FINISHED or line.get("distrusted"):
            record.forget_answers()
            record.deaths.clear()
        record.faulty = set(record.chunks)
        record.finished = line["event"] if line["event"] in FINISHED else None

    def finished(self, trial: str, *, shard: bool = False) -> State | None:
        """How a trial ended, in any run; None if it has to run. For a shard, a trial that has begun is over too."""
        record = self._record(trial)
        return record.finished or ("started" if shard and record.alive else None)

    def lose(self, trial: str) -> None:
        """The trial has ended and its rows cannot be read: it has to run again."""
        self._record(trial).finished = None

    def has_begun(self, trial: str, attempt: str) -> bool:
        """Whether this attempt, or this helper, has begun."""
        return attempt in self._record(trial).tokens or attempt in self._record(trial).helpers

    def owns(self, trial: str, attempt: str) -> bool:
        """Whether this attempt is the trial's latest, and not believed dead."""
        record = self._record(trial)
        return record.alive and record.tokens[-1] == attempt

    def may_answer(self, trial: str, attempt: str) -> bool:
        """Whether this process may send answers of the trial: as its owner, or as a helper."""
        return self.owns(trial, attempt) or attempt in self._record(trial).helpers

    def count(self, trial: str) -> int:
        """How many attempts there were."""
        return len(self._record(trial).tokens)

    def files(self, trial: str) -> dict[str, Mapping[str, Any]]:
        """The chunks that are kept of a trial: file -> its ledger line."""
        return dict(self._record(trial).chunks)

    def is_faulty(self, trial: str, file: str) -> bool:
        """Whether the failed samples of this file are to be tried again."""
        return file in self._record(trial).faulty

    def quarantined(self, trial: str) -> dict[str, str]:
        """Sample -> why it must not be scored."""
        return dict(self._record(trial).quarantined)

    def suspects(self, trial: str) -> frozenset[str]:
        """Samples to score alone."""
        record = self._record(trial)
        return frozenset(
            sample
            for sample, count in record.deaths.items()
            if count >= SUSPECT_AFTER and sample not in record.quarantined
        )

    def set_under_way(self, trial: str, samples: Sequence[str]) -> None:
        """Note which samples are about to be scored.

        Not for helpers: a sample that crashes a helper will crash the trial's own attempt, and is identified there.
        """
        record = self._record(trial)
        record.under_way = tuple(samples) if record.alive else ()

    def set_cause(self, trial: str, cause: str) -> None:
        """Note why the trial's process is about to end."""
        self._record(trial).cause = cause

    def death_of(self, trial: str) -> tuple[Death, str | None] | None:
        """For a trial whose process is gone: its state, and the sample to quarantine, if the crash identifies one.

        None if no process was running the trial.
        """
        record = self._record(trial)
        if not record.alive:
            return None
        culprit = None
        if len(record.under_way) == 1 and len(record.quarantined) < MAX_QUARANTINED:
            (sample,) = record.under_way
            culprit = sample if record.deaths[sample] + 1 >= SUSPECT_AFTER else None
        return Death(reason=record.cause, progress=record.progress(), under_way=record.under_way), culprit

    def progress(self, trial: str) -> int:
        """See ``Death.progress``."""
        return self._record(trial).progress()

    def _record(self, trial: str) -> _TrialRecord:
        return self._trials.setdefault(trial, _TrialRecord())


def replay(lines: Iterable[Mapping[str, Any]]) -> tuple[Attempts, dict[str, State]]:
    """The state after the lines of a ledger: all attempts, and how trials ended in the last run."""
    attempts, settled = Attempts(), dict[str, State]()
    for line in lines:
        attempts.apply(line)
        if line["event"] == "sweep":
            settled.clear()
        elif "trial" in line and line["event"] in ENDED:
            settled[line["trial"]] = line["event"]
    return attempts, settled
