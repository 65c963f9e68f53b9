"""Which knobs each model of a job sweeps: the job's own where they apply, and what is wrong or to be said about it.

A knob of the job that some model can use and another cannot is left out for the one that cannot, with a note. It is a
fault where no model can use it, and where an entry of ``models`` asks for it by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from vlmprof import registry
from vlmprof.errors import Fault, KnobValueError
from vlmprof.job.spec import ModelSpec, ParsedJob, Values
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.plan.model_space import ModelSpace
from vlmprof.surfaces import Anatomy


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKnobs:
    """One model of a job with the knobs that the job asks it to sweep."""

    place: str
    """Of its entry, as faults name it: ``models.1``."""
    entry: ModelSpec
    anatomy: Anatomy
    asked: Mapping[str, Values]
    """Knobs for all models and its own; whether they apply is not decided yet."""

    @property
    def model(self) -> ModelSpec:
        """The model as trials name it."""
        return self.entry.without_knobs

    def lacks(self, name: str) -> str:
        """Why a knob cannot act on this model; empty where it can."""
        return why_inapplicable(name, self.anatomy)

    def own(self, name: str) -> bool:
        """Whether the values of a knob are those of its own entry."""
        return name in (self.entry.knobs or {})

    def field(self, name: str) -> str:
        """Where the job gives this model the values of a knob."""
        return f"{self.place}.knobs.{name}" if self.own(name) else f"knobs.{name}"

    @property
    def space(self) -> ModelSpace:
        """What its trials sweep: the knobs that apply."""
        return ModelSpace(
            model=self.model,
            fingerprint=self.anatomy.fingerprint,
            knobs={name: values for name, values in self.asked.items() if not self.lacks(name)},
            inapplicable=tuple(sorted(name for name in self.asked if self.lacks(name))),
        )


def why_inapplicable(name: str, anatomy: Anatomy) -> str:
    """Why a knob has nothing to act on in a model; empty where it has."""
    knob: AbstractKnob = registry.load("knobs", name)
    if knob.needs in anatomy.provides:
        return ""
    return anatomy.lacks.get(knob.needs, f"{anatomy.architecture} has nothing for it to act on")


def knobs_by_model(parsed: ParsedJob, anatomies: Mapping[ModelSpec, Anatomy]) -> tuple[ModelKnobs, ...]:
    """The sound models of a job whose checkpoint could be described, in the job's order."""
    return tuple(
        ModelKnobs(
            place=f"models.{i}",
            entry=entry,
            anatomy=anatomies[entry.without_knobs],
            asked=entry.space(parsed.knobs),
        )
        for i, entry in parsed.models.items()
        if entry.without_knobs in anatomies
    )


MOST_VALUES = 200_000
"""Values of knobs, of all models together, that are checked one by one."""
MOST_REFUSED = 1000
"""Of one knob and model, that are put into words."""


def knob_faults(models: Sequence[ModelKnobs], *, all_known: bool) -> Iterator[Fault]:
    """What is wrong with the values of all models' knobs.

    Args:
        models: As ``knobs_by_model`` gives them.
        all_known: Whether these are all models of the job; else one that is not could use any knob.
    """
    if (count := sum(len(values) for one in models for values in one.asked.values())) > MOST_VALUES:
        problem = f"all models have {count:,} values together, more than {MOST_VALUES:,}: list fewer, or make two jobs"
        yield Fault(field="knobs", problem=problem)
        return
    usable = {name for one in models for name in one.asked if not one.lacks(name)}
    for one, (name, values) in _each_knob(models):
        for_whom = f"(for model {one.model.label})"
        if why := one.lacks(name):
            if one.own(name) or (all_known and name not in usable):
                yield Fault(field=one.field(name), problem=f"{name}: {why} {for_whom}")
            continue
        hint = "" if one.own(name) or len(models) == 1 else _go_on(one, name)
        refused = (said for value in values if (said := _refusal(name, value, one.anatomy)))
        for said in itertools.islice(refused, MOST_REFUSED):
            yield Fault(field=one.field(name), problem=f"{said} {for_whom}{hint}")
        if next(refused, ""):
            yield Fault(
                field=one.field(name), problem=f"more values are refused than these {MOST_REFUSED:,} {for_whom}"
            )


def notes(models: Sequence[ModelKnobs], shared: Iterable[str]) -> Iterator[str]:
    """What the author of a sound job should know about its knobs; ``shared`` are those for all models."""
    for one, (name, _) in _each_knob(models):
        if why := one.lacks(name):
            yield f"{name} does not apply to {one.model.label} ({why}): its trials run without it"
    for one in models:
        if not one.space.knobs:
            yield f"{one.model.label} has no knob left: it runs once a task, as it is"
    for name in shared:
        if all(one.own(name) for one in models):
            yield f"no model uses the values of knobs.{name}: each entry of models has its own"


def _each_knob(models: Iterable[ModelKnobs]) -> Iterator[tuple[ModelKnobs, tuple[str, Values]]]:
    return ((one, knob) for one in models for knob in one.asked.items())


def _refusal(name: str, value: Any, anatomy: Anatomy) -> str:
    try:
        registry.load("knobs", name).check(value, anatomy)
    except KnobValueError as error:
        return str(error)
    return ""


def _go_on(one: ModelKnobs, name: str) -> str:
    return f"; to go on, give this model values of its own, or null, at {one.place}.knobs.{name}"
