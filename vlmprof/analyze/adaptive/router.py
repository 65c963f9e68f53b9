"""Whether simple facts of a sample tell that it needs the full configuration: a floor for what a router has to beat.

A sample *needs* the full configuration where the cheap one scores less. Question type and size of the picture are known
before anything is computed. Predictions are made for pictures that they were not learned from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from vlmprof.analyze.adaptive.sample_choices import SweepChoices, cells_of, sweep_choices
from vlmprof.errors import UserError
from vlmprof.stats.adaptive_choice import mean_of
from vlmprof.stats.intervals import columns_of
from vlmprof.stats.roc import auc, crossed_predictions, group_rates, logistic
from vlmprof.store import tables
from vlmprof.store.filesystem import Where

Numbers = NDArray[np.float64]
BUDGETS = (0.35, 0.5, 0.7, 0.85)
_READ = ("trial", "sample", "question_type", "prompt_tokens", "vision_tokens")
_SIZE = ("picture_width", "picture_height")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routing:
    """How well simple predictors tell which samples need the full configuration."""

    frame: pd.DataFrame
    """A row for each predictor: ``group``, ``predictor``, ``auc`` with ``_low`` and ``_high``, ``samples``, ``needing``
    (the full configuration)."""
    floor: pd.DataFrame
    """A row for each budget of mean cost and predictor: ``group``, ``budget``, ``share`` (of samples that the full
    configuration gets), ``score`` of sending those to it that are predicted to need it most, ``random`` (score of as
    many at random) and ``gain`` over that, with ``_low`` and ``_high``."""
    captions: tuple[str, ...]
    caveats: tuple[str, ...]


def routing(folder: Where, budgets: Sequence[float] = BUDGETS, *, by: str = "", cost: str = "") -> Routing:
    """The predictors of all groups of a folder, between the cheapest and the full configuration.

    Args:
        folder: Results.
        budgets: Mean cost, as shares of that of the full configuration.
        by: Part of a group's name.
        cost: As of ``analyze.adaptive.sample_choices.sweep_choices``.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: as ``sweep_choices``, or no group in which some samples need the full configuration and some do not.
    """
    found = sweep_choices(folder, by, cost)
    samples = _read(folder)
    rows, floors, captions, refused = [], [], [], []
    caveats = [sentence for one in found for sentence in one.caveats]
    for one in found:
        cheap = int(one.table.costs.mean(axis=0).argmin())
        needing = one.table.scores[:, one.full] > one.table.scores[:, cheap]
        if cheap == one.full or needing.all() or not needing.any():
            refused.append(f"{one.name}: no router: {int(needing.sum())} of {len(needing)} samples need the full one")
            continue
        captions.append(f"cheap: {one.rows['point'][cheap]}; full: {one.rows['point'][one.full]}")
        predicted, missing = _predictors(one, samples, needing)
        caveats += [f"{one.name}: {sentence}" for sentence in missing]
        for name, scores in predicted.items():
            area = auc(scores, needing, one.table.clusters)
            about = {"group": one.name, "predictor": name}
            rows.append(about | columns_of("auc", area) | {"samples": len(needing), "needing": int(needing.sum())})
            floors += [about | row for row in _floor(one, cheap, scores, budgets)]
    if not rows:
        raise UserError("; ".join(refused))
    return Routing(
        frame=pd.DataFrame(rows),
        floor=pd.DataFrame(floors),
        captions=tuple(dict.fromkeys(captions)),
        caveats=tuple(dict.fromkeys([*caveats, *refused])),
    )


def _read(folder: Where) -> pa.Table:
    frame = tables.read(folder, "samples")
    kept = [name for name in (*_READ, *_SIZE) if name in frame]
    return pa.Table.from_pandas(pd.DataFrame(frame[kept].to_dict("list")), preserve_index=False)


def _predictors(
    one: SweepChoices, samples: pa.Table, needing: NDArray[np.bool_]
) -> tuple[dict[str, Numbers], list[str]]:
    """Name -> (samples,): predictions of a need, and what could not be used."""
    trials = [str(one.rows["trial"][one.full])]
    types = cells_of(samples, trials, one.samples, "question_type")[:, 0]
    groups = ["" if value is None else str(value) for value in types]
    size, words = _size(one, samples, trials)
    clusters, said = one.table.clusters, []
    features: list[Numbers] = []
    found: dict[str, Numbers] = {}
    if len(set(groups)) > 1:
        found["question type"] = crossed_predictions(
            needing, clusters, lambda learn, ask: group_rates(groups, needing, learn, ask)
        )
        names = sorted(set(groups))[1:]
        features.append(np.array([[float(group == name) for name in names] for group in groups]))
    else:
        said.append("question types are not known, or all alike")
    if size is None:
        said.append(words)
    else:
        found[words] = crossed_predictions(needing, clusters, lambda learn, ask: logistic(size, needing, learn, ask))
        features.append(size)
    if len(features) > 1:
        both = np.column_stack(features)
        found[f"question type and {words}"] = crossed_predictions(
            needing, clusters, lambda learn, ask: logistic(both, needing, learn, ask)
        )
    return found, said


def _size(one: SweepChoices, samples: pa.Table, trials: Sequence[str]) -> tuple[Numbers | None, str]:
    """(samples, 1): the logarithm of the number of pixels, else of vision tokens, and its name; or why not."""
    if all(name in samples.column_names for name in _SIZE):
        sides = [_numbers(cells_of(samples, trials, one.samples, name)[:, 0]) for name in _SIZE]
        pixels = sides[0] * sides[1]
        if np.isfinite(pixels).all() and (pixels > 0).all() and len(np.unique(pixels)) > 1:
            return np.log(pixels)[:, None], "size of picture"
    tokens = _numbers(cells_of(samples, trials, one.samples, "vision_tokens")[:, 0])
    if np.isfinite(tokens).all() and (tokens > 0).all() and len(np.unique(tokens)) > 1:
        return np.log(tokens)[:, None], "vision tokens"
    return None, "sizes of pictures are not known, or all alike"


def _numbers(values: NDArray[Any]) -> Numbers:
    return np.array([np.nan if value is None else float(value) for value in values])


def _floor(one: SweepChoices, cheap: int, predicted: Numbers, budgets: Sequence[float]) -> Iterator[dict[str, Any]]:
    table = one.table
    costs = table.costs.mean(axis=0) / one.full_cost
    for budget in budgets:
        share = float(np.clip((budget - costs[cheap]) / (1 - costs[cheap]), 0.0, 1.0))
        sent = np.zeros(len(predicted))
        # Of equal predictions as many as are left are sent, in an order that has nothing to do with them.
        order = np.lexsort((np.random.Generator(np.random.PCG64(0)).permutation(len(predicted)), -predicted))
        sent[order[: round(share * len(predicted))]] = 1.0
        scores = sent * table.scores[:, one.full] + (1 - sent) * table.scores[:, cheap]
        exact = float(sent.mean())
        random = exact * table.scores[:, one.full] + (1 - exact) * table.scores[:, cheap]
        yield {
            "budget": budget,
            "share": exact,
            "score": float(scores.mean()),
            "random": float(random.mean()),
            **columns_of("gain", mean_of(scores - random, table.clusters)),
            "within": bool(costs[cheap] <= budget),
        }
