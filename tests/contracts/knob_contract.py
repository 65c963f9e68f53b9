"""What every knob owes, as an inheritable suite: the author of a new knob supplies values and inherits the tests.

A knob that turns a loaded model inherits ``KnobContract``; one that says how a model is loaded inherits
``load_knob_contract.LoadKnobContract``. What both owe is ``KnobValuesContract``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, final

import pytest
import torch

from vlmprof import registry
from vlmprof.engine.greedy import generate
from vlmprof.errors import KnobValueError
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.measure.model_counts import ModelParts, counted
from vlmprof.models.family import AbstractModel, Checkpoint
from vlmprof.plan.point import label
from vlmprof.records import Observation, Prompt
from vlmprof.surfaces import SURFACES, Anatomy
from vlmprof.tasks.task import Task

SAMPLES = 6
BUDGETS = ("max_crops", "max_pixels", "vision_tokens", "tiling", "output_tokens")


class KnobValuesContract(ABC):
    """The values of any knob are judged without weights."""

    name: str

    @abstractmethod
    def effective(self) -> Sequence[Any]:
        """Legal values that change what the demo model does, or how it is loaded."""

    @abstractmethod
    def illegal(self) -> Sequence[Any]:
        """Values that the demo model cannot take."""

    @pytest.fixture
    def knob(self) -> AbstractKnob:
        knob: AbstractKnob = registry.load("knobs", self.name)
        return knob

    @final
    def test_it_needs_one_known_surface(self, knob: AbstractKnob) -> None:
        assert knob.needs in SURFACES

    @final
    def test_legal_values_are_known_without_weights(self, knob: AbstractKnob, anatomy: Anatomy) -> None:
        assert self.effective(), "no value to test with"
        for value in self.effective():
            knob.check(value, anatomy)
            assert knob.axis(value) is not None
            assert label(value)

    @final
    def test_illegal_values_are_refused_without_weights(self, knob: AbstractKnob, anatomy: Anatomy) -> None:
        assert self.illegal(), "no value to test with"
        for value in self.illegal():
            with pytest.raises(KnobValueError, match=self.name):
                knob.check(value, anatomy)


class KnobContract(KnobValuesContract):
    """Inherit, name the knob, give legal values that change the work, and illegal ones."""

    @final
    def test_the_effect_is_visible_in_what_the_model_did(
        self, knob: AbstractKnob, anatomy: Anatomy, model: AbstractModel, prompts: list[Prompt]
    ) -> None:
        for value in self.effective():
            assert knob.effect(value, anatomy, observe(model, prompts, knob, value)) == "effective", value

    @final
    def test_a_knob_that_does_nothing_is_caught(
        self, knob: AbstractKnob, anatomy: Anatomy, model: AbstractModel, prompts: list[Prompt]
    ) -> None:
        idle = observe(model, prompts)
        for value in self.effective():
            assert knob.effect(value, anatomy, idle) == "mismatch", value

    @final
    def test_logits_after_leaving_are_those_before_bit_for_bit(
        self, knob: AbstractKnob, model: AbstractModel, prompts: list[Prompt]
    ) -> None:
        before = logits(model, prompts)
        for value in self.effective():
            with knob.applied(model, value):
                logits(model, prompts)
            assert torch.equal(before, logits(model, prompts)), value

    @final
    def test_an_error_inside_leaves_the_model_as_it_was(
        self, knob: AbstractKnob, model: AbstractModel, prompts: list[Prompt]
    ) -> None:
        before, state = logits(model, prompts), fingerprint(model)
        for value in self.effective():
            with pytest.raises(ZeroDivisionError), knob.applied(model, value):
                raise ZeroDivisionError
            assert fingerprint(model) == state
        assert torch.equal(before, logits(model, prompts))


def logits(model: AbstractModel, prompts: list[Prompt]) -> torch.Tensor:
    """Raw logits of the whole prompts, (batch, vocabulary) at the last position, as this model is set now."""
    batch = model.transfer(model.encode(prompts))
    features = model.see(batch)
    caught: list[torch.Tensor] = []
    handle = model._model.lm_head.register_forward_hook(lambda module, args, output: caught.append(output))  # type: ignore[attr-defined]
    try:
        state = model.prefill(batch, features, 4)
        model.step(state)
    finally:
        handle.remove()
    return torch.cat(caught, dim=1)


def observe(
    model: AbstractModel, prompts: list[Prompt], knob: AbstractKnob | None = None, value: Any = None
) -> Observation:
    """What a generation under a knob really did."""
    whole = ModelParts.of(model)
    with knob.applied(model, value) if knob else nullcontext(), counted(whole) as counts:
        run = generate(model, prompts, max_new_tokens=model.output_tokens or 8, stop_at_eos=False)
    seen = run.generations
    return Observation(
        capped_share=sum(g.encoding.capped for g in seen) / len(seen),
        crops_max=max(g.encoding.crops for g in seen),
        blocks_executed=counts.blocks_executed,
        experts_per_token=counts.experts_per_token,
        tokens_max=max(g.tokens for g in seen),
        cut_share=sum(g.end == "cap" for g in seen) / len(seen),
        vision_tokens_max=max(g.encoding.vision_tokens for g in seen),
        tilings=frozenset(g.encoding.tiling for g in seen),
        routing=counts.routing,
        loaded=model.kernels,
    )


def fingerprint(model: AbstractModel) -> list[Any]:
    """All that knobs may change."""
    decoder = model.decoder
    return [
        *(
            getattr(model, name, None)
            for name in ("max_crops", "max_pixels", "vision_tokens", "tiling", "output_tokens")
        ),
        [router.top_k for router in model.routers],
        [id(layer) for layer in decoder.layers],
        [layer.self_attn.layer_idx for layer in decoder.layers],
        decoder.config.to_dict(),
    ]


def kept_weights(weights: Mapping[str, torch.Tensor], kept: Sequence[int]) -> dict[str, torch.Tensor]:
    """The weights of a model, its kept decoder blocks renumbered and the others left out."""
    renamed = {}
    for name, tensor in weights.items():
        head, found, tail = name.partition("language_model.layers.")
        index, _, rest = tail.partition(".")
        if not found:
            renamed[name] = tensor
        elif int(index) in kept:
            renamed[f"{head}{found}{kept.index(int(index))}.{rest}"] = tensor
    return renamed


def demo_prompts(task: Task, count: int = SAMPLES) -> list[Prompt]:
    """The first prompts of the demo's task."""
    return [task.ask(example) for example in task.subset("", count, 0)]


def demo_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint of the demo's architecture."""
    return Checkpoint(path=str(folder), revision="", dtype="float32")
