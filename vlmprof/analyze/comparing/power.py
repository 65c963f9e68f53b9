"""How many samples the comparisons of a sweep need, from its own answers: of all pairs, and against the full model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmprof.analyze.comparability import MOST_TOGETHER, comparable, groups
from vlmprof.analyze.configurations import full_trials, name_of
from vlmprof.analyze.score_matrix import COLUMNS, ScoreMatrix, score_matrix
from vlmprof.errors import UserError
from vlmprof.stats.estimates import NORMAL
from vlmprof.stats.power import samples_needed, smallest_difference
from vlmprof.stats.resampling import mean_covariance
from vlmprof.store import tables
from vlmprof.store.filesystem import Where

Numbers = NDArray[np.float64]
FRAME = (
    *("group", "pairs_of", "which", "first", "second", "trial_a", "trial_b", "difference"),
    *("error", "design_effect", "samples", "pictures", "samples_needed", "pictures_needed", "smallest_difference"),
)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Power:
    """What it takes to tell configurations of a sweep apart."""

    difference: float
    power: float
    frame: pd.DataFrame
    """The columns of ``FRAME``: for each group a typical pair (the median of ``samples_needed``) and the worst, or the
    only one, of ``all`` pairs, of those that these samples do not tell apart (``near``), and of those with the ``full``
    model."""
    caveats: tuple[str, ...]


def read_power(folder: Where, difference: float = 0.01, power: float = 0.8) -> Power:
    """How many samples a difference of accuracy needs in each group of a folder.

    Args:
        folder: Results.
        difference: That is wished to be told, above 0 and below 1.
        power: Chance that a true difference of this size is told at 95 %.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: a difference or a power out of range, or no group has two configurations with scores in common.
    """
    if not (math.isfinite(difference) and 0 < difference < 1):
        raise UserError(
            f"--difference: expected a difference of accuracy between 0 and 1, such as 0.01, got {difference}"
        )
    if not (math.isfinite(power) and 0 < power < 1):
        raise UserError(f"--power: expected a chance between 0 and 1, such as 0.8, got {power}")
    trials = comparable(tables.read(folder, "trials"))
    samples = tables.read_columns(folder, "samples", COLUMNS)
    rows: list[dict[str, Any]] = []
    caveats: list[str] = [f"left out: {count} {state}" for state, count in trials.attrs["left_out"].items()]
    for name, part in groups(trials):
        scored = part[part["accuracy"].notna()].reset_index(drop=True)
        if len(scored) > MOST_TOGETHER:
            caveats.append(f"{name}: by {MOST_TOGETHER:,} of {len(scored):,} configurations, evenly chosen")
            scored = _evenly(scored)
        try:
            matrix = score_matrix(samples, scored["trial"].tolist()) if len(scored) > 1 else None
        except UserError as error:
            caveats.append(f"{name}: {error}")
            continue
        if matrix is None:
            caveats.append(
                f"{name}: {len(scored)} of {len(part)} configurations have an accuracy, and a pair needs two"
            )
            continue
        caveats += [f"{name}: {sentence}" for sentence in matrix.caveats]
        rows += _rows(name, scored, _Pairs.of(scored, matrix), (difference, power), caveats)
    if not rows:
        raise UserError(
            f"{folder}: no pair of configurations to judge by: {'; '.join(caveats) or 'no trial has finished'}"
        )
    return Power(
        difference=difference, power=power, frame=pd.DataFrame(rows, columns=list(FRAME)), caveats=tuple(caveats)
    )


def _evenly(scored: pd.DataFrame) -> pd.DataFrame:
    """``MOST_TOGETHER`` of them, the full model among them where it is there."""
    chosen = np.linspace(0, len(scored) - 1, MOST_TOGETHER).round().astype(int)
    full, _ = _full(scored)
    if full >= 0 and full not in chosen:
        chosen[np.abs(chosen - full).argmin()] = full
    attrs, found = scored.attrs, scored.iloc[chosen].reset_index(drop=True)
    found.attrs = attrs
    return found


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pairs:
    """The pairs of one group that did not do the same work; arrays have one entry a pair."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    errors: Numbers
    differences: Numbers
    design_effects: Numbers
    samples: int
    pictures: int
    same_work: int
    """Pairs that are left out, as no number of samples tells them apart."""

    @classmethod
    def of(cls, scored: pd.DataFrame, matrix: ScoreMatrix) -> _Pairs:
        scores, count = matrix.paired.scores, len(matrix.samples)
        first, second = np.triu_indices(len(scored), 1)
        variances = _of_pairs(mean_covariance(matrix.paired), first, second)
        works = scored["work_key"].astype("string").fillna("").to_numpy()
        same = (works[first] == works[second]) & (works[first] != "") & (variances <= _ROUNDING)
        first, second, variances = first[~same], second[~same], variances[~same]
        plain = _of_pairs(np.atleast_2d(np.cov(scores, rowvar=False)), first, second) / count
        least = 1 / count**2  # that no sample of these differs does not mean that none does
        means = matrix.paired.means
        with np.errstate(divide="ignore", invalid="ignore"):
            effects = np.where(plain > _ROUNDING, variances / plain, np.nan)
        return cls(
            first=first,
            second=second,
            errors=np.sqrt(np.maximum(variances, least)),
            differences=means[second] - means[first],
            design_effects=effects,
            samples=count,
            pictures=len(np.unique(matrix.paired.clusters)),
            same_work=int(same.sum()),
        )


_ROUNDING = 1e-15


def _of_pairs(covariance: Numbers, first: NDArray[np.int64], second: NDArray[np.int64]) -> Numbers:
    each = np.diag(covariance)
    return np.asarray(each[first] + each[second] - 2 * covariance[first, second])


def _rows(
    name: str, scored: pd.DataFrame, pairs: _Pairs, wish: tuple[float, float], caveats: list[str]
) -> Iterator[dict[str, Any]]:
    if pairs.same_work:
        caveats.append(f"{name}: {pairs.same_work} pairs did the same work: no number of samples tells them apart")
    if not len(pairs.first):
        return
    needed = samples_needed(pairs.errors, pairs.samples, *wish)
    everything = np.arange(len(needed))
    full, remark = _full(scored)
    with_full = np.flatnonzero((pairs.first == full) | (pairs.second == full))
    if not len(with_full):
        caveats.append(f"{name}: no trial is that of the full model")
    elif remark:
        caveats.append(f"{name}: {remark}")
    near = np.flatnonzero(np.abs(pairs.differences) <= NORMAL * pairs.errors)
    for of, members in (("all", everything), ("near", near), ("full", with_full)):
        if len(members):
            order = members[np.argsort(needed[members], kind="stable")]
            chosen = (
                (("typical", order[len(order) // 2]), ("worst", order[-1])) if len(order) > 1 else (("only", order[0]),)
            )
            for which, pair in chosen:
                row = _row(scored, pairs, int(pair), wish[1], float(needed[pair]))
                yield {"group": name, "pairs_of": of, "which": which, **row}


def _full(scored: pd.DataFrame) -> tuple[int, str]:
    """Where the full model stands, -1 if there is none, and what is to be said of it."""
    found = full_trials(scored)
    if not found:
        return -1, ""
    trial, remark = next(iter(found.values()))
    return int(np.flatnonzero(scored["trial"] == trial)[0]), remark


def _row(scored: pd.DataFrame, pairs: _Pairs, pair: int, power: float, needed: float) -> dict[str, Any]:
    sides = [scored.iloc[int(of[pair])] for of in (pairs.first, pairs.second)]
    return {
        "first": name_of(sides[0]),
        "second": name_of(sides[1]),
        "trial_a": sides[0]["trial"],
        "trial_b": sides[1]["trial"],
        "difference": float(pairs.differences[pair]),
        "error": float(pairs.errors[pair]),
        "design_effect": float(pairs.design_effects[pair]),
        "samples": pairs.samples,
        "pictures": pairs.pictures,
        "samples_needed": int(needed),
        "pictures_needed": math.ceil(needed * pairs.pictures / pairs.samples),
        "smallest_difference": float(smallest_difference(pairs.errors[pair : pair + 1], power)[0]),
    }
