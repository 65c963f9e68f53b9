"""One pair of configurations in detail: by question type, which samples moved, and loyalty to the full model.

Loyalty is the share of samples on which a configuration gives the answer that the full model gives, right or wrong:
accuracy can stay while answers change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vlmprof.analyze.comparing.changes import ComparedRun
from vlmprof.analyze.comparing.comparison import RunComparison
from vlmprof.analyze.configurations import full_trial_of, full_trials
from vlmprof.errors import UserError
from vlmprof.stats.estimates import holm
from vlmprof.stats.intervals import MeanInterval, mean_interval
from vlmprof.stats.paired import paired_differences
from vlmprof.stats.resampling import PairedScores
from vlmprof.store import schema, tables

ANSWERS = ("sample", "cluster", "question_type", "question", "references", "picture", "prediction", "score")
"""Columns of ``samples`` that are shown of a moved sample, as far as the folder has them."""
BY_TYPE = ("question_type", "samples", "clusters", "first", "second", "change", "low", "high", "p", "p_holm")
MOVED = (
    *("trial_a", "trial_b", "sample", "cluster", "question_type", "question", "references", "picture"),
    *("prediction_a", "prediction_b", "score_a", "score_b", "change"),
)
_UNTYPED = "no type"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Loyalty:
    """How often a configuration gives the full model's answer."""

    of: str
    """Which side."""
    full: str
    """The trial of the full model."""
    same: MeanInterval
    """Share of equal answers, spaces at either end aside, with its 95 % interval over pictures."""
    samples: int
    remark: str
    """What is to be said of the full model; often nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairDetail:
    """What is behind the row of one pair."""

    by_type: pd.DataFrame
    """The columns of ``BY_TYPE``: the mean scores of both, and the change with its 95 % interval, NaN for a single
    picture; ``p_holm`` is adjusted for the number of types."""
    moved: pd.DataFrame
    """The columns of ``MOVED``, most telling first: by how far the score moved, and then one question type after the
    other, those with most moved samples first."""
    same_answers: MeanInterval
    """Share of samples on which both give the same answer."""
    loyalties: tuple[Loyalty, ...]
    caveats: tuple[str, ...]

    @property
    def fell(self) -> pd.DataFrame:
        """Samples that the second scores lower."""
        return self.moved[self.moved["change"] < 0]

    @property
    def rose(self) -> pd.DataFrame:
        """Samples that the second scores higher."""
        return self.moved[self.moved["change"] > 0]


def moved_samples(comparison: RunComparison) -> pd.DataFrame:
    """The samples of all pairs whose score moved, with the columns of ``MOVED``; of one pair after the other."""
    readers = _readers(comparison)
    frames = [_moved(_joined(*pair, readers), pair) for pair in _trials(comparison)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(MOVED))


def pair_detail(comparison: RunComparison) -> PairDetail:
    """The detail of a comparison of one pair.

    Raises:
        UserError: it is of several pairs, or the two have no common samples.
    """
    pairs = list(_trials(comparison))
    if len(pairs) != 1:
        raise UserError(f"details are of one pair of configurations, and these are {len(pairs)}; name one")
    readers = _readers(comparison)
    joined = _joined(*pairs[0], readers)
    if joined.empty:
        raise UserError("the two have no common samples with a score: nothing can be said of single samples")
    clusters = joined["cluster"].tolist()
    loyalties, caveats = _loyalties(comparison, pairs[0], readers)
    return PairDetail(
        by_type=_by_type(joined),
        moved=_moved(joined, pairs[0]),
        same_answers=mean_interval(_same(joined["prediction_a"], joined["prediction_b"]), clusters),
        loyalties=loyalties,
        caveats=tuple(caveats),
    )


def _trials(comparison: RunComparison) -> Iterator[tuple[str, str]]:
    frame = comparison.frame
    yield from zip(frame["trial_a"].astype(str), frame["trial_b"].astype(str), strict=True)


@final
class _Answers:
    """The answers of the trials of one folder."""

    def __init__(self, run: ComparedRun, trials: Sequence[str]) -> None:
        known = [name for name in ANSWERS if name in schema.SAMPLES.names]  # earlier versions have fewer
        rows = tables.read_columns(run.folder, "samples", ["trial", *known])
        kept = rows.filter(pc.is_in(rows.column("trial"), pa.array(list(trials), pa.string())))
        frame = kept.to_pandas().reindex(columns=["trial", *ANSWERS])
        self._of = {str(trial): part.drop(columns="trial") for trial, part in frame.groupby("trial")}

    def of(self, trial: str) -> pd.DataFrame:
        """The rows of a trial; none where it answered nothing."""
        found: pd.DataFrame | None = self._of.get(trial)
        return pd.DataFrame(columns=list(ANSWERS)) if found is None else found


def _readers(comparison: RunComparison) -> tuple[_Answers, _Answers]:
    runs = comparison.reader.sides
    wanted = [[str(trial) for trial in comparison.frame[f"trial_{side}"]] for side in "ab"]
    for run, trials in zip(runs, wanted, strict=True):
        trials += [trial for trial, _ in full_trials(run.trials).values()]
    if runs[0] is runs[1]:
        both = _Answers(runs[0], [*wanted[0], *wanted[1]])
        return both, both
    return _Answers(runs[0], wanted[0]), _Answers(runs[1], wanted[1])


def _joined(first: str, second: str, readers: tuple[_Answers, _Answers]) -> pd.DataFrame:
    """The samples that both scored; what describes a sample is that of the first, where it has it."""
    a, b = readers[0].of(first), readers[1].of(second)
    joined = a.merge(b, on="sample", suffixes=("_a", "_b"))
    joined = joined[np.isfinite(joined["score_a"].astype(float)) & np.isfinite(joined["score_b"].astype(float))]
    for name in ("cluster", "question_type", "question", "references", "picture"):
        joined[name] = joined[f"{name}_a"].where(joined[f"{name}_a"].notna(), joined[f"{name}_b"])
    joined["cluster"] = joined["cluster"].where(joined["cluster"].notna(), joined["sample"])
    joined["change"] = joined["score_b"].astype(float) - joined["score_a"].astype(float)
    return joined.reset_index(drop=True)


def _by_type(joined: pd.DataFrame) -> pd.DataFrame:
    rows = [
        _of_type(str(name), part) for name, part in joined.groupby(joined["question_type"].fillna(_UNTYPED), sort=True)
    ]
    found = pd.DataFrame(rows, columns=list(BY_TYPE[:-1]))
    return found.assign(p_holm=holm(found["p"].to_numpy(dtype=np.float64)))


def _of_type(name: str, part: pd.DataFrame) -> dict[str, Any]:
    changes = part["change"].to_numpy(dtype=np.float64)
    codes, _ = pd.factorize(part["cluster"])
    clusters = len(np.unique(codes))
    row: dict[str, Any] = {
        "question_type": name,
        "samples": len(part),
        "clusters": clusters,
        "first": float(part["score_a"].mean()),
        "second": float(part["score_b"].mean()),
        "change": float(changes.mean()),
    }
    if clusters < 2:
        return {**row, "low": np.nan, "high": np.nan, "p": np.nan}
    found = paired_differences(PairedScores(scores=changes[:, None], clusters=codes.astype(np.int64)), draws=0)
    low, high = found.estimates.ends()
    return {**row, "low": max(-1.0, low[0]), "high": min(1.0, high[0]), "p": found.estimates.p_values()[0]}


def _moved(joined: pd.DataFrame, trials: tuple[str, str]) -> pd.DataFrame:
    moved = joined[joined["change"] != 0].assign(trial_a=trials[0], trial_b=trials[1])
    moved = moved.assign(
        size=moved["change"].abs(), kind=moved["question_type"].fillna(_UNTYPED), rising=moved["change"] > 0
    )
    moved = moved.sort_values(["rising", "size", "sample"], ascending=[True, False, True])
    often = moved.groupby("kind")["sample"].transform("size").astype(int)
    moved = moved.assign(turn=moved.groupby(["rising", "size", "kind"]).cumcount(), often=-often)
    moved = moved.sort_values(["rising", "size", "turn", "often", "sample"], ascending=[True, False, True, True, True])
    return moved[list(MOVED)].reset_index(drop=True)


def _same(first: pd.Series[Any], second: pd.Series[Any]) -> list[float]:
    a, b = (answers.astype("string").fillna("").str.strip() for answers in (first, second))
    return [float(one) for one in (a == b)]


def _loyalties(
    comparison: RunComparison, pair: tuple[str, str], readers: tuple[_Answers, _Answers]
) -> tuple[tuple[Loyalty, ...], list[str]]:
    found, caveats = [], []
    sides = zip(comparison.names, comparison.reader.sides, pair, readers, strict=True)
    for name, run, trial, answers in sides:
        full = full_trial_of(run.trials, trial)
        if full is None:
            caveats.append(f"no loyalty of {name}: {run.name} has no trial of the full model on this task")
            continue
        if full[0] == trial:
            continue  # it is the full model
        loyal = _loyalty(name, trial, full, answers)
        found += [loyal] if loyal else []
        caveats += [] if loyal else [f"no loyalty of {name}: it has no answered sample in common with the full model"]
    return tuple(found), caveats


def _loyalty(name: str, trial: str, full: tuple[str, str], answers: _Answers) -> Loyalty | None:
    joined = answers.of(full[0]).merge(answers.of(trial), on="sample", suffixes=("_full", ""))
    joined = joined[joined["prediction_full"].notna() & joined["prediction"].notna()]
    if joined.empty:
        return None
    clusters = joined["cluster"].where(joined["cluster"].notna(), joined["sample"]).tolist()
    same = mean_interval(_same(joined["prediction_full"], joined["prediction"]), clusters)
    return Loyalty(of=name, full=full[0], same=same, samples=len(joined), remark=full[1])
