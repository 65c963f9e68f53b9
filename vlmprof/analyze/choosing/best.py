"""The best configuration under a condition, with how sure that is: of each group of comparable trials.

The *answer* has the best objective among the configurations that meet the condition as measured. The *safe* answer is
the best of those that meet it in at least ``sure`` of joint draws of everything measured; what it gives up against the
answer is the price of certainty. Both were chosen because they measured best, so their values are optimistic:
``corrected`` takes off what the choice is expected to have added, and ``confirmed`` was chosen on one half of the
pictures and measured on the other (``stats.selection``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa

from vlmprof.analyze.choosing.contests import GroupContest, group_contest, split_measured
from vlmprof.analyze.comparability import comparable, groups
from vlmprof.analyze.conditions import (
    Bound,
    Condition,
    columns_of,
    comparisons,
    holds,
    parse,
    text_of,
    without_not,
)
from vlmprof.analyze.drawn_objectives import SweepReader
from vlmprof.analyze.objectives import QUALITY, Objective, parse_objectives, quality_column
from vlmprof.analyze.score_matrix import score_matrix
from vlmprof.errors import UserError
from vlmprof.stats.intervals import MeanInterval
from vlmprof.stats.selection import NOBODY, Chances, Confirmed, chances, confirm, winner_is_best
from vlmprof.store import tables
from vlmprof.store.descriptions import column_attributes
from vlmprof.store.filesystem import Where
from vlmprof.store.tables import schema_of

SURE = 0.95
RUNNERS_UP = 5
ADDED = (
    *("group", "role", "feasible", "missed", "probability_feasible", "probability_best"),
    *("difference", "difference_low", "difference_high"),
)
"""Columns of ``Choice.rows`` besides those of ``trials``."""
MEANINGS: Mapping[str, str] = {
    "group": "Name of the group of comparable trials: equal in model, data, device and timing.",
    "role": "`answer`, `safe` (surely within the condition), both as `answer and safe`, `runner-up`; else null.",
    "feasible": "Whether it meets the condition as measured.",
    "missed": "By how much it misses the condition, as a share of the numbers of the condition; 0 if it meets it.",
    "probability_feasible": "Share of joint draws of everything measured in which it meets the condition.",
    "probability_best": (
        "Share of these draws in which it is the best of those that meet it; too high for the answer, which was chosen."
    ),
    "difference": "Its objective less that of the answer; as a share for times, memory and the like.",
    "difference_low": "Lower end of its paired 95 % interval.",
    "difference_high": "Upper end of its paired 95 % interval.",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a user asks for."""

    where: str = ""
    """A condition on columns of ``trials`` (``analyze.conditions``); empty: every configuration is allowed."""
    objective: str = QUALITY
    better: str = ""
    """``higher`` or ``lower``; empty: what the schema says."""
    sure: float = SURE
    """In how many draws the safe answer meets the condition, at least."""
    confirm: bool = False
    """Whether to choose on one half of the pictures too, and to report on the other."""
    by: tuple[str, ...] = ()
    """Columns to split groups by, besides those of ``analyze.comparability``."""
    across_models: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.sure < 1:
            raise UserError(f"sure: expected a probability from 0.5 to below 1, got {self.sure:g}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedChoice:
    """The configuration chosen on one half of the pictures, and its score on the other half."""

    trial: str
    found: Confirmed


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """The choice in one group of comparable trials."""

    group: str
    objective: Objective
    by_ratio: bool
    """Whether differences of the objective are shares."""
    rows: pd.DataFrame
    """All configurations with the columns of ``ADDED``: those that meet the condition first, best first; then the
    others, the nearest first. ``attrs`` as of ``analyze.comparability``."""
    answer: str | None
    """Its trial; None where nothing meets the condition."""
    safe: str | None
    price: MeanInterval | None
    """What the safe answer's objective is less the answer's, paired; None where one of the two is missing."""
    corrected: MeanInterval | None
    """The answer's objective less what being chosen is expected to have added; None where it cannot be known."""
    is_best: float | None = None
    """How probably the answer truly is the best, with regard to its having been chosen; None where it is not known."""
    confirmed: ConfirmedChoice | None = None
    captions: tuple[str, ...] = ()
    """What the probabilities rest on."""
    caveats: tuple[str, ...] = ()

    def row(self, trial: str) -> pd.Series[Any]:
        """The row of one of its trials."""
        return self.rows[self.rows["trial"] == trial].iloc[0]

    @property
    def optimism(self) -> float | None:
        """By how much the answer's measured value is better than the corrected one, in its unit."""
        if self.answer is None or self.corrected is None:
            return None
        return float(self.objective.sign * (self.corrected.mean - self.row(self.answer)[self.objective.column]))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Best:
    """The choice of each group."""

    wanted: Wanted
    condition: Condition | None
    choices: tuple[Choice, ...]
    """By name of the group."""
    left_out: Mapping[str, int]
    """Why -> how many trials take no part."""

    @property
    def frame(self) -> pd.DataFrame:
        """The rows of all choices, those of a group together; ``attrs`` as of the frames of ``Results``."""
        parts = []
        for choice in self.choices:
            part = choice.rows.copy()
            part.attrs = {}  # ``concat`` would compare them
            parts.append(part)
        frame = pd.concat(parts, ignore_index=True)
        attrs = column_attributes("trials", schema_of(self.choices[0].rows))
        attrs["descriptions"] |= MEANINGS
        frame.attrs = {name: value for name, value in attrs.items()}
        return frame


def best(folder: Where, wanted: Wanted | None = None) -> Best:
    """The best configuration of each group of comparable trials.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: a condition that is none, an unknown column, an objective without a direction, no finished trial that
            measured what is named, or ``confirm`` where the scores cannot be split.
    """
    wanted = wanted or Wanted()
    trials = tables.read(folder, "trials")
    schema = schema_of(trials)
    condition = parse(wanted.where, schema, source="--where") if wanted.where.strip() else None
    _objective_of(wanted, wanted.objective, schema)
    frame = comparable(trials, wanted.by, across_models=wanted.across_models)
    reader, left_out = SweepReader(folder=folder), Counter(frame.attrs["left_out"])
    choices = []
    for name, part in groups(frame):
        objective = _objective_of(wanted, _measured_name(wanted, part), schema)
        rows, lacking = split_measured(part, [objective.column, *(columns_of(condition) if condition else ())])
        left_out.update(lacking)
        if len(rows):
            contest = group_contest(rows, objective, condition, schema, reader)
            choices.append(_choice(name, contest, wanted, reader))
    if not choices:
        reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
        raise UserError(f"nothing to choose from: no finished trial measured what is named ({reasons or 'no trials'})")
    return Best(wanted=wanted, condition=condition, choices=tuple(choices), left_out=dict(left_out))


def _measured_name(wanted: Wanted, part: pd.DataFrame) -> str:
    """The score of a metric that has no accuracy, in the place of the default objective."""
    return quality_column(part) if wanted.objective == QUALITY else wanted.objective


def _objective_of(wanted: Wanted, name: str, schema: pa.Schema) -> Objective:
    (objective,) = parse_objectives([name], schema)
    if wanted.better and wanted.better != objective.better:
        option = "--minimise" if wanted.better == "lower" else "--maximise"
        raise UserError(f"{option} {name}: of this column {objective.better} is better, so it would choose the worst")
    return objective


def _choice(name: str, contest: GroupContest, wanted: Wanted, reader: SweepReader) -> Choice:
    found, one = chances(contest.contest), contest.contest
    winner = int(one.winner(one.measured))
    safe = _safe(contest, found, wanted.sure) if contest.is_drawn else NOBODY
    told = contest.told
    confirmed = _confirmed(contest, reader) if wanted.confirm else None
    if wanted.confirm and confirmed is None:
        told.caveats.append("nothing meets the condition on one half of the pictures, so there is nothing to confirm")
    of = contest.rows["trial"]
    return Choice(
        group=name,
        objective=contest.objective,
        by_ratio=contest.is_by_ratio,
        rows=_rows(name, contest, found, winner, safe),
        answer=None if winner == NOBODY else str(of[winner]),
        safe=None if safe == NOBODY else str(of[safe]),
        price=_price(contest, winner, safe),
        corrected=contest.corrected(winner) if winner != NOBODY and contest.is_drawn else None,
        is_best=winner_is_best(one) if winner != NOBODY and contest.is_drawn else None,
        confirmed=confirmed,
        captions=tuple(dict.fromkeys(told.captions)),
        caveats=tuple(dict.fromkeys(told.caveats)),
    )


def _safe(contest: GroupContest, found: Chances, sure: float) -> int:
    costs = contest.contest.measured[contest.objective.column]
    allowed = found.feasible >= sure
    return int(np.where(allowed, costs, np.inf).argmin()) if allowed.any() else NOBODY


def _price(contest: GroupContest, winner: int, safe: int) -> MeanInterval | None:
    if NOBODY in (winner, safe):
        return None
    middle, low, high = (float(ends[safe]) for ends in contest.differences(winner))
    return MeanInterval(mean=middle, low=low, high=high)


def _rows(name: str, contest: GroupContest, found: Chances, winner: int, safe: int) -> pd.DataFrame:
    rows, one = contest.rows, contest.contest
    feasible = np.asarray(one.allowed(one.measured))
    missed = contest.missed()
    costs = one.measured[contest.objective.column]
    order = np.lexsort((rows["trial"], costs, missed, ~feasible))
    added: dict[str, Any] = {"group": name, "feasible": feasible, "missed": missed}
    known = contest.is_drawn
    added |= {"probability_feasible": found.feasible if known else np.nan}
    added |= {"probability_best": found.best if known else np.nan}
    ends = contest.differences(winner) if winner != NOBODY else (np.nan,) * 3
    for column, values in zip(("difference", "difference_low", "difference_high"), ends, strict=True):
        added[column] = values if known or column == "difference" else np.nan
    added["role"] = pd.array(_roles(order, feasible, winner, safe), dtype="object")
    ordered = rows.assign(**added).iloc[order].reset_index(drop=True)
    ordered.attrs = rows.attrs
    return ordered


def _roles(order: Any, feasible: Any, winner: int, safe: int) -> list[str | None]:
    runners_up = [i for i in order if feasible[i] and i not in (winner, safe)][:RUNNERS_UP]
    roles: list[str | None] = [None] * len(feasible)
    for i in runners_up:
        roles[i] = "runner-up"
    for role, i in (("safe", safe), ("answer", winner)):
        if i != NOBODY:
            roles[i] = "answer and safe" if roles[i] == "safe" else role
    return roles


def _confirmed(contest: GroupContest, reader: SweepReader) -> ConfirmedChoice | None:
    name = contest.objective.column
    if name not in contest.of_scores:
        raise UserError(f"confirm: samples are split into halves, and {name} is no mean of their scores; leave it out")
    trials = contest.rows["trial"].tolist()
    paired = score_matrix(reader.samples, trials).paired
    signs = {name: contest.columns[name].sign for name in contest.of_scores}
    as_cost = {name: lambda means, sign=sign: sign * means for name, sign in signs.items()}
    try:
        found = confirm(contest.contest, paired, as_cost)
    except ValueError as error:
        raise UserError(f"confirm: {error}; leave it out, or run more samples") from None
    return None if found is None else ConfirmedChoice(trial=trials[found.winner], found=found)


def misses(choice: Choice, condition: Condition) -> tuple[str, ...]:
    """Where nothing meets the condition: each comparison that the nearest configuration does not meet, in words."""
    nearest = choice.rows.iloc[0]
    return tuple(
        f"{one.column} is {float(nearest[one.column]):.6g}, wanted {text_of(one).removeprefix(one.column).strip()}"
        for one in comparisons(without_not(condition))
        if not _meets(nearest, one)
    )


def _meets(row: pd.Series[Any], one: Bound) -> bool:
    return bool(holds(one, lambda comparison: np.array([float(row[comparison.column])]))[0])
