"""Names -> objects, and every mismatch found here: without weights, before a GPU is taken."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from vlmprof import registry
from vlmprof.errors import Fault, KnobValueError, ModelError, SpecError, UserError
from vlmprof.job.spec import ModelSpec, ParsedJob, SweepSpec, TaskSpec, survey
from vlmprof.job.strict_yaml import JobSource
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.models.family import AbstractFamily, Checkpoint
from vlmprof.plan.expand import expand, size, size_words
from vlmprof.plan.point import TrialPlan
from vlmprof.records import Example
from vlmprof.store.submitted_job import SubmittedJob
from vlmprof.surfaces import Anatomy, TokenCounts
from vlmprof.tasks.task import DataSource, Task
from vlmprof.trial.engine_selection import engine_faults
from vlmprof.trial.load_key import by_load, load_arguments


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KnobSetting:
    """One knob at one value."""

    name: str
    knob: AbstractKnob
    value: Any


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTrial:
    """A plan whose every name is an object, and whose every pairing is legal."""

    plan: TrialPlan
    family: AbstractFamily
    checkpoint: Checkpoint
    anatomy: Anatomy
    task: Task
    settings: tuple[KnobSetting, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that passed every check."""

    spec: SweepSpec
    plans: tuple[TrialPlan, ...]
    """Its trials, in the order in which they are run without Ray."""
    notes: tuple[str, ...]
    """What its author should know although nothing is wrong."""
    submitted: SubmittedJob
    """Its text, as it is stored with the results, and the folder that its relative paths start from."""


MANY_TRIALS = 2000
"""More than so many are made only where somebody says that they are meant."""


def prepare(job: JobSource, *, allow_many: bool = False) -> Job:
    """Read, check and expand a job. No weights, no GPU, no cluster.

    Args:
        job: The path of a file, the text of a job (a ``str`` with a line break), or a mapping. Messages call it by its
            path, or ``job``.
        allow_many: More than ``MANY_TRIALS`` trials are meant.

    Raises:
        SpecError: with every fault of the job: its form, unknown names, values that a model cannot take; or it has more
            trials than ``MANY_TRIALS``, which are counted and not made.
    """
    found = survey(job)
    anatomies: dict[ModelSpec, Anatomy] = {}
    faults = [*found.faults, *_model_faults(found, anatomies), *_load_faults(found)]
    faults += dict.fromkeys(_knob_faults(found, anatomies))  # one may be of all values alike
    faults += [*_task_faults(found), *_engine_faults(found, anatomies)]
    if found.spec is None or faults:
        raise SpecError(found.source, faults)
    if not allow_many and (size(found.spec) or 0) > MANY_TRIALS:
        raise SpecError(found.source, [_too_many(found.spec)])
    fingerprints = {model: anatomy.fingerprint for model, anatomy in anatomies.items()}
    revisions = {task: task_of(task).revision for task in found.spec.tasks}
    plans = by_load(expand(found.spec, fingerprints, revisions))
    if conflicts := _point_faults(plans, anatomies):
        raise SpecError(found.source, conflicts)
    notes = tuple(_notes(anatomies))
    return Job(spec=found.spec, plans=plans, notes=notes, submitted=SubmittedJob.of(found.text))


def _too_many(spec: SweepSpec) -> Fault:
    ways = "list fewer values, or use 'strategy: one_at_a_time'; if it is meant, say --yes (in Python allow_many=True)"
    return Fault(field="knobs", problem=f"this is {size_words(spec)}, more than {MANY_TRIALS:,}: {ways}")


def resolve(plan: TrialPlan) -> ResolvedTrial:
    """The objects behind a plan, on whatever machine runs it.

    Raises:
        ModelError: the checkpoint is not the one the plan was made for.
        KnobValueError: a value this model cannot take.
    """
    family, checkpoint = family_of(plan.model)
    anatomy = family.describe(checkpoint)  # as the job names it: how it is loaded changes nothing in what it is
    if anatomy.fingerprint != plan.model_fingerprint:
        raise ModelError(
            f"{plan.model.label}: the checkpoint here is {anatomy.fingerprint}, the sweep was planned for"
            f" {plan.model_fingerprint}; run the job again to plan anew"
        )
    settings = tuple(
        KnobSetting(name=name, knob=registry.load("knobs", name), value=value) for name, value in plan.point
    )
    for setting in settings:
        _check(setting.name, setting.value, anatomy)
    if conflicts := list(_conflicts(plan, anatomy)):
        raise KnobValueError("; ".join(conflicts))
    task = task_of(plan.task)
    if task.revision != plan.task_revision:
        planned = f"the sweep was planned for {plan.task_revision}"
        raise UserError(f"task '{task.name}': the data here are {task.revision}, {planned}")
    return ResolvedTrial(
        plan=plan,
        family=family,
        checkpoint=replace(checkpoint, **dict[str, Any](load_arguments(plan))),
        anatomy=anatomy,
        task=task,
        settings=settings,
    )


def family_of(model: ModelSpec) -> tuple[AbstractFamily, Checkpoint]:
    """The family a job names, and which of its weights."""
    checkpoint = Checkpoint(
        path=model.checkpoint,
        revision=model.revision,
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        allow_pickle=model.allow_pickle,
    )
    return registry.load("models", model.family), checkpoint


def task_of(task: TaskSpec) -> Task:
    """The task a job names, on the data the job names.

    Raises:
        UserError: the task cannot be told where its data lie, or nothing is there.
    """
    found: Task = registry.load("tasks", task.name)
    place = DataSource(path=task.path, revision=task.revision, metric=task.metric, columns=task.columns)
    if found.at is not None:
        return found.at(place)
    if place != DataSource():
        said = ", ".join(name for name in ("path", "revision", "metric", "columns") if getattr(task, name))
        raise UserError(f"task '{task.name}' has its own data and metric; it takes no {said}")
    return found


def subset_of(resolved: ResolvedTrial) -> tuple[Example, ...]:
    """The samples of a trial: the same for every configuration of a sweep."""
    task = resolved.plan.task
    return resolved.task.subset(task.split, task.samples, task.seed, task.stratify)


def predicted_vision_tokens(resolved: ResolvedTrial) -> float:
    """Mean vision tokens a sample over the trial's own subset, from image sizes alone."""
    examples = subset_of(resolved)
    counts = [planned_counts(resolved, e.picture.height, e.picture.width).vision_tokens for e in examples]
    return sum(counts) / len(counts)


def planned_counts(resolved: ResolvedTrial, height: int, width: int) -> TokenCounts:
    """What an image of this size becomes under the trial's knobs, by the knob that leaves least of it."""
    anatomy = resolved.anatomy
    said = [setting.knob.counts(setting.value, anatomy, height, width) for setting in resolved.settings]
    counts = [one for one in said if one is not None] or [anatomy.count_tokens(height, width, anatomy.max_crops)]
    return min(counts, key=lambda one: one.vision_tokens)


def _check(name: str, value: Any, anatomy: Anatomy) -> None:
    knob: AbstractKnob = registry.load("knobs", name)
    if knob.needs not in anatomy.provides:
        reason = anatomy.lacks.get(knob.needs, f"{anatomy.architecture} has nothing for it to act on")
        raise KnobValueError(f"{name}: {reason}")
    knob.check(value, anatomy)


def _conflicts(plan: TrialPlan, anatomy: Anatomy) -> Iterator[str]:
    """Values of a point that are legal alone and not together."""
    point = dict(plan.point)
    for name, value in point.items():
        others = {other: point[other] for other in point if other != name}
        if why := registry.load("knobs", name).conflict(value, others, anatomy):
            yield why


def _point_faults(plans: Iterable[TrialPlan], anatomies: Mapping[ModelSpec, Anatomy]) -> list[Fault]:
    """The conflicts of all points, each once."""
    found = ((plan.model.label, why) for plan in plans for why in _conflicts(plan, anatomies[plan.model]))
    return [Fault(field="knobs", problem=f"{why} (for model {label})") for label, why in dict.fromkeys(found)]


def _notes(anatomies: Mapping[ModelSpec, Anatomy]) -> Iterator[str]:
    for model, anatomy in anatomies.items():
        if anatomy.decoding_left_out:
            yield f"{model.label} is decoded greedily, without the checkpoint's own {anatomy.decoding_left_out}"


def _model_faults(found: ParsedJob, anatomies: dict[ModelSpec, Anatomy]) -> Iterator[Fault]:
    for model in found.models:
        family, checkpoint = family_of(model)
        try:
            anatomies[model] = family.describe(checkpoint)
        except UserError as error:
            yield Fault(field="models", problem=str(error))


def _load_faults(found: ParsedJob) -> Iterator[Fault]:
    """A knob that sets what a model also says of itself: one of the two would be ignored."""
    for name, model in itertools.product(found.knobs, found.models):
        argument = registry.load("knobs", name).load_argument
        if argument and argument in model.model_fields_set:
            problem = f"'{argument}' is said here and swept by the knob {name}; leave one of them out"
            yield Fault(field="models", problem=f"{problem} (for model {model.label})")


def _knob_faults(found: ParsedJob, anatomies: Mapping[ModelSpec, Anatomy]) -> Iterator[Fault]:
    settings = ((name, value) for name, values in found.knobs.items() for value in values)
    for (name, value), (model, anatomy) in itertools.product(settings, anatomies.items()):
        try:
            _check(name, value, anatomy)
        except KnobValueError as error:
            yield Fault(field=f"knobs.{name}", problem=f"{error} (for model {model.label})")


def _engine_faults(found: ParsedJob, anatomies: Mapping[ModelSpec, Anatomy]) -> Iterator[Fault]:
    if found.spec is not None:
        labelled = {model.label: anatomy for model, anatomy in anatomies.items()}
        yield from (Fault(field="engine", problem=one) for one in engine_faults(found.spec, labelled))


def _task_faults(found: ParsedJob) -> Iterator[Fault]:
    for task in found.spec.tasks if found.spec else ():
        try:
            task_of(task).split(task.split)
        except UserError as error:
            yield Fault(field="tasks", problem=str(error))
