"""What choosing a configuration for each sample could gain under a budget, and what simple rules gain, from the tables.

The oracle knows the answers: a bound, not a method (``stats.adaptive_choice``). The baselines are what a controller has
to beat: one configuration for all samples, one knob turned to fit each sample's budget, and a greedy path over all
knobs. Whatever is chosen by scores is chosen on other folds of pictures than it is reported on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmprof.analyze.adaptive.sample_choices import ROLES, SweepChoices, sweep_choices
from vlmprof.errors import UserError
from vlmprof.plan.point import words_of
from vlmprof.stats import adaptive_choice
from vlmprof.stats.adaptive_choice import ChoiceTable
from vlmprof.stats.intervals import MeanInterval, columns_of, mean_interval
from vlmprof.store.filesystem import Where

BUDGETS = (0.35, 0.5, 0.7, 0.85, 1.0)
"""Shares of the full configuration's mean cost."""
VIOLATIONS = 0.05
PENALTY = 10.0
"""Of the reward: a hundredth of the full cost beyond the budget costs ten points of accuracy."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Oracle:
    """What choosing for each sample gains; a folder with several groups has rows of each."""

    frame: pd.DataFrame
    """A row for each budget and policy: ``group``, ``budget`` (share of the full configuration's cost),
    ``budget_cost`` (the same in the unit of the cost), ``policy``, ``score``, ``cost`` (mean, as a share),
    ``violations`` (share of samples beyond the budget), ``reward`` and ``regret`` (to the best reward of each sample),
    each but ``cost`` with ``_low`` and ``_high``."""
    headroom: pd.DataFrame
    """A row for each budget: ``group``, ``budget``, ``budget_cost``, ``configurations`` (within the budget for some
    sample), ``static`` (the best one as measured), ``static_score``, ``oracle_score``, ``headroom`` of the oracle over
    the best static configuration, ``luck`` (the headroom in a world without preferences) and ``repeatable`` (headroom
    that the luck of the chosen answer does not explain), with the ends of intervals."""
    captions: tuple[str, ...]
    caveats: tuple[str, ...]


def oracle(
    folder: Where,
    budgets: Sequence[float] = BUDGETS,
    *,
    by: str = "",
    cost: str = "",
    penalty: float = PENALTY,
    violations: float = VIOLATIONS,
) -> Oracle:
    """The oracle, its headroom and the baselines, for each budget.

    Args:
        folder: Results.
        budgets: Shares of the full configuration's mean cost.
        by: Part of a group's name, where the folder holds several.
        cost: As of ``analyze.adaptive.sample_choices.sweep_choices``.
        penalty: ``lambda`` of the reward ``score - lambda * max(0, cost - budget)``, both as shares of the full cost.
        violations: A static configuration keeps a budget if at most this share of its samples is beyond it.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: no such group or column, a budget or a share out of range, or no two configurations to choose from.
    """
    _check(budgets, penalty, violations)
    found = sweep_choices(folder, by, cost)
    rows, heads, said = [], [], []
    for one in found:
        relative = _relative(one)
        for budget in budgets:
            about = {"group": one.name, "budget": budget, "budget_cost": budget * one.full_cost}
            heads.append(about | _headroom(one, relative, budget, violations))
            rows += [about | row for row in _policies(one, relative, budget, penalty)]
        said += [
            f"{one.name}: no knob of {role} differs: no rule turns it" for role in ROLES if role not in one.by_role()
        ]
    shared = [sentence for one in found for sentence in one.captions]
    folds = f"rules that use scores are chosen on {adaptive_choice.FOLDS - 1} of {adaptive_choice.FOLDS} parts of the"
    captions = [
        *shared,
        f"{folds} pictures and reported on the other",
        f"reward: score - {penalty:g} x (cost - budget) beyond the budget, in shares of the full cost",
        f"static: at most {100 * violations:g} % of samples beyond the budget; chosen and reported on the same samples",
    ]
    caveats = [sentence for one in found for sentence in one.caveats]
    return Oracle(
        frame=pd.DataFrame(rows),
        headroom=pd.DataFrame(heads),
        captions=tuple(dict.fromkeys(captions)),
        caveats=tuple(dict.fromkeys([*caveats, *said])),
    )


def _check(budgets: Sequence[float], penalty: float, violations: float) -> None:
    if not budgets or not all(math.isfinite(one) and one > 0 for one in budgets):
        raise UserError(f"expected budgets above 0, as shares of the full configuration's cost, got {list(budgets)}")
    if not (math.isfinite(penalty) and penalty >= 0):
        raise UserError(f"expected a penalty of 0 or more, got {penalty}")
    if not 0 <= violations < 1:
        raise UserError(f"expected a share of violations from 0 to below 1, got {violations}")


def _relative(one: SweepChoices) -> ChoiceTable:
    table = one.table
    return ChoiceTable(scores=table.scores, costs=table.costs / one.full_cost, clusters=table.clusters, work=table.work)


def _headroom(one: SweepChoices, table: ChoiceTable, budget: float, violations: float) -> dict[str, Any]:
    candidates = adaptive_choice.static_candidates(table, budget, violations)
    within = int(table.within(budget).any(axis=0).sum())
    taken = table.taken(adaptive_choice.oracle(table, budget))
    row: dict[str, Any] = {"configurations": within, "static": None, "static_score": None}
    row["oracle_score"] = float(taken.mean()) if within else None
    if not candidates.any():
        return row | columns_of("headroom", None) | {"luck": None} | columns_of("repeatable", None)
    means = np.where(candidates, table.scores.mean(axis=0), -np.inf)
    best = int(adaptive_choice.best_of_each(means[None], table.costs.mean(axis=0)[None])[0])
    informed = adaptive_choice.side_information(table, budget, candidates)
    return row | {
        "static": words_of(str(one.rows["point"][best])),
        "static_score": float(means[best]),
        **columns_of("headroom", adaptive_choice.headroom(taken, table, candidates)),
        "luck": adaptive_choice.luck_alone(table, budget),
        **columns_of("repeatable", adaptive_choice.headroom(informed, table, candidates)),
    }


def policies(one: SweepChoices, table: ChoiceTable, budget: float, penalty: float) -> Mapping[str, NDArray[np.int64]]:
    """Policy -> (samples,): the configuration that it takes for each sample.

    ``oracle`` and ``oracle, <role> only`` take the best reward of each sample, of all configurations or of those that
    differ from the full one in the knobs of a role. ``static`` takes one for all. ``<role> only`` takes the fullest
    that fits each sample's budget, by its cost alone. ``greedy`` goes down a path over all knobs.

    Args:
        one: The group.
        table: Its scores, and costs as shares of the full cost.
        budget: A share of it.
        penalty: Of the reward.
    """
    rewards = table.rewards(budget, penalty)
    found = {
        "oracle": adaptive_choice.best_of_each(rewards, table.costs),
        "static": adaptive_choice.best_static(table, rewards),
    }
    roles = {role: one.turning(knobs) for role, knobs in one.by_role().items()}
    for role, members in roles.items():
        found[f"{role} only"] = adaptive_choice.largest_within(table, budget, members)
    found["greedy"] = adaptive_choice.greedy(table, budget, one.full, one.steps_down())
    for role, members in roles.items():
        allowed = np.broadcast_to(members, rewards.shape)
        found[f"oracle, {role} only"] = adaptive_choice.best_of_each(rewards, table.costs, allowed)
    return found


def _policies(one: SweepChoices, table: ChoiceTable, budget: float, penalty: float) -> Iterator[dict[str, Any]]:
    rewards = table.rewards(budget, penalty)
    chosen = policies(one, table, budget, penalty)
    best = table.taken(chosen["oracle"], rewards)
    for name, choice in chosen.items():
        beyond = (~table.taken(choice, table.within(budget).astype(np.float64)).astype(bool)).astype(np.float64)
        reward = table.taken(choice, rewards)
        yield {
            "policy": name,
            **columns_of("score", _score_interval(table.taken(choice), table.clusters)),
            "cost": float(table.taken(choice, table.costs).mean()),
            **columns_of("violations", mean_interval(beyond.tolist(), table.clusters.tolist())),
            **columns_of("reward", adaptive_choice.mean_of(reward, table.clusters)),
            **columns_of("regret", _regret(best - reward, table.clusters)),
        }


def _regret(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> MeanInterval:
    """No sample's is below 0, and the oracle's is 0 by its definition."""
    if not values.any():
        return MeanInterval(mean=0.0, low=0.0, high=0.0)
    found = adaptive_choice.mean_of(values, clusters)
    return MeanInterval(mean=found.mean, low=max(0.0, found.low), high=found.high)


def _score_interval(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> MeanInterval:
    if ((values >= 0) & (values <= 1)).all():
        return mean_interval(values.tolist(), clusters.tolist())
    return adaptive_choice.mean_of(values, clusters)
