"""``Collector``: the only writer of a results folder. A plain class; ``sweep.actors`` runs it as a Ray actor.

Commit order: the tables of a trial, each by fsync and rename, then its line in the ledger. Only the holder of the
folder's lease writes; a second sweep on the same folder is refused, with the name of the process that holds it.

A running trial sends its answers in chunks (``store.attempts``); the next process that begins the trial gets them.
Every call may arrive twice, or from a process that was believed dead: a repeated call changes nothing, a call from a
superseded attempt is refused. After a failed write nothing more is written, and every call raises with the reason.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

from vlmprof.errors import StoreError, Superseded
from vlmprof.records import Row
from vlmprof.secret_text import without_secrets
from vlmprof.store import process_identity, schema, tables
from vlmprof.store.attempts import AttemptStart, Chunk, Death, replay
from vlmprof.store.compaction import Compactor
from vlmprof.store.filesystem import ResultsFolder, Where, results_folder
from vlmprof.store.lease import Lease, acquire
from vlmprof.store.ledger import FINISHED, Ledger, State
from vlmprof.store.lost_trials import lost_trials
from vlmprof.store.manifest import TableName, own_object
from vlmprof.store.misplaced import require_places
from vlmprof.store.submitted_job import SubmittedJob, write_job

now = process_identity.now


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What a trial gave: its row in ``trials``, its samples and its timings."""

    trial: str
    knobs: tuple[str, ...]
    state: State
    row: Row
    samples: tuple[Row, ...] = ()
    timings: tuple[Row, ...] = ()
    trace: str = ""
    """Traceback of a failed trial; kept in the ledger."""
    distrusted: bool = False
    """What ran was not what the plan asked for, so that another attempt must not reuse its answers."""


@final
class Collector:
    """The writing end of a results folder."""

    def __init__(self, folder: Where, sweep: str, *, wait_s: float) -> None:
        """Acquire the folder.

        Args:
            folder: A path or a URI; created if it does not exist.
            sweep: Name of the job, written into every row.
            wait_s: How long to wait for another writer, in seconds; the lease of a killed one is free within seconds.

        Raises:
            StoreError: another sweep is writing here, the folder was written by another version, or it cannot be
                written to.
        """
        self._folder, self._sweep = results_folder(folder), sweep
        require_places(self._folder)
        try:
            self._lease = acquire(self._folder, wait_s)
            self._ledger = _open_ledger(self._folder, self._lease)
        except OSError as error:
            raise StoreError(f"{folder} cannot be written to: {error.strerror or error}") from None
        self._compactor = Compactor(self._folder, self._ledger)
        self._attempts, self._settled = replay(self._ledger.lines)
        self._lost = frozenset(lost_trials(self._folder))
        for trial in self._lost:
            self._attempts.lose(trial)
        self._broken = ""

    def open_run(
        self, trials: Sequence[str], job: Mapping[str, Any], submitted: SubmittedJob | None = None
    ) -> set[str]:
        """Record that a run begins; ``submitted`` is written to the folder, for ``vlmprof resume``.

        Returns:
            The trials that an earlier run has finished and whose rows can be read; they need not run again.
        """
        states, version = self._ledger.states, schema.SCHEMA_VERSION
        self._settled.clear()
        if submitted is not None:
            with self._writing():
                write_job(self._folder, submitted.text)
        fields = {"trials": list(trials), "job": dict(job), "cwd": submitted.cwd if submitted else ""}
        self._append("sweep", name=self._sweep, **fields, schema_version=version, time=now())
        return {trial for trial in trials if states.get(trial) in FINISHED and trial not in self._lost}

    def begin(
        self, trial: str, attempt: str = "", *, software: str = "", process: str = "", shard: bool = False
    ) -> AttemptStart:
        """Record that a process begins a trial; from now on it owns the trial.

        Args:
            trial: Its id.
            attempt: The process's token for this attempt; empty: one is generated.
            software: See ``measure.versions``; answers of other software versions are forgotten.
            process: Host and process id, for people to read.
            shard: It only answers some of the samples and does not own the trial; refused once the trial has begun.

        Returns:
            The answers of earlier attempts, and the samples that are quarantined or must be scored alone.

        Raises:
            Superseded: a later attempt owns the trial.
            StoreError: nothing can be written.
        """
        attempt, attempts = attempt or uuid.uuid4().hex[:12], self._attempts
        if state := self._settled.get(trial) or attempts.finished(trial, shard=shard):
            return AttemptStart(attempt=attempt, state=state)
        if not attempts.has_begun(trial, attempt):
            event = "shard" if shard else "started"
            self._append(event, trial=trial, attempt=attempt, software=software, process=process, time=now())
        self._require_owner(trial, attempt)
        return AttemptStart(
            attempt=attempt,
            number=attempts.count(trial),
            chunks=tuple(self._chunks(trial)),
            quarantined=attempts.quarantined(trial),
            alone=attempts.suspects(trial),
        )

    def under_way(self, trial: str, attempt: str, samples: Sequence[str]) -> None:
        """Note which samples are about to be scored; empty: none are.

        Raises:
            Superseded: a later attempt owns the trial.
        """
        self._require_owner(trial, attempt)
        self._attempts.set_under_way(trial, samples)

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
            tables.write(self._folder, "chunks", chunk.name, [_told(one) for one in chunk.rows], schema.CHUNKS)
        fields = {name: getattr(chunk, name) for name in ("number", "seconds", "peak_bytes", "software")}
        fields |= {"samples": len(chunk.rows), "made_on": dict(chunk.made_on)}
        self._append("chunk", trial=chunk.trial, attempt=chunk.attempt, file=chunk.name, time=now(), **fields)

    def dying(self, trial: str, attempt: str, cause: str) -> None:
        """Note why the process that runs a trial is about to end, as the process itself reports it."""
        if self._attempts.owns(trial, attempt):
            self._attempts.set_cause(trial, cause)

    def died(self, trial: str, killer: str = "") -> Death | None:
        """Record that the process that ran a trial is gone; None if no process was running it.

        Args:
            trial: Its id.
            killer: What is known to have killed it from outside; then none of its samples is suspected.

        Raises:
            StoreError: nothing can be written.
        """
        crash = self._attempts.death_of(trial)
        if crash is None:
            return None
        death, culprit = crash
        if killer:
            death, culprit = replace(death, reason=death.reason or killer, under_way=()), None
        self._append("died", trial=trial, reason=death.reason, under_way=list(death.under_way), time=now())
        if culprit is not None:
            reason = death.reason or "ended its process"
            self._append("quarantined", trial=trial, sample=culprit, reason=reason, time=now())
        return replace(death, progress=self._attempts.progress(trial))

    def finish(self, result: TrialResult, attempt: str = "") -> None:
        """Write a trial: its tables, then its ledger line. A repeated call changes nothing.

        Args:
            result: The trial's outcome and rows.
            attempt: The token of the process that ran it; empty: the driver decides how it ended.

        Raises:
            Superseded: a later attempt owns the trial.
            StoreError: nothing can be written.
        """
        if result.trial in self._settled:
            return
        if attempt:
            self._require_owner(result.trial, attempt)
        row = {**_told(result.row), "sweep": self._sweep}
        with self._writing():
            where, trial, epoch = self._folder, result.trial, self._ledger.epoch
            self._write(trial, "samples", [_told(sample) for sample in result.samples], schema.SAMPLES)
            self._write(trial, "timings", result.timings, schema.TIMINGS)
            tables.write(
                where, "trials", trial, [row], schema.trials_schema(result.knobs, schema.settings_of(row)), epoch
            )
        fields = {name: row.get(name) for name in ("point", "seconds", "error")} | {"trace": result.trace}
        fields |= {"distrusted": result.distrusted}
        files = self._attempts.files(result.trial)
        self._append(
            result.state, trial=result.trial, time=now(), **{name: value for name, value in fields.items() if value}
        )
        self._settled[result.trial] = result.state
        for file in files.keys() - self._attempts.files(result.trial).keys():
            tables.remove(self._folder, "chunks", file)
        with self._writing():
            self._compactor.merge()

    def _write(self, trial: str, table: TableName, rows: Sequence[Row], arrow_schema: Any) -> None:
        """Write the rows of a table; without rows, remove those of an earlier attempt, which are no longer listed."""
        if rows:
            tables.write(self._folder, table, trial, rows, arrow_schema, self._ledger.epoch)
        else:
            self._folder.remove(own_object(table, trial, self._ledger.epoch))

    def settled(self) -> dict[str, State]:
        """Trials that ended in this run, and how; a restarted collector reads it from the ledger."""
        return dict(self._settled)

    @property
    def broken(self) -> str:
        """Why nothing can be written any more; empty while writing works."""
        return self._broken

    def close(self) -> None:
        """Release the folder; later calls are refused."""
        self._broken = self._broken or f"the run that wrote {self._folder} has ended"
        try:
            self._ledger.close()
        finally:
            self._lease.release()

    def _chunks(self, trial: str) -> Iterator[Chunk]:
        """The chunks that are kept of a trial, oldest first, each sample once."""
        yielded: set[str] = set()
        for file, line in self._attempts.files(trial).items():
            keep_failed = not self._attempts.is_faulty(trial, file)
            rows = [row for row in tables.read_part(self._folder, "chunks", file) if keep_failed or not row["error"]]
            fresh = tuple(row for row in rows if row["sample"] not in yielded)
            yielded.update(str(row["sample"]) for row in fresh)
            names = ("attempt", "number", "seconds", "peak_bytes", "made_on", "software")
            yield Chunk(trial=trial, rows=fresh, **{name: line[name] for name in names})

    def _require_owner(self, trial: str, attempt: str) -> None:
        if self._broken:
            raise StoreError(self._broken)
        if not self._attempts.may_answer(trial, attempt):
            raise Superseded(f"trial {trial} has ended, or another process runs it; attempt {attempt} is refused")

    def _append(self, event: str, **fields: Any) -> None:
        fields = _told(fields)
        with self._writing():
            self._ledger.append(event, **fields)
        self._attempts.apply({"event": event, **fields})

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """After a failed write, refuse all later ones: what is computed from then on could not be kept either."""
        if self._broken:
            raise StoreError(self._broken)
        try:
            self._lease.check()
            yield
        except StoreError as error:  # taken over or deleted: a new folder in its place would hold only half a sweep
            self._broken = str(error)
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            self._broken = f"{self._folder} cannot be written to: {reason}; what was finished before is kept"
            raise StoreError(self._broken) from None


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with no secret of the environment in what an exception said: it may quote a URL, or a header."""
    said = {name: without_secrets(str(fields[name])) for name in ("error", "trace", "reason") if fields.get(name)}
    return {**fields, **said}


def _open_ledger(results: ResultsFolder, lease: Lease) -> Ledger:
    """Open the ledger of a folder whose lease is held.

    Raises:
        StoreError: it is damaged, or of another version. The lease is released.
    """
    with ExitStack() as undo:
        undo.callback(lease.release)
        ledger = Ledger(results, epoch=lease.epoch, check=lease.check)
        undo.callback(ledger.close)
        _require_version(results, ledger.lines)
        undo.pop_all()
    return ledger


def _require_version(results: ResultsFolder, lines: Sequence[Mapping[str, Any]]) -> None:
    for entry in lines:
        version = entry.get("schema_version", schema.SCHEMA_VERSION)
        if version != schema.SCHEMA_VERSION:
            raise StoreError(
                f"{results} was written with schema {version}, this vlmprof writes {schema.SCHEMA_VERSION};"
                " name another 'storage' in the job"
            )
