"""The public Python API, for notebooks and scripts; the command line calls the same functions.

Importing this module loads neither ray nor torch nor pandas: each function imports what it needs. A job is given as the
path of a file, as text or as a mapping (``vlmprof.job.strict_yaml.JobSource``), or as what ``check`` made of it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final, get_args

from vlmprof.errors import UserError, suggestion
from vlmprof.job.storage import mounted

if TYPE_CHECKING:
    import pandas as pd

    from vlmprof.analyze.status import SweepStatus
    from vlmprof.analyze.watch_state import SweepView
    from vlmprof.job.strict_yaml import JobSource
    from vlmprof.monitor.live_state import Display
    from vlmprof.monitor.loggers import LoggerOptions
    from vlmprof.store.manifest import TableName
    from vlmprof.store.submitted_job import SubmittedJob
    from vlmprof.trial.resolve import Job

__all__ = ["Results", "check", "list_trials", "load", "run"]

WRITER_WAIT_S = 5.0
"""How long to wait for another writer of the results folder: one that was killed lets go within seconds."""

Switch = Literal["auto", "on", "off"]
Progress: TypeAlias = "Switch | Callable[[Job], AbstractContextManager[Display]]"
"""Whether progress is shown, or what makes a display for it."""


def check(job: JobSource | Job, *, allow_many: bool = False) -> Job:
    """Prove a job right. Needs no weights, no GPU and no cluster.

    Args:
        job: The path of a file, the text of a job (a ``str`` with a line break), or a mapping.
        allow_many: More than 2,000 trials are meant. Without it such a job is a fault, which says how many they are.

    Returns:
        The prepared job: its ``spec``, its ``plans`` (one a trial) and its ``notes``, sentences that its author should
        read although nothing is wrong. ``run`` and ``list_trials`` take it too.

    Raises:
        SpecError: with every fault of the job; ``faults`` holds them one by one.
    """
    from vlmprof.trial.resolve import Job, prepare

    return job if isinstance(job, Job) else prepare(job, allow_many=allow_many)


def changed_job(job: JobSource, changes: Mapping[str, str]) -> JobSource:
    """A job with other values.

    Args:
        job: The path of a file, the text of a job, or a mapping.
        changes: Place in the job, such as ``timing.repeats``, and its value as YAML.

    Raises:
        SpecError: the job is no mapping.
        UserError: a place leads through something that is no mapping.
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
            section = section.setdefault(name, {}) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise UserError(f"--set {place}: {'.'.join(sections)} is no mapping in {given.source}")
        section[last] = parse_value(text)
    return JobText(text=written(raw), source=given.source)


def list_trials(job: JobSource | Job) -> pd.DataFrame:
    """The trials of a job, one a row, in the order in which they are run without Ray. Nothing is run.

    Returns:
        ``trial`` (the id), ``model``, ``task``; ``knob_<name>`` and ``requested_<name>`` for each knob, all as in
        ``Results.trials``; ``vision_tokens_predicted``, the mean of a sample in tokens, from image sizes alone; and
        ``state``: ``missing``, or the last state that the ledger has (``started``, ``done``, ``oom``, ``failed``).
        ``attrs`` as those of ``Results.trials``.

    Raises:
        SpecError: with every fault of the job.
    """
    import pandas as pd

    from vlmprof.store.lost_trials import read_states
    from vlmprof.trial.columns.identity import identity
    from vlmprof.trial.resolve import predicted_vision_tokens, resolve

    found = check(job)
    knobs = [f"{prefix}_{name}" for name in found.spec.knobs for prefix in ("knob", "requested")]
    columns = ["trial", "model", "task", *knobs]
    rows = []
    with _working_folder(found.submitted):
        states = read_states(found.spec.where)
        for plan in found.plans:
            named = identity(plan)
            tokens, state = predicted_vision_tokens(resolve(plan)), states.get(plan.id, "missing")
            rows.append([*(named.get(name) for name in columns), tokens, state])
    frame = pd.DataFrame(rows, columns=[*columns, "vision_tokens_predicted", "state"])
    return _with_attributes(frame, _attributes_of_list(columns))


def run(  # noqa: PLR0913 (the options of a run, each by its name)
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
    """Run what is missing of a job. Running it again is how to resume; finished trials are not run twice.

    A trial that fails ends nothing: ``Results.status().failed`` names it with its reason, and its row is in
    ``Results.trials``. Relative paths in the job are meant from the folder in which it was checked; where that is
    another one, it is the working folder of the process for the length of the run.

    Args:
        job: The path of a file, the text of a job (a ``str`` with a line break), a mapping, or what ``check`` returned.
        inline: One trial after another in this process, without Ray.
        address: Of a Ray cluster; ``local`` starts one on this machine, and ends it. Not used with ``inline``.
        verbose: Let Ray and Tune write to the terminal.
        tensorboard: Write a TensorBoard run a trial into the results folder.
        mlflow: Tracking URI of MLflow to log to; empty: none.
        wandb: Project of Weights & Biases to log to; empty: none.
        progress: ``on`` shows on the standard error how far it is; ``off`` shows nothing, and what would be noted
            goes to the logger ``vlmprof``; ``auto`` is ``on`` where the standard error is a terminal, so ``off`` in a
            notebook or a pipe. A function that is given the prepared job makes a display of the caller's own.
        allow_many: As of ``check``.

    Returns:
        The results folder, which may hold trials of earlier runs and other jobs too.

    Raises:
        SpecError: with every fault of the job; nothing was run.
        UserError: a logger is not installed; there is no cluster at the address, or none of its nodes can
            hold a trial; Ray was imported before with settings that would open ``local`` to the network.
        StoreError: another sweep is writing to the results folder, or nothing can be written there.
        KeyboardInterrupt: the run was interrupted; what was finished is kept.
    """
    from vlmprof.sweep.cluster import LOCAL, set_ray_environment

    if not inline:
        set_ray_environment(address, verbose=verbose)  # before the first import of Ray
    elif "ray" not in sys.modules:  # a later run in this process may need it
        set_ray_environment(LOCAL, verbose=verbose)
    from vlmprof.monitor.loggers import LoggerOptions

    loggers = LoggerOptions(tensorboard=tensorboard, mlflow=mlflow, wandb=wandb)
    loggers.require()
    make_display = _display_factory(progress)
    found = check(job, allow_many=allow_many)
    with _working_folder(found.submitted):
        if tensorboard:
            mounted(found.spec.where)  # it writes beside the tables, and knows no object stores
        results = Results(where=_absolute(found.spec.where))
        display = make_display(found)
        if inline:
            _run_inline(found, loggers, display)
        else:
            _run_on_ray(found, loggers, display, address=address, verbose=verbose)
    return results


def load(folder: str | os.PathLike[str]) -> Results:
    """The results of a sweep, finished or not. Needs neither Ray nor torch.

    Args:
        folder: A results folder such as ``results/quickstart``, or a URI such as ``s3://bucket/quickstart``.

    Raises:
        StoreError: it holds no sweep.
    """
    from vlmprof.store import ledger

    where = _absolute(os.fspath(folder))
    ledger.require(where)
    return Results(where=where)


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Results:
    """A results folder. Every access reads it anew, so that a sweep that still runs is seen as it grows.

    The frames' ``attrs`` hold ``units``, ``directions`` (``lower`` or ``higher``, of objectives), ``intervals`` (the
    two columns of a 95 % interval) and ``descriptions``, each a dictionary by column.
    """

    where: str
    """Absolute path of the folder, or its URI."""

    @property
    def folder(self) -> Path:
        """The folder.

        Raises:
            UserError: the results are in an object store; ``where`` has the URI.
        """
        return mounted(self.where)

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial that has ended; its columns are those of ``docs/schema.md``."""
        return self._table("trials")

    @property
    def samples(self) -> pd.DataFrame:
        """A row for each question and trial, of trials that have ended."""
        return self._table("samples")

    @property
    def timings(self) -> pd.DataFrame:
        """A row for each timed generation; times in milliseconds."""
        return self._table("timings")

    def front(
        self,
        objectives: str | Sequence[str] = (),
        by: str | Sequence[str] = (),
        *,
        across_devices: bool = False,
        dominated: bool = False,
    ) -> pd.DataFrame:
        """The Pareto front of each group of comparable trials.

        Args:
            objectives: Columns of ``trials`` to trade off, each of which knows its direction. Empty: accuracy and
                median latency, or whichever of the two was measured.
            by: Further columns that must not be mixed in one front.
            across_devices: One front over GPUs of unlike kinds.
            dominated: Also the finished trials that another one of their group beats; ``on_front`` tells them apart.

        Returns:
            The columns of ``trials``, and ``group`` and ``on_front``. Besides those of ``trials``, ``attrs`` has
            ``objectives`` (the columns), ``left_out`` (state -> trials that take no part) and ``beware`` (sentences
            that qualify the numbers).

        Raises:
            UserError: an unknown column, or finished trials that did not measure an objective.
            StoreError: there is no sweep.
        """
        from vlmprof.report.pareto_table import read_front

        frame = read_front(self.where, _names(objectives), _names(by), across_devices=across_devices)
        attrs = _attributes_of_front(frame)
        shown = frame if dominated else frame[frame["on_front"].astype(bool)].reset_index(drop=True)
        return _with_attributes(shown, attrs)

    def status(self) -> SweepStatus:
        """Where the sweep stands: trials by state, reasons of failures, whether somebody is at work on it."""
        from vlmprof.analyze.status import status

        return status(self.where)

    def job(self) -> Job:
        """The job that was started last in this folder, checked anew; ``run`` goes on with it, wherever it lies now.

        Raises:
            StoreError: the folder holds no job.
            SpecError: this version finds faults in it.
        """
        from vlmprof.job.strict_yaml import JobText
        from vlmprof.store.filesystem import results_folder
        from vlmprof.store.submitted_job import JOB, read_job
        from vlmprof.trial.resolve import prepare

        submitted = read_job(self.where)
        with _working_folder(submitted):
            source = JobText(text=submitted.text, source=results_folder(self.where).address(JOB))
            found = prepare(source, allow_many=True)  # whoever started it was asked
        spec = found.spec.model_copy(update={"storage": self.where})
        return replace(found, spec=spec, submitted=submitted)

    def _table(self, name: TableName) -> pd.DataFrame:
        from vlmprof.store import tables
        from vlmprof.store.descriptions import column_attributes

        frame = tables.read(self.where, name)
        return _with_attributes(frame, column_attributes(name, frame.attrs["schema"]))

    def __repr__(self) -> str:
        try:
            said = self.status()
        except UserError as error:
            return f"Results({self.where!r}: {error})"
        return f"Results({self.where!r}: {said.finished} of {said.total} trials finished)"

    def _repr_html_(self) -> str:
        """For a notebook: trials by state, and a table of each front with intervals and units."""
        from vlmprof.report.notebook import results_html
        from vlmprof.report.pareto_table import read_front

        try:
            front, problem = read_front(self.where), ""
        except (
            UserError
        ) as error:  # such as trials that did not measure an objective; the states are shown all the same
            front, problem = None, str(error)
        return results_html(self.where, self.status(), front, problem)


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) and given else list(given)


def _absolute(where: str) -> str:
    return where if "://" in where else str(Path(where).expanduser().absolute())


@contextmanager
def _working_folder(submitted: SubmittedJob) -> Iterator[None]:
    """Where relative paths in a job are meant from, if that folder is still there."""
    known = bool(submitted.cwd) and Path(submitted.cwd).is_dir()
    with chdir(submitted.cwd) if known else nullcontext():
        yield


def _with_attributes(frame: pd.DataFrame, attrs: Mapping[str, Any]) -> pd.DataFrame:
    """The frame, without the Arrow schema in its ``attrs``, which could not be written with it to a file."""
    frame.attrs = {name: value for name, value in attrs.items()}
    return frame


def _attributes_of_list(columns: Sequence[str]) -> dict[str, Any]:
    from vlmprof.store.descriptions import column_attributes
    from vlmprof.store.schema import knobs_of, trials_schema

    attrs = column_attributes("trials", trials_schema(knobs_of(columns)))
    attrs = {what: {name: told[name] for name in columns if name in told} for what, told in attrs.items()}
    attrs["units"]["vision_tokens_predicted"] = "tokens"
    attrs["descriptions"]["vision_tokens_predicted"] = "Mean vision tokens of a sample, from image sizes alone."
    attrs["descriptions"]["state"] = "The last state that the ledger has; missing where it has none."
    return attrs


def _attributes_of_front(frame: pd.DataFrame) -> dict[str, Any]:
    """Plain values: what ``analyze`` keeps in ``attrs`` are its own objects."""
    from vlmprof.analyze.caveats import cautions
    from vlmprof.analyze.comparability import groups
    from vlmprof.store.descriptions import column_attributes

    attrs = column_attributes("trials", frame.attrs["schema"])
    attrs["descriptions"]["group"] = "What is compared with each other: equal in model, data, device and timing."
    attrs["descriptions"]["on_front"] = "Whether no trial of the group is as good in all objectives and better in one."
    attrs["objectives"] = [objective.column for objective in frame.attrs["objectives"]]
    attrs["left_out"] = dict(frame.attrs["left_out"])
    attrs["beware"] = [f"{name}: {sentence}" for name, part in groups(frame) for sentence in cautions(part)]
    attrs["beware"] += list(frame.attrs["mixed"])
    return attrs


def _display_factory(progress: Progress) -> Callable[[Job], AbstractContextManager[Display]]:
    if callable(progress):
        return progress
    if progress not in get_args(Switch):
        raise UserError(f"no progress named '{progress}'{suggestion(str(progress), get_args(Switch))}")
    shown = progress == "on" or (progress == "auto" and sys.stderr.isatty())
    return _display_on_stderr if shown else lambda job: nullcontext(_Quiet())


def _display_on_stderr(job: Job) -> AbstractContextManager[Display]:
    from rich.console import Console

    from vlmprof.report.run_display import display

    return display(Console(stderr=True), {plan.id: str(plan) for plan in job.plans})


@final
class _Quiet:
    """A display that shows nothing."""

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
        left = [plan for plan in job.plans if plan.id not in finished]
        measurements = kept_with_results(spec.where, BatchSizer(default_folder())) if gpus else nullcontext()
        how: dict[str, Any] = {"gpus": gpus, "policy": spec.chunk, "folder": spec.where}
        with (
            measurements,
            display as shown,
            Loggers.of(options, spec.name, spec.where, shown.note) as loggers,
        ):
            run_inline(left, len(finished), collector, shown, loggers=loggers, **how)
    finally:
        collector.close()


def _run_on_ray(
    job: Job, loggers: LoggerOptions, display: AbstractContextManager[Display], *, address: str, verbose: bool
) -> None:
    from vlmprof.sweep.driver import launch

    with display as shown:
        how: dict[str, Any] = {"verbose": verbose, "extras": loggers, "submitted": job.submitted}
        launch(job.spec, job.plans, address, shown, **how)
