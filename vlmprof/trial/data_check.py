"""Whether the pictures of a job's own data are there and can be shown to its models, decided before the first trial.

Headers alone are read, and only of data that a job names by ``path``: what is on the Hub may not be on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from vlmprof.errors import Fault, SpecError, UserError, suggestion
from vlmprof.job.spec import TaskSpec
from vlmprof.records import Example, Picture
from vlmprof.tasks._data.pictures import StoredPicture
from vlmprof.tasks.task import frame_notes
from vlmprof.trial.resolve import Job, judged_picture, resolve, task_of

NAMED = 3
"""So many faulty samples are named."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyPictures:
    """The samples of a task whose picture cannot be shown to a model."""

    task: str
    samples: int
    """Of the subset, the sound ones included."""
    faults: tuple[tuple[str, Picture], ...]
    """(sample id, its picture with the fault)"""

    @property
    def share(self) -> float:
        """Of all samples of the subset."""
        return len(self.faults) / self.samples

    def __str__(self) -> str:
        named = "; ".join(f"{name}: {picture.fault}" for name, picture in self.faults[:NAMED])
        more = f"; and {len(self.faults) - NAMED} more" if len(self.faults) > NAMED else ""
        count = f"{len(self.faults)} of {self.samples} pictures cannot be shown to the model"
        return f"task '{self.task}': {count}: {named}{more}{nearest(self.faults[0][1])}"


def with_data_checked(job: Job) -> Job:
    """The job, with a note for each thing about its data that its author should know.

    Raises:
        SpecError: a task's data cannot be read, or more of its samples than the job allows have no picture that can be
            shown to a model.
    """
    faults: dict[Fault, None] = {}
    notes = dict.fromkeys(job.notes)
    for spec in job.spec.tasks:
        notes |= dict.fromkeys(task_of(spec).notes)
        try:
            examples = _subset(spec)
        except UserError as error:
            faults[Fault(field="tasks", problem=str(error))] = None
            continue
        notes |= dict.fromkeys(frame_notes(spec.name, examples))
        for found in _faulty(job, spec, examples):
            if found.share > spec.failed_samples_allowed or found.share == 1:
                faults[Fault(field="tasks", problem=f"{found}; {_allowed(spec)}")] = None
            else:
                notes[str(found)] = None
    if faults:
        raise SpecError(job.source, faults)
    return replace(job, notes=tuple(notes))


def nearest(picture: Picture) -> str:
    """For a picture whose file is missing: the nearest name that exists; empty for any other."""
    stored = picture.load
    if not isinstance(stored, StoredPicture) or stored.column or os.path.lexists(stored.path):
        return ""
    folder, missing = Path(stored.path).parent, Path(stored.path).name
    while not folder.is_dir() and folder != folder.parent:
        folder, missing = folder.parent, folder.name
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return ""
    near = suggestion(missing, names)
    return f" ({folder} has no '{missing}'{near or _some_of(names)})"


def _some_of(names: Sequence[str]) -> str:
    return f"; it has {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}" if names else ", it is empty"


def _allowed(spec: TaskSpec) -> str:
    if not spec.failed_samples_allowed:
        return "none may fail; mend the data, or allow a share with 'failed_samples_allowed:' in the task"
    return f"'failed_samples_allowed' is {spec.failed_samples_allowed:g}"


def _subset(spec: TaskSpec) -> tuple[Example, ...]:
    """The samples of a task whose data the job names by path; none for any other task."""
    if not spec.path:
        return ()
    return task_of(spec).subset(spec.split, spec.samples, spec.seed, spec.stratify)


def _faulty(job: Job, spec: TaskSpec, examples: Sequence[Example]) -> Iterator[FaultyPictures]:
    """For each model, the samples that have no picture for it; nothing for a model that can be shown all."""
    for model in job.spec.models if examples else ():
        plan = next(plan for plan in job.plans if (plan.model, plan.task) == (model.without_knobs, spec))
        resolved = resolve(plan)
        known: dict[tuple[int, int, str], Picture] = {}
        faults = []
        for example in examples:
            given = example.picture
            size = (given.width, given.height, given.fault)
            known[size] = known.get(size) or judged_picture(resolved, given)
            if fault := known[size].fault:
                faults.append((example.id, replace(given, fault=fault)))
        if faults:
            yield FaultyPictures(task=spec.name, samples=len(examples), faults=tuple(faults))
