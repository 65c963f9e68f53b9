"""The claims in ``.writer/``: who took which epoch of a place, and the heartbeats beside them.

How a lease is won and lost is said in ``store.lease``.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import final

from vlmprof.store.holder import Holder
from vlmprof.store.place import PARTIAL, Place

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
class Seen:
    """The highest epoch, as it was seen at one moment."""

    epoch: int = 0
    claims: tuple[Claim, ...] = ()
    beats: tuple[bytes, ...] = ()
    """Of each claim; empty before the first."""
    holder: Holder | None = None
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


def claims_of(place: Place) -> list[Claim]:
    """All claims, by epoch."""
    parts = [name.removesuffix(".claim").partition(".") for name in place.names(CLAIMS) if name.endswith(".claim")]
    return sorted(Claim(epoch=int(epoch), token=token) for epoch, _, token in parts if epoch.isdigit())


def look(place: Place) -> Seen:
    """The highest epoch, now."""
    every = claims_of(place)
    if not every:
        return Seen()
    claims = tuple(claim for claim in every if claim.epoch == every[-1].epoch)
    beats = tuple(place.read(claim.beat) or b"" for claim in claims)
    # The one that beats has won; before that, the smallest will.
    claim, beat = next(((c, b) for c, b in zip(claims, beats, strict=True) if b), (claims[0], b""))
    told = json.loads(beat) if beat else {}
    return Seen(
        epoch=claim.epoch,
        claims=claims,
        beats=beats,
        holder=Holder.read(place.read(claim.path), str(told.get("time", ""))),
        released=bool(told.get("released")),
    )
