"""``vlmprof check``, ``plan``, ``run`` and ``resume``: prove a job, list its trials, carry it out.

Exit codes of a run: 0 every trial of the job is done or does not fit the device; 2 the user can fix it; 3 some trials
failed; 130 interrupted. They follow from the ledger, whatever this run itself did.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, final

import typer
from rich.table import Table

from vlmprof.cli.output import INTERRUPTED, SOME_FAILED, err, out, plural
from vlmprof.errors import UserError
from vlmprof.job.storage import mounted

if TYPE_CHECKING:
    from vlmprof.monitor.loggers import LoggerOptions
    from vlmprof.store.submitted_job import SubmittedJob
    from vlmprof.trial.resolve import Job

app = typer.Typer()

JOB = "job.yaml"

JobFile = Annotated[Path, typer.Argument(help="A job, such as jobs/quickstart.yaml.", show_default=False)]

Inline = Annotated[bool, typer.Option("--inline", help="One after another in this process, without Ray.")]
Address = Annotated[str, typer.Option(help="A Ray cluster; 'local' starts one on this machine.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="A TensorBoard run a trial.")]
MlFlow = Annotated[str, typer.Option(help="Log to MLflow at this tracking URI.", metavar="URI")]
Wandb = Annotated[str, typer.Option(help="Log to this project of Weights & Biases.", metavar="PROJECT")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Let Ray and Tune speak.")]


@app.command("check")
def check_jobs(files: Annotated[list[Path], typer.Argument(help="Job files.", show_default=False)]) -> None:
    """Prove job files right without a GPU, weights or a cluster; every fault is reported."""
    from vlmprof.trial.resolve import prepare

    faulty = []
    for file in files:
        try:
            job = prepare(file)
            out.print(f"{file}: ok, {plural(len(job.plans), 'trial')}", highlight=False, soft_wrap=True)
            for note in job.notes:
                out.print(f"  beware: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        except UserError as error:
            faulty.append(str(error))
    if faulty:
        raise UserError("\n".join(faulty))


@app.command("plan")
def list_trials(file: JobFile) -> None:
    """Show the trials of a job: which are done, and how many vision tokens each will see."""
    from vlmprof.store.ledger import FINISHED, read_states
    from vlmprof.trial.resolve import predicted_vision_tokens, prepare, resolve

    job = prepare(file)
    states = read_states(job.spec.where)
    table = Table("trial", "model", "task", *job.spec.knobs, "vision tokens", "state", box=None, header_style="bold")
    for each in job.plans:
        state = states.get(each.id, "missing")
        labels = _labels(each, list(job.spec.knobs))
        tokens = f"{predicted_vision_tokens(resolve(each)):.0f}"
        table.add_row(each.id, each.model.label, each.task.name, *labels, tokens, state)
    out.print(table)
    done = sum(states.get(each.id) in FINISHED for each in job.plans)
    left = len(job.plans) - done
    out.print(f"\n{plural(len(job.plans), 'trial')}: {done} done, {left} to run; results in {job.spec.where}")


@app.command("run")
def run_job(
    file: JobFile,
    inline: Inline = False,
    address: Address = "local",
    verbose: Verbose = False,
    tensorboard: TensorBoard = False,
    mlflow: MlFlow = "",
    wandb: Wandb = "",
) -> None:
    """Run what is missing of a job, then show its front. Running it again is how to resume."""
    from vlmprof.monitor.loggers import LoggerOptions
    from vlmprof.store.submitted_job import SubmittedJob
    from vlmprof.trial.resolve import prepare

    how = RunOptions(inline, address, verbose, LoggerOptions(tensorboard=tensorboard, mlflow=mlflow, wandb=wandb))
    how.extras.require()
    _carry_out(prepare(file), SubmittedJob.of(file), f"run {file}", how)


@app.command("resume")
def resume_sweep(
    folder: Annotated[str, typer.Argument(help="Results: a folder, or a URI such as s3://...", show_default=False)],
    inline: Inline = False,
    address: Address = "local",
    verbose: Verbose = False,
    tensorboard: TensorBoard = False,
    mlflow: MlFlow = "",
    wandb: Wandb = "",
) -> None:
    """Run what is missing of the sweep in a folder. Needs nothing but the folder, wherever it lies now."""
    from vlmprof.monitor.loggers import LoggerOptions
    from vlmprof.store.submitted_job import read_job
    from vlmprof.trial.resolve import prepare

    how = RunOptions(inline, address, verbose, LoggerOptions(tensorboard=tensorboard, mlflow=mlflow, wandb=wandb))
    how.extras.require()
    here = folder if "://" in folder else str(Path(folder).absolute())
    submitted = read_job(here)
    if submitted.cwd and Path(submitted.cwd).is_dir():
        os.chdir(submitted.cwd)  # relative paths in a job are meant from where it was started
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / JOB
        path.write_text(submitted.text, encoding="utf-8")
        job = prepare(path)
    job = replace(job, spec=job.spec.model_copy(update={"storage": here}))
    _carry_out(job, submitted, f"resume {folder}", how)


@final
class RunOptions(NamedTuple):
    """How a job is run."""

    inline: bool
    address: str
    verbose: bool
    extras: LoggerOptions


def _carry_out(job: Job, submitted: SubmittedJob, again: str, how: RunOptions) -> None:
    from vlmprof.report.pareto_table import front_report, read_front, write_front

    where = job.spec.where
    if how.extras.tensorboard:
        mounted(where)  # it writes beside the tables, and knows no object stores
    out.print(f"{job.spec.name}: {plural(len(job.plans), 'trial')}, results in {where}", soft_wrap=True)
    with _interruptible(again):
        if how.inline:
            _run_inline(job, submitted, how.extras)
        else:
            _run_on_ray(job, submitted, how)
    missing = _say_what_is_missing(job, again)
    tables = f"{where}/{{trials,samples,timings}}/"
    try:
        front = read_front(where, [], [])
    except UserError as error:  # about the tables, such as older trials that lack an objective; the sweep has ended
        err.print(f"\nno front: {error}", style="yellow", markup=False, soft_wrap=True)
        out.print(f"\nTables: {tables}", soft_wrap=True)
        raise typer.Exit(SOME_FAILED if missing else 0) from None
    write_front(front, where)
    for part in front_report(front, out.width):
        out.print(part)
    out.print(f"\nTables: {tables}, front: {where}/pareto.parquet", soft_wrap=True)
    out.print(f"Next:   vlmprof plot {where}", soft_wrap=True)
    if missing:
        raise typer.Exit(SOME_FAILED)


def _run_inline(job: Job, submitted: SubmittedJob, extras: LoggerOptions) -> None:
    import torch

    from vlmprof.batch_size.cache import default_folder, kept_with_results
    from vlmprof.batch_size.sizer import BatchSizer
    from vlmprof.cli.run_display import display
    from vlmprof.monitor.loggers import Loggers
    from vlmprof.store.collector import Collector
    from vlmprof.sweep.inline import run_inline

    spec = job.spec
    gpus = int(torch.cuda.is_available()) if spec.resources.gpus == "auto" else spec.resources.gpus
    collector = Collector(spec.where, spec.name, wait_s=5)
    try:
        finished = collector.open_run([each.id for each in job.plans], spec.model_dump(mode="json"), submitted)
        left = [each for each in job.plans if each.id not in finished]
        measurements = kept_with_results(spec.where, BatchSizer(default_folder())) if gpus else nullcontext()
        settings: dict[str, Any] = {"gpus": gpus, "policy": spec.chunk, "folder": spec.where}
        names = {each.id: str(each) for each in job.plans}
        with (
            measurements,
            display(out, names) as shown,
            Loggers.of(extras, spec.name, spec.where, shown.note) as loggers,
        ):
            run_inline(left, len(finished), collector, shown, loggers=loggers, **settings)
    finally:
        collector.close()


def _run_on_ray(job: Job, submitted: SubmittedJob, how: RunOptions) -> None:
    from vlmprof.cli.run_display import display
    from vlmprof.sweep.driver import launch

    with display(out, {each.id: str(each) for each in job.plans}) as shown:
        told: dict[str, Any] = {"verbose": how.verbose, "extras": how.extras, "submitted": submitted}
        launch(job.spec, job.plans, how.address, shown, **told)


@contextmanager
def _interruptible(again: str) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a terminal that is closed: what is kept is on disk; say how to go on, and leave."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    heeded = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, stop) for one in heeded}
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"\ninterrupted; what was finished is kept. Resume: vlmprof {again}", style="yellow", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _say_what_is_missing(job: Job, again: str) -> int:
    """How many trials of the job must run again, by the ledger; what came of them is said."""
    from vlmprof.store.ledger import FINISHED, read_states

    folder = job.spec.where
    states = read_states(folder)
    counts = Counter(states.get(each.id, "missing") for each in job.plans)
    if counts["oom"]:
        does, it = ("does", "it") if counts["oom"] == 1 else ("do", "they")
        fits = f"{plural(counts['oom'], 'trial')} {does} not fit the device: an answer, {it} will not run again"
        err.print(f"\n{fits}; 'vlmprof status {folder}' lists the states", style="yellow", soft_wrap=True)
    missing = sum(count for state, count in counts.items() if state not in FINISHED)
    if missing:
        why = f"'vlmprof status {folder}' says why; failed ones run again with 'vlmprof {again}'"
        err.print(f"\n{plural(missing, 'trial')} did not finish: {why}", style="yellow", soft_wrap=True)
    return missing


def _labels(each: Any, knobs: Sequence[str]) -> list[str]:
    from vlmprof.knobs.knob import label

    point = dict(each.point)
    return [label(point[name]) for name in knobs]
