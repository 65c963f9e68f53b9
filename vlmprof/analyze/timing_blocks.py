"""The times of each session of each trial, from the table ``timings``: what is left open about a latency.

The times of a session are means of groups of consecutive generations, each generation relative to the median of its
request (``stats.generation_times``), in the unit of the column. Disturbed blocks are left out where there are others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmprof.errors import UserError, suggestion
from vlmprof.stats.generation_times import RequestTime, grouped_means, request_medians
from vlmprof.store import tables
from vlmprof.store.filesystem import Where

_STAGES = ("preprocess", "transfer", "vision", "connector", "prefill", "decode")
COLUMNS = (
    *("trial", "setting", "session", "canary", "request", "output_tokens", "end_to_end_ms", "disturbed"),
    *(f"{stage}_ms" for stage in _STAGES),
)
Sessions = Sequence[Sequence[Sequence[float]]]


def _sum_of(*stages: str) -> Callable[[pd.DataFrame], Any]:
    return lambda rows: rows[[f"{stage}_ms" for stage in stages]].fillna(0.0).sum(axis=1)


TIMES: Mapping[str, Callable[[pd.DataFrame], Any]] = {
    "latency_ms_p50": lambda rows: rows["end_to_end_ms"],
    "e2e_ms_p50": lambda rows: rows["end_to_end_ms"] - rows["preprocess_ms"],
    "ttft_ms_p50": _sum_of("transfer", "vision", "connector", "prefill"),
    "ttft_with_preprocess_ms_p50": _sum_of("preprocess", "transfer", "vision", "connector", "prefill"),
    "tpot_ms_p50": lambda rows: rows["decode_ms"] / (rows["output_tokens"] - 1),
    **{f"{stage}_ms_p50": _sum_of(stage) for stage in _STAGES},
}
"""Column of ``trials`` -> the time of each generation that it is a median of."""


def require_time(name: str) -> None:
    """Refuse a column whose time was not measured generation by generation.

    Raises:
        UserError: it is none of ``TIMES``.
    """
    if name not in TIMES:
        raise UserError(
            f"'{name}' is no time that was measured generation by generation{suggestion(name, list(TIMES))}"
        )


def read_times(folder: Where) -> pd.DataFrame:
    """The timed generations of the first batch size and length, canaries left out."""
    rows = read_all_times(folder)
    return rows[~rows["canary"]]


def read_all_times(folder: Where) -> pd.DataFrame:
    """The timed generations of the first batch size and length; ``canary`` is True for the canaries among them."""
    rows: pd.DataFrame = tables.read_columns(folder, "timings", COLUMNS).to_pandas()
    rows = rows[rows["setting"].fillna(0) == 0]
    return rows.assign(canary=rows["canary"].fillna(value=False).astype(bool))


def sessions_of(rows: pd.DataFrame, column: str, trials: Sequence[str]) -> Sessions | None:
    """Trial -> session -> times of its groups; None where a trial was not timed, or a time is not above 0.

    Args:
        rows: as ``read_times`` gives them.
        column: one of ``TIMES``.
        trials: their ids.
    """
    found = sessions_by_trial(rows[rows["trial"].isin(trials)], column)
    return [found[trial] for trial in trials] if all(trial in found for trial in trials) else None


def sessions_by_trial(rows: pd.DataFrame, column: str) -> dict[str, list[list[float]]]:
    """The same of each trial that was timed, all of whose times are above 0."""
    return _by_trial(rows, column, _groups)


def canaries_by_trial(rows: pd.DataFrame, column: str) -> dict[str, list[list[float]]]:
    """Trial -> session -> the times of its canaries, of the kind of this column, of trials with some in each.

    Args:
        rows: as ``read_all_times`` gives them.
        column: one of ``TIMES``.
    """
    return _by_trial(rows[rows["canary"]], column, lambda requests, ms: list(ms))


def _by_trial(
    rows: pd.DataFrame, column: str, times: Callable[[Sequence[int], Sequence[float]], list[float]]
) -> dict[str, list[list[float]]]:
    # Arrays, as a frame of each of thousands of sessions takes longer to make than all that is done with it.
    ms, requests = TIMES[column](rows).to_numpy(dtype=np.float64), rows["request"].to_numpy()
    quiet, trials = rows["disturbed"].isna().to_numpy(), rows["trial"].to_numpy()
    of_session = rows.groupby(["trial", "session"], sort=True).ngroup().to_numpy()
    order = np.argsort(of_session, kind="stable")
    order = order[of_session[order] >= 0]
    found: dict[str, list[list[float]]] = {}
    for members in np.split(order, np.flatnonzero(np.diff(of_session[order])) + 1) if len(order) else ():
        kept = members[quiet[members]] if quiet[members].any() else members
        found.setdefault(str(trials[members[0]]), []).append(times(requests[kept].tolist(), ms[kept].tolist()))
    return {
        trial: sessions
        for trial, sessions in found.items()
        if all(sessions) and all(math.isfinite(time) and time > 0 for each in sessions for time in each)
    }


def _groups(requests: Sequence[int], ms: Sequence[float]) -> list[float]:
    times = [RequestTime(int(request), one) for request, one in zip(requests, ms, strict=True)]
    medians = request_medians(times)
    if not all(median > 0 for median in medians.values()):
        return [0.0]
    means = grouped_means([time.ms / medians[time.request] for time in times])
    each = len(times) / len(medians)
    # A median of few times lies close to them, so they seem to spread less: by (n - 1) / n of the variance.
    wider = math.sqrt(each / (each - 1)) if each > 1 else 1.0
    centre = sum(medians.values()) / len(medians)
    return [centre * (1 + wider * (mean - 1)) for mean in means]
