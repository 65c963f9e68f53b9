"""``vlmprof check``, ``plan``, ``run`` and ``resume``: validate a job, list its trials, run it.

Exit codes of a run: 0 every trial of the job is done or does not fit the device; 2 the user can fix it; 3 some trials
failed; 130 interrupted. They follow from the ledger, whatever this run itself did.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, final

import typer
from rich.table import Table

from vlmprof import api
from vlmprof.cli.advice import Advice
from vlmprof.cli.output import INTERRUPTED, SOME_FAILED, err, out, plural
from vlmprof.errors import UserError

if TYPE_CHECKING:
    from vlmprof.job.spec import ModelSpec, TaskSpec
    from vlmprof.monitor.live_state import Display
    from vlmprof.plan.point import TrialPlan
    from vlmprof.trial.resolve import Job

MANY, ENDS = 1000, 20
"""Trials from which on a plan shows only so many of its first and last."""

app = typer.Typer()

JobFile = Annotated[Path, typer.Argument(help="A job, such as jobs/quickstart.yaml.", show_default=False)]

Inline = Annotated[bool, typer.Option("--inline", help="One after another in this process, without Ray.")]
Address = Annotated[str, typer.Option(help="A Ray cluster; 'local' starts one on this machine.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="A TensorBoard run a trial.")]
MlFlow = Annotated[str, typer.Option(help="Log to MLflow at this tracking URI.", metavar="URI")]
Wandb = Annotated[str, typer.Option(help="Log to this project of Weights & Biases.", metavar="PROJECT")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="However many trials: they are meant.")]
Only = Annotated[
    list[str] | None, typer.Option(help="Only the trials with this setting, such as max_crops=4.", metavar="KNOB=VALUE")
]
Limit = Annotated[int | None, typer.Option(help="Only the first so many of the trials that are left.", min=1)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value in the job, such as timing.repeats=40.", metavar="KEY=VALUE"),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Let Ray and Tune speak.")]


@app.command("check")
def check_jobs(
    files: Annotated[list[Path], typer.Argument(help="Job files.", show_default=False)], yes: Yes = False
) -> None:
    """Prove job files right without a GPU, weights or a cluster; every fault is reported."""
    faulty = []
    for file in files:
        try:
            job = api.check(file, allow_many=yes)
            out.print(f"{file}: ok, {plural(len(job.plans), 'trial')}", highlight=False, soft_wrap=True)
            _print_timed_settings(job)
            _print_notes(job)
        except UserError as error:
            faulty.append(str(error))
    if faulty:
        raise UserError("\n".join(faulty))


def _print_timed_settings(job: Job) -> None:
    """What each trial is timed at and what that costs, where it is more than one batch size and length."""
    from vlmprof.sweep.cost import CostEstimator

    timed = [plan for plan in job.plans if "latency" in plan.measure]
    if not timed or not timed[0].timing.further:
        return
    timing, estimator = timed[0].timing, CostEstimator()
    count = len(timing.settings)
    alone = sum(estimator.estimate(replace(p, timing=replace(p.timing, further=()))).timing_cost for p in timed)
    cost = sum(estimator.estimate(plan).timing_cost for plan in timed)
    work = f"about {cost / alone:.1f} times the timed work of the first alone; " if alone else ""
    most = f"at most {count} x {timing.max_seconds:g} s of repeats a trial"
    out.print(f"  timed at {count} settings, {timing.words}: {work}{most}", highlight=False, soft_wrap=True)


def _print_notes(job: Job) -> None:
    for note in job.notes:
        out.print(f"  beware: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)


@app.command("plan")
def list_trials(file: JobFile, yes: Yes = False, only: Only = None, limit: Limit = None, changed: Set = None) -> None:
    """Show the trials of a job: which are done, how many vision tokens each will see, how long the rest may take."""
    from vlmprof.store.ledger import FINISHED

    job = _chosen(file, yes=yes, only=only, limit=limit, changed=changed)
    trials, knobs = api.list_trials(job), list(job.spec.all_knobs)
    table = Table("trial", "model", "task", *knobs, "vision tokens", "state", box=None, header_style="bold")
    every = range(len(trials))
    shown = every if len(trials) <= MANY else [*every[:ENDS], *every[-ENDS:]]
    for at in shown:
        row, plan = trials.iloc[at], job.plans[at]
        if len(shown) < len(trials) and at == every[-ENDS]:
            table.add_row("...")
        names = _distinct(plan.model, job.spec.models), _distinct(plan.task, job.spec.tasks)
        settings = (value if isinstance(value := row[f"requested_{name}"], str) else "-" for name in knobs)
        table.add_row(row["trial"], *names, *settings, f"{row['vision_tokens_predicted']:.0f}", row["state"])
    out.print(table)
    if len(shown) < len(trials):
        out.print(f"  {len(trials) - len(shown):,} trials between are not shown; in Python vlmprof.list_trials has all")
    _print_timed_settings(job)
    _print_notes(job)
    done = int(trials["state"].isin(FINISHED).sum())
    left = len(trials) - done
    out.print(f"\n{plural(len(trials), 'trial')}: {done} done, {left} to run; results in {job.spec.where}")
    out.print(_distinct_work(job), highlight=False, soft_wrap=True)
    out.print(_estimate(job), highlight=False, soft_wrap=True)


def _distinct_work(job: Job) -> str:
    """How many of the answers that all trials ask for are work of their own."""
    from vlmprof.trial.planned_work import PlannedWork

    answers = PlannedWork().answers(job.plans)
    if not answers.asked:
        return "no answers are scored"
    if answers.distinct == answers.asked:
        return f"{answers.asked:,} answers, all of them distinct work"
    shared = f"the other {answers.asked - answers.distinct:,} are taken from another trial where one process runs both"
    return f"{answers.asked:,} answers, {answers.distinct:,} of them distinct work; {shared}"


def _chosen(
    file: Path, *, yes: bool, only: Sequence[str] | None, limit: int | None, changed: Sequence[str] | None
) -> Job:
    """The job with what was changed, and those of its trials that were asked for.

    Raises:
        UserError: the job has faults, a setting is in none of its trials, or an option is not of the form KEY=VALUE.
    """
    from vlmprof.plan.point import label
    from vlmprof.store.ledger import FINISHED
    from vlmprof.store.lost_trials import read_states

    job = api.check(api.changed_job(file, dict(map(_pair, changed))) if changed else file, allow_many=yes)
    plans = job.plans
    for knob, value in map(_pair, only or ()):
        plans = tuple(plan for plan in plans if _has(plan, knob, value))
        if not plans:
            values = [label(listed) for listed in job.spec.all_knobs.get(knob, ())]
            listed = " | ".join(values) or "no values, it is not in the job"
            raise UserError(f"--only {knob}={value}: no trial has it; {knob} has {listed}")
    if limit is not None:
        states = read_states(job.spec.where)
        plans = tuple(plan for plan in plans if states.get(plan.id) not in FINISHED)[:limit]
    return replace(job, plans=plans)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"'{text}': expected KEY=VALUE, such as max_crops=4")
    return name, value


def _has(plan: TrialPlan, knob: str, value: str) -> bool:
    from vlmprof.plan.point import label

    setting = dict(plan.point)
    return knob in setting and value in (dict(plan.point.items)[knob], label(setting[knob]))


def _estimate(job: Job) -> str:
    """Estimated time of the missing trials, from those that have ended, on one GPU with one trial at a time."""
    from vlmprof.report.status_screen import duration
    from vlmprof.store import ledger
    from vlmprof.store.lost_trials import read_states
    from vlmprof.sweep.cost import CostEstimator

    states = read_states(job.spec.where)
    lines = ledger.read(job.spec.where)
    took = {line["trial"]: float(line["seconds"]) for line in lines if line["event"] == "done" and line.get("seconds")}
    known = [plan for plan in job.plans if plan.id in took]
    left = [plan for plan in job.plans if states.get(plan.id) not in ledger.FINISHED]
    if not left:
        return "nothing is left to run"
    if not known:
        return "how long it will take is not known before a trial has ended: try 'vlmprof run --limit 1'"
    estimator = CostEstimator()
    work = {plan.id: estimator.estimate(plan).cost for plan in (*known, *left)}
    seconds = sum(work[plan.id] for plan in left) * sum(took[plan.id] for plan in known)
    seconds /= sum(work[plan.id] for plan in known)
    hours = f"{seconds / 3600:.2f}" if seconds >= 36 else "less than 0.01"
    of_gpus = "" if job.spec.resources.gpus == 0 else f", {hours} GPU hours where they run on GPUs"
    basis = f"from {plural(len(known), 'trial')} that ended and the work of each"
    return f"about {duration(seconds)} of trial time is left ({basis}){of_gpus}"


def _distinct(one: ModelSpec | TaskSpec, all_of_them: Sequence[ModelSpec | TaskSpec]) -> str:
    """The name of a model or a task, with what tells it from others of the same name in the job."""
    alike = [other for other in all_of_them if _name(other) == _name(one)]
    fields = [field for field in type(one).model_fields if len({str(getattr(other, field)) for other in alike}) > 1]
    fields = [field for field in fields if field != "knobs"]  # the table has their values
    differing = ", ".join(f"{field}={getattr(one, field) or 'default'}" for field in fields)
    return f"{_name(one)} ({differing})" if differing else _name(one)


def _name(one: ModelSpec | TaskSpec) -> str:
    return str(getattr(one, "label", "") or getattr(one, "name", ""))


@app.command("run")
def run_job(
    file: JobFile,
    inline: Inline = False,
    address: Address = "local",
    verbose: Verbose = False,
    tensorboard: TensorBoard = False,
    mlflow: MlFlow = "",
    wandb: Wandb = "",
    yes: Yes = False,
    only: Only = None,
    limit: Limit = None,
    changed: Set = None,
) -> None:
    """Run what is missing of a job, then show its front. Running it again is how to resume."""
    how = RunOptions(inline, address, verbose, tensorboard, mlflow, wandb)
    chosen = [*(f"--only={one}" for one in only or ()), *(f"--set={one}" for one in changed or ())]
    again = ["run", str(file), *chosen, *how.typed(), *(["--yes"] if yes else [])]
    _carry_out(_chosen(file, yes=yes, only=only, limit=limit, changed=changed), Advice.of(again), how)


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
    how = RunOptions(inline, address, verbose, tensorboard, mlflow, wandb)
    _carry_out(api.load(folder).job(), Advice.of(["resume", folder, *how.typed()]), how)


@final
class RunOptions(NamedTuple):
    """How a job is run; see ``api.run``."""

    inline: bool
    address: str
    verbose: bool
    tensorboard: bool
    mlflow: str
    wandb: str

    def typed(self) -> list[str]:
        """The options as they are typed on a command line."""
        switches = {"--inline": self.inline, "--tensorboard": self.tensorboard, "--verbose": self.verbose}
        values = {"--address": self.address if self.address != "local" else "", "--wandb": self.wandb}
        values["--mlflow"] = self.mlflow if "@" not in self.mlflow else "URI"  # it may hold a password
        return [name for name, on in switches.items() if on] + [f"{name}={of}" for name, of in values.items() if of]


def _carry_out(job: Job, advice: Advice, how: RunOptions) -> None:
    with _interruptible(advice):
        api.run(job, progress=partial(_display, advice), **how._asdict())
    missing = _say_what_is_missing(job, advice)
    _print_front(job.spec.where, advice)
    if missing:
        raise typer.Exit(SOME_FAILED)


def _display(advice: Advice, job: Job) -> AbstractContextManager[Display]:
    from vlmprof.report.run_display import display

    where = advice.place(job.spec.where)
    out.print(f"{job.spec.name}: {plural(len(job.plans), 'trial')}, results in {where}", soft_wrap=True)
    for note in job.notes:
        err.print(f"  beware: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    return display(out, {plan.id: str(plan) for plan in job.plans})


def _print_front(where: str, advice: Advice) -> None:
    from vlmprof.report.pareto_table import front_report, read_front, write_front

    tables = advice.place(f"{where}/{{trials,samples,timings}}/")
    try:
        front = read_front(where, [], [], doubt=True)
    except UserError as error:  # no trial measured what a front needs; the sweep has ended
        err.print(f"\n{error}", style="yellow", markup=False, soft_wrap=True)
        out.print(f"\nTables: {tables}", soft_wrap=True)
        return
    for part in front_report(front, out.width):
        out.print(part)
    if front.empty:
        out.print(f"\nTables: {tables}", soft_wrap=True)
        return
    write_front(front, where)
    out.print(f"\nTables: {tables}, front: {where}/pareto.parquet", soft_wrap=True)
    out.print(f"Next:   {advice.reading('plot', where)}", soft_wrap=True)


@contextmanager
def _interruptible(advice: Advice) -> Iterator[None]:
    """On Ctrl-C, SIGTERM or a closed terminal, say how to go on, and exit; finished work is on disk."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    heeded = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, stop) for one in heeded}
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"\ninterrupted; what was finished is kept. Resume: {advice.again}", style="yellow", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _say_what_is_missing(job: Job, advice: Advice) -> int:
    """Print which trials did not finish, by the ledger; returns how many must run again."""
    from vlmprof.store.ledger import FINISHED
    from vlmprof.store.lost_trials import read_states

    folder = job.spec.where
    states = read_states(folder)
    counts = Counter(states.get(plan.id, "missing") for plan in job.plans)
    if counts["oom"]:
        does, it = ("does", "it") if counts["oom"] == 1 else ("do", "they")
        fits = f"{plural(counts['oom'], 'trial')} {does} not fit the device: an answer, {it} will not run again"
        err.print(f"\n{fits}; '{advice.reading('status', folder)}' lists the states", style="yellow", soft_wrap=True)
    missing = sum(count for state, count in counts.items() if state not in FINISHED)
    if missing:
        why = f"'{advice.reading('status', folder)}' says why; failed ones run again with '{advice.again}'"
        err.print(f"\n{plural(missing, 'trial')} did not finish: {why}", style="yellow", soft_wrap=True)
    return missing
