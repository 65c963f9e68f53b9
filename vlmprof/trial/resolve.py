"""Resolves the names of a job or plan to objects, and finds every mismatch: without weights, before a GPU is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from vlmprof import registry
from vlmprof.errors import (
    Fault,
    KnobValueError,
    ModelError,
    SpecError,
    UserError,
    VlmprofError,
    refused_by_the_system,
)
from vlmprof.job.spec import ModelSpec, ParsedJob, SweepSpec, TaskSpec, survey
from vlmprof.job.storage import key_in_url
from vlmprof.job.strict_yaml import JobSource
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.models._checkpoint_gate import require_whole
from vlmprof.models.family import AbstractFamily, Checkpoint
from vlmprof.plan.expand import expand, size, size_words
from vlmprof.plan.model_space import ModelSpace
from vlmprof.plan.point import TrialPlan
from vlmprof.records import Example, Picture
from vlmprof.store.submitted_job import SubmittedJob
from vlmprof.surfaces import Anatomy, TokenCounts
from vlmprof.tasks.task import DataSource, Task
from vlmprof.trial.engine_selection import engine_faults
from vlmprof.trial.load_key import by_load, load_arguments
from vlmprof.trial.model_knobs import ModelKnobs, knob_faults, knobs_by_model, notes, why_inapplicable
from vlmprof.trial.preprocess_selection import preprocess_faults


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
    """A plan with all names resolved to objects, whose combination of model, task and knobs is valid."""

    plan: TrialPlan
    family: AbstractFamily
    checkpoint: Checkpoint
    anatomy: Anatomy
    task: Task
    settings: tuple[KnobSetting, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that has passed all checks."""

    spec: SweepSpec
    plans: tuple[TrialPlan, ...]
    """Its trials, in the order in which they are run without Ray."""
    notes: tuple[str, ...]
    """Remarks for its author that are not errors."""
    submitted: SubmittedJob
    """Its text, as it is stored with the results, and the folder that its relative paths are resolved against."""
    source: str
    """What messages call it: the path of its file, or ``job``."""


MANY_TRIALS = 2000
"""More than so many are made only where somebody says that they are meant."""
MOST_TRIALS = 1_000_000
"""More are not made at all: their plans alone would fill the memory, and no sweep of them would end."""


def prepare(job: JobSource, *, allow_many: bool = False) -> Job:
    """Read, check and expand a job. No weights, no GPU, no cluster.

    Args:
        job: The path of a file, the text of a job (a ``str`` with a line break), or a mapping. Messages name it by its
            path, or ``job``.
        allow_many: More than ``MANY_TRIALS`` trials are meant.

    Raises:
        SpecError: lists every fault of the job: syntax, unknown names, values that a model does not support; or the job
            has more than ``MANY_TRIALS`` trials, which are counted and not made, or, even if they are meant, more than
            ``MOST_TRIALS``.
    """
    parsed = survey(job)
    anatomies: dict[ModelSpec, Anatomy] = {}
    model_faults = tuple(_model_faults(parsed, anatomies))
    models = knobs_by_model(parsed, anatomies)
    faults = [*parsed.faults, *model_faults, *_load_faults(models)]
    all_known = len(models) == parsed.entries
    faults += dict.fromkeys(knob_faults(models, all_known=all_known))  # all values of a knob may have the same fault
    faults += [*_task_faults(parsed), *_engine_faults(parsed, models), *_preprocess_faults(parsed, models)]
    faults += _url_faults(parsed)
    if parsed.spec is None or faults:
        raise SpecError(parsed.source, faults)
    spaces = [one.space for one in models]
    if (size(parsed.spec, spaces) or 0) > (MOST_TRIALS if allow_many else MANY_TRIALS):
        raise SpecError(parsed.source, [_too_many(parsed.spec, spaces)])
    revisions = {task: task_of(task).identity for task in parsed.spec.tasks}
    plans = by_load(expand(parsed.spec, spaces, revisions))
    if conflicts := _point_faults(plans, anatomies):
        raise SpecError(parsed.source, conflicts)
    said = tuple(dict.fromkeys((*_notes(anatomies), *notes(models, parsed.knobs))))
    submitted = SubmittedJob.of(parsed.text)
    return Job(spec=parsed.spec, plans=plans, notes=said, submitted=submitted, source=parsed.source)


def _too_many(spec: SweepSpec, models: Sequence[ModelSpace]) -> Fault:
    ways, most = "list fewer values, or use 'strategy: one_at_a_time'", MOST_TRIALS
    if (size(spec, models) or 0) <= MOST_TRIALS:
        ways, most = f"{ways}; if it is meant, say --yes (in Python allow_many=True)", MANY_TRIALS
    return Fault(field="knobs", problem=f"this is {size_words(spec, models)}, more than {most:,}: {ways}")


def resolve(plan: TrialPlan) -> ResolvedTrial:
    """Resolve a plan to objects, on the machine that runs it.

    Raises:
        ModelError: the checkpoint is not the one the plan was made for.
        KnobValueError: a value that this model does not support.
        UserError: the data of the task are not those the plan was made for.
    """
    family, checkpoint = family_of(plan.model)
    anatomy = family.describe(
        checkpoint
    )  # of the checkpoint as the job names it: load arguments of knobs do not change its description
    if anatomy.fingerprint != plan.model_fingerprint:
        raise ModelError(
            f"{plan.model.label}: the checkpoint here is {anatomy.fingerprint}, the sweep was planned for"
            f" {plan.model_fingerprint}; run the job again to make a new plan"
        )
    settings = tuple(
        KnobSetting(name=name, knob=registry.load("knobs", name), value=value) for name, value in plan.point
    )
    for setting in settings:
        _check(setting.name, setting.value, anatomy)
    if conflicts := list(_conflicts(plan, anatomy)):
        raise KnobValueError("; ".join(conflicts))
    task = task_of(plan.task)
    if task.identity != plan.task_revision:
        expected = f"the sweep was planned for {plan.task_revision}; run the job again to make a new plan"
        raise UserError(f"task '{task.name}': the data here are {task.identity}, {expected}")
    return ResolvedTrial(
        plan=plan,
        family=family,
        checkpoint=replace(checkpoint, **dict[str, Any](load_arguments(plan))),
        anatomy=anatomy,
        task=task,
        settings=settings,
    )


def family_of(model: ModelSpec) -> tuple[AbstractFamily, Checkpoint]:
    """The model family that a job names, and the checkpoint to load."""
    checkpoint = Checkpoint(
        path=model.checkpoint,
        revision=model.revision,
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        allow_pickle=model.allow_pickle,
    )
    return registry.load("models", model.family), checkpoint


def task_of(task: TaskSpec) -> Task:
    """The task that a job names, on the data that the job names.

    Raises:
        UserError: the task does not accept a data source, or there are no data at that source.
    """
    registered: Task = registry.load("tasks", task.name)
    given = {name: getattr(task, name) for name in ("path", "revision", "metric", "columns", "index_from")}
    source = DataSource(**given)
    if registered.at is not None:
        return registered.at(source)
    if source != DataSource():
        keys = ", ".join(name for name, value in given.items() if value or value == 0)
        raise UserError(f"task '{task.name}' has its own data and metric; it takes no {keys}; leave that out")
    return registered


def subset_of(resolved: ResolvedTrial) -> tuple[Example, ...]:
    """The samples of a trial; they are the same for every configuration of a sweep."""
    task = resolved.plan.task
    return resolved.task.subset(task.split, task.samples, task.seed, task.stratify)


def predicted_vision_tokens(resolved: ResolvedTrial) -> float:
    """Mean number of vision tokens per sample over the trial's subset, from image sizes alone, without faulty pictures.

    Raises:
        UserError: no picture of the subset can be read.
    """
    pictures = [judged_picture(resolved, example.picture) for example in subset_of(resolved)]
    sound = [picture for picture in pictures if not picture.fault]
    counts = [planned_counts(resolved, picture.height, picture.width).vision_tokens for picture in sound]
    if not counts:
        raise UserError(f"task '{resolved.task.name}': no picture of the subset can be read; {pictures[0].fault}")
    return sum(counts) / len(counts)


def why_illegal(resolved: ResolvedTrial, height: int, width: int) -> str:
    """Why the model's preprocessing refuses every image of this size; empty where it takes it."""
    if min(height, width) < 1:
        return f"an image of {height} x {width} has no pixels"
    anatomy = resolved.anatomy
    try:
        anatomy.count_tokens(height, width, anatomy.max_crops)  # a knob may count without the processor
        planned_counts(resolved, height, width)
    except VlmprofError:
        raise
    except Exception as error:  # whatever a processor raises for a size that it refuses
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"an image of {height} x {width} (height x width) is refused by this model's preprocessing: {first}"
    return ""


def judged_picture(resolved: ResolvedTrial, picture: Picture) -> Picture:
    """The picture, with a fault also where it is sound and the model's image processor refuses its size.

    Every use of a picture goes by this fault: what a trial plans, counts, times and scores.
    """
    if picture.fault:
        return picture
    return replace(picture, fault=why_illegal(resolved, picture.height, picture.width))


def planned_counts(resolved: ResolvedTrial, height: int, width: int) -> TokenCounts:
    """Crops and tokens of an image of this size (pixels) under the trial's knobs; the most restrictive knob decides."""
    anatomy = resolved.anatomy
    by_knob = [setting.knob.counts(setting.value, anatomy, height, width) for setting in resolved.settings]
    candidates = [counts for counts in by_knob if counts is not None]
    candidates = candidates or [anatomy.count_tokens(height, width, anatomy.max_crops)]
    return min(candidates, key=lambda counts: counts.vision_tokens)


def _check(name: str, value: Any, anatomy: Anatomy) -> None:
    if why := why_inapplicable(name, anatomy):
        raise KnobValueError(f"{name}: {why}")
    registry.load("knobs", name).check(value, anatomy)


def _conflicts(plan: TrialPlan, anatomy: Anatomy) -> Iterator[str]:
    """Why values of a point, each valid alone, cannot be combined."""
    point = dict(plan.point)
    for name, value in point.items():
        others = {other: point[other] for other in point if other != name}
        if why := registry.load("knobs", name).conflict(value, others, anatomy):
            yield why


def _point_faults(plans: Iterable[TrialPlan], anatomies: Mapping[ModelSpec, Anatomy]) -> list[Fault]:
    """The conflicts of all points, without duplicates."""
    conflicts = ((plan.model.label, why) for plan in plans for why in _conflicts(plan, anatomies[plan.model]))
    return [Fault(field="knobs", problem=f"{why} (for model {label})") for label, why in dict.fromkeys(conflicts)]


def _notes(anatomies: Mapping[ModelSpec, Anatomy]) -> Iterator[str]:
    for model, anatomy in anatomies.items():
        if anatomy.decoding_left_out:
            yield f"{model.label} is decoded greedily, without the checkpoint's own {anatomy.decoding_left_out}"


def _model_faults(parsed: ParsedJob, anatomies: dict[ModelSpec, Anatomy]) -> Iterator[Fault]:
    for entry in parsed.models.values():
        family, checkpoint = family_of(entry)
        try:
            anatomies[entry.without_knobs] = family.describe(checkpoint)
            require_whole(checkpoint)
        except UserError as error:
            yield Fault(field="models", problem=str(error))
        except OSError as error:
            yield Fault(field="models", problem=refused_by_the_system(error, entry.checkpoint))


def _load_faults(models: Iterable[ModelKnobs]) -> Iterator[Fault]:
    """Load arguments that both a knob and a model entry of the job set: one of the two would be ignored."""
    for one in models:
        for name in one.asked:
            argument = registry.load("knobs", name).load_argument
            if argument and argument in one.entry.model_fields_set:
                problem = f"'{argument}' is set here and swept by the knob {name}; leave one of them out"
                yield Fault(field="models", problem=f"{problem} (for model {one.model.label})")


def _engine_faults(parsed: ParsedJob, models: Iterable[ModelKnobs]) -> Iterator[Fault]:
    if parsed.spec is not None:
        spaces = [(one.model.label, one.anatomy, one.space.knobs) for one in models]
        yield from (Fault(field="engine", problem=problem) for problem in engine_faults(parsed.spec, spaces))


def _preprocess_faults(parsed: ParsedJob, models: Iterable[ModelKnobs]) -> Iterator[Fault]:
    if parsed.spec is not None:
        described = [(one.model.label, one.anatomy) for one in models]
        yield from (Fault(field="preprocess", problem=why) for why in preprocess_faults(parsed.spec, described))


def _url_faults(parsed: ParsedJob) -> Iterator[Fault]:
    """A fault for each URL with a key in it: the job is written to its results, whoever may read them."""
    for field, text in _texts(parsed.spec.model_dump(mode="json") if parsed.spec else None):
        if field != "storage" and "://" in text and (what := key_in_url(text)):
            yield Fault(field=field, problem=f"a URL in a job must not contain keys, and {what}")


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """(field, text) of every text in nested mappings and lists."""
    if isinstance(value, str):
        yield field, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from _texts(item, f"{field}.{key}" if field else str(key))


def _task_faults(parsed: ParsedJob) -> Iterator[Fault]:
    for task in parsed.spec.tasks if parsed.spec else ():
        try:
            task_of(task).split(task.split)
        except UserError as error:
            yield Fault(field="tasks", problem=str(error))
        except OSError as error:
            yield Fault(field="tasks", problem=refused_by_the_system(error, task.path))
