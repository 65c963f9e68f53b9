"""``AbstractFamily`` (cheap, on the driver) and ``AbstractModel`` (loaded, on a device).

A family says from the configuration alone what a checkpoint is made of; only ``load`` touches weights and torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, final

from vlmprof.decoding import Batch, DecodeState, Mark, unmarked
from vlmprof.records import Prompt
from vlmprof.surfaces import Anatomy, Router


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Which weights of a family, and how they are loaded."""

    path: str
    """A local folder or a Hub id; empty where the family ships its own."""
    revision: str
    dtype: str
    trust_remote_code: bool = False
    """Whether Python code that lies with the weights may run."""
    allow_pickle: bool = False
    """Whether weights in a format that can hold code (``.bin``, ``.pt``) may be read."""
    attention: str = ""
    """The attention kernel; empty: the library's choice."""
    experts_kernel: str = ""
    """The kernel of the experts; empty: the family's choice."""


class AbstractModel(ABC):
    """One checkpoint on one device: the token maker of the engine, with every surface it provides."""

    max_crops: int
    output_tokens: int | None
    eos_ids: frozenset[int]

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The module that owns the decoder blocks (``layers``) and the text ``config``."""

    @property
    @abstractmethod
    def routers(self) -> Sequence[Router]:
        """All routers of the checkpoint, in the order of its blocks; empty for a dense model."""

    @property
    @abstractmethod
    def kernels(self) -> Mapping[str, str]:
        """``dtype``, ``attention`` and ``experts_kernel``, read off the loaded modules: what really runs."""

    @property
    @abstractmethod
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def vision_encoder(self) -> Any:
        """The module of the vision encoder, for hooks that count; None where a family does not show it."""
        return None

    @property
    def network(self) -> Any:
        """The module that is called with ``input_ids`` at every forward, for the same hooks; or None."""
        return None

    @property
    def image_token_id(self) -> int | None:
        """The id at the places of vision tokens in a prompt, for the same hooks; or None."""
        return None

    def sample_bytes(self, crops: int, prompt_tokens: int, output_tokens: int) -> float | None:
        """A rule of thumb for the memory of one sample of a batch, with the knobs as they are now; None: none.

        It only says how far the second probe of an unknown device may go, and is forgotten as soon as that has run.

        Args:
            crops: Of its image, through the vision encoder.
            prompt_tokens: In the language model, those of the image counted.
            output_tokens: Of its answer.
        """
        return None

    @abstractmethod
    def encode(self, prompts: Sequence[Prompt]) -> Batch:
        """See ``surfaces.TokenMaker``."""

    @abstractmethod
    def transfer(self, batch: Any) -> Batch:
        """See ``surfaces.TokenMaker``."""

    @abstractmethod
    def see(self, batch: Any, mark: Mark = unmarked) -> Sized:
        """See ``surfaces.TokenMaker``."""

    @abstractmethod
    def prefill(self, batch: Any, features: Any, max_new_tokens: int) -> DecodeState:
        """See ``surfaces.TokenMaker``."""

    @abstractmethod
    def step(self, state: Any) -> DecodeState:
        """See ``surfaces.TokenMaker``."""

    @abstractmethod
    def text(self, token_ids: Sequence[int]) -> str:
        """See ``surfaces.TokenMaker``."""

    @abstractmethod
    def synchronize(self) -> None:
        """See ``surfaces.TokenMaker``."""


class AbstractFamily(ABC):
    """A kind of checkpoint that vlmprof can read."""

    @abstractmethod
    def describe(self, checkpoint: Checkpoint) -> Anatomy:
        """What the checkpoint is made of, from its configuration: no weights, no torch.

        Raises:
            ModelError: there is no such checkpoint, or it is not of this family.
        """

    @abstractmethod
    def load(self, checkpoint: Checkpoint, device: str) -> AbstractModel:
        """The model, ready to answer.

        Raises:
            ModelError: the weights cannot be read, or are not what the configuration says.
        """
