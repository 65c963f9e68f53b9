"""Configuration of Molmo v1, nested as transformers saves it. All sizes are free, so tiny models use the same class.

``MolmoConfig.from_dict`` also reads the flat files of the Hub checkpoints, see ``hub_config.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast, final

from transformers import Olmo2Config, OlmoeConfig, PreTrainedConfig, Qwen2Config

from vlmprof.errors import ModelError, suggestion
from vlmprof.models.molmo.hub_config import is_flat, read_flat
from vlmprof.models.molmo.tiling import Geometry

TEXT_CONFIGS: dict[str, type[PreTrainedConfig]] = {"olmoe": OlmoeConfig, "olmo2": Olmo2Config, "qwen2": Qwen2Config}
"""Text models by ``model_type``: MolmoE, Molmo-7B-O, and Molmo-7B-D and 72B."""


@final
class MolmoVisionConfig(PreTrainedConfig):
    """The CLIP ViT that encodes crops. Defaults: ViT-L/14-336 with the 23 blocks that the checkpoints hold.

    ``vision_feature_layers`` are the blocks whose outputs are concatenated, in that order; negative ones count from
    the last. Blocks above the highest of them do not affect the output: they are loaded but skipped, unless
    ``run_unused_layers`` is set, which is for timing the tower as the original code runs it.
    """

    model_type: ClassVar[str] = "molmo_vision"
    base_config_key: ClassVar[str] = "vision_config"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 23
    num_attention_heads: int = 16
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    image_size: int = 336
    patch_size: int = 14
    num_channels: int = 3
    initializer_range: float = 0.02
    vision_feature_layers: list[int] | None = None
    run_unused_layers: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the default feature layers and refuse sizes that do not fit together."""
        if self.vision_feature_layers is None:
            self.vision_feature_layers = [-2, -9]
        super().__post_init__(**kwargs)
        count = self.num_hidden_layers
        outside = [n for n in self.vision_feature_layers if not -count <= n < count]
        if outside or not self.vision_feature_layers:
            raise ModelError(
                f"vision_feature_layers {self.vision_feature_layers} must name blocks of a {count}-block vision "
                f"tower (-{count} to {count - 1})"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"vision hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )

    @property
    def feature_layer_indices(self) -> list[int]:
        """``vision_feature_layers`` as indices from 0, in order of concatenation."""
        return [n % self.num_hidden_layers for n in self.vision_feature_layers or ()]


@final
class MolmoConfig(PreTrainedConfig):
    """Configuration of a complete Molmo v1 model. The defaults are those of MolmoE-1B.

    ``text_config.vocab_size`` counts all embedding rows, including the ``additional_vocab_size`` rows after the base
    table; the output layer has only the base rows. Ids of special tokens may be None where the Hub files do not hold
    them: the processor takes them from its tokenizer, but the model needs ``image_patch_id``.
    """

    model_type: ClassVar[str] = "molmo"
    attribute_map: ClassVar[dict[str, str]] = {"image_token_id": "image_patch_id"}
    # The declarative form of transformers 5.2x is not used, because the oldest supported version lacks it.
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "text_config": PreTrainedConfig,
        "vision_config": MolmoVisionConfig,
    }

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    vision_config: dict[str, Any] | MolmoVisionConfig | None = None
    adapter_intermediate_size: int = 1024
    additional_vocab_size: int = 128
    margin_left: int = 4
    margin_right: int = 4
    pool_size: int = 2
    image_start_id: int | None = None
    image_end_id: int | None = None
    image_patch_id: int | None = None
    image_col_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the sub-configurations and check settings that depend on both."""
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = _text_config(self.text_config)
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = MolmoVisionConfig(**_without_type(self.vision_config or {}))
        super().__post_init__(**kwargs)
        if self.tie_word_embeddings:
            raise ModelError("tie_word_embeddings must be false: Molmo's output layer has its own weights")
        if not 0 <= self.additional_vocab_size < self.text.vocab_size:
            raise ModelError(
                f"additional_vocab_size {self.additional_vocab_size} must be at least 0 and less than the "
                f"{self.text.vocab_size} rows of text_config.vocab_size, which include it"
            )
        _ = self.geometry  # raises when the sizes do not fit together

    @property
    def text(self) -> Any:
        """``text_config``, typed ``Any`` because it is one of three classes."""
        return self.text_config

    @property
    def vision(self) -> MolmoVisionConfig:
        """``vision_config`` as an object."""
        return cast(MolmoVisionConfig, self.vision_config)

    @property
    def output_vocab_size(self) -> int:
        """Rows of the output layer: the base table, without the rows added for image tokens."""
        return int(self.text.vocab_size - self.additional_vocab_size)

    @property
    def geometry(self) -> Geometry:
        """The image layout of this model."""
        return Geometry(
            crop_px=self.vision.image_size,
            patch_px=self.vision.patch_size,
            margin_left=self.margin_left,
            margin_right=self.margin_right,
            pool=self.pool_size,
        )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read the nested form, or the flat form of the Hub checkpoints.

        Raises:
            ModelError: lists every setting of a flat config that the native model does not implement.
        """
        return super().from_dict(read_flat(config_dict) if is_flat(config_dict) else config_dict, **kwargs)


def _without_type(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "model_type"}


def _text_config(values: Mapping[str, Any] | None) -> PreTrainedConfig:
    if values is None:
        return OlmoeConfig(vocab_size=50432, intermediate_size=1024)
    kind = values.get("model_type", "olmoe")
    if kind not in TEXT_CONFIGS:
        raise ModelError(f"no Molmo text model of type '{kind}'{suggestion(str(kind), list(TEXT_CONFIGS))}")
    return TEXT_CONFIGS[kind](**_without_type(values))
