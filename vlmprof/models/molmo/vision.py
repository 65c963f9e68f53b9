"""The vision modules of Molmo v1: a CLIP tower and the connector that turns its patches into token embeddings.

The crops of a whole batch are on one axis, without padding, and features are returned with one row per image token, in
token order.

Source of the architecture: allenai/molmo ``olmo/model.py`` and ``olmo/image_vit.py``.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from vlmprof.models.molmo.configuration import MolmoConfig, MolmoVisionConfig


class MolmoPreTrainedModel(PreTrainedModel):
    """Base class of all Molmo modules: the attributes that transformers reads."""

    config_class = MolmoConfig
    base_model_prefix = "model"
    input_modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = [
        "OlmoeDecoderLayer",
        "Olmo2DecoderLayer",
        "Qwen2DecoderLayer",
        "CLIPEncoderLayer",
    ]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers searches the source file of the class for a decorator, which is in that of the text model.
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, MolmoVisionModel):
            init.normal_(module.class_embedding, mean=0.0, std=std)
            init.normal_(module.positional_embedding, mean=0.0, std=std)
        elif isinstance(module, MolmoAdapter):
            init.normal_(module.pad_embed, mean=0.0, std=std)


@final
class MolmoVisionModel(MolmoPreTrainedModel):
    """CLIP ViT without final norm: the concatenated outputs of a few blocks, class token removed."""

    config_class = MolmoVisionConfig
    main_input_name = "pixel_values"
    input_modalities: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, config: MolmoVisionConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        patches = (config.image_size // config.patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + patches, width))
        self.patch_embedding = nn.Linear(config.num_channels * config.patch_size**2, width, bias=False)
        self.pre_ln = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(CLIPEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the patch features of every crop.

        Args:
            pixel_values: (crops, patches, patch_px * patch_px * channels), each patch flattened (row, col, channel).

        Returns:
            (crops, patches, len(vision_feature_layers) * hidden_size).
        """
        patches = self.patch_embedding(pixel_values.to(self.dtype))
        start = self.class_embedding.expand(patches.shape[0], 1, -1)
        hidden = self.pre_ln(torch.cat([start, patches], dim=1) + self.positional_embedding)
        wanted = self.config.feature_layer_indices
        # Blocks above the highest wanted one do not affect the output; they are run only for timing.
        depth = len(self.layers) if self.config.run_unused_layers else max(wanted) + 1
        outputs: dict[int, Tensor] = {}
        for index, layer in enumerate(self.layers[:depth]):
            hidden = layer(hidden, None)
            if index in wanted:
                outputs[index] = hidden[:, 1:]
        return torch.cat([outputs[index] for index in wanted], dim=-1)


@final
class MolmoPooling(nn.Module):
    """Attention over the patches of one window, queried by their mean. Heads are those of the vision tower."""

    def __init__(self, config: MolmoVisionConfig) -> None:
        super().__init__()
        width, features = config.hidden_size, config.hidden_size * len(config.feature_layer_indices)
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(features, width)
        self.k_proj = nn.Linear(features, width)
        self.v_proj = nn.Linear(features, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, windows: Tensor) -> Tensor:
        """Pool (tokens, window, features) to (tokens, hidden_size)."""
        tokens, window, _ = windows.shape
        query = self.q_proj(windows.mean(dim=1)).view(tokens, 1, self.num_heads, -1).float()
        key = self.k_proj(windows).view(tokens, window, self.num_heads, -1).float()
        value = self.v_proj(windows).view(tokens, window, self.num_heads, -1).float()
        # One query against four keys: products and sums in fp32, as in the original. Fused kernels would put tokens *
        # heads on a grid axis that CUDA limits to 65,535, which a batch of a few images exceeds.
        weights = ((query * key).sum(-1) * query.shape[-1] ** -0.5).softmax(dim=1)
        pooled = (weights[..., None] * value).sum(dim=1).flatten(1)
        output: Tensor = self.o_proj(pooled.to(windows.dtype))
        return output


@final
class MolmoProjector(nn.Module):
    """Gated MLP from the tower's width to the text model's."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        width, inner = config.vision.hidden_size, config.adapter_intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, config.text.hidden_size, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Project (tokens, vision width) to (tokens, text width)."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(pooled)) * self.up_proj(pooled))
        return output


@final
class MolmoAdapter(nn.Module):
    """Everything between the tower and the text model: padding embeddings, window gathering, pooling, projection."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        features = config.vision.hidden_size * len(config.vision.feature_layer_indices)
        self.pad_embed = nn.Parameter(torch.zeros(2, features))
        self.image_pooling_2d = MolmoPooling(config.vision)
        self.image_projector = MolmoProjector(config)

    def forward(self, features: Tensor, image_masks: Tensor, image_token_pooling: Tensor) -> Tensor:
        """Return one embedding per image token.

        Windows are gathered before they are pooled, so cells that no token uses cost nothing (the original pools all of
        them and drops up to 38 % afterwards).

        Args:
            features: (crops, patches, features) from the tower.
            image_masks: (crops, patches), the share of each patch that is image: 0 is padding, below 1 is partly
                padding. In the preprocessing used in training each crop has the mask of the next one, the last -1.
            image_token_pooling: (tokens, window), indices into the crops' patches, flattened over the batch.
        """
        # Do not compare pixels or half-precision values with a sentinel: in bf16 real pixels can round to it.
        padded, partly = image_masks == 0, (image_masks < 1) & (image_masks != 0)
        kinds = torch.stack([padded, partly], dim=-1).to(features.dtype)
        features = (features + kinds @ self.pad_embed.to(features.dtype)).flatten(0, 1)
        pooled = self.image_pooling_2d(features[image_token_pooling])
        output: Tensor = self.image_projector(pooled)
        return output
