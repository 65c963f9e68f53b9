"""What a sweep measured about batch sizes, kept beside its results: whoever copies a folder copies what it rests on.

The atlas stays the place that is asked. A results folder gives it what it does not know when a sweep starts, and is
given the worlds that the sweep used when it ends, also when it is stopped. A driver that is killed leaves them in the
atlas; the next run of the job fetches them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

from vlmprof.store import ledger
from vlmprof.store.place import Place, Where, at

FOLDER = "batch_sizes"


class Atlas(Protocol):
    """A sizer, as far as its atlas can be told and asked; see ``trial.batching.BatchSizer``."""

    def adopt(self, worlds: Mapping[str, bytes]) -> float: ...
    def used(self, since: float) -> Mapping[str, bytes]: ...


@contextmanager
def kept_beside(results: Where, atlas: Atlas) -> Iterator[None]:
    """Measurements go from a results folder to the atlas before a ``with`` block, and back after it."""
    place = at(results)
    there = {name: place.read(f"{FOLDER}/{name}") for name in place.names(FOLDER)}
    since = atlas.adopt({name: data for name, data in there.items() if data is not None})
    try:
        yield
    finally:
        with suppress(OSError):  # full or gone: whoever stops the sweep says so, and the atlas has these anyway
            _write(place, atlas.used(since))


def _write(place: Place, worlds: Mapping[str, bytes]) -> None:
    if ledger.exists(place):  # a folder that was taken away is not made anew
        for name, data in worlds.items():
            place.write(f"{FOLDER}/{name}", data)
