"""The demo: a tiny trained MolmoE that ships with the package; same classes as MolmoE-1B, a thousandth of its size."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import final

from vlmprof.errors import ModelError
from vlmprof.models.family import AbstractFamily, AbstractModel, Checkpoint
from vlmprof.models.molmo.anatomy import read_anatomy
from vlmprof.surfaces import Anatomy


@final
class Demo(AbstractFamily):
    """The shipped checkpoint, or a retrained one in a local folder."""

    tiling_decides = True

    def describe(self, checkpoint: Checkpoint) -> Anatomy:
        return read_anatomy("demo", _with_default_path(checkpoint))

    def load(self, checkpoint: Checkpoint, device: str) -> AbstractModel:
        from vlmprof.models.molmo.runtime import load_molmo

        return load_molmo(_with_default_path(checkpoint), device)


def _with_default_path(checkpoint: Checkpoint) -> Checkpoint:
    if checkpoint.revision:
        raise ModelError("demo: the shipped checkpoint has no revisions; leave 'revision' out")
    return checkpoint if checkpoint.path else replace(checkpoint, path=str(files("vlmprof.demo") / "weights"))


FAMILY = Demo()
