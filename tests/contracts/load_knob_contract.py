"""What a knob owes that says how a model is loaded: an inheritable suite, as ``knob_contract`` is for the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, final

import pytest

from tests.contracts.knob_contract import demo_checkpoint, fingerprint, logits, observe
from vlmprof import registry
from vlmprof.errors import KnobValueError
from vlmprof.knobs.knob import AbstractKnob, label
from vlmprof.models.family import AbstractModel, Checkpoint
from vlmprof.records import Prompt
from vlmprof.surfaces import SURFACES, Anatomy


class LoadKnobContract(ABC):
    """Inherit, name the knob, give legal values other than the usual one, and illegal ones."""

    name: str
    usual: str

    @abstractmethod
    def effective(self) -> Sequence[str]:
        """Legal values that the demo is not loaded with by itself."""

    @abstractmethod
    def illegal(self) -> Sequence[Any]:
        """Values that the demo cannot be loaded with."""

    @pytest.fixture
    def knob(self) -> AbstractKnob:
        knob: AbstractKnob = registry.load("knobs", self.name)
        return knob

    @final
    def test_it_needs_one_surface_and_sets_one_argument_of_loading(self, knob: AbstractKnob) -> None:
        assert knob.needs in SURFACES
        assert knob.load_argument in {field.name for field in fields(Checkpoint)}

    @final
    def test_legal_values_are_known_without_weights(self, knob: AbstractKnob, anatomy: Anatomy) -> None:
        for value in [self.usual, *self.effective()]:
            knob.check(value, anatomy)
            assert knob.axis(value) is not None
            assert label(value) == value

    @final
    def test_illegal_values_are_refused_without_weights(self, knob: AbstractKnob, anatomy: Anatomy) -> None:
        for value in self.illegal():
            with pytest.raises(KnobValueError, match=self.name):
                knob.check(value, anatomy)

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
