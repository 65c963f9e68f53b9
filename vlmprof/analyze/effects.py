"""What each knob does to an objective: over settings of the others, and alone with the others at their fullest.

The two answer different questions. ``marginal`` shows how far the effect of a knob depends on the rest: its spread is
the spread of settings, not an error bar. It compares like with like: only settings of the other knobs that were run
with every value of the knob. In a sweep that is not finished the values of a knob otherwise differ by what else was run
with them, and a knob without any effect showed 60 against 80 %. ``one_at_a_time`` changes nothing else, and its
intervals are the 95 % ones that were measured. Trials that set different knobs are kept apart (``swept``), and so are
groups that may not be compared (``analyze.comparability``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from vlmprof.analyze.comparability import comparable
from vlmprof.analyze.objectives import Objective
from vlmprof.store.schema import knobs_of

MARGINAL = ("group", "swept", "knob", "axis", "label", "effect", "trials", "left_out", "mean", "median", "low", "high")
ALONE = ("group", "swept", "knob", "axis", "label", "effect", "held", "trial", "value", "low", "high")


def marginal(trials: pd.DataFrame, objective: Objective, by: Sequence[str] = ()) -> pd.DataFrame:
    """A row for each knob and value: the objective over the settings of the other knobs that every value was run with.

    Returns:
        The columns of ``MARGINAL``, by group, knob and axis. ``trials`` counts the settings, ``left_out`` the trials of
        this value whose setting some other value lacks; ``mean``, ``median``, ``low`` (smallest) and ``high`` (largest)
        are over the former, in the unit of the objective, and NaN where no setting is common to all values. ``effect``
        joins what the trials say where they differ. Trials without the objective are left out.

    Raises:
        UserError: an unknown column in ``by``.
    """
    rows = [
        {
            **about,
            "axis": axis,
            "label": label,
            "effect": _effects(same, knob),
            "left_out": int((~same["matched"]).sum()),
            **_spread(same.loc[same["matched"], objective.column]),
        }
        for about, knob, part in _sets(trials, objective, by)
        for (axis, label), same in _with_matches(about, knob, part).groupby(
            [f"knob_{knob}", f"requested_{knob}"], dropna=False
        )
    ]
    return pd.DataFrame(rows, columns=list(MARGINAL))


def _with_matches(about: dict[str, str], knob: str, part: pd.DataFrame) -> pd.DataFrame:
    """With ``matched``: whether the setting of the other knobs was run with every value of this one."""
    others = [f"requested_{other}" for other in about["swept"].split(", ") if other != knob]
    values = part[f"requested_{knob}"].nunique()
    if not others:
        return part.assign(matched=True)
    run_with = part.groupby(others, dropna=False)[f"requested_{knob}"].transform("nunique")
    return part.assign(matched=run_with == values)


def one_at_a_time(trials: pd.DataFrame, objective: Objective, by: Sequence[str] = ()) -> pd.DataFrame:
    """A row for each knob and value, every other knob at its most complete value: the largest on its axis.

    A value whose trial is not there (a random or unfinished sweep) has no row. Where two values of another knob are
    equally complete, the first label counts.

    Returns:
        The columns of ``ALONE``, by group, knob and axis. ``held`` says where the other knobs stood; ``value`` is the
        objective in its unit, ``low`` and ``high`` its 95 % interval, NaN where none was measured.

    Raises:
        UserError: an unknown column in ``by``.
    """
    rows = [
        row for about, knob, part in _sets(trials, objective, by) for row in _alone(about, knob, part, objective.column)
    ]
    return pd.DataFrame(rows, columns=list(ALONE))


def _sets(
    trials: pd.DataFrame, objective: Objective, by: Sequence[str]
) -> Iterator[tuple[dict[str, str], str, pd.DataFrame]]:
    """(group, swept and knob; the knob; its trials) for each set of trials that differ in knob values only."""
    frame = comparable(trials, by).dropna(subset=[objective.column])
    knobs = knobs_of(str(name) for name in frame.columns)
    was_set = frame[[f"knob_{name}" for name in knobs]].notna().to_numpy()
    frame["swept"] = [", ".join(itertools.compress(knobs, of_trial)) for of_trial in was_set]
    for (group, swept), part in frame.groupby(["group", "swept"]):
        for knob in filter(None, str(swept).split(", ")):
            yield {"group": str(group), "swept": str(swept), "knob": knob}, knob, part


def _alone(about: dict[str, str], knob: str, part: pd.DataFrame, objective: str) -> Iterator[dict[str, Any]]:
    held = {}
    for other in about["swept"].split(", "):
        if other != knob:
            fullest = part[part[f"knob_{other}"] == part[f"knob_{other}"].max()]
            held[other] = min(fullest[f"requested_{other}"])
    for other, label in held.items():
        part = part[part[f"requested_{other}"] == label]
    for _, row in part.sort_values([f"knob_{knob}", f"requested_{knob}", "trial"]).iterrows():
        yield {
            **about,
            "axis": row[f"knob_{knob}"],
            "label": row[f"requested_{knob}"],
            "effect": row[f"effect_{knob}"],
            "held": ", ".join(f"{other}={label}" for other, label in held.items()),
            "trial": row["trial"],
            "value": row[objective],
            "low": row.get(f"{objective}_low", float("nan")),
            "high": row.get(f"{objective}_high", float("nan")),
        }


def _effects(same: pd.DataFrame, knob: str) -> str:
    return " or ".join(sorted(same[f"effect_{knob}"].dropna().unique()))


def _spread(values: pd.Series[Any]) -> dict[str, float]:
    return {
        "trials": len(values),
        "mean": float(values.mean()),
        "median": float(values.median()),
        "low": float(values.min()),
        "high": float(values.max()),
    }
