"""Configurations of several tasks side by side: which trials stand in one row and one column of a table for a paper.

Trials of unlike tasks are never compared with each other, but a configuration has one row over all of them. A *block*
is what may stand in one table: the groups of ``analyze.comparability`` that are equal in model, device and timing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import pandas as pd

from vlmprof.analyze.comparability import AS_SWEPT, OF_A_MODEL, groups, machine, model_names
from vlmprof.analyze.configurations import chosen, full_trials, name_of
from vlmprof.analyze.objectives import LATENCY, quality_column
from vlmprof.errors import UserError
from vlmprof.stats.fronts import non_dominated

OF_A_BLOCK = (*OF_A_MODEL, "dtype", "timing_batch_size", "timing_output_tokens", "engine", "preprocess")
OF_A_TASK = ("split", "task_revision", "seed", "samples", "metric", "timing_requests")
"""What else may differ between groups of one task: named in the header of their columns where it does."""
FRONT, ALL, FULL = "front", "all", "full"
Key: TypeAlias = tuple[str, str]
"""A configuration over all tasks: the fingerprint of its model, and its point."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """What stands in one table."""

    name: str
    tasks: Mapping[str, pd.DataFrame]
    """Name of a task, unlike all others of the block -> its finished trials, of one group, a row for each key."""
    names: Mapping[Key, str]
    """All configurations -> what to call them."""
    full: Mapping[str, Key]
    """Fingerprint of a model -> the configuration that is the full model; those that have none are missing."""
    repeated: int
    """Trials left out because another one of the same task has the same configuration."""
    remarks: tuple[str, ...] = ()

    def trial(self, task: str, key: Key) -> str | None:
        """The trial of a configuration on a task; None where there is none."""
        rows = self.tasks[task]
        return next((str(trial) for trial, one in zip(rows["trial"], _keys(rows), strict=True) if one == key), None)


def blocks(frame: pd.DataFrame, *, across_models: bool = False) -> Iterator[Block]:
    """The blocks of finished trials, by name.

    Args:
        frame: as ``analyze.comparability.comparable`` gives it, with the same ``across_models``.
        across_models: whether one block has several models.
    """
    waived = OF_A_MODEL if across_models else ()
    columns = [name for name in OF_A_BLOCK if name in frame.columns and name not in waived]
    parts = dict(groups(frame))
    of_group = {name: _block_of(part, columns) for name, part in parts.items()}
    for key in sorted(set(of_group.values())):
        yield _block(key, [part for name, part in parts.items() if of_group[name] == key])


def _block_of(part: pd.DataFrame, columns: list[str]) -> tuple[str, ...]:
    machines = sorted({machine(row) for row in part[["device", "cpu", "cpu_threads"]].to_dict("records")})
    return (" and ".join(machines), *(_common(part, name) for name in columns))


def _common(part: pd.DataFrame, name: str) -> str:
    values = sorted({str(value) for value in part[name].dropna()})
    return values[0] if len(values) == 1 else AS_SWEPT if values else ""


def _block(key: tuple[str, ...], parts: list[pd.DataFrame]) -> Block:
    names = _task_names(parts)
    repeated, tasks = 0, {}
    for name, part in zip(names, parts, strict=True):
        once = part[~_keys(part).duplicated()].reset_index(drop=True)
        once.attrs = part.attrs
        repeated += len(part) - len(once)
        tasks[name] = once
    every = pd.concat([_bare(part) for part in tasks.values()], ignore_index=True)
    several = every["model_fingerprint"].nunique(dropna=False) > 1
    models = model_names(every)
    points = [name_of(row) for _, row in every.iterrows()]
    called = {
        key: f"{model} {point}" if several else point
        for key, model, point in zip(_keys(every), models, points, strict=True)
    }
    full, remarks = _full(tasks)
    head = f"{', '.join(sorted(set(models)))}, {key[0]}"
    return Block(name=head, tasks=tasks, names=called, full=full, repeated=repeated, remarks=remarks)


def _bare(part: pd.DataFrame) -> pd.DataFrame:
    part = part.copy()
    part.attrs = {}
    return part


def _keys(rows: pd.DataFrame) -> pd.Series[Any]:
    return pd.Series(list(zip(rows["model_fingerprint"].astype(str), rows["point"].astype(str), strict=True)))


def _task_names(parts: list[pd.DataFrame]) -> list[str]:
    """The task of each group, with whatever makes two groups of one task unlike."""
    first = [part.iloc[0] for part in parts]
    names = []
    for row in first:
        same = [other for other in first if other["task"] == row["task"]]
        unlike = [name for name in OF_A_TASK if len({str(other.get(name)) for other in same}) > 1]
        details = ", ".join(f"{name}={row.get(name)}" for name in unlike)
        names.append(f"{row['task']} ({details})" if details else str(row["task"]))
    return [name if names.count(name) == 1 else f"{name} [{i}]" for i, name in enumerate(names, start=1)]


def _full(tasks: Mapping[str, pd.DataFrame]) -> tuple[dict[str, Key], tuple[str, ...]]:
    found: dict[str, Key] = {}
    remarks: dict[str, None] = {}
    for rows in tasks.values():
        keys = dict(zip(rows["trial"], _keys(rows), strict=True))
        of_models = rows.assign(group=rows["model_fingerprint"].astype(str))  # each model of a group has its own
        for trial, remark in full_trials(of_models).values():
            key = keys[trial]
            if found.setdefault(key[0], key) != key:
                remarks["the full model is another configuration in one task than in another"] = None
            remarks |= {remark: None} if remark else {}
    return found, tuple(remarks)


def chosen_rows(block: Block, words: str) -> list[Key]:
    """The configurations that the user wants in the table, each once.

    Args:
        block: of which table.
        words: ``front`` (the full model and the front of mean quality and mean latency), ``all``, or a comma-separated
            list of ``front``, ``full``, ids of trials or their beginnings, and settings such as ``max_crops=9``.

    Raises:
        UserError: a name that nothing has.
    """
    if words.strip() == ALL:
        return sorted(block.names, key=lambda key: (key not in block.full.values(), block.names[key]))
    parts = [part.strip() for part in words.split(",") if part.strip()]
    if not parts:
        raise UserError(f"rows: expected '{FRONT}', '{ALL}', or a list of '{FULL}', ids of trials and settings")
    parts = [FULL, FRONT] if parts == [FRONT] else parts
    return list(dict.fromkeys(key for part in parts for key in _named(block, part)))


def _named(block: Block, word: str) -> list[Key]:
    if word == FULL:
        return list(block.full.values())
    if word == FRONT:
        return _front(block)
    found: list[Key] = []
    problem: UserError | None = None
    for rows in block.tasks.values():
        try:
            found += list(_keys(chosen(rows, word).rows))
        except UserError as error:  # of another task perhaps
            problem = error
    if not found and problem is not None:
        raise problem
    return found


def _front(block: Block) -> list[Key]:
    """Not dominated in mean quality and mean latency, of those that measured both in every task; best quality first."""
    means: dict[Key, list[tuple[float, float]]] = {key: [] for key in block.names}
    for rows in block.tasks.values():
        quality = quality_column(rows)
        for key, row in zip(_keys(rows), rows.to_dict("records"), strict=True):
            means[key].append((_real(row.get(quality)), _real(row.get(LATENCY))))
    complete = {
        key: np.mean(values, axis=0)
        for key, values in means.items()
        if len(values) == len(block.tasks) and np.isfinite(values).all()
    }
    if not complete:
        return []
    costs = np.array(list(complete.values())) * np.array([-1.0, 1.0])
    members = [key for key, is_member in zip(complete, non_dominated(costs), strict=True) if is_member]
    return sorted(members, key=lambda key: (-float(complete[key][0]), block.names[key]))


def _real(value: Any) -> float:
    return float("nan") if value is None or pd.isna(value) else float(value)
