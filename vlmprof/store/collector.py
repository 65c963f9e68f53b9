"""``Collector``: the only writer of a results folder. A plain class: the actor only makes it remote.

Commit order: the tables of a trial, each by fsync and rename, then its line in the ledger. Whoever holds the folder's
lock writes; a second sweep on the same folder is refused, by name.

A trial that runs sends its answers in chunks (``store.attempts``), which the next process to begin it is given. Every
call may come twice, and from a process that was believed dead: what is repeated changes nothing, what comes from an
attempt that was overtaken is refused. Once a write has failed nothing is written any more, and every call says why.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

from vlmprof.errors import StoreError, Superseded
from vlmprof.records import Row
from vlmprof.store import process_identity, schema, tables
from vlmprof.store.attempts import AttemptStart, Chunk, Death, recalled
from vlmprof.store.compaction import Compactor
from vlmprof.store.filesystem import ResultsFolder, Where, results_folder
from vlmprof.store.lease import Lease, acquire
from vlmprof.store.ledger import FINISHED, Ledger, State
from vlmprof.store.manifest import TableName, own_object
from vlmprof.store.submitted_job import SubmittedJob, write_job

now = process_identity.now


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What is kept of one trial."""

    trial: str
    knobs: tuple[str, ...]
    state: State
    row: Row
    samples: tuple[Row, ...] = ()
    timings: tuple[Row, ...] = ()
    trace: str = ""
    """Of a failed trial; kept in the ledger."""
    distrusted: bool = False
    """What ran was not what was asked for: its answers are no beginning for another attempt."""


@final
class Collector:
    """The writing end of a results folder."""

    def __init__(self, folder: Where, sweep: str, *, wait_s: float) -> None:
        """Take the folder.

        Args:
            folder: A path or a URI; made if it is not there.
            sweep: Name of the job, for every row.
            wait_s: How long to wait for another writer: one that was killed lets go within seconds.

        Raises:
            StoreError: another sweep is writing here, the folder was written by another version, or it cannot be
                written to.
        """
        self._folder, self._sweep = results_folder(folder), sweep
        try:
            self._lease = acquire(self._folder, wait_s)
            self._ledger = _opened(self._folder, self._lease)
        except OSError as error:
            raise StoreError(f"{folder} cannot be written to: {error.strerror or error}") from None
        self._merger = Compactor(self._folder, self._ledger)
        self._attempts, self._settled = recalled(self._ledger.lines)
        self._broken = ""

    def open_run(
        self, trials: Sequence[str], job: Mapping[str, Any], submitted: SubmittedJob | None = None
    ) -> set[str]:
        """Note that a run begins; ``submitted`` is laid beside the tables, for whoever resumes.

        Returns:
            The trials that an earlier run has finished; they need not run again.
        """
        states, version = self._ledger.states, schema.SCHEMA_VERSION
        self._settled.clear()
        if submitted is not None:
            with self._writing():
                write_job(self._folder, submitted.text)
        told = {"trials": list(trials), "job": dict(job), "cwd": submitted.cwd if submitted else ""}
        self._append("sweep", name=self._sweep, **told, schema_version=version, time=now())
        return {trial for trial in trials if states.get(trial) in FINISHED}

    def begin(
        self, trial: str, attempt: str = "", *, software: str = "", process: str = "", shard: bool = False
    ) -> AttemptStart:
        """Note that a process begins a trial; from now on it owns it.

        Args:
            trial: Its id.
            attempt: The process's token for it; empty: one is made.
            software: See ``measure.versions``; what was answered under other software is forgotten.
            process: Host and number, for people.
            shard: It only answers some of the samples, and owns nothing; too late once the trial has begun.

        Returns:
            What earlier attempts have answered, and what to beware of.

        Raises:
            Superseded: a later attempt owns the trial.
            StoreError: nothing can be written.
        """
        attempt, attempts = attempt or uuid.uuid4().hex[:12], self._attempts
        if state := self._settled.get(trial) or attempts.finished(trial, shard=shard):
            return AttemptStart(attempt=attempt, state=state)
        if not attempts.known(trial, attempt):
            event = "shard" if shard else "started"
            self._append(event, trial=trial, attempt=attempt, software=software, process=process, time=now())
        self._require_owner(trial, attempt)
        return AttemptStart(
            attempt=attempt,
            number=attempts.number(trial),
            chunks=tuple(self._chunks(trial)),
            quarantined=attempts.quarantined(trial),
            alone=attempts.alone(trial),
        )

    def under_way(self, trial: str, attempt: str, samples: Sequence[str]) -> None:
        """These samples are about to be scored; none: no sample is.

        Raises:
            Superseded: a later attempt owns the trial.
        """
        self._require_owner(trial, attempt)
        self._attempts.note(trial, samples)

    def keep(self, chunk: Chunk) -> None:
        """Keep some answers of a trial that has not ended; on disk when this returns.

        Raises:
            Superseded: a later attempt owns the trial.
            StoreError: nothing can be written.
        """
        self._require_owner(chunk.trial, chunk.attempt)
        kept = self._attempts.files(chunk.trial)
        if chunk.name in kept:
            return
        with self._writing():
            tables.write(self._folder, "chunks", chunk.name, chunk.rows, schema.CHUNKS)
        told = {name: getattr(chunk, name) for name in ("number", "seconds", "peak_bytes", "software")}
        told |= {"samples": len(chunk.rows), "made_on": dict(chunk.made_on)}
        self._append("chunk", trial=chunk.trial, attempt=chunk.attempt, file=chunk.name, time=now(), **told)

    def dying(self, trial: str, attempt: str, cause: str) -> None:
        """The process that runs a trial says why it is about to end."""
        if self._attempts.owns(trial, attempt):
            self._attempts.tell_cause(trial, cause)

    def died(self, trial: str, killer: str = "") -> Death | None:
        """The process that ran a trial is gone; None where nobody was running it.

        Args:
            trial: Its id.
            killer: What is known to have killed it from outside; then none of its samples is suspected.

        Raises:
            StoreError: nothing can be written.
        """
        found = self._attempts.dying(trial)
        if found is None:
            return None
        death, guilty = found
        if killer:
            death, guilty = replace(death, reason=death.reason or killer, under_way=()), None
        self._append("died", trial=trial, reason=death.reason, under_way=list(death.under_way), time=now())
        if guilty is not None:
            reason = death.reason or "ended its process"
            self._append("quarantined", trial=trial, sample=guilty, reason=reason, time=now())
        return replace(death, learnt=self._attempts.learnt(trial))

    def finish(self, result: TrialResult, attempt: str = "") -> None:
        """Keep a trial: its tables, then its line. Told again, it changes nothing.

        Args:
            result: What there is of it.
            attempt: The token of the process that ran it; empty: whoever runs the sweep says how it ended.

        Raises:
            Superseded: a later attempt owns the trial.
            StoreError: nothing can be written.
        """
        if result.trial in self._settled:
            return
        if attempt:
            self._require_owner(result.trial, attempt)
        row = {**result.row, "sweep": self._sweep}
        with self._writing():
            where, trial, epoch = self._folder, result.trial, self._ledger.epoch
            self._write(trial, "samples", result.samples, schema.SAMPLES)
            self._write(trial, "timings", result.timings, schema.TIMINGS)
            tables.write(where, "trials", trial, [row], schema.trials_schema(result.knobs), epoch)
        told = {name: row.get(name) for name in ("point", "seconds", "error")} | {"trace": result.trace}
        told |= {"distrusted": result.distrusted}
        files = self._attempts.files(result.trial)
        self._append(
            result.state, trial=result.trial, time=now(), **{name: value for name, value in told.items() if value}
        )
        self._settled[result.trial] = result.state
        for file in files.keys() - self._attempts.files(result.trial).keys():
            tables.remove(self._folder, "chunks", file)
        with self._writing():
            self._merger.merge()

    def _write(self, trial: str, table: TableName, rows: Sequence[Row], kind: Any) -> None:
        """The rows of a table; none take away those of an attempt before, which nobody lists since this one began."""
        if rows:
            tables.write(self._folder, table, trial, rows, kind, self._ledger.epoch)
        else:
            self._folder.remove(own_object(table, trial, self._ledger.epoch))

    def settled(self) -> dict[str, State]:
        """Trials that ended in this run, and how; a collector that was restarted knows it from the ledger."""
        return dict(self._settled)

    @property
    def broken(self) -> str:
        """Why nothing can be written any more; empty while all is well."""
        return self._broken

    def close(self) -> None:
        """Let go of the folder; what still arrives is refused."""
        self._broken = self._broken or f"the run that wrote {self._folder} has ended"
        try:
            self._ledger.close()
        finally:
            self._lease.release()

    def _chunks(self, trial: str) -> Iterator[Chunk]:
        """What is kept of a trial, oldest first, each sample once."""
        seen: set[str] = set()
        for file, line in self._attempts.files(trial).items():
            failed_too = not self._attempts.is_faulty(trial, file)
            rows = [row for row in tables.read_part(self._folder, "chunks", file) if failed_too or not row["error"]]
            fresh = tuple(row for row in rows if row["sample"] not in seen)
            seen.update(str(row["sample"]) for row in fresh)
            told = {name: line[name] for name in ("attempt", "number", "seconds", "peak_bytes", "made_on", "software")}
            yield Chunk(trial=trial, rows=fresh, **told)

    def _require_owner(self, trial: str, attempt: str) -> None:
        if self._broken:
            raise StoreError(self._broken)
        if not self._attempts.answers(trial, attempt):
            raise Superseded(f"trial {trial} has ended, or another process runs it; attempt {attempt} is refused")

    def _append(self, event: str, **fields: Any) -> None:
        with self._writing():
            self._ledger.append(event, **fields)
        self._attempts.apply({"event": event, **fields})

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A write that fails is the last: what else is computed could not be kept either."""
        if self._broken:
            raise StoreError(self._broken)
        try:
            self._lease.check()
            yield
        except StoreError as error:  # lost to another writer, or taken away: made anew, half a sweep would lie in it
            self._broken = str(error)
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            self._broken = f"{self._folder} cannot be written to: {reason}; what was finished before is kept"
            raise StoreError(self._broken) from None


def _opened(place: ResultsFolder, lease: Lease) -> Ledger:
    """The ledger of a place that is held.

    Raises:
        StoreError: it is damaged, or of another version. The place is let go of.
    """
    with ExitStack() as undo:
        undo.callback(lease.release)
        ledger = Ledger(place, epoch=lease.epoch, check=lease.check)
        undo.callback(ledger.close)
        _require_version(place, ledger.lines)
        undo.pop_all()
    return ledger


def _require_version(place: ResultsFolder, lines: Sequence[Mapping[str, Any]]) -> None:
    for entry in lines:
        found = entry.get("schema_version", schema.SCHEMA_VERSION)
        if found != schema.SCHEMA_VERSION:
            raise StoreError(
                f"{place} was written with schema {found}, this vlmprof writes {schema.SCHEMA_VERSION};"
                " name another 'storage' in the job"
            )
