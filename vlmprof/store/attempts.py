"""What a collector knows of trials that have not ended: who runs each, what is kept of it, what it died of.

Pure, and a function of the ledger: ``Attempts`` is told every line, in order, and decides from nothing else but which
samples are under way, which no line says. So a collector that was killed knows after its restart what it knew before.

An attempt is one process that runs one trial. The latest one to begin owns the trial; whatever an earlier one still
has to say is refused. That is what keeps a process that was believed dead from doubling a sample. Before that, helpers
may each answer a part of its samples, a shard; from the moment that an owner begins, they are refused too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from vlmprof.records import Row
from vlmprof.store.ledger import ENDED, FINISHED, State

BLAMED = 2
"""Deaths with a sample under way before it is run alone; the next death that it is alone in puts it in quarantine."""
LOST_DEVICE, TIMED_OUT = "lost its accelerator", "timed out"
"""How the reason of such a death begins."""
QUARANTINED_MOST = 8
"""In one trial. If it still dies then, it is the configuration that kills and not its samples."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some answers of a trial that has not ended."""

    trial: str
    attempt: str
    number: int
    """Within its attempt, from 0; told twice it is kept once."""
    rows: tuple[Row, ...]
    """As ``schema.CHUNKS``."""
    seconds: float
    """It took to score them."""
    peak_bytes: int | None = None
    """Most that the process has reserved on its device so far; None on a CPU."""
    made_on: Mapping[str, str] = field(default_factory=dict)
    """Column of ``trials`` -> its value in the process that scored: device, engine, kernels."""
    software: str = ""
    """See ``measure.versions``."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.trial}-{self.attempt}-{self.number:05d}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStart:
    """What a process is told when it begins a trial."""

    attempt: str
    """Its token: everything it says of the trial carries it."""
    number: int = 1
    """How many processes have begun this trial, this one included."""
    state: State | None = None
    """How the trial has ended already: there is nothing to do. None: run it."""
    chunks: tuple[Chunk, ...] = ()
    """What earlier attempts have answered."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Sample -> why it must not be scored."""
    alone: frozenset[str] = frozenset()
    """Samples that were under way in several deaths: each is scored by itself, the last of all."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a trial stands whose process has died."""

    reason: str
    """What its process said before it died; empty where it could say nothing."""
    learnt: int
    """Grows with every sample that was kept, suspected or found guilty: a trial that learns may go on dying."""
    under_way: tuple[str, ...] = ()


@final
@dataclass(slots=True)
class _TrialRecord:
    """One trial, as the ledger tells of it."""

    tokens: list[str] = field(default_factory=list)
    helpers: set[str] = field(default_factory=set)
    """Processes that may answer some of its samples, and do nothing else, until an attempt begins."""
    alive: bool = False
    """Whether its latest attempt may still speak."""
    chunks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """File -> its line."""
    faulty: set[str] = field(default_factory=set)
    """Files from before a failure that has been told: what failed in them is tried again, what was answered holds."""
    kept: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    quarantined: dict[str, str] = field(default_factory=dict)
    under_way: tuple[str, ...] = ()
    cause: str = ""
    finished: State | None = None

    def forget(self) -> None:
        self.chunks, self.faulty, self.kept = {}, set(), 0

    def require_software(self, made_by: str) -> None:
        """Answers of other programs are not this trial's."""
        if any(chunk["software"] != made_by for chunk in self.chunks.values()):
            self.forget()

    def learnt(self) -> int:
        return self.kept + sum(count >= BLAMED for count in self.deaths.values()) + len(self.quarantined)


@final
class Attempts:
    """All trials of a folder."""

    def __init__(self) -> None:
        self._trials: dict[str, _TrialRecord] = {}

    def apply(self, line: Mapping[str, Any]) -> None:
        """One line of the ledger."""
        event, trial = line["event"], line.get("trial")
        if event == "sweep":  # who writes a new run holds the folder: whoever ran in an earlier one is gone
            for each in self._trials.values():
                each.alive, each.under_way, each.cause, each.helpers = False, (), "", set()
            return
        if trial is None:
            return
        one = self._trials.setdefault(trial, _TrialRecord())
        if event == "started":
            self._started(one, line)
        elif event == "shard":
            one.helpers.add(line["attempt"])
            one.require_software(line["software"])
        elif event == "chunk":
            one.chunks[line["file"]] = line
            one.kept += line["samples"]
        elif event == "died":
            one.alive, one.under_way, one.cause = False, (), ""
            one.deaths.update(line["under_way"])
        elif event == "quarantined":
            one.quarantined[line["sample"]] = line["reason"]
        elif event in ENDED:
            self._ended(one, line)

    @staticmethod
    def _started(one: _TrialRecord, line: Mapping[str, Any]) -> None:
        one.alive, one.under_way, one.cause, one.helpers = True, (), "", set()
        one.tokens.append(line.get("attempt", ""))
        one.require_software(line.get("software", ""))

    @staticmethod
    def _ended(one: _TrialRecord, line: Mapping[str, Any]) -> None:
        one.alive, one.under_way, one.cause = False, (), ""
        one.quarantined = {}  # tried once more by the next run, alone: a sample may have died of what was mended since
        if line["event"] in FINISHED or line.get("distrusted"):
            one.forget()
            one.deaths.clear()
        one.faulty = set(one.chunks)
        one.finished = line["event"] if line["event"] in FINISHED else None

    def finished(self, trial: str, *, shard: bool = False) -> State | None:
        """How a trial ended in any run; None: it runs, or runs again. To a shard a trial that has begun is over too."""
        one = self._of(trial)
        return one.finished or ("started" if shard and one.alive else None)

    def known(self, trial: str, attempt: str) -> bool:
        """Whether this attempt has begun."""
        return attempt in self._of(trial).tokens or attempt in self._of(trial).helpers

    def owns(self, trial: str, attempt: str) -> bool:
        """Whether this attempt is the trial's latest, and not believed dead."""
        one = self._of(trial)
        return one.alive and one.tokens[-1] == attempt

    def answers(self, trial: str, attempt: str) -> bool:
        """Whether this process may give answers of the trial: as its owner, or as a helper."""
        return self.owns(trial, attempt) or attempt in self._of(trial).helpers

    def number(self, trial: str) -> int:
        """How many attempts there were."""
        return len(self._of(trial).tokens)

    def files(self, trial: str) -> dict[str, Mapping[str, Any]]:
        """What is kept of a trial: file -> its line."""
        return dict(self._of(trial).chunks)

    def is_faulty(self, trial: str, file: str) -> bool:
        """Whether the failed samples of this file are to be tried again."""
        return file in self._of(trial).faulty

    def quarantined(self, trial: str) -> dict[str, str]:
        """Sample -> why."""
        return dict(self._of(trial).quarantined)

    def alone(self, trial: str) -> frozenset[str]:
        """Samples to score by themselves."""
        one = self._of(trial)
        return frozenset(s for s, count in one.deaths.items() if count >= BLAMED and s not in one.quarantined)

    def note(self, trial: str, samples: Sequence[str]) -> None:
        """These are about to be scored. A sample that kills a helper is found out by the trial itself."""
        one = self._of(trial)
        one.under_way = tuple(samples) if one.alive else ()

    def tell_cause(self, trial: str, cause: str) -> None:
        """Why its process is about to end."""
        self._of(trial).cause = cause

    def dying(self, trial: str) -> tuple[Death, str | None] | None:
        """Of a trial whose process is found dead: how it stands, and which sample is guilty, if one is.

        None for a trial that nobody was running.
        """
        one = self._of(trial)
        if not one.alive:
            return None
        guilty = None
        if len(one.under_way) == 1 and len(one.quarantined) < QUARANTINED_MOST:
            (sample,) = one.under_way
            guilty = sample if one.deaths[sample] + 1 >= BLAMED else None
        return Death(reason=one.cause, learnt=one.learnt(), under_way=one.under_way), guilty

    def learnt(self, trial: str) -> int:
        """See ``Death.learnt``."""
        return self._of(trial).learnt()

    def _of(self, trial: str) -> _TrialRecord:
        return self._trials.setdefault(trial, _TrialRecord())


def recalled(lines: Iterable[Mapping[str, Any]]) -> tuple[Attempts, dict[str, State]]:
    """What a ledger tells: of every attempt, and how trials ended in the last run."""
    attempts, settled = Attempts(), dict[str, State]()
    for line in lines:
        attempts.apply(line)
        if line["event"] == "sweep":
            settled.clear()
        elif "trial" in line and line["event"] in ENDED:
            settled[line["trial"]] = line["event"]
    return attempts, settled
