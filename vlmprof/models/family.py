"""``AbstractFamily`` (cheap, on the driver) and ``AbstractModel`` (loaded, on a device).

A family describes a checkpoint from its configuration alone; only ``load`` reads weights and imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, ClassVar, final

from vlmprof.decoding import Batch, DecodeState, Mark, unmarked
from vlmprof.records import Preprocess, Prompt
from vlmprof.surfaces import Anatomy, Router


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Which weights of a family to load, and how."""

    path: str
    """A local folder or a Hub id; empty where the family ships its own."""
    revision: str
    dtype: str
    trust_remote_code: bool = False
    """Whether Python code that comes with the weights may run."""
    allow_pickle: bool = False
    """Whether weights in a format that can hold code (``.bin``, ``.pt``) may be read."""
    attention: str = ""
    """The attention kernel; empty: the default of transformers."""
    experts_kernel: str = ""
    """The kernel of the experts; empty: the default of the family."""


class AbstractModel(ABC):
    """One checkpoint on one device: the ``TokenMaker`` that engines drive, with the surfaces that knobs act on."""

    max_crops: int
    output_tokens: int | None
    eos_ids: frozenset[int]
    preprocess: Preprocess = "host"
    """Where ``encode`` leaves pictures to be cut. ``device`` only for models whose ``Anatomy.only_host`` is empty."""

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
        """``dtype``, ``attention`` and ``experts_kernel``, read from the loaded modules."""

    @property
    @abstractmethod
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def vision_encoder(self) -> Any:
        """The module of the vision encoder, for counting hooks; None where a family does not expose it."""
        return None

    @property
    def network(self) -> Any:
        """The module that is called with ``input_ids`` at every forward, for counting hooks; None where not exposed."""
        return None

    @property
    def image_token_id(self) -> int | None:
        """The id of vision tokens in a prompt, for counting hooks; None where not exposed."""
        return None

    @property
    def positions(self) -> int | None:
        """The most tokens of prompt and answer together; None where no limit is known."""
        return None

    def sample_bytes(self, crops: int, prompt_tokens: int, output_tokens: int) -> float | None:
        """A rough estimate of the memory of one sample of a batch, with the knobs as currently set; None: no estimate.

        It only limits the second batch size that is probed on an unknown device, and is not used once that probe ran.

        Args:
            crops: Crops of the image that go through the vision encoder.
            prompt_tokens: Tokens of the prompt in the language model, including those of the image.
            output_tokens: Tokens of the answer.
        """
        return None

    @abstractmethod
    def encode(self, prompts: Sequence[Prompt]) -> Batch:
        """See ``decoding.TokenMaker``."""

    @abstractmethod
    def transfer(self, batch: Any) -> Batch:
        """See ``decoding.TokenMaker``."""

    @abstractmethod
    def see(self, batch: Any, mark: Mark = unmarked) -> Sized:
        """See ``decoding.TokenMaker``."""

    @abstractmethod
    def prefill(self, batch: Any, features: Any, max_new_tokens: int) -> DecodeState:
        """See ``decoding.TokenMaker``."""

    @abstractmethod
    def step(self, state: Any) -> DecodeState:
        """See ``decoding.TokenMaker``."""

    @abstractmethod
    def text(self, token_ids: Sequence[int]) -> str:
        """See ``decoding.TokenMaker``."""

    @abstractmethod
    def synchronize(self) -> None:
        """See ``decoding.TokenMaker``."""


class AbstractFamily(ABC):
    """A kind of checkpoint that vlmprof can read."""

    tiling_decides: ClassVar[bool] = False
    """Whether a picture and its tiling, known before any processing, decide what the model sees: its models are
    ``engine.vision_cache.RowwiseVision`` then, and settings that give a picture one tiling are the same work."""

    @abstractmethod
    def describe(self, checkpoint: Checkpoint) -> Anatomy:
        """Describe the checkpoint from its configuration: no weights, no torch.

        Raises:
            ModelError: there is no such checkpoint, or it is not of this family.
        """

    @abstractmethod
    def load(self, checkpoint: Checkpoint, device: str) -> AbstractModel:
        """Load the model onto a device.

        Raises:
            ModelError: the weights cannot be read, or do not match the configuration.
        """
