"""The atlas: the worlds a user has measured, one file each, in one folder that all sweeps share.

A world's name is ``<device and model>-<versions>``: worlds that agree in the first half and not in the second are
stale for each other. What a stale world measured is a place to start from, and nothing is answered from it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from vlmprof.trial.sizing.book import SizeBook
from vlmprof.trial.sizing.journal import SUFFIX, Journal, about, parsed
from vlmprof.trial.sizing.memory_model import Point

FOLDER = "VLMPROF_BATCH_SIZES"
"""Environment variable that names another folder."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One world of the atlas, for people."""

    world: str
    about: Mapping[str, Any]
    configurations: int
    probes: int
    out_of_memory: int
    asked: float
    """When it was last asked about, in seconds since the epoch."""


def default_folder() -> Path:
    """Where the atlas lies unless it is said: the user's cache folder."""
    said = os.environ.get(FOLDER)
    if said:
        return Path(said).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "vlmprof" / "batch_sizes"


def opened(folder: Path, world: str, said: Mapping[str, Any]) -> Journal:
    """A world's journal, with what its stale likes measured as a prior."""
    return Journal(folder / f"{world}{SUFFIX}", said, SizeBook(prior=_prior(folder, world)))


def summaries(folder: Path) -> Iterator[Summary]:
    """Every world, the newest first."""
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: -path.stat().st_mtime):
        book = _book(path)
        known = book.evidence.known.values()
        yield Summary(
            world=path.stem,
            about=about(path),
            configurations=len(known),
            probes=sum(len(one.peaks) + len(one.refusals) for one in known),
            out_of_memory=sum(len(one.refusals) for one in known),
            asked=path.stat().st_mtime,
        )


def clear(folder: Path, prefix: str) -> list[str]:
    """Forget the worlds whose name begins so; returns their names."""
    gone = [path for path in sorted(folder.glob(f"*{SUFFIX}")) if path.stem.startswith(prefix)]
    for path in gone:
        path.unlink()
        path.with_suffix(".lock").unlink(missing_ok=True)
    return [path.stem for path in gone]


def adopt(folder: Path, worlds: Mapping[str, bytes]) -> None:
    """Take worlds, by the names of their files, where the atlas does not know them."""
    for name, data in worlds.items():
        if Path(name).name != name or not name.endswith(SUFFIX):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{name}.{uuid.uuid4().hex[:8]}"
        partial.write_bytes(data)
        with suppress(FileExistsError):  # a link, unlike a rename, never takes the place of what is there
            (folder / name).hardlink_to(partial)
        partial.unlink()


def used(folder: Path, since: float) -> dict[str, bytes]:
    """The worlds that were asked about since a time, by the names of their files; whole lines."""
    found = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.stat().st_mtime >= since:
            data = path.read_bytes()
            found[path.name] = data[: data.rfind(b"\n") + 1]
    return found


def _prior(folder: Path, world: str) -> dict[str, list[Point]]:
    alike = world.split("-", maxsplit=1)[0]
    stale = [path for path in folder.glob(f"{alike}-*{SUFFIX}") if path.stem != world]
    newest = max(stale, key=lambda path: path.stat().st_mtime, default=None)
    return _book(newest).evidence.points() if newest else {}


def _book(path: Path) -> SizeBook:
    book = SizeBook()
    for entry in parsed(path.read_bytes()):
        book.apply(entry)
    return book
