"""Any image-text-to-text model that transformers 5 loads, by introspection: Qwen-VL, InternVL, LLaVA, Idefics, Aria...

A checkpoint is a local folder in transformers' layout, or a Hub id with a pinned revision. Code that comes with the
weights is not run and pickled weights are not read unless the job allows it. This module holds the constant ``FAMILY``;
it imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import final

from vlmprof.models.family import AbstractFamily, AbstractModel, Checkpoint
from vlmprof.surfaces import Anatomy


@final
class TransformersVlm(AbstractFamily):
    """Which knobs apply is derived from the modules of a checkpoint, not from its name."""

    def describe(self, checkpoint: Checkpoint) -> Anatomy:
        from vlmprof.models._hf.anatomy import read_anatomy

        return read_anatomy("transformers_vlm", checkpoint)

    def load(self, checkpoint: Checkpoint, device: str) -> AbstractModel:
        from vlmprof.models._hf.runtime import load_vlm

        return load_vlm(checkpoint, device)


FAMILY = TransformersVlm()
