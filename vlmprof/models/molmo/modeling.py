"""Molmo v1 and MolmoE on transformers 5: the vision modules of ``vision.py`` with a text model of transformers.

The text models are those of transformers (OLMoE for MolmoE, Qwen2 for 7B-D and 72B, OLMo2 for 7B-O), so every knob that
works on them works here: ``model.decoder_layers`` are the blocks, ``layer.mlp.gate.top_k`` is the top-k of a MoE block.

Source of the architecture: allenai/molmo ``olmo/model.py``.
"""

from __future__ import annotations

import os
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

from vlmprof.models.molmo.configuration import MolmoConfig
from vlmprof.models.molmo.outputs import MolmoOutput
from vlmprof.models.molmo.text_models import TEXT_MODELS
from vlmprof.models.molmo.vision import MolmoAdapter, MolmoPreTrainedModel, MolmoVisionModel

IMAGE_INPUTS = ("pixel_values", "image_masks", "image_token_pooling", "image_features")
"""Arguments of ``forward`` that are only used until the prompt is in the cache, and are dropped afterwards."""


@final
class MolmoModel(MolmoPreTrainedModel):
    """Molmo without the output layer."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        self.vision_tower = MolmoVisionModel(config.vision)
        self.multi_modal_projector = MolmoAdapter(config)
        self.language_model = TEXT_MODELS[config.text.model_type](config.text)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token embeddings."""
        table: nn.Module = self.language_model.get_input_embeddings()
        return table

    def get_image_features(self, pixel_values: Tensor, image_masks: Tensor, image_token_pooling: Tensor) -> Tensor:
        """Run the vision tower and the connector.

        Args:
            pixel_values: (crops, patches, patch values) of the whole batch.
            image_masks: (crops, patches).
            image_token_pooling: (image tokens, window) patch indices, in token order over the whole batch.

        Returns:
            (image tokens, text hidden_size), the features that are added to the token embeddings.
        """
        patches = self.vision_tower(pixel_values)
        features: Tensor = self.multi_modal_projector(patches, image_masks, image_token_pooling)
        return features

    def merge(self, input_ids: Tensor, image_features: Tensor) -> Tensor:
        """Return token embeddings (batch, sequence, hidden) with features added at the image tokens.

        Added, not substituted: the <im_patch> embedding itself is part of the sum.

        Raises:
            ValueError: if the prompt does not have one image token for each feature.
        """
        if self.config.image_patch_id is None:
            raise ValueError("config.image_patch_id is None; set it to the tokenizer's id of '<im_patch>'")
        embeds = self.get_input_embeddings()(input_ids)
        is_image = input_ids == self.config.image_patch_id
        _check_count(is_image, image_features)
        # Index arithmetic instead of boolean assignment: no device synchronisation, and a CUDA graph can capture it.
        order = (is_image.flatten().cumsum(0) - 1).clamp(min=0).view_as(input_ids)
        return torch.where(is_image[..., None], embeds + image_features.to(embeds.dtype)[order], embeds)

    def image_features_of(
        self,
        pixel_values: Tensor | None,
        image_masks: Tensor | None,
        image_token_pooling: Tensor | None,
        image_features: Tensor | None,
    ) -> Tensor | None:
        """Return the given features, or compute them from pixels, or return None when there is no image."""
        if pixel_values is None:
            return image_features
        if image_features is not None:
            raise ValueError("got pixel_values and image_features; pass only one of them, features replace pixels")
        if image_masks is None or image_token_pooling is None:
            raise ValueError("pixel_values need image_masks and image_token_pooling; the processor returns all three")
        return self.get_image_features(pixel_values, image_masks, image_token_pooling)

    def forward(  # noqa: PLR0913 (transformers passes every input by name)
        self,
        input_ids: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        image_masks: Tensor | None = None,
        image_token_pooling: Tensor | None = None,
        image_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run images and tokens; see ``MolmoForConditionalGeneration`` for the arguments."""
        image_features = self.image_features_of(pixel_values, image_masks, image_token_pooling, image_features)
        tokens = input_ids if input_ids is not None else inputs_embeds
        if image_features is not None:
            if input_ids is None or inputs_embeds is not None:
                raise ValueError("images need input_ids, which hold the positions of image tokens; got inputs_embeds")
            inputs_embeds, input_ids = self.merge(input_ids, image_features), None
        if position_ids is None and tokens is not None:
            position_ids = _positions(attention_mask, tokens.shape[1])
        return self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


@final
class MolmoForConditionalGeneration(MolmoPreTrainedModel, GenerationMixin):
    """Molmo with its output layer: generates text from images and a prompt.

    ``forward`` takes:

        input_ids: (batch, sequence); image tokens are those equal to ``config.image_patch_id``.
        pixel_values: (crops of the batch, patches, patch values).
        image_masks: (crops, patches), see ``MolmoAdapter.forward``.
        image_token_pooling: (image tokens of the batch, window), see ``MolmoAdapter.forward``.
        image_features: (image tokens of the batch, hidden), in place of pixels: the result of ``get_image_features``.
        image_tilings: accepted so that the whole output of the processor can be passed; not used.
        image_num_crops: accepted for the same reason; not used.
        attention_mask: (batch, sequence so far), 0 at padding. Positions are computed from it.
        position_ids: (batch, sequence), in place of computed positions.
        past_key_values: the KV cache; after the first step it includes the prompt's images.
        inputs_embeds: (batch, sequence, hidden), in place of ``input_ids`` for prompts without images.
        labels: (batch, sequence), -100 at positions without a target (always for image tokens and padding).
        use_cache: whether to fill a cache.
        logits_to_keep: 0 for all positions, n for the last n, or a tensor of positions.
        kwargs: passed to the text model: ``output_hidden_states``, ``output_attentions``, and for MolmoE
            ``output_router_logits``, which also adds the load balancing term to a loss.
    """

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        self.model = MolmoModel(config)
        self.lm_head = nn.Linear(config.text.hidden_size, config.output_vocab_size, bias=False)
        self.post_init()

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The text model's blocks, in order. Replace ``model.language_model.layers`` to run fewer of them."""
        layers: nn.ModuleList = self.model.language_model.layers
        return layers

    def get_image_features(self, pixel_values: Tensor, image_masks: Tensor, image_token_pooling: Tensor) -> Tensor:
        """Run the vision tower and the connector; see ``MolmoModel.get_image_features``."""
        return self.model.get_image_features(pixel_values, image_masks, image_token_pooling)

    def forward(  # noqa: PLR0913 (transformers passes every input by name)
        self,
        input_ids: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        image_masks: Tensor | None = None,
        image_token_pooling: Tensor | None = None,
        image_features: Tensor | None = None,
        image_tilings: Tensor | None = None,
        image_num_crops: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MolmoOutput:
        """Predict the next token at every position; the docstring of the class describes the arguments.

        Returns:
            ``logits`` (batch, kept positions, output_vocab_size) and the optional outputs that were requested.

        Raises:
            ValueError: if image inputs contradict each other or the prompt.
        """
        kwargs.pop("return_dict", None)
        image_features = self.model.image_features_of(pixel_values, image_masks, image_token_pooling, image_features)
        outputs = self.model(
            input_ids,
            image_features=image_features,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return self._output(outputs, image_features, attention_mask, labels, logits_to_keep)

    def _output(
        self,
        outputs: Any,
        image_features: Tensor | None,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        logits_to_keep: int | Tensor,
    ) -> MolmoOutput:
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        router_logits = outputs.get("router_logits")
        loss, aux_loss = self._losses(logits, labels, router_logits, attention_mask)
        return MolmoOutput(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=router_logits,
            image_features=image_features,
        )

    def _losses(
        self,
        logits: Tensor,
        labels: Tensor | None,
        router_logits: tuple[Tensor, ...] | None,
        attention_mask: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        aux_loss = None
        rows = router_logits[0].shape[0] if router_logits else 0
        # In a decode step the mask covers more tokens than were routed; this loss is for training, so it is skipped.
        if router_logits and (attention_mask is None or attention_mask.numel() == rows):
            top_k = self.config.text.num_experts_per_tok
            aux_loss = load_balancing_loss_func(router_logits, self.config.text.num_experts, top_k, attention_mask)
        if labels is None:
            return None, aux_loss
        loss = self.loss_function(logits, labels, self.config.output_vocab_size)
        if aux_loss is not None:
            loss = loss + self.config.text.router_aux_loss_coef * aux_loss.to(loss.device)
        return loss, aux_loss

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Drop the images once the prompt is in the cache; without a cache every step needs them again."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and inputs.get("past_key_values") is not None:
            for name in IMAGE_INPUTS:
                inputs.pop(name, None)
        return inputs

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        images = [name for name in IMAGE_INPUTS if kwargs.get(name) is not None]
        if expand_size > 1 and images:
            # transformers repeats every tensor along its first dimension, which is not the batch for image inputs.
            raise ValueError(
                f"beams or several sequences per prompt ({expand_size}) are not supported with images "
                f"({', '.join(images)}); repeat the prompts and images in the batch instead"
            )
        expanded: tuple[Tensor, dict[str, Any]] = super()._expand_inputs_for_generation(expand_size, **kwargs)
        return expanded

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save with the native tensor names.

        Some renamings of the Hub layout are not invertible: transformers would write a mixture that only this class
        reads.
        """
        super().save_pretrained(save_directory, **{"save_original_format": False, **kwargs})


def _positions(attention_mask: Tensor | None, length: int) -> Tensor | None:
    """Positions of the last ``length`` tokens, padding not counted, as in the original; None without a 2-D mask."""
    if attention_mask is None or attention_mask.dim() != 2:
        return None
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


def _check_count(is_image: Tensor, image_features: Tensor) -> None:
    # A wrong count would silently shift later features. Counting synchronises, which graph capture does not allow.
    if torch.compiler.is_compiling() or (is_image.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    image_tokens = int(is_image.sum())
    if image_tokens != image_features.shape[0]:
        raise ValueError(
            f"the prompt has {image_tokens} image tokens but there are {image_features.shape[0]} image features; pass "
            "the input_ids and image inputs that one processor call returned, with the same max_crops"
        )
