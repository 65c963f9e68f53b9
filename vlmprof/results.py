"""``Results``: a results folder as notebooks and scripts read it, and ``load``, which opens one.

Importing this module loads neither ray nor torch nor pandas: each method imports what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from vlmprof.errors import UserError
from vlmprof.job.storage import mounted
from vlmprof.report.frame_attributes import attributes_of_front, with_attributes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from vlmprof.analyze.adaptive.oracle import Oracle
    from vlmprof.analyze.adaptive.router import Routing
    from vlmprof.analyze.choosing.best import Best
    from vlmprof.analyze.choosing.budgets import Budgets
    from vlmprof.analyze.comparing.changes import Canary
    from vlmprof.analyze.comparing.comparison import RunComparison
    from vlmprof.analyze.comparing.power import Power
    from vlmprof.analyze.coupling.coupling import Coupling
    from vlmprof.analyze.coupling.transfer import Transfer
    from vlmprof.analyze.papers.paper_table import PaperTables
    from vlmprof.analyze.status import SweepStatus
    from vlmprof.report.export import Exported
    from vlmprof.store.manifest import TableName
    from vlmprof.trial.resolve import Job


def load(folder: str | os.PathLike[str]) -> Results:
    """Open the results of a sweep, finished or not. Needs neither Ray nor torch.

    Args:
        folder: A results folder such as ``results/quickstart``, or a URI such as ``s3://bucket/quickstart``.

    Raises:
        StoreError: the folder holds no sweep.
    """
    from vlmprof.store import ledger

    where = absolute(os.fspath(folder))
    ledger.require(where)
    return Results(where=where)


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Results:
    """A results folder. Every access reads it again, so the results of a running sweep are up to date.

    The frames' ``attrs`` hold ``units``, ``directions`` (``lower`` or ``higher``, whichever is better, for objectives),
    ``intervals`` (the two columns of a 95 % interval) and ``descriptions``: dictionaries with column names as keys.
    """

    where: str
    """Absolute path of the folder, or its URI."""

    @property
    def folder(self) -> Path:
        """The folder as a path.

        Raises:
            UserError: the results are in an object store; its URI is ``where``.
        """
        return mounted(self.where)

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial that has ended; the columns are described in ``docs/schema.md``."""
        return self._table("trials")

    @property
    def samples(self) -> pd.DataFrame:
        """A row for each question of each trial that has ended."""
        return self._table("samples")

    @property
    def timings(self) -> pd.DataFrame:
        """A row for each timed generation; times in milliseconds."""
        return self._table("timings")

    def front(  # noqa: PLR0913 (keyword-only options)
        self,
        objectives: str | Sequence[str] = (),
        by: str | Sequence[str] = (),
        *,
        across_devices: bool = False,
        across_models: bool = False,
        dominated: bool = False,
        doubt: bool = False,
        epsilon: Mapping[str, float] | None = None,
    ) -> pd.DataFrame:
        """The Pareto front of each group of comparable trials.

        Args:
            objectives: Columns of ``trials`` to trade off; each must have a direction in the schema. Empty: accuracy
                and median latency, or whichever of the two was measured.
            by: Further columns to group by: trials that differ in them are not in one front.
            across_devices: Make one front over GPUs of different kinds.
            across_models: Make one front over all models of the folder; the column ``model`` names them.
            dominated: Include the finished trials that are dominated; ``on_front`` is False for them.
            doubt: Say how sure the front is, from answers and timings; see ``docs/decisions.md``. Trials that are
                possibly on the front are then included too.
            epsilon: Objective -> what counts as no difference: a share of times, memory and the like, such as 0.02; a
                difference of accuracy, such as 0.01. Those are the values where it is not named.

        Returns:
            The columns of ``trials``, and ``group`` and ``on_front``. With ``doubt`` also ``front_membership``
            (``surely``, ``possibly`` or ``no``), ``front_probability``, ``front_rank``, ``tie_group``,
            ``epsilon_front``, ``front_hypervolume`` with its interval, and for each objective the band of the front,
            ``<objective>_band_low`` and ``_band_high``. In addition to the keys for ``trials``, ``attrs`` has
            ``objectives`` (column names), ``left_out`` (reason -> number of trials that are in no front), ``beware``
            (warnings that qualify the numbers) and, with ``doubt``, ``doubt`` (sentences on what it rests on).

        Raises:
            UserError: an unknown column, finished trials that did not measure an objective, or an ``epsilon`` of a
                column that is none.
            StoreError: the folder holds no sweep.
        """
        from vlmprof.report.pareto_table import read_front

        across = {"across_devices": across_devices, "across_models": across_models}
        frame = read_front(self.where, _names(objectives), _names(by), **across, doubt=doubt, epsilon=epsilon)
        attrs = attributes_of_front(frame)
        best = frame["on_front"].astype(bool)
        if "front_membership" in frame:
            best |= frame["front_membership"].isin(["surely", "possibly"])
        shown = frame if dominated else frame[best].reset_index(drop=True)
        return with_attributes(shown, attrs)

    def best(  # noqa: PLR0913 (keyword-only options)
        self,
        where: str = "",
        *,
        maximise: str = "",
        minimise: str = "",
        sure: float = 0.95,
        confirm: bool = False,
        by: str | Sequence[str] = (),
        across_models: bool = False,
    ) -> Best:
        """The best configuration under a condition, of each group of comparable trials; see ``docs/decisions/best.md``.

        Args:
            where: A condition such as ``"latency_ms_inputs_p95 < 200 ms and peak_bytes < 24 GB"``; empty: none.
            maximise: Column of which the highest is best; by default accuracy.
            minimise: Column of which the lowest is best, in its place.
            sure: In what share of draws the safe answer must meet the condition.
            confirm: Choose on one half of the pictures too, and report on the other half.
            by: Further columns to group by.
            across_models: Choose among all models of the folder.

        Returns:
            ``frame`` has a row for each configuration, ``choices`` the answer of each group with its doubt.

        Raises:
            UserError: a condition that is none, an unknown column, an objective without a direction, no finished trial
                that measured what is named, or ``confirm`` where the scores cannot be split.
            StoreError: the folder holds no sweep.
        """
        from vlmprof.analyze.choosing.best import Wanted, best

        if maximise and minimise:
            raise UserError("maximise and minimise: expected one of the two; bound the other column with where")
        better = "lower" if minimise else "higher" if maximise else ""
        wanted = Wanted(
            where=where,
            objective=minimise or maximise or "accuracy",
            better=better,
            sure=sure,
            confirm=confirm,
            by=tuple(_names(by)),
            across_models=across_models,
        )
        return best(self.where, wanted)

    def budgets(  # noqa: PLR0913 (keyword-only options)
        self,
        objective: str = "",
        *,
        stage: str = "whole",
        low: float | None = None,
        high: float | None = None,
        step: float | None = None,
        steps: int = 10,
        tolerance: float = 0.05,
        by: str | Sequence[str] = (),
        across_models: bool = False,
    ) -> Budgets:
        """The configuration of the best accuracy for each budget: the look-up table of an adaptive controller.

        Args:
            objective: Column that is bounded; by default the median latency of ``stage``.
            stage: ``whole`` request, or ``prefill`` alone.
            low: First budget, in the column's unit; by default the least value of any configuration.
            high: Last budget; by default the largest value.
            step: From one budget to the next; by default there are ``steps`` of them.
            steps: Number of budgets.
            tolerance: Share of the budget by which a request may exceed it without counting as a violation.
            by: Further columns to group by.
            across_models: One table over all models of the folder.

        Returns:
            ``frame`` has a row for each group and budget; its ``attrs`` have ``units`` and ``descriptions``.

        Raises:
            UserError: an unknown column, one of which more is better, a bad number, or nothing was measured.
            StoreError: the folder holds no sweep.
        """
        from vlmprof.analyze.choosing.budgets import BudgetsWanted, budgets

        wanted = BudgetsWanted(
            objective=objective,
            stage=stage,
            low=low,
            high=high,
            step=step,
            steps=steps,
            tolerance=tolerance,
            by=tuple(_names(by)),
            across_models=across_models,
        )
        return budgets(self.where, wanted)

    def table(
        self,
        rows: str = "front",
        columns: str | Sequence[str] = (),
        *,
        by: str | Sequence[str] = (),
        across_models: bool = False,
    ) -> PaperTables:
        """Tables for papers: configurations by tasks; ``report.paper_table.paper_text`` writes them as text.

        Args:
            rows: ``front`` (with the full model), ``all``, or a list of ``full``, ``front``, ids and settings.
            columns: Of ``accuracy``, ``relative`` (% of the full model), ``vision_tokens``, ``flop``, ``prefill``,
                ``total`` and ``memory``, or columns of ``trials``; empty: those that were measured.
            by: Further columns that must not be mixed in one table.
            across_models: One table over all models of the folder.

        Returns:
            ``frame`` has a row for each configuration, with values, ends of intervals and what is told apart.

        Raises:
            UserError: an unknown row or column, or nothing to show.
            StoreError: the folder holds no sweep.
        """
        from vlmprof.analyze.papers.paper_table import TableWanted, paper_tables

        wanted = TableWanted(
            rows=rows, columns=tuple(_names(columns)), by=tuple(_names(by)), across_models=across_models
        )
        return paper_tables(self.where, wanted)

    def export(
        self,
        form: str,
        to: str | os.PathLike[str],
        tables: str | Sequence[str] = ("trials", "samples", "timings", "front"),
        *,
        force: bool = False,
    ) -> Exported:
        """Write tables to files for other programs, with a ``columns.json`` that has units and descriptions.

        Args:
            form: ``csv``, ``jsonl`` or ``arrow`` (Feather, version 2).
            to: A folder; or, for one table, a file with the ending of the format.
            tables: Of ``trials``, ``samples``, ``timings`` and ``front``.
            force: Replace files that are there.

        Raises:
            UserError: an unknown table or format, a file for several tables, or a file that is there already.
            StoreError: the folder holds no sweep, or a file cannot be written.
        """
        from vlmprof.report.export import export

        return export(self.where, form, Path(to), _names(tables), force=force)

    def compare(
        self,
        other: Results | str | os.PathLike[str] | None = None,
        *,
        configurations: Sequence[str] = (),
        fail_if: str = "",
        canary: Canary = "both",
        across_devices: bool = False,
    ) -> RunComparison:
        """These results compared with others, or two configurations of these; see ``docs/decisions/compare.md``.

        Args:
            other: Results of another run; None: ``configurations`` name two of these.
            configurations: The first of these results, and the second of the others: settings such as
                ``"max_crops=1"``, the id of a trial, or ``"full"``. None: all, in pairs of equal settings.
            fail_if: A condition on changes such as ``"accuracy < -0.01 or latency_ms_p50 > +3%"``.
            canary: Whether a change of a time must show ``both`` as measured and relative to the canary, or relative to
                it (``divide``), or as measured (``ignore``).
            across_devices: Compare times of unlike devices too.

        Returns:
            ``frame`` has a row for each pair, ``provenance`` what differs besides, ``alarm`` what ``fail_if`` says.
            Of one pair ``analyze.comparing.pair_detail.pair_detail`` gives question types and samples that moved.

        Raises:
            UserError: a name that nothing has, no configuration in common, or a condition that cannot be tested.
            StoreError: a folder holds no sweep.
        """
        from vlmprof.analyze.comparing.comparison import Settings, compare

        second = other.where if isinstance(other, Results) else other
        settings = Settings(
            configurations=tuple(configurations), fail_if=fail_if, canary=canary, across_devices=across_devices
        )
        return compare(self.where, None if second is None else absolute(os.fspath(second)), settings)

    def power(self, difference: float = 0.01, power: float = 0.8) -> Power:
        """How many samples a difference of accuracy needs, from the paired variance of these results.

        Args:
            difference: That is wished to be told at 95 %, such as 0.01.
            power: Chance that a true difference of this size is told.

        Returns:
            ``frame`` has a typical and the worst pair of each group: the samples needed, and the smallest difference
            that the present samples tell.

        Raises:
            UserError: a number out of range, or no two configurations with scores in common.
            StoreError: the folder holds no sweep.
        """
        from vlmprof.analyze.comparing.power import read_power

        return read_power(self.where, difference, power)

    def coupling(self, by: str = "", time: str = "latency_ms_p50") -> Coupling:
        """How the knobs act together: variance by knob, pair and triple, interactions, fronts with one knob held.

        Args:
            by: Part of a group's name, where the folder holds several models, tasks or devices.
            time: The time beside accuracy, such as ``ttft_ms_p50``.

        Raises:
            UserError: no such group or time, or no complete grid of two knobs.
            StoreError: the folder holds no sweep.
        """
        from vlmprof.analyze.coupling.coupling import coupling

        return coupling(self.where, by, time)

    def oracle(
        self,
        budget: float | Sequence[float] = (0.35, 0.5, 0.7, 0.85, 1.0),
        *,
        by: str = "",
        cost: str = "",
        penalty: float = 10.0,
        violations: float = 0.05,
    ) -> Oracle:
        """What choosing a configuration for each sample could gain under a budget, and what simple rules gain.

        Args:
            budget: Shares of the full configuration's mean cost.
            by: Part of a group's name, where the folder holds several models, tasks or devices.
            cost: A column of ``trials``, better lower; empty: the latency of each sample, else of each configuration.
            penalty: ``lambda`` of the reward ``score - lambda * max(0, cost - budget)``, as shares of the full cost.
            violations: A static configuration keeps a budget if at most this share of its samples is beyond it.

        Raises:
            UserError: no such group or column, a budget or a share out of range, or nothing to choose from.
            StoreError: the folder holds no sweep.
        """
        from vlmprof.analyze.adaptive.oracle import oracle

        budgets = [budget] if isinstance(budget, int | float) else list(budget)
        return oracle(self.where, budgets, by=by, cost=cost, penalty=penalty, violations=violations)

    def draw(self, found: Any, to: str | os.PathLike[str] | None = None) -> Figure:
        """The figure of what ``best``, ``budgets``, ``compare``, ``coupling`` or ``oracle`` gave.

        Args:
            found: Their result.
            to: Where it is written too, ``.png``, ``.svg`` or ``.pdf``.

        Raises:
            UserError: something else, another ending, nothing to draw, or a file that cannot be written.
        """
        from vlmprof.plots._decisions import figure_of

        return figure_of(found, None if to is None else os.fspath(to))

    def transfer(
        self,
        *others: str | os.PathLike[str] | Results,
        by: str = "",
        time: str = "latency_ms_p50",
        despite: Sequence[str] = (),
    ) -> Transfer:
        """How far the fronts of all groups of this folder and others agree: across tasks, models, devices, folders.

        Args:
            others: Further results.
            by: Part of the names of the groups to look at.
            time: The time beside quality.
            despite: Columns besides model, task and device that may differ all the same.

        Raises:
            UserError: fewer than two groups, or no two that may be compared.
            StoreError: a folder holds no sweep.
        """
        from vlmprof.analyze.coupling.transfer import transfer

        places = [one.where if isinstance(one, Results) else absolute(os.fspath(one)) for one in others]
        return transfer([self.where, *places], by=by, time=time, despite=_names(despite))

    def routing(
        self, budget: float | Sequence[float] = (0.35, 0.5, 0.7, 0.85), *, by: str = "", cost: str = ""
    ) -> Routing:
        """How well question type and size of picture tell which samples need the full configuration: a floor.

        Args:
            budget: Mean cost, as shares of that of the full configuration.
            by: Part of a group's name.
            cost: As of ``oracle``.

        Raises:
            UserError: as ``oracle``, or no group in which some samples need the full configuration and some do not.
        """
        from vlmprof.analyze.adaptive.router import routing

        budgets = [budget] if isinstance(budget, int | float) else list(budget)
        return routing(self.where, budgets, by=by, cost=cost)

    def status(self) -> SweepStatus:
        """Status of the sweep: trials by state, reasons of failures, and whether a process is running it."""
        from vlmprof.analyze.status import status

        return status(self.where)

    def job(self) -> Job:
        """The job that was started last in this folder, checked again. ``run`` resumes it; the folder may have moved.

        Raises:
            StoreError: the folder holds no job.
            SpecError: the job is not valid for this version.
        """
        from vlmprof.job.strict_yaml import JobText
        from vlmprof.store.filesystem import results_folder
        from vlmprof.store.submitted_job import JOB, read_job, working_folder
        from vlmprof.trial.data_check import with_data_checked
        from vlmprof.trial.earlier_job import as_begun
        from vlmprof.trial.resolve import prepare

        submitted = read_job(self.where)
        with working_folder(submitted):
            source = results_folder(self.where).address(JOB)
            job = JobText(text=submitted.text, source=source)
            begun = as_begun(prepare(job, allow_many=True), self.where)  # confirmed when the sweep was started
            prepared = with_data_checked(begun)
        spec = prepared.spec.model_copy(update={"storage": self.where})
        return replace(prepared, spec=spec, submitted=submitted)

    def _table(self, name: TableName) -> pd.DataFrame:
        from vlmprof.store import tables
        from vlmprof.store.descriptions import column_attributes

        frame = tables.read(self.where, name)
        return with_attributes(frame, column_attributes(name, tables.schema_of(frame)))

    def __repr__(self) -> str:
        try:
            status = self.status()
        except UserError as error:
            return f"Results({self.where!r}: {error})"
        return f"Results({self.where!r}: {status.finished} of {status.total} trials finished)"

    def _repr_html_(self) -> str:
        """HTML for a notebook: trials by state, and a table of each front with intervals and units."""
        from vlmprof.report.notebook import results_html

        return results_html(self.where, self.status())


def _names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) and names else list(names)


def absolute(where: str) -> str:
    """The absolute path of a results folder; a URI as it is."""
    return where if "://" in where else str(Path(where).expanduser().absolute())
