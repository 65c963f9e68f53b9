"""Each kind of place, for tests: a disk of this host, a mount that others see, and an object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.object_store import ObjectStore
from vlmprof.store import place as places
from vlmprof.store.ledger import Ledger
from vlmprof.store.place import Place, Where, at

KINDS = ("disk", "mount", "objects")


def objects() -> Place:
    """A fresh folder in an object store."""
    return Place(name="mock://bucket/results", files=ObjectStore().files(), root="bucket/results")


def place_of(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place of a kind; a mount is a folder here that is taken for one that others see."""
    if kind == "objects":
        return objects()
    if kind == "mount":
        monkeypatch.setattr(places, "seen_by_other_hosts", lambda folder: True)
    return at(folder)


def begun(where: Where) -> None:
    """A sweep has been started there."""
    ledger = Ledger(where)
    ledger.append("note")
    ledger.close()
