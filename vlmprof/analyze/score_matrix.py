"""The scores of several configurations on the samples that all of them answered, from the table ``samples``.

What is not in it is counted: a sample that one configuration could not answer says nothing about the difference between
two, and leaving it out without a word would hide that accuracies are over other samples than the comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlmprof.errors import UserError
from vlmprof.stats.resampling import PairedScores
from vlmprof.store import tables
from vlmprof.store.filesystem import Where

COLUMNS = ("trial", "sample", "cluster", "score")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreMatrix:
    """Scores in pairs; the columns are in the order of the trials that were asked for."""

    paired: PairedScores
    samples: tuple[str, ...]
    """The ids of the rows."""
    left_out: int
    """Samples that some of these trials answered, but not all."""

    @property
    def caveats(self) -> tuple[str, ...]:
        """A sentence on what is left out; none where nothing is."""
        if not self.left_out:
            return ()
        every = self.left_out + len(self.samples)
        trials = self.paired.scores.shape[1]
        return (
            f"{self.left_out} of {every} samples are not scored in all {trials} configurations:"
            f" what is said of differences rests on the other {len(self.samples)}",
        )


def read_scores(folder: Where, trials: Sequence[str]) -> ScoreMatrix:
    """The scores of these trials on their common samples.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: a trial has no scored sample, no sample is common to all, or all are of one cluster.
    """
    return score_matrix(tables.read_columns(folder, "samples", COLUMNS), trials)


def score_matrix(samples: pa.Table, trials: Sequence[str]) -> ScoreMatrix:
    """The same, from rows with ``COLUMNS``; those of other trials are not looked at.

    Raises:
        UserError: as ``read_scores``.
    """
    wanted = pa.array(list(trials), pa.string())
    rows = samples.filter(pc.is_in(samples.column("trial"), wanted))
    at_trial = _numbers(pc.index_in(rows.column("trial"), wanted))
    at_sample, names = _coded(rows.column("sample"))
    of_rows = pc.coalesce(rows.column("cluster"), rows.column("sample"))
    matrix = np.full((len(names), len(wanted)), np.nan)
    matrix[at_sample, at_trial] = _numbers(rows.column("score"))
    clusters = np.zeros(len(names), dtype=np.int64)
    clusters[at_sample] = _coded(of_rows)[0]
    scored = np.isfinite(matrix)
    lacking = [trial for trial, any_score in zip(trials, scored.any(axis=0), strict=True) if not any_score]
    if lacking:
        raise UserError(f"{len(lacking)} of {len(trials)} trials have no scored sample: {', '.join(lacking[:5])}")
    common = scored.all(axis=1)
    if not common.any():
        raise UserError(f"the {len(trials)} trials have no common samples; of {len(names)} none is scored in all")
    if len(np.unique(clusters[common])) < 2:
        raise UserError(
            f"all {common.sum()} common samples are of one picture: how far one is from others is not known"
        )
    paired = PairedScores(scores=matrix[common], clusters=clusters[common])
    kept = tuple(name for name, is_kept in zip(names, common, strict=True) if is_kept)
    return ScoreMatrix(paired=paired, samples=kept, left_out=int(scored.any(axis=1).sum()) - len(kept))


def _coded(column: pa.ChunkedArray) -> tuple[Any, list[str]]:
    """A number for each row, and the text that each number stands for."""
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return _numbers(encoded.indices), encoded.dictionary.to_pylist()


def _numbers(column: Any) -> Any:
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
