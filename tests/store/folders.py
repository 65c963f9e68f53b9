"""Each kind of place, for tests: a disk of this host, a mount that others see, and an object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.object_store import ObjectStore
from vlmprof.store import filesystem as places
from vlmprof.store.filesystem import ResultsFolder, Where, results_folder
from vlmprof.store.ledger import Ledger

KINDS = ("disk", "mount", "objects")


def objects() -> ResultsFolder:
    """A fresh folder in an object store."""
    return ResultsFolder(name="mock://bucket/results", files=ObjectStore().files(), root="bucket/results")


def place_of(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ResultsFolder:
    """A place of a kind; a mount is a folder here that is taken for one that others see."""
    if kind == "objects":
        return objects()
    if kind == "mount":
        monkeypatch.setattr(places, "seen_by_other_hosts", lambda folder: True)
    return results_folder(folder)


def begun(where: Where) -> None:
    """A sweep has been started there."""
    ledger = Ledger(where)
    ledger.append("note")
    ledger.close()
