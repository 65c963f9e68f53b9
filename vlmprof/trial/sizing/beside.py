"""What a sweep measured about batch sizes, kept beside its results: whoever copies a folder copies what it rests on.

The atlas stays the place that is asked. A results folder gives it what it does not know when a sweep starts, and is
given the worlds that the sweep used when it ends, also when it is stopped. A driver that is killed leaves them in the
atlas; the next run of the job fetches them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

FOLDER = "batch_sizes"


class Atlas(Protocol):
    """A sizer, as far as its atlas can be told and asked; see ``trial.batching.BatchSizer``."""

    def adopt(self, worlds: Mapping[str, bytes]) -> float: ...
    def used(self, since: float) -> Mapping[str, bytes]: ...


@contextmanager
def kept_beside(results: Path, atlas: Atlas) -> Iterator[None]:
    """Measurements go from a results folder to the atlas before a ``with`` block, and back after it."""
    folder = results / FOLDER
    since = atlas.adopt({path.name: path.read_bytes() for path in sorted(folder.glob("*"))})
    try:
        yield
    finally:
        for name, data in atlas.used(since).items():
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder.parent / f".{name}.partial"
            partial.write_bytes(data)
            partial.replace(folder / name)
