"""A loaded Molmo: the ``TokenMaker`` that engines drive, with the surfaces that knobs act on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from transformers import AutoProcessor, DynamicCache
from transformers.cache_utils import Cache
from transformers.utils.logging import disable_progress_bar

from vlmprof.decoding import Mark, PromptOutput, StaticInputs, StepInputs, unmarked
from vlmprof.errors import Mismatch, ModelError
from vlmprof.models._checkpoint_gate import admit, require_whole, source_of
from vlmprof.models._implementations import EXPERTS_KERNELS, read_implementations, require_package
from vlmprof.models._positions import positions_of
from vlmprof.models._processor_pool import ProcessorPool
from vlmprof.models._shown_question import with_question
from vlmprof.models.family import AbstractModel, Checkpoint
from vlmprof.models.molmo.configuration import MolmoConfig
from vlmprof.models.molmo.device_cutting import Normalisation, UncutPicture, cut_pictures
from vlmprof.models.molmo.memory_rule import sample_bytes
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.processing import IMAGE_TOKENS, MolmoProcessor
from vlmprof.models.molmo.registration import register
from vlmprof.models.molmo.tiling import natural_tiling, tiling_counts, token_counts
from vlmprof.models.molmo.weights import load_strict
from vlmprof.records import Encoding, Prompt
from vlmprof.surfaces import Router, largest_within


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MolmoBatch:
    """The processed prompts of a batch, on the host or, after ``transfer``, on the device."""

    inputs: Mapping[str, Tensor]
    encodings: tuple[Encoding, ...]
    uncut: tuple[UncutPicture, ...] = ()
    """Its pictures, each once, where ``inputs`` has no ``pixel_values``: ``LoadedMolmo.cut`` computes them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CachedRows:
    """A batch between two decode steps."""

    logits: Tensor
    """(batch, vocabulary) of the last forward."""
    next_tokens: Tensor
    """(batch,) greedy choice."""
    finite: Tensor
    """(batch,) whether all logits were finite so far."""
    cache: Cache
    mask: Tensor
    """(batch, tokens in the cache), 0 at padding."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TilingLimits:
    """The knobs that choose tilings, as they were when a batch began to be encoded."""

    max_crops: int
    vision_tokens: int | None
    """The target for vision tokens; None: no target."""
    tiling: tuple[int, int] | None
    """The tiling of every image; None: chosen for each."""


@final
class LoadedMolmo(AbstractModel):
    """One Molmo checkpoint on one device."""

    def __init__(self, model: MolmoForConditionalGeneration, processor: MolmoProcessor, device: str) -> None:
        self._model, self._processor, self._device = model, processor, device
        self._processors = ProcessorPool(processor)
        self._normalisation = Normalisation.of(processor.image_processor, device)
        self.max_crops: int = processor.image_processor.max_crops
        self.vision_tokens: int | None = None
        self.tiling: tuple[int, int] | None = None
        self.output_tokens: int | None = None
        self.eos_ids = frozenset({processor.tokenizer.eos_token_id})
        routers = (getattr(layer.mlp, "gate", None) for layer in model.decoder_layers)
        self._routers = [router for router in routers if router is not None]

    @property
    def decoder(self) -> Any:
        return self._model.model.language_model

    @property
    def routers(self) -> Sequence[Router]:
        return self._routers

    @property
    def kernels(self) -> Mapping[str, str]:
        return read_implementations(self._model)

    @property
    def vision_encoder(self) -> Any:
        return self._model.model.vision_tower

    @property
    def network(self) -> Any:
        return self._model

    @property
    def image_token_id(self) -> int | None:
        token_id: int | None = self._model.config.image_patch_id
        return token_id

    @property
    def positions(self) -> int | None:
        return positions_of(self._model.config.text)

    @property
    def device(self) -> str:
        return self._device

    def encode(self, prompts: Sequence[Prompt]) -> MolmoBatch:
        limits = self._vision_limits()  # read once: all prompts of a batch are encoded under the same knobs
        tilings = [self._tiling(prompt, limits) for prompt in prompts]
        chosen: dict[str, Any] = {"tiling": tilings}
        if limits.tiling is None and limits.vision_tokens is None:
            chosen = {"max_crops": limits.max_crops}
        pictures = [prompt.picture.load() for prompt in prompts]
        with self._processors.borrowed() as processor:
            texts = [_render_chat(processor, prompt.text) for prompt in prompts]
            if self.preprocess == "device":
                inputs, placed = processor.encode_uncut(texts, pictures, **chosen)
            else:
                inputs, placed = processor(text=texts, images=pictures, return_tensors="pt", **chosen), ()
        cut = [(int(rows), int(cols)) for rows, cols in inputs["image_tilings"].tolist()]
        for planned, tiling, prompt in zip(tilings, cut, prompts, strict=True):
            if planned != tiling:
                size = f"{prompt.picture.height} x {prompt.picture.width}"
                raise Mismatch(f"an image of {size} was planned as {planned} crops and was cut into {tiling}")
        batch = self._batch(inputs, tilings, prompts)
        return replace(batch, uncut=tuple(map(UncutPicture.of, placed))) if placed else batch

    def feature_key(self, prompt: Prompt) -> Hashable:
        return self._tiling(prompt, self._vision_limits())

    def encode_text(self, prompts: Sequence[Prompt]) -> MolmoBatch:
        limits = self._vision_limits()
        tilings = [self._tiling(prompt, limits) for prompt in prompts]
        with self._processors.borrowed() as processor:
            inputs = processor.encode_text([_render_chat(processor, prompt.text) for prompt in prompts], tilings)
        return self._batch(inputs, tilings, prompts)

    def split_features(self, batch: MolmoBatch, features: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = features.split([encoding.vision_tokens for encoding in batch.encodings])
        return parts

    def join_features(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def transfer(self, batch: MolmoBatch) -> MolmoBatch:
        moved = {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.inputs.items()}
        return replace(batch, inputs=moved, uncut=tuple(picture.on(self._device) for picture in batch.uncut))

    @torch.inference_mode()
    def cut(self, batch: MolmoBatch) -> MolmoBatch:
        """A transferred batch with ``pixel_values`` among its inputs; one that has them already is returned as it is.

        The host does not wait for the device.
        """
        if not batch.uncut:
            return batch
        crops, geometry = len(batch.inputs["image_masks"]), self._processor.image_processor.geometry
        pixels = cut_pictures(batch.uncut, crops, geometry, self._normalisation)
        return replace(batch, inputs={**batch.inputs, "pixel_values": pixels}, uncut=())

    @torch.inference_mode()
    def see(self, batch: MolmoBatch, mark: Mark = unmarked) -> Tensor:
        return self.encode_vision(self.vision_inputs(batch, mark), mark)

    @property
    def vision_blocks(self) -> Sequence[Any]:
        blocks: Sequence[Any] = self.vision_encoder.layers
        return blocks

    @torch.inference_mode()
    def vision_inputs(self, batch: MolmoBatch, mark: Mark) -> StaticInputs:
        if batch.uncut:
            batch = self.cut(batch)
            mark("preprocess")  # begun on the host, in ``encode``
        layout = {name: batch.inputs[name] for name in ("image_masks", "image_token_pooling")}
        return StaticInputs(tensors={"pixel_values": batch.inputs["pixel_values"].to(self._model.dtype), **layout})

    def encode_vision(self, inputs: StaticInputs, mark: Mark) -> Tensor:
        tensors, model = inputs.tensors, self._model.model
        patches = model.vision_tower(tensors["pixel_values"])
        mark("vision")
        features: Tensor = model.multi_modal_projector(patches, tensors["image_masks"], tensors["image_token_pooling"])
        return features

    def vision_features(self, batch: MolmoBatch, encoded: Tensor) -> Tensor:
        return encoded

    @torch.inference_mode()
    def prefill(
        self, batch: MolmoBatch, features: Tensor | None, max_new_tokens: int, cache: Cache | None = None
    ) -> CachedRows:
        ids, mask = (batch.inputs[name] for name in ("input_ids", "attention_mask"))
        cache = DynamicCache(config=self.decoder.config) if cache is None else cache
        return self._forward(ids, mask, cache, features, None)

    @torch.inference_mode()
    def step(self, state: CachedRows) -> CachedRows:
        mask = torch.cat([state.mask, state.mask.new_ones(len(state.mask), 1)], dim=1)
        return self._forward(state.next_tokens[:, None], mask, state.cache, None, state.finite)

    def step_inputs(self, state: CachedRows) -> StepInputs:
        return StepInputs(
            ids=state.next_tokens[:, None],
            positions=state.mask.long().sum(-1, keepdim=True),
            mask=state.mask,
            constants={},
        )

    def next_logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any, constants: Mapping[str, Any]
    ) -> Tensor:
        output = self._model(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def prompt_inputs(self, batch: MolmoBatch, features: Tensor) -> StaticInputs:
        ids, mask = (batch.inputs[name] for name in ("input_ids", "attention_mask"))
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        inputs = {"ids": ids, "positions": positions, "features": features}
        if len({encoding.prompt_tokens for encoding in batch.encodings}) > 1:  # else no prompt is padded
            earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
            inputs["mask"] = earlier & mask.bool()[:, None, None, :]
        return StaticInputs(tensors=inputs)

    def first_prompt(self, batch: MolmoBatch, features: Tensor, inputs: StaticInputs, cache: Cache) -> None:
        self.prompt_logits(inputs, cache, None)

    def prompt_logits(self, inputs: StaticInputs, cache: Cache, constants: None) -> Tensor:
        tensors = inputs.tensors
        output = self._model(
            input_ids=tensors["ids"],
            position_ids=tensors["positions"],
            attention_mask=tensors.get("mask"),
            past_key_values=cache,
            image_features=tensors["features"],
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def after_prompt(self, batch: MolmoBatch, output: PromptOutput, cache: Cache, constants: None) -> CachedRows:
        return CachedRows(**output._asdict(), cache=cache, mask=batch.inputs["attention_mask"])

    def text(self, token_ids: Sequence[int]) -> str:
        decoded: str = self._processor.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return decoded.strip()

    def synchronize(self) -> None:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)

    def sample_bytes(self, crops: int, prompt_tokens: int, output_tokens: int) -> float:
        load = crops, prompt_tokens, output_tokens
        return sample_bytes(self._model.config, self.decoder.layers, self.routers, self._model.dtype.itemsize, load)

    def _forward(
        self, ids: Tensor, mask: Tensor, cache: Cache, features: Tensor | None, before: Tensor | None
    ) -> CachedRows:
        """One forward; ``before`` says which rows were finite so far, None: there was no forward."""
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            image_features=features,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1]
        finite = logits.isfinite().all(-1)
        return CachedRows(
            logits=logits,
            next_tokens=logits.argmax(-1),
            finite=finite if before is None else before & finite,
            cache=output.past_key_values,
            mask=mask,
        )

    def _batch(self, inputs: Any, tilings: Sequence[tuple[int, int]], prompts: Sequence[Prompt]) -> MolmoBatch:
        rows = zip(tilings, prompts, inputs["attention_mask"].sum(1).tolist(), strict=True)
        return MolmoBatch(inputs=dict(inputs), encodings=tuple(self._encoding(*row) for row in rows))

    def _vision_limits(self) -> TilingLimits:
        return TilingLimits(max_crops=self.max_crops, vision_tokens=self.vision_tokens, tiling=self.tiling)

    def _tiling(self, prompt: Prompt, limits: TilingLimits) -> tuple[int, int]:
        """The tiling set for all images, or else the largest under ``max_crops`` within the target of vision tokens."""
        if limits.tiling:
            rows, cols = limits.tiling
            return rows, cols
        geometry, cap = self._processor.image_processor.geometry, limits.max_crops
        height, width = prompt.picture.height, prompt.picture.width
        if limits.vision_tokens is not None:
            caps, target = range(1, cap + 1), limits.vision_tokens
            cap = largest_within(caps, lambda cap: token_counts(height, width, cap, geometry).vision_tokens, target)
        return token_counts(height, width, cap, geometry).tiling

    def _encoding(self, tiling: tuple[int, int], prompt: Prompt, length: int) -> Encoding:
        geometry = self._processor.image_processor.geometry
        counts = tiling_counts(tiling, geometry)
        return Encoding(
            tiling=tiling,
            natural_tiling=natural_tiling(prompt.picture.height, prompt.picture.width, geometry),
            crops=counts.crops,
            vision_tokens=counts.vision_tokens,
            prompt_tokens=length,
        )


def _render_chat(processor: MolmoProcessor, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    text: str = processor.apply_chat_template(messages, add_generation_prompt=True)
    return with_question(text, question)


def _take_image_ids(config: MolmoConfig, processor: MolmoProcessor, path: str) -> None:
    """Set the ids of image tokens to those that the tokenizer gives them, whatever the configuration says or lacks.

    Raises:
        ModelError: the tokenizer lacks an image token, or gives it an id that the embedding has no row for.
    """
    try:
        ids = processor.special_ids
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
    beyond = {IMAGE_TOKENS[name]: token_id for name, token_id in ids.items() if token_id >= config.text.vocab_size}
    if beyond:
        listed = ", ".join(f"{token} is {token_id}" for token, token_id in beyond.items())
        raise ModelError(
            f"{path}: in its tokenizer {listed}, but the embedding has {config.text.vocab_size} rows; the tokenizer"
            " belongs to another model"
        )
    config.image_start_id, config.image_end_id = ids["start"], ids["end"]
    config.image_patch_id, config.image_col_id = ids["patch"], ids["col"]


def load_molmo(checkpoint: Checkpoint, device: str) -> LoadedMolmo:
    """Load a checkpoint onto a device, refusing missing, unexpected or misshapen tensors.

    Raises:
        ModelError: the files cannot be read, or do not hold exactly the tensors of the configuration.
    """
    register()
    disable_progress_bar()  # a sweep shows its own progress
    revision = {"revision": checkpoint.revision} if checkpoint.revision else {}
    require_package(checkpoint.attention)
    attention = {"attn_implementation": checkpoint.attention} if checkpoint.attention else {}
    admit(checkpoint)
    require_whole(checkpoint)
    source, safe = source_of(checkpoint), None if checkpoint.allow_pickle else True
    kwargs = {"dtype": getattr(torch, checkpoint.dtype), "use_safetensors": safe, **attention, **revision}
    model = load_strict(source, **kwargs)
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False, **revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"{checkpoint.path} has no readable processor: {error}") from error
    _take_image_ids(model.config, processor, checkpoint.path)
    model.eval().to(device)
    loaded = LoadedMolmo(model, processor, device)
    if loaded.routers:
        # Holds for prefill and decode; ``generate`` of transformers would switch kernels between the two on a GPU.
        loaded.decoder.set_experts_implementation(checkpoint.experts_kernel or EXPERTS_KERNELS[0])
    return loaded
