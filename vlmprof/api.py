"""The public Python API, for notebooks and scripts; the command line calls the same functions.

Importing this module loads neither ray nor torch nor pandas: each function imports what it needs. A job is the path of
a file, text, a mapping (``vlmprof.job.strict_yaml.JobSource``), or the ``Job`` that ``check`` returned.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final, get_args

from vlmprof.errors import UserError, suggestion
from vlmprof.job.storage import mounted
from vlmprof.report.frame_attributes import attributes_of_list, with_attributes
from vlmprof.results import Results, absolute, load

if TYPE_CHECKING:
    import pandas as pd

    from vlmprof.analyze.watch_state import SweepView
    from vlmprof.job.strict_yaml import JobSource
    from vlmprof.monitor.live_state import Display
    from vlmprof.monitor.loggers import LoggerOptions
    from vlmprof.trial.resolve import Job

__all__ = ["Results", "check", "list_trials", "load", "run"]

WRITER_WAIT_S = 5.0
"""Seconds to wait for another writer of the results folder; the lock of one that was killed is free within seconds."""

Switch = Literal["auto", "on", "off"]
Progress: TypeAlias = "Switch | Callable[[Job], AbstractContextManager[Display]]"
"""Whether progress is shown, or a function that makes a display for it."""


def check(job: JobSource | Job, *, allow_many: bool = False) -> Job:
    """Validate a job. Needs no weights, no GPU and no cluster.

    Of data named by ``path``, the pictures of the subset are looked at too: are they there, do the models take them.

    Args:
        job: The path of a file, the text of a job (a ``str`` with a line break), or a mapping.
        allow_many: More than 2,000 trials are meant. Without it such a job is a fault, which says how many they are.

    Returns:
        The prepared job: its ``spec``, its ``plans`` (one per trial) and its ``notes``: remarks for its author that are
        not errors. ``run`` and ``list_trials`` accept it in place of a job.

    Raises:
        SpecError: lists every fault of the job, also in its attribute ``faults``.
    """
    from vlmprof.errors import Fault, SpecError, refused_by_the_system
    from vlmprof.store.misplaced import why_no_folder
    from vlmprof.trial.data_check import with_data_checked
    from vlmprof.trial.earlier_job import as_begun
    from vlmprof.trial.resolve import Job, prepare

    if isinstance(job, Job):
        return job
    prepared = prepare(job, allow_many=allow_many)
    where = prepared.spec.where
    try:
        if problem := why_no_folder(where):
            raise SpecError(
                prepared.source, [Fault(field="storage", problem=f"{where} cannot be written to: {problem}")]
            )
        if "://" not in where:  # an object store needs a network, and keys that only the sweep may have
            prepared = as_begun(prepared, where)
    except OSError as error:
        refused = Fault(field="storage", problem=refused_by_the_system(error, where))
        raise SpecError(prepared.source, [refused]) from None
    try:
        return with_data_checked(prepared)
    except OSError as error:
        refused = Fault(field="tasks", problem=refused_by_the_system(error, "the data"))
        raise SpecError(prepared.source, [refused]) from None


def changed_job(job: JobSource, changes: Mapping[str, str]) -> JobSource:
    """A job with other values.

    Args:
        job: The path of a file, the text of a job, or a mapping.
        changes: Place in the job, such as ``timing.repeats`` or ``models.1.knobs.moe_top_k``, and its value as YAML.

    Raises:
        SpecError: the job is no mapping.
        UserError: a place leads through something that is no mapping, and no list with an entry of that number.
    """
    from vlmprof.errors import SpecError
    from vlmprof.job.strict_yaml import JobText, job_text, parse, parse_value, written

    given = job_text(job)
    raw, faults = parse(given.text)
    if raw is None or faults:
        raise SpecError(given.source, faults)
    for place, text in changes.items():
        *sections, last = place.split(".")
        section: Any = raw
        for name in sections:
            section = _section_of(section, name)
        if isinstance(section, list) and last.isdecimal() and int(last) < len(section):
            section[int(last)] = parse_value(text)
        elif isinstance(section, dict):
            section[last] = parse_value(text)
        else:
            where = f"{'.'.join(sections)} is no mapping, and no list with an entry {last},"
            raise UserError(f"--set {place}: {where} in {given.source}")
    return JobText(text=written(raw), source=given.source)


def _section_of(section: Any, name: str) -> Any:
    """What a job has at a name, or at a number in a list; None where that leads nowhere."""
    if isinstance(section, dict):
        return section.setdefault(name, {})
    return section[int(name)] if isinstance(section, list) and name.isdecimal() and int(name) < len(section) else None


def list_trials(job: JobSource | Job) -> pd.DataFrame:
    """The trials of a job, one per row, in the order in which ``run(inline=True)`` runs them. Runs nothing.

    Returns:
        ``trial`` (the id), ``model``, ``task``; ``knob_<name>`` and ``requested_<name>`` for each knob, all as in
        ``Results.trials``; ``vision_tokens_predicted``, mean vision tokens per sample, from image sizes alone; and
        ``state``: ``missing``, or the last state in the ledger (``started``, ``done``, ``oom``, ``failed``).
        ``attrs`` holds the same keys as that of ``Results.trials``.

    Raises:
        SpecError: lists every fault of the job.
    """
    import pandas as pd

    from vlmprof.store.lost_trials import read_states
    from vlmprof.store.submitted_job import working_folder
    from vlmprof.trial.columns.identity import identity
    from vlmprof.trial.planned_work import PlannedWork

    checked = check(job)
    knobs = [f"{prefix}_{name}" for name in checked.spec.all_knobs for prefix in ("knob", "requested")]
    columns = ["trial", "model", "task", *knobs]
    rows, work = [], PlannedWork()
    with working_folder(checked.submitted):
        states = read_states(checked.spec.where)
        for plan in checked.plans:
            identity_row = identity(plan)
            tokens, state = work.vision_tokens(plan), states.get(str(identity_row["trial"]), "missing")
            rows.append([*(identity_row.get(name) for name in columns), tokens, state])
    frame = pd.DataFrame(rows, columns=[*columns, "vision_tokens_predicted", "state"])
    return with_attributes(frame, attributes_of_list(columns))


def run(  # noqa: PLR0913 (keyword-only options)
    job: JobSource | Job,
    *,
    inline: bool = False,
    address: str = "local",
    verbose: bool = False,
    tensorboard: bool = False,
    mlflow: str = "",
    wandb: str = "",
    progress: Progress = "auto",
    allow_many: bool = False,
) -> Results:
    """Run the missing trials of a job. To resume, call it again: finished trials are not run twice.

    A trial that fails does not stop the run: ``Results.status().failed`` names it with its reason, and its row is in
    ``Results.trials``. Relative paths in the job are resolved against the folder in which it was checked. If that is
    not the current folder, it becomes the working folder of the process for the duration of the run.

    Args:
        job: The path of a file, the text of a job (a ``str`` with a line break), a mapping, or what ``check`` returned.
        inline: Run the trials one after another in this process, without Ray.
        address: Address of a Ray cluster; ``local`` starts a cluster on this machine and stops it at the end. Not used
            with ``inline``.
        verbose: Let Ray and Tune write to the terminal.
        tensorboard: Write a TensorBoard run for each trial into the results folder.
        mlflow: Tracking URI of MLflow to log to; empty: do not log.
        wandb: Project of Weights & Biases to log to; empty: do not log.
        progress: ``on`` shows progress on standard error; ``off`` shows nothing, and messages go to the logger
            ``vlmprof``; ``auto`` is ``on`` if standard error is a terminal, so ``off`` in a notebook or a pipe. A
            function is called with the prepared job and returns a display of the caller's own.
        allow_many: As for ``check``.

    Returns:
        The results folder, which may also hold trials of earlier runs and of other jobs.

    Raises:
        SpecError: lists every fault of the job; nothing was run.
        UserError: a logger is not installed; there is no cluster at the address, or none of its nodes has the resources
            of a trial; Ray was imported earlier with settings that would expose a ``local`` cluster to the network.
        StoreError: another sweep is writing to the results folder, or nothing can be written there.
        KeyboardInterrupt: the run was interrupted; finished trials are kept.
    """
    from vlmprof.sweep.cluster import LOCAL, set_ray_environment

    if not inline:
        set_ray_environment(address, verbose=verbose)  # Ray reads these variables when it is first imported
    elif "ray" not in sys.modules:  # a later run in this process may use Ray
        set_ray_environment(LOCAL, verbose=verbose)
    from vlmprof.monitor.loggers import LoggerOptions
    from vlmprof.store.submitted_job import working_folder

    loggers = LoggerOptions(tensorboard=tensorboard, mlflow=mlflow, wandb=wandb)
    loggers.require()
    make_display = _display_factory(progress)
    checked = check(job, allow_many=allow_many)
    with working_folder(checked.submitted):
        if tensorboard:
            mounted(checked.spec.where)  # TensorBoard writes into the results folder, and not to object stores
        results = Results(where=absolute(checked.spec.where))
        display = make_display(checked)
        if inline:
            _run_inline(checked, loggers, display)
        else:
            _run_on_ray(checked, loggers, display, address=address, verbose=verbose)
    return results


def _display_factory(progress: Progress) -> Callable[[Job], AbstractContextManager[Display]]:
    if callable(progress):
        return progress
    if progress not in get_args(Switch):
        raise UserError(f"no progress setting named '{progress}'{suggestion(str(progress), get_args(Switch))}")
    shown = progress == "on" or (progress == "auto" and sys.stderr.isatty())
    return _display_on_stderr if shown else lambda job: nullcontext(_NoDisplay())


def _display_on_stderr(job: Job) -> AbstractContextManager[Display]:
    from vlmprof.report.run_display import display
    from vlmprof.report.terminal import Terminal

    return display(Terminal(stderr=True), {plan.id: str(plan) for plan in job.plans})


@final
class _NoDisplay:
    """A display that shows nothing and sends messages to the logger ``vlmprof``."""

    def update(self, view: SweepView) -> None:
        """See ``monitor.live_state.Display``."""

    def note(self, line: str) -> None:
        """See ``monitor.live_state.Display``."""
        logging.getLogger("vlmprof").info(line)


def _run_inline(job: Job, options: LoggerOptions, display: AbstractContextManager[Display]) -> None:
    import torch

    from vlmprof.batch_size.cache import default_folder, kept_with_results
    from vlmprof.batch_size.sizer import BatchSizer
    from vlmprof.monitor.loggers import Loggers
    from vlmprof.store.collector import Collector
    from vlmprof.sweep.inline import run_inline

    spec = job.spec
    gpus = int(torch.cuda.is_available()) if spec.resources.gpus == "auto" else spec.resources.gpus
    collector = Collector(spec.where, spec.name, wait_s=WRITER_WAIT_S)
    try:
        finished = collector.open_run([plan.id for plan in job.plans], spec.model_dump(mode="json"), job.submitted)
        missing = [plan for plan in job.plans if plan.id not in finished]
        measurements = kept_with_results(spec.where, BatchSizer(default_folder())) if gpus else nullcontext()
        options_of_run: dict[str, Any] = {"gpus": gpus, "policy": spec.chunk, "folder": spec.where}
        with (
            measurements,
            display as shown,
            Loggers.of(options, spec.name, spec.where, shown.note) as loggers,
        ):
            run_inline(missing, len(finished), collector, shown, loggers=loggers, **options_of_run)
    finally:
        collector.close()


def _run_on_ray(
    job: Job, loggers: LoggerOptions, display: AbstractContextManager[Display], *, address: str, verbose: bool
) -> None:
    from vlmprof.sweep.driver import launch

    with display as shown:
        options: dict[str, Any] = {"verbose": verbose, "extras": loggers, "submitted": job.submitted}
        launch(job.spec, job.plans, address, shown, **options)
