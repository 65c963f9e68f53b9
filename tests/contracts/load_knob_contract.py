"""What a knob owes that says how a model is loaded: an inheritable suite, as ``knob_contract`` is for the others."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import final

import pytest

from tests.contracts.knob_contract import KnobValuesContract, demo_checkpoint, fingerprint, logits, observe
from vlmprof import registry
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.models.family import AbstractModel, Checkpoint
from vlmprof.plan.point import label
from vlmprof.records import Prompt
from vlmprof.surfaces import Anatomy


class LoadKnobContract(KnobValuesContract):
    """Inherit, name the knob, give the value the demo is loaded with by itself, legal others, and illegal ones."""

    usual: str

    @final
    def test_it_sets_one_argument_of_loading(self, knob: AbstractKnob) -> None:
        assert knob.load_argument in {field.name for field in fields(Checkpoint)}

    @final
    def test_the_usual_value_is_legal_and_a_word_is_its_own_label(self, knob: AbstractKnob, anatomy: Anatomy) -> None:
        knob.check(self.usual, anatomy)
        assert knob.axis(self.usual) is not None
        assert [label(value) for value in (self.usual, *self.effective())] == [self.usual, *self.effective()]

    @final
    def test_a_model_loaded_so_computes_so(
        self, knob: AbstractKnob, anatomy: Anatomy, model: AbstractModel, prompts: list[Prompt], tiny_checkpoint: Path
    ) -> None:
        before = logits(model, prompts)
        for value in self.effective():
            checkpoint = replace(demo_checkpoint(tiny_checkpoint), **{knob.load_argument: value})
            loaded = registry.load("models", "demo").load(checkpoint, "cpu")
            assert knob.effect(value, anatomy, observe(loaded, prompts, knob, value)) == "effective", value
            # Every value is the same function: kernels to rounding, half precision to what it can hold.
            tolerance = 2e-5 if knob.load_argument != "dtype" else 0.1
            assert (logits(loaded, prompts).float() - before).abs().max() < tolerance * before.abs().max().clamp(min=1)

    @final
    def test_a_model_that_was_not_loaded_so_is_caught(
        self, knob: AbstractKnob, anatomy: Anatomy, model: AbstractModel, prompts: list[Prompt]
    ) -> None:
        """Also when the knob was entered: the argument that loading ignored is seen in the modules."""
        for value in self.effective():
            assert knob.effect(value, anatomy, observe(model, prompts, knob, value)) == "mismatch", value
        assert knob.effect(self.usual, anatomy, observe(model, prompts, knob, self.usual)) == "no-op"

    @final
    def test_entering_it_leaves_a_loaded_model_alone(self, knob: AbstractKnob, model: AbstractModel) -> None:
        state, kernels = fingerprint(model), dict(model.kernels)
        for value in self.effective():
            with pytest.raises(ZeroDivisionError), knob.applied(model, value):
                assert (fingerprint(model), dict(model.kernels)) == (state, kernels)
                raise ZeroDivisionError
