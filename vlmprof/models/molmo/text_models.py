"""The text models of the Molmo family: the library's classes under names of ours.

transformers maps a checkpoint's tensor names by class name; only with its own name can a text model read Molmo's files
without changing how the library reads other models.
"""

from __future__ import annotations

from typing import final

from transformers import Olmo2Model, OlmoeModel, PreTrainedModel, Qwen2Model


@final
class MolmoOlmoeModel(OlmoeModel):
    """The text model of MolmoE."""

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # The library looks for its decorator in the class's source file, and this is not it.
        return True


@final
class MolmoQwen2Model(Qwen2Model):
    """The text model of Molmo-7B-D and 72B."""


@final
class MolmoOlmo2Model(Olmo2Model):
    """The text model of Molmo-7B-O: norms after the sub-layers, where the Hub's names say before."""


TEXT_MODELS: dict[str, type[PreTrainedModel]] = {
    "olmoe": MolmoOlmoeModel,
    "qwen2": MolmoQwen2Model,
    "olmo2": MolmoOlmo2Model,
}
