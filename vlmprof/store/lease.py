"""``Lease``: the exclusive right to write to a results folder. Each holder has an epoch and a heartbeat.

In ``.writer/`` there is a **claim** for each epoch, which says which process made it, and a **heartbeat**, which the
holder rewrites every few seconds. A process that wants the folder reads the highest epoch. The folder is free if that
epoch was released, or if its holder is known to be dead: a process of this host that no longer exists, or one whose
heartbeat has not changed for ``stale_s`` of the waiting process's own clock. Clocks of two hosts are never compared.
Otherwise the newcomer is refused, with the holder's host and process id.

How exactly one claim to an epoch wins:

- On a mounted file system, NFS included, by a hard link to the name of the epoch, which fails if the name exists.
- In an object store, where pyarrow has no conditional PUT: each process puts a claim under a name of its own, waits
  ``settle_s``, lists, and the smallest name has won. A process whose PUT came late, measured from the listing that
  showed the epoch to be free, withdraws its claim. So all claims that can win are visible at the end of every
  process's wait.

A holder that was only slow, and was believed dead, must do no harm: ``check`` is called before every ledger line and
raises once there is a higher epoch, and whatever is written after such a check belongs to an epoch that is no longer
read (``store.ledger_log``, ``store.manifest``). On a local disk a file lock is taken first; the kernel releases it when
the process that holds it ends.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from vlmprof.errors import StoreError
from vlmprof.regular_files import json_object
from vlmprof.store.filesystem import PARTIAL, ResultsFolder
from vlmprof.store.process_identity import ProcessIdentity, now

LOCK = ".writer.lock"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimings:
    """Intervals and timeouts of a lease, in seconds."""

    beat_s: float = 4.0
    """Between two heartbeats."""
    stale_s: float = 20.0
    """A holder whose heartbeat has not changed for so long, read every ``poll_s``, is taken for dead."""
    poll_s: float = 1.0
    settle_s: float = 3.0
    """In an object store, between a claim and the listing that decides which claim has won."""


TIMINGS = LeaseTimings()
MAX_CLAIMS = 20
"""Claims that may come too late, or lose, before the store is called too slow for a lease."""


@final
class Lease:
    """A lease that is held. Made by ``acquire``."""

    def __init__(self, results: ResultsFolder, claim: Claim, lock: FileLock | None) -> None:
        self._results, self._claim, self._lock = results, claim, lock
        self._count, self._released = 0, threading.Event()
        self._beat()
        self._beating = threading.Thread(target=self._keep_beating, name="vlmprof-lease", daemon=True)
        self._beating.start()

    @property
    def epoch(self) -> int:
        """Higher than that of any earlier holder."""
        return self._claim.epoch

    def check(self) -> None:
        """Return if the lease is still held.

        Raises:
            StoreError: another process has taken the folder over, or it is gone. Nothing may be written any more.
        """
        claims = list_claims(self._results)
        if claims and claims[-1].epoch > self.epoch:
            holder = read_claims(self._results).holder or "another sweep"
            raise StoreError(
                f"{self._results} was taken over by {holder}: this process sent no heartbeat for too long; it writes"
                " nothing more"
            )
        if self._claim not in claims:
            raise StoreError(f"{self._results} is gone: {self._claim.path} of this sweep is no longer there")

    def release(self) -> None:
        """Give the lease up, so that another process can take it at once."""
        self._released.set()
        self._beating.join()
        with suppress(OSError):  # a full disk, or a deleted folder: the next process waits until the heartbeat is stale
            self._beat(released=True)
        if self._lock is not None:
            self._lock.release()

    def _keep_beating(self) -> None:
        while not self._released.wait(TIMINGS.beat_s):
            # After a failed beat this process may be taken for dead; ``check`` notices before the next line.
            with suppress(OSError):
                self._beat()

    def _beat(self, *, released: bool = False) -> None:
        self._count += 1
        _write_json(self._results, self._claim.beat, {"beat": self._count, "time": now(), "released": released})


def acquire(results: ResultsFolder, wait_s: float) -> Lease:
    """Become the only writer of a folder.

    Args:
        results: A mounted folder is created if it does not exist.
        wait_s: How long to wait for a holder that is alive. While a holder's heartbeat stands still, the wait goes on
            until it is known to be dead.

    Raises:
        StoreError: another process holds the folder; the message names it and the age of its heartbeat.
        OSError: nothing can be written there.
    """
    lock = _local_lock(results, wait_s) if results.folder is not None and not results.shared else None
    try:
        claim = _win_claim(results, wait_s)
        lease = Lease(results, claim, lock)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    _remove_older(results, claim)
    return lease


def _local_lock(results: ResultsFolder, wait_s: float) -> FileLock:
    assert results.folder is not None
    results.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(results.folder / LOCK, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout:
        raise _refusal(results, read_claims(results)) from None
    return lock


def _win_claim(results: ResultsFolder, wait_s: float) -> Claim:
    """Wait until the folder is free, and win a claim to the next epoch."""
    started = time.monotonic()
    watch, tries = _HeartbeatWatch(), 0
    while tries < MAX_CLAIMS:
        listed_at = time.monotonic()
        state = read_claims(results)
        watch.observe(state)
        unheld = state.released or state.holder is None or _is_dead(state.holder, results)
        if unheld or watch.still_s >= TIMINGS.stale_s:
            claim = _try_claim(results, state.epoch + 1, listed_at)
            if claim is not None:
                return claim
            tries += 1
            continue
        if time.monotonic() - started >= wait_s and watch.alive:
            raise _refusal(results, state)
        time.sleep(TIMINGS.poll_s)
    raise StoreError(f"{results} answers too slowly to be sure of being its only writer, {tries} times; try again")


@final
class _HeartbeatWatch:
    """For how long a heartbeat has not changed, counted in reads by this process: a read that hung counts as one."""

    def __init__(self) -> None:
        self._last: ClaimState | None = None
        self.still_s = 0.0
        self._changes = -1

    def observe(self, state: ClaimState) -> None:
        if state == self._last:
            self.still_s += TIMINGS.poll_s
        else:
            self._last, self.still_s = state, 0.0
            self._changes += 1

    @property
    def alive(self) -> bool:
        """Whether the heartbeat was seen to change a short while ago."""
        return self._changes > 0 and self.still_s <= 2 * TIMINGS.beat_s


def _is_dead(holder: ProcessIdentity, results: ResultsFolder) -> bool:
    # On a local disk this process already has the file lock, so an earlier holder on this host has ended.
    here = not results.shared and holder.on_this_host()
    return here or holder.is_known_dead()


def _try_claim(results: ResultsFolder, epoch: int, listed_at: float) -> Claim | None:
    """A claim to this epoch, or None if another process has it.

    Args:
        results: The folder.
        epoch: The epoch, which was free.
        listed_at: When the listing that showed it to be free began, in seconds of ``time.monotonic``.
    """
    identity = ProcessIdentity.this_process().as_dict()
    if results.folder is not None:
        claim = Claim(epoch=epoch)
        won = create_exclusively(results.folder / claim.path, json.dumps(identity).encode())
    else:
        claim = Claim(epoch=epoch, token=uuid.uuid4().hex[:12])
        _write_json(results, claim.path, identity)
        won = time.monotonic() - listed_at <= TIMINGS.settle_s / 2
        if won:
            time.sleep(TIMINGS.settle_s)
    claims = list_claims(results)
    # If there is a higher epoch, this process slept between its listing and its claim, and the epoch is long over.
    if won and claims[-1].epoch == epoch and claim == min(other for other in claims if other.epoch == epoch):
        return claim
    if results.folder is None or won:
        results.remove(claim.path)
    return None


def _remove_older(results: ResultsFolder, claim: Claim) -> None:
    """Remove the claims and heartbeats of earlier epochs. The highest epoch stays: others derive theirs from it."""
    for name in results.names(CLAIMS):
        if name[:6].isdigit() and int(name[:6]) < claim.epoch:
            results.remove(f"{CLAIMS}/{name}")


def _refusal(results: ResultsFolder, state: ClaimState) -> StoreError:
    holder = state.holder or "another sweep"
    return StoreError(f"{results} is being written by {holder}; wait for it, or stop it first")


def _write_json(results: ResultsFolder, name: str, content: dict[str, object]) -> None:
    results.rewrite(name, json.dumps(content).encode())


CLAIMS = ".writer"


@final
@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Claim:
    """One claim to an epoch."""

    epoch: int
    token: str = ""
    """Only in an object store, where there can be several claims to one epoch."""

    @property
    def path(self) -> str:
        """Its name in the results folder."""
        return f"{CLAIMS}/{self.epoch:06d}{self.token and '.'}{self.token}.claim"

    @property
    def beat(self) -> str:
        """The name of its heartbeat."""
        return self.path.removesuffix("claim") + "beat"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimState:
    """The claims to the highest epoch, as read at one moment."""

    epoch: int = 0
    claims: tuple[Claim, ...] = ()
    beats: tuple[bytes, ...] = ()
    """The heartbeat of each claim; empty bytes before its first."""
    holder: ProcessIdentity | None = None
    """The process that has the epoch, or is about to win it."""
    released: bool = False


def create_exclusively(path: Path, data: bytes) -> bool:
    """Create a file with its whole content, unless it exists; returns whether this call created it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    partial.write_bytes(data)
    try:
        os.link(partial, path)
        return True
    except FileExistsError:
        return partial.stat().st_nlink == 2  # NFS may report this for a link that it made but whose reply was lost
    finally:
        partial.unlink()


def list_claims(results: ResultsFolder) -> list[Claim]:
    """All claims, by epoch."""
    parts = [name.removesuffix(".claim").partition(".") for name in results.names(CLAIMS) if name.endswith(".claim")]
    return sorted(Claim(epoch=int(epoch), token=token) for epoch, _, token in parts if epoch.isdigit())


def read_claims(results: ResultsFolder) -> ClaimState:
    """The current claims to the highest epoch."""
    all_claims = list_claims(results)
    if not all_claims:
        return ClaimState()
    claims = tuple(claim for claim in all_claims if claim.epoch == all_claims[-1].epoch)
    beats = tuple(results.read(claim.beat) or b"" for claim in claims)
    # The claim with a heartbeat has won; before there is one, the smallest will win.
    claim, beat = next(((c, b) for c, b in zip(claims, beats, strict=True) if b), (claims[0], b""))
    content = json_object(beat)  # nothing where it is damaged: whether it changes still says whether its writer lives
    return ClaimState(
        epoch=claim.epoch,
        claims=claims,
        beats=beats,
        holder=ProcessIdentity.read(results.read(claim.path), str(content.get("time", ""))),
        released=bool(content.get("released")),
    )
