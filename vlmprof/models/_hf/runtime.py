"""A loaded image-text-to-text model: the ``TokenMaker`` that engines drive, with the surfaces that knobs act on.

The stages of one generation are separate: ``see`` runs the vision side once; ``prefill`` lets transformers prepare
positions, masks and cache and reuses those features, so that the vision tower does not run again; ``step`` feeds one
token with the keyword arguments that transformers passes from forward to forward. A loop that only extended ids and
mask would be wrong for models with three-dimensional rotary positions.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor
from transformers import ProcessorMixin

from vlmprof.decoding import Mark, PromptOutput, StaticInputs, StepInputs, unmarked
from vlmprof.errors import Mismatch
from vlmprof.models._hf.anatomy import budget_of
from vlmprof.models._hf.batching import Features, collate, join_features, split_rows, step_inputs
from vlmprof.models._hf.introspection import find_modules, marking_connectors
from vlmprof.models._hf.literal_text import STAND_IN, add_stand_in, control_tokens, put_in_question
from vlmprof.models._hf.loading import load_model
from vlmprof.models._hf.meta_model import load_processor
from vlmprof.models._hf.prompt_parts import (
    ENCODED,
    PromptConstants,
    constant_arguments,
    features_in,
    only_features,
    prompt_inputs,
    values_of,
    vision_inputs,
)
from vlmprof.models._hf.vision_budgets import Pinpoints, budget_within
from vlmprof.models._implementations import EXPERTS_KERNELS, read_implementations
from vlmprof.models._positions import positions_of
from vlmprof.models._processor_pool import ProcessorPool
from vlmprof.models._shown_question import with_question
from vlmprof.models.family import AbstractModel, Checkpoint
from vlmprof.records import Encoding, Prompt
from vlmprof.surfaces import Router, TokenCounts


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorBatch:
    """The processed prompts of a batch, on the host or, after ``transfer``, on the device."""

    inputs: Mapping[str, Tensor]
    encodings: tuple[Encoding, ...]
    budgets: tuple[int | None, ...]
    """The vision budget of each image, in the unit of the processor; None where the processor has no known budget."""
    values: Mapping[str, Hashable]
    """What recordings of this batch depend on besides shapes."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VisionLimits:
    """The knobs that limit vision tokens, as they were when a batch began to be encoded."""

    cap: int | None
    """The largest budget of an image, in the unit of the processor; None where the processor has no known budget."""
    target: int | None
    """The target for vision tokens; None: no target."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationState:
    """A batch between two decode steps."""

    logits: Tensor
    """(batch, vocabulary) of the last forward."""
    next_tokens: Tensor
    """(batch,) greedy choice."""
    finite: Tensor
    """(batch,) whether all logits were finite so far."""
    ids: Tensor
    """(batch, tokens) prompt and answer so far, padded on the left."""
    carried: Mapping[str, Any]
    """The keyword arguments that transformers passes from one forward to the next: cache, mask, positions."""
    following: StepInputs | None = None
    """The inputs of the next decode step, where they are known; its tokens are ``next_tokens``."""


@final
class LoadedVlm(AbstractModel):
    """One checkpoint on one device."""

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        # torch chooses some kernels by whether weights require gradients, and cannot tell while reads are noted.
        model.requires_grad_(False)
        self._model, self._processor, self._device = model, processor, device
        self._processors = ProcessorPool(processor)
        self._control_tokens = control_tokens(processor)
        self._resolutions_lock = threading.Lock()
        self._parts = find_modules(model)
        self._vision_arguments = frozenset(signature(self._parts.feature_owner.get_image_features).parameters)
        self._budget = budget_of(processor)
        self._image_token_id = getattr(model.config, "image_token_id", None) or processor.image_token_id
        self.max_crops: int = self._budget.trained if self._budget else 1
        self.max_pixels: int = self.max_crops
        self.vision_tokens: int | None = None
        self.output_tokens: int | None = None
        self.eos_ids = _eos_ids(model, processor)

    @property
    def decoder(self) -> Any:
        return self._parts.decoder

    @property
    def routers(self) -> Sequence[Router]:
        return () if self._parts.dense_compute else self._parts.routers

    @property
    def kernels(self) -> Mapping[str, str]:
        return read_implementations(self._model)

    @property
    def vision_encoder(self) -> Any:
        return self._model.get_encoder(modality="image")

    @property
    def network(self) -> Any:
        return self._model

    @property
    def image_token_id(self) -> int | None:
        token_id: int = self._image_token_id
        return token_id

    @property
    def positions(self) -> int | None:
        return positions_of(self._parts.decoder.config)

    @property
    def device(self) -> str:
        return self._device

    def encode(self, prompts: Sequence[Prompt]) -> ProcessorBatch:
        limits = self._vision_limits()  # read once: all prompts of a batch are encoded under the same knobs
        rows, encodings, budgets = [], [], []
        with self._processors.borrowed() as processor:
            for prompt in prompts:
                value = self._budget_of(prompt, limits)
                inputs = self._process(processor, prompt, value)
                rows.append(inputs)
                encodings.append(self._encoding(inputs, prompt, value))
                budgets.append(value)
        tokenizer = self._processor.tokenizer
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        joined = collate(rows, pad_id)
        return ProcessorBatch(
            inputs=joined, encodings=tuple(encodings), budgets=tuple(budgets), values=values_of(joined, rows)
        )

    def transfer(self, batch: ProcessorBatch) -> ProcessorBatch:
        moved = {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.inputs.items()}
        return replace(batch, inputs=moved)

    @torch.inference_mode()
    def see(self, batch: ProcessorBatch, mark: Mark = unmarked) -> Features:
        return self.vision_features(batch, self.encode_vision(self.vision_inputs(batch, mark), mark))

    @property
    def vision_blocks(self) -> Sequence[Any]:
        return ()  # those of Qwen-VL read the lengths of their windows on the host, which the compiler refuses

    @torch.inference_mode()
    def vision_inputs(self, batch: ProcessorBatch, mark: Mark) -> StaticInputs:
        dtype = self._model.dtype
        arguments = {name: batch.inputs[name] for name in self._vision_arguments if name in batch.inputs}
        arguments = {name: t.to(dtype) if t.is_floating_point() else t for name, t in arguments.items()}
        return vision_inputs(arguments, batch.values, batch.budgets)

    def encode_vision(self, inputs: StaticInputs, mark: Mark) -> Any:
        budgets, tensors = inputs.settings, inputs.tensors
        with marking_connectors(self._parts.connectors, mark):
            if isinstance(self._budget, Pinpoints) and len(set(budgets)) > 1:
                # The tower reads one list of resolutions per call, so images with different budgets run one by one.
                rows = zip(split_rows(tensors, len(budgets)), budgets, strict=True)
                return join_features([self._image_features(row, value) for row, value in rows])
            return self._image_features(tensors, budgets[0])

    def vision_features(self, batch: ProcessorBatch, encoded: Any) -> Features:
        return Features(output=encoded, inputs=batch.inputs)

    @torch.inference_mode()
    def prefill(
        self, batch: ProcessorBatch, features: Features, max_new_tokens: int, cache: Any = None
    ) -> GenerationState:
        cache_argument = {} if cache is None else {"past_key_values": cache}
        # ``generate`` prepares its inputs as usual, but ``custom_generate`` replaces its loop by one forward.
        with self._reuse_features(features.output):
            state: GenerationState = self._model.generate(
                **features.inputs,
                **cache_argument,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=0,
                custom_generate=_prefill_only,
            )
        return state

    @torch.inference_mode()
    def step(self, state: GenerationState) -> GenerationState:
        ids = torch.cat([state.ids, state.next_tokens[:, None]], dim=1)
        inputs = self._model.prepare_inputs_for_generation(ids, next_sequence_length=1, **state.carried)
        output = self._model(**inputs, return_dict=True)
        return _next_state(self._model, ids, output, state.carried, state.finite)

    def prompt_inputs(self, batch: ProcessorBatch, features: Features) -> StaticInputs:
        return prompt_inputs(features.output, batch.values)

    def first_prompt(
        self, batch: ProcessorBatch, features: Features, inputs: StaticInputs, cache: Any
    ) -> PromptConstants:
        prepared: dict[str, Any] = {}
        hook = self._model.register_forward_pre_hook(
            lambda _, __, arguments: prepared.update(arguments), with_kwargs=True
        )
        try:
            state = self.prefill(batch, features, 2, cache)
        finally:
            hook.remove()
        return PromptConstants(
            arguments=constant_arguments(prepared, self._vision_arguments),
            ids=state.ids,
            carried={name: value for name, value in state.carried.items() if name != ENCODED},
            step=self.step_inputs(state),
        )

    def prompt_logits(self, inputs: StaticInputs, cache: Any, constants: PromptConstants) -> Tensor:
        output, arguments = features_in(inputs), dict(constants.arguments)
        if ENCODED in arguments:
            arguments[ENCODED] = {"image": output}
        with self._reuse_features(output):
            logits: Tensor = self._model(**arguments, past_key_values=cache).logits[:, -1]
        return logits

    def after_prompt(
        self, batch: ProcessorBatch, output: PromptOutput, cache: Any, constants: PromptConstants
    ) -> GenerationState:
        return GenerationState(
            **output._asdict(), ids=constants.ids, carried=constants.carried, following=constants.step
        )

    def step_inputs(self, state: GenerationState) -> StepInputs:
        if state.following is not None:
            return replace(state.following, ids=state.next_tokens[:, None])
        return step_inputs(self._model, state.ids, state.next_tokens, state.carried)

    def next_logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any, constants: Mapping[str, Any]
    ) -> Tensor:
        inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "past_key_values": cache}
        logits: Tensor = self._model(**inputs, **constants, return_dict=True).logits[:, -1]
        return logits

    def text(self, token_ids: Sequence[int]) -> str:
        decoded: str = self._processor.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return decoded.strip()

    def synchronize(self) -> None:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)

    def _vision_limits(self) -> VisionLimits:
        if self._budget is None:
            return VisionLimits(cap=None, target=None)
        cap = self.max_pixels if self._budget.unit == "pixels" else self.max_crops
        return VisionLimits(cap=cap, target=self.vision_tokens)

    def _budget_of(self, prompt: Prompt, limits: VisionLimits) -> int | None:
        if self._budget is None or limits.cap is None or limits.target is None:
            return limits.cap
        picture = prompt.picture
        return min(limits.cap, budget_within(self._budget, picture.height, picture.width, limits.target))

    def _process(self, processor: Any, prompt: Prompt, value: int | None) -> dict[str, Tensor]:
        picture, budget = prompt.picture, self._budget
        budget_arguments: Mapping[str, Any] = {}
        if budget is not None and value is not None:
            budget_arguments = budget.images_kwargs(picture.height, picture.width, value)
            if isinstance(budget, Pinpoints):
                processor = budget.limited(processor, value)
        tokenizer, question = processor.tokenizer, prompt.text
        literals = tuple(token for token in self._control_tokens if token in question)
        if literals:
            add_stand_in(tokenizer)
            question = STAND_IN
        text = _render_chat(processor, question)
        bos = tokenizer.bos_token
        processed = processor(
            text=[text],
            images=[[picture.load()]],
            images_kwargs=dict(budget_arguments),
            add_special_tokens=not (bos and text.startswith(bos)),
            truncation=False,  # some tokenizers carry a length to cut at, which would cut the question silently
            padding=False,
            return_tensors="pt",
        )
        inputs = {name: value for name, value in processed.items() if isinstance(value, Tensor)}
        return put_in_question(inputs, tokenizer, prompt.text, literals) if literals else inputs

    def _encoding(self, inputs: Mapping[str, Tensor], prompt: Prompt, value: int | None) -> Encoding:
        image_tokens = int((inputs["input_ids"] == self._image_token_id).sum())
        counts = natural = TokenCounts(tiling=(1, image_tokens), crops=1, vision_tokens=image_tokens)
        if self._budget is not None and value is not None:
            size = prompt.picture.height, prompt.picture.width
            counts = self._budget.count(*size, value)
            natural = self._budget.count(*size, self._budget.trained)
        if counts.vision_tokens != image_tokens:
            raise Mismatch(
                f"an image of {prompt.picture.height} x {prompt.picture.width} was planned as {counts.vision_tokens}"
                f" vision tokens but the processor made {image_tokens}"
            )
        return Encoding(
            tiling=counts.tiling,
            natural_tiling=natural.tiling,
            crops=counts.crops,
            vision_tokens=image_tokens,
            prompt_tokens=inputs["input_ids"].shape[1],
        )

    def _image_features(self, arguments: Mapping[str, Tensor], value: int | None) -> Any:
        with self._limit_resolutions(value):
            return only_features(self._parts.feature_owner.get_image_features(**arguments, return_dict=True))

    @contextmanager
    def _limit_resolutions(self, value: int | None) -> Iterator[None]:
        """Shorten the model's list of resolutions like the processor's; if they differ, features are packed wrongly."""
        config = self._model.config
        if not isinstance(self._budget, Pinpoints) or value is None:
            yield
            return
        # The configuration belongs to this model alone and is read by its forwards alone, never while prompts are
        # encoded. The lock makes two forwards at the same time, which nothing does today, wait for each other.
        with self._resolutions_lock:
            before = config.image_grid_pinpoints
            config.image_grid_pinpoints = self._budget.pinpoints(value)
            try:
                yield
            finally:
                config.image_grid_pinpoints = before

    @contextmanager
    def _reuse_features(self, output: Any) -> Iterator[None]:
        """Let ``get_image_features`` return these features, so that the vision side is not run and timed again."""
        owner = self._parts.feature_owner

        @wraps(owner.get_image_features)  # transformers reads the signature to choose the inputs that it passes
        def cached_features(*args: Any, **kwargs: Any) -> Any:
            return output

        owner.get_image_features = cached_features
        try:
            yield
        finally:
            del owner.get_image_features


def _render_chat(processor: Any, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    # Not the processor's own method, because SmolVLM's uses its video processor, which may be missing.
    text: str = ProcessorMixin.apply_chat_template(processor, messages, add_generation_prompt=True, tokenize=False)
    return with_question(text, question)


def load_vlm(checkpoint: Checkpoint, device: str) -> LoadedVlm:
    """Load a checkpoint onto a device, refusing missing, unexpected or misshapen tensors.

    Raises:
        ModelError: the files cannot be read, are in a refused format, or do not match the model's parameters exactly.
    """
    model = load_model(checkpoint)
    model.eval().to(device)
    loaded = LoadedVlm(model, load_processor(checkpoint), device)
    if loaded.routers and loaded.decoder._can_set_experts_implementation():
        # Set on the decoder: most wrapper classes of transformers refuse the call, or accept and ignore it. It holds
        # for prefill and decode; ``generate`` of transformers would switch kernels between the two on a GPU.
        loaded.decoder.set_experts_implementation(checkpoint.experts_kernel or EXPERTS_KERNELS[0])
    return loaded


def _prefill_only(model: Any, input_ids: Tensor, generation_config: Any, **prepared: Any) -> GenerationState:
    for unused in ("logits_processor", "stopping_criteria", "synced_gpus", "streamer", "assistant_model"):
        prepared.pop(unused, None)
    output = model._prefill(input_ids, generation_config, prepared)
    return _next_state(model, input_ids, output, prepared, None)


def _next_state(
    model: Any, ids: Tensor, output: Any, carried: Mapping[str, Any], before: Tensor | None
) -> GenerationState:
    """The state after a forward; ``before`` says which rows were finite so far, None: there was no forward."""
    next_arguments = model._update_model_kwargs_for_generation(output, dict(carried), is_encoder_decoder=False)
    logits = output.logits[:, -1]
    finite = logits.isfinite().all(-1)
    return GenerationState(
        logits=logits,
        next_tokens=logits.argmax(-1),
        finite=finite if before is None else before & finite,
        ids=ids,
        carried=next_arguments,
    )


def _eos_ids(model: Any, processor: Any) -> frozenset[int]:
    eos_token_id = model.generation_config.eos_token_id
    if eos_token_id is None:
        eos_token_id = processor.tokenizer.eos_token_id
    return frozenset(eos_token_id if isinstance(eos_token_id, list) else [eos_token_id])
