"""Molmo v1 and MolmoE (allenai/MolmoE-1B-0924, Molmo-7B-D, Molmo-7B-O), native: no remote code.

This module holds the constant ``FAMILY``. It imports neither torch nor transformers: a checkpoint is described from its
JSON files, and only ``load`` reads weights.
"""

from __future__ import annotations

from typing import final

from vlmprof.models.family import AbstractFamily, AbstractModel, Checkpoint
from vlmprof.models.molmo.anatomy import read_anatomy
from vlmprof.surfaces import Anatomy


@final
class Molmo(AbstractFamily):
    """Any Molmo v1 checkpoint: a Hub id or a local folder, in the layout of the Hub files or of transformers."""

    tiling_decides = True

    def describe(self, checkpoint: Checkpoint) -> Anatomy:
        return read_anatomy("molmo", checkpoint)

    def load(self, checkpoint: Checkpoint, device: str) -> AbstractModel:
        from vlmprof.models.molmo.runtime import load_molmo

        return load_molmo(checkpoint, device)


FAMILY = Molmo()
