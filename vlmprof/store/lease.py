"""``Lease``: who may write to a results folder. One holder at a time, an epoch each, and a heartbeat while it lives.

In ``.writer/`` lie a **claim** for each epoch, which says who took it, and its **heartbeat**, which the holder rewrites
every few seconds. Whoever wants the folder looks at the highest epoch. It is free if it was released, or if its holder
is known to be dead: a process of this very host that is gone, or one whose heartbeat stood still for ``stale_s`` of the
watcher's own clock. Clocks of two hosts are never compared. Otherwise the newcomer is refused and told whom to ask.

How a claim is made so that one wins:

- On a mounted file system, by a hard link to the name of the epoch, which fails if the name is there. NFS included.
- In an object store, which pyarrow cannot ask for a conditional PUT: each puts a claim under a name of its own, waits
  ``settle_s``, lists, and the smallest name has won. One whose PUT came late, counted from the listing that showed the
  epoch to be free, withdraws: so all claims that can win are visible when the wait of any of them is over.

A holder that was only slow, and was believed dead, must not harm: ``check`` is asked before every line of the ledger
and raises once there is a higher epoch, and whatever slips in behind such a check lies in an epoch that nobody reads
any more (``store.ledger_log``, ``store.manifest``). On a disk of this host the kernel's lock comes first: it goes with
the process that holds it.
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
from vlmprof.store.filesystem import PARTIAL, ResultsFolder
from vlmprof.store.process_identity import ProcessIdentity, now

LOCK = ".writer.lock"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimings:
    """How fast a lease lives, in seconds."""

    beat_s: float = 4.0
    stale_s: float = 20.0
    """A heartbeat that stands still so long, looked at every ``poll_s``, is that of a dead holder."""
    poll_s: float = 1.0
    settle_s: float = 3.0
    """In an object store, between a claim and the look at who has won."""


PACE = LeaseTimings()
CLAIMS_MOST = 20
"""Claims that can be made too late, or lost to others, before the store is called too slow for a lease."""


@final
class Lease:
    """A place that is held. Made by ``acquire``."""

    def __init__(self, place: ResultsFolder, claim: Claim, lock: FileLock | None) -> None:
        self._place, self._claim, self._lock = place, claim, lock
        self._count, self._over = 0, threading.Event()
        self._beat()
        self._beating = threading.Thread(target=self._keep_beating, name="vlmprof-lease", daemon=True)
        self._beating.start()

    @property
    def epoch(self) -> int:
        """Higher than that of any earlier holder."""
        return self._claim.epoch

    def check(self) -> None:
        """Nothing, while the place is held.

        Raises:
            StoreError: another process has taken it over, or it is gone. Nothing may be written any more.
        """
        claims = claims_of(self._place)
        if claims and claims[-1].epoch > self.epoch:
            by = read_claims(self._place).holder or "another sweep"
            raise StoreError(
                f"{self._place} was taken over by {by}: this process gave no sign of life for too long; it writes"
                " nothing more"
            )
        if self._claim not in claims:
            raise StoreError(f"{self._place} is gone: {self._claim.path} of this sweep is no longer there")

    def release(self) -> None:
        """Let the next one in at once."""
        self._over.set()
        self._beating.join()
        with suppress(OSError):  # a full disk, a folder that is gone: the next one has to wait for a while
            self._beat(released=True)
        if self._lock is not None:
            self._lock.release()

    def _keep_beating(self) -> None:
        while not self._over.wait(PACE.beat_s):
            # A beat that fails may be seen as a death; ``check`` finds out before the next line.
            with suppress(OSError):
                self._beat()

    def _beat(self, *, released: bool = False) -> None:
        self._count += 1
        _put(self._place, self._claim.beat, {"beat": self._count, "time": now(), "released": released})


def acquire(place: ResultsFolder, wait_s: float) -> Lease:
    """Become the one who writes here.

    Args:
        place: A mounted folder is made if it is not there.
        wait_s: How long to wait for a holder that lives. For one whose heartbeat stands still the wait goes on until
            it is known to be dead.

    Raises:
        StoreError: another process holds the place; who, and how old its heartbeat is.
        OSError: nothing can be written there.
    """
    lock = _local_lock(place, wait_s) if place.folder is not None and not place.shared else None
    try:
        claim = _won(place, wait_s)
        lease = Lease(place, claim, lock)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    _clear(place, claim)
    return lease


def _local_lock(place: ResultsFolder, wait_s: float) -> FileLock:
    assert place.folder is not None
    place.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.folder / LOCK, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout:
        raise _refusal(place, read_claims(place)) from None
    return lock


def _won(place: ResultsFolder, wait_s: float) -> Claim:
    """A claim to an epoch that nobody else has."""
    started = time.monotonic()
    watch, tries = _Watch(), 0
    while tries < CLAIMS_MOST:
        asked = time.monotonic()
        seen = read_claims(place)
        watch.look(seen)
        if seen.released or seen.holder is None or _is_dead(seen.holder, place) or watch.still_s >= PACE.stale_s:
            claim = _claimed(place, seen.epoch + 1, asked)
            if claim is not None:
                return claim
            tries += 1
            continue
        if time.monotonic() - started >= wait_s and watch.alive:
            raise _refusal(place, seen)
        time.sleep(PACE.poll_s)
    raise StoreError(f"{place} answers too slowly to be sure of being its only writer, {tries} times; try again")


@final
class _Watch:
    """For how long a heartbeat has stood still, in looks of this process: a look that hung counts as one."""

    def __init__(self) -> None:
        self._last: ClaimState | None = None
        self.still_s = 0.0
        self._changes = -1

    def look(self, seen: ClaimState) -> None:
        if seen == self._last:
            self.still_s += PACE.poll_s
        else:
            self._last, self.still_s = seen, 0.0
            self._changes += 1

    @property
    def alive(self) -> bool:
        """Whether it was seen to change, a short while ago."""
        return self._changes > 0 and self.still_s <= 2 * PACE.beat_s


def _is_dead(holder: ProcessIdentity, place: ResultsFolder) -> bool:
    # On a disk of this host this process has the kernel's lock: whoever held it here is gone.
    here = not place.shared and holder.on_this_host()
    return here or holder.is_known_dead()


def _claimed(place: ResultsFolder, epoch: int, asked: float) -> Claim | None:
    """A claim to this epoch, or None where another has it.

    Args:
        place: Where.
        epoch: Which was free.
        asked: When the listing that showed it free began, by this process's clock.
    """
    if place.folder is not None:
        claim = Claim(epoch=epoch)
        won = linked(place.folder / claim.path, json.dumps(ProcessIdentity.this_process().told()).encode())
    else:
        claim = Claim(epoch=epoch, token=uuid.uuid4().hex[:12])
        _put(place, claim.path, ProcessIdentity.this_process().told())
        won = time.monotonic() - asked <= PACE.settle_s / 2
        if won:
            time.sleep(PACE.settle_s)
    claims = claims_of(place)
    # A higher one: this process slept between its look and its claim, and the epoch is long over.
    if won and claims[-1].epoch == epoch and claim == min(each for each in claims if each.epoch == epoch):
        return claim
    if place.folder is None or won:
        place.remove(claim.path)
    return None


def _clear(place: ResultsFolder, mine: Claim) -> None:
    """Remove what earlier epochs left in the folder of claims. The highest one stays: it is how others know theirs."""
    for name in place.names(CLAIMS):
        if name[:6].isdigit() and int(name[:6]) < mine.epoch:
            place.remove(f"{CLAIMS}/{name}")


def _refusal(place: ResultsFolder, seen: ClaimState) -> StoreError:
    who = seen.holder or "another sweep"
    return StoreError(f"{place} is being written by {who}; wait for it, or stop it first")


def _put(place: ResultsFolder, name: str, told: dict[str, object]) -> None:
    place.rewrite(name, json.dumps(told).encode())


CLAIMS = ".writer"


@final
@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Claim:
    """One claim to an epoch."""

    epoch: int
    token: str = ""
    """In an object store, where several claims to one epoch can lie side by side."""

    @property
    def path(self) -> str:
        """Its name in the place."""
        return f"{CLAIMS}/{self.epoch:06d}{self.token and '.'}{self.token}.claim"

    @property
    def beat(self) -> str:
        """The name of its heartbeat."""
        return self.path.removesuffix("claim") + "beat"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimState:
    """The highest epoch, as it was seen at one moment."""

    epoch: int = 0
    claims: tuple[Claim, ...] = ()
    beats: tuple[bytes, ...] = ()
    """Of each claim; empty before the first."""
    holder: ProcessIdentity | None = None
    """Who has the epoch, or is about to."""
    released: bool = False


def linked(path: Path, data: bytes) -> bool:
    """Make a file that is not there yet, whole; whether it was this call that made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    partial.write_bytes(data)
    try:
        os.link(partial, path)
        return True
    except FileExistsError:
        return partial.stat().st_nlink == 2  # NFS may say so of a link that an answer was lost for
    finally:
        partial.unlink()


def claims_of(place: ResultsFolder) -> list[Claim]:
    """All claims, by epoch."""
    parts = [name.removesuffix(".claim").partition(".") for name in place.names(CLAIMS) if name.endswith(".claim")]
    return sorted(Claim(epoch=int(epoch), token=token) for epoch, _, token in parts if epoch.isdigit())


def read_claims(place: ResultsFolder) -> ClaimState:
    """The highest epoch, now."""
    every = claims_of(place)
    if not every:
        return ClaimState()
    claims = tuple(claim for claim in every if claim.epoch == every[-1].epoch)
    beats = tuple(place.read(claim.beat) or b"" for claim in claims)
    # The one that beats has won; before that, the smallest will.
    claim, beat = next(((c, b) for c, b in zip(claims, beats, strict=True) if b), (claims[0], b""))
    told = json.loads(beat) if beat else {}
    return ClaimState(
        epoch=claim.epoch,
        claims=claims,
        beats=beats,
        holder=ProcessIdentity.read(place.read(claim.path), str(told.get("time", ""))),
        released=bool(told.get("released")),
    )
