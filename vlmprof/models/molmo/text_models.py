"""The text models of the Molmo family: subclasses of transformers' classes with names of their own.

transformers selects the renaming of a checkpoint's tensors by class name, so a class name used only here lets a text
model read Molmo's files without changing how transformers loads other models.
"""

from __future__ import annotations

from typing import final

from transformers import Olmo2Model, OlmoeModel, PreTrainedModel, Qwen2Model


@final
class MolmoOlmoeModel(OlmoeModel):
    """The text model of MolmoE."""

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers searches the source file of the class for a decorator, which is in the parent's file.
        return True


@final
class MolmoQwen2Model(Qwen2Model):
    """The text model of Molmo-7B-D and 72B."""


@final
class MolmoOlmo2Model(Olmo2Model):
    """The text model of Molmo-7B-O: norms follow the sub-layers, although the Hub's tensor names suggest otherwise."""


TEXT_MODELS: dict[str, type[PreTrainedModel]] = {
    "olmoe": MolmoOlmoeModel,
    "qwen2": MolmoQwen2Model,
    "olmo2": MolmoOlmo2Model,
}
