"""Two runs of a job, or configurations of one, compared in pairs: quality, latency, memory, energy and provenance.

Quality is compared sample by sample (``stats.paired``), latency as a ratio, as measured and relative to the canary
(``stats.latency_change``), what has an interval in ``trials`` by that. What cannot be compared is said in ``caveats``,
with numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa

from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.comparability import ENVIRONMENT, IDENTITY, comparable
from vlmprof.analyze.comparing.alarms import Alarm, parse_alarm, raised
from vlmprof.analyze.comparing.changes import Canary, Change, ComparedRun, PairedColumns, Reader, as_text
from vlmprof.analyze.comparing.matching import Matched, matched
from vlmprof.analyze.comparing.measured_changes import change_of
from vlmprof.analyze.conditions import Condition, columns_of
from vlmprof.analyze.configurations import chosen, named
from vlmprof.errors import UserError
from vlmprof.stats.estimates import holm
from vlmprof.stats.resampling import DRAWS
from vlmprof.store import tables
from vlmprof.store.filesystem import Where
from vlmprof.store.tables import schema_of

COLUMNS = ("accuracy", "score", "latency_ms_p50", "peak_bytes", "energy_j_per_sample")
"""What is always compared, as far as both sides have it."""
PROVENANCE = ("device", *IDENTITY, *ENVIRONMENT)
SOFTWARE = ("gpu_driver", "python", "torch", "cuda", "transformers", "vlmprof", "vlmprof_commit")
"""Of ``PROVENANCE``, what can make all work slower, the canary's too."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How two runs are compared."""

    configurations: tuple[str, ...] = ()
    """One name: only it, in both. Two: the first of the first run with the second of the second."""
    fail_if: str = ""
    canary: Canary = "both"
    across_devices: bool = False
    draws: int = DRAWS


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunComparison:
    """Two runs, or configurations of one, in pairs of trials."""

    names: tuple[str, str]
    frame: pd.DataFrame
    """A row a pair; docs/decisions/compare.md describes the columns."""
    provenance: pd.DataFrame
    """``column``, ``first``, ``second``: what differs between the two sides; empty where nothing does."""
    changes: Mapping[str, Change]
    """Column of ``trials`` -> its change in every pair."""
    pairs: Matched
    reader: Reader
    condition: Condition | None
    alarm: Alarm | None
    """None where no condition was given."""
    captions: tuple[str, ...]
    """What the errors rest on."""
    caveats: tuple[str, ...]
    """What is not compared, and what limits the numbers."""

    @property
    def is_alarming(self) -> bool:
        """Whether the condition is surely true of any pair."""
        return self.alarm is not None and self.alarm.is_raised


def compare(first: Where, second: Where | None = None, settings: Settings | None = None) -> RunComparison:
    """Compare two results folders, or two configurations of one.

    Args:
        first: Results.
        second: Results; None: the same folder, and ``settings`` name two configurations.
        settings: Which configurations, and how.

    Raises:
        StoreError: a folder holds no sweep.
        UserError: a name that nothing has, no configuration that both have, nothing that both measured, or a condition
            that cannot be tested.
    """
    run = read_run(first)
    return compare_runs((run, run if second is None else read_run(second)), settings or Settings())


def compare_runs(runs: tuple[ComparedRun, ComparedRun], settings: Settings) -> RunComparison:
    """The same of folders that are read already: the same ``ComparedRun`` twice for configurations of one.

    Raises:
        UserError: as ``compare``.
    """
    words = _words(settings.configurations, alone=runs[0] is runs[1])
    names = _names(runs, words)
    found = [chosen(run.trials, of) for run, of in zip(runs, words, strict=True)]
    pairs = matched(found[0], found[1], names)
    reader = _reader(runs, settings)
    reader.caveats += [*_of_states(reader), *pairs.caveats]
    condition = parse_alarm(settings.fail_if, _schema(pairs)) if settings.fail_if else None
    changes = _changes(pairs, reader, columns_of(condition) if condition else ())
    if not changes:
        raise UserError(f"{names[0]} and {names[1]} have nothing in common that was measured in both")
    alarm = raised(condition, changes) if condition else None
    provenance = _provenance(pairs)
    caveats = [*reader.caveats, *(alarm.caveats if alarm else ()), *_of_both(pairs, provenance, changes, settings)]
    return RunComparison(
        names=names,
        frame=_frame(pairs, changes, alarm),
        provenance=provenance,
        changes=changes,
        pairs=pairs,
        reader=reader,
        condition=condition,
        alarm=alarm,
        captions=tuple(reader.captions),
        caveats=tuple(dict.fromkeys(caveats)),
    )


def _reader(runs: tuple[ComparedRun, ComparedRun], settings: Settings) -> Reader:
    return Reader(
        first=runs[0],
        second=runs[1],
        canary=settings.canary,
        across_devices=settings.across_devices,
        draws=settings.draws,
    )


def read_run(folder: Where) -> ComparedRun:
    """The finished trials of a folder.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: no trial has finished.
    """
    trials = comparable(tables.read(folder, "trials"))
    if trials.empty:
        raise UserError(f"{folder}: no trial has finished, so there is nothing to compare")
    return ComparedRun(folder=folder, name=str(folder), trials=trials)


def _words(configurations: Sequence[str], *, alone: bool) -> tuple[str, str]:
    if alone and len(configurations) != 2:
        raise UserError(
            f"expected a second folder, or two configurations of the first, got {len(configurations)}; name them by"
            " settings such as 'max_crops=1', by id, or 'full'"
        )
    if len(configurations) > 2:
        raise UserError(f"expected at most two configurations, got {len(configurations)}")
    of = [*configurations, *configurations][:2] or ["", ""]
    return of[0], of[1]


def _names(runs: Sequence[ComparedRun], words: tuple[str, str]) -> tuple[str, str]:
    if runs[0] is runs[1]:
        return f"'{words[0]}'", f"'{words[1]}'"
    names = [f"{run.name} '{of}'" if of else run.name for run, of in zip(runs, words, strict=True)]
    if names[0] == names[1]:
        raise UserError(f"{names[0]} is compared with itself; name two folders, or two configurations")
    return names[0], names[1]


def _schema(pairs: Matched) -> pa.Schema:
    """The columns of both sides; fields of one name are equal."""
    fields = {field.name: field for rows in (pairs.second, pairs.first) for field in schema_of(rows)}
    return pa.schema(list(fields.values()))


def _changes(pairs: Matched, reader: Reader, asked: Sequence[str]) -> dict[str, Change]:
    found = {}
    for column in dict.fromkeys((*COLUMNS, *asked)):
        if column == "score" and "accuracy" in found and column not in asked and not _has_more(pairs):
            continue  # the same numbers
        change = change_of(column, pairs, reader)
        if change is not None:
            found[column] = change
    return found


def _has_more(pairs: Matched) -> bool:
    """Whether some metric is no mean over samples: it then has a score and no accuracy."""
    return any(bool((rows["score"].notna() & rows["accuracy"].isna()).any()) for rows in (pairs.first, pairs.second))


def _frame(pairs: Matched, changes: Mapping[str, Change], alarm: Alarm | None) -> pd.DataFrame:
    count = len(pairs.first)
    columns: dict[str, Any] = {name: pairs.first[name].to_numpy() for name in ("model", "task", "split")}
    columns |= {"trial_a": pairs.first["trial"].to_numpy(), "trial_b": pairs.second["trial"].to_numpy()}
    columns |= {f"point_{side}": _points(rows) for side, rows in (("a", pairs.first), ("b", pairs.second))}
    for name, change in changes.items():
        columns |= _of_change(name, change)
        for part in change.paired:
            _add_paired(columns, name, part, count)
    if alarm is not None:
        columns["alarm"] = np.where(alarm.surely, "surely", np.where(alarm.surely_not, "surely not", "open"))
    frame = pd.DataFrame(columns)
    frame.attrs["descriptions"] = {name: _meaning(name) for name in columns}
    return frame


MEANINGS: Mapping[str, str] = {
    "alarm": "Whether the condition is surely true of the pair, surely not, or open.",
    "_drawn_low": "Lower end of the 95 % interval of the change by draws of pictures.",
    "_drawn_high": "Upper end of the 95 % interval of the change by draws of pictures.",
    "_mcnemar_p": "McNemar's mid-p; null unless all scores are 0 or 1.",
    "_change_low": "Lower end of the 95 % interval of the change; of times, of both readings.",
    "_change_high": "Upper end of the 95 % interval of the change; of times, of both readings.",
    "_change": "Second less first; of times, memory and energy second over first, less 1.",
    "_p_holm": "The p-value adjusted for all pairs of the table.",
    "_p": "P-value of no change; of times, the larger one of both readings.",
    "_relative_low": "Lower end of the 95 % interval of the change relative to the canary.",
    "_relative_high": "Upper end of the 95 % interval of the change relative to the canary.",
    "_relative": "Change relative to the canary.",
    "_rose": "Samples whose score rose.",
    "_fell": "Samples whose score fell.",
    "_samples": "Samples that both scored.",
    "_clusters": "Pictures that these samples are about.",
    "_left_out": "Samples that only one of the two scored.",
    "_a": "Of the first.",
    "_b": "Of the second.",
}
"""Column of the frame, or the end of its name -> what it says."""


def _meaning(name: str) -> str:
    return next((told for end, told in MEANINGS.items() if name.endswith(end)), "Equal in both, or of the first.")


def _points(rows: pd.DataFrame) -> list[str]:
    return [named(point) for point in rows["point"]]


def _of_change(name: str, change: Change) -> dict[str, Any]:
    low, high = change.ends()
    known = change.has_error
    p_values = change.p_values if known else np.full(len(low), np.nan)
    columns = {
        f"{name}_a": change.first,
        f"{name}_b": change.second,
        f"{name}_change": change.shares(change.estimates.value),
        f"{name}_change_low": change.shares(low) if known else np.full(len(low), np.nan),
        f"{name}_change_high": change.shares(high) if known else np.full(len(low), np.nan),
        f"{name}_p": p_values,
        f"{name}_p_holm": holm(p_values),
    }
    if change.relative is not None:
        ends = change.relative.ends()
        values = (change.relative.value, *ends)
        columns |= {
            f"{name}_relative{end}": change.shares(of) for end, of in zip(("", "_low", "_high"), values, strict=True)
        }
    return columns


def _add_paired(columns: dict[str, Any], name: str, part: PairedColumns, count: int) -> None:
    found, at = part.found, part.pairs
    mcnemar = np.where(part.binary, found.mcnemar_p, np.nan)
    whole = {"rose": found.rose, "fell": found.fell, "left_out": part.left_out}
    whole |= {"samples": np.full(len(at), found.samples), "clusters": np.full(len(at), found.clusters)}
    real = {"drawn_low": found.drawn_low, "drawn_high": found.drawn_high, "mcnemar_p": mcnemar}
    for suffix, values in (whole | real).items():
        column = columns.setdefault(f"{name}_{suffix}", np.full(count, np.nan))
        column[at] = values


def _provenance(pairs: Matched) -> pd.DataFrame:
    rows = []
    for name in dict.fromkeys(PROVENANCE):
        first, second = (_values_in_words(part, name) for part in (pairs.first, pairs.second))
        if first != second:
            rows.append({"column": name, "first": first, "second": second})
    return pd.DataFrame(rows, columns=["column", "first", "second"])


def _values_in_words(rows: pd.DataFrame, name: str) -> str:
    values = rows[name].unique() if name in rows else [None]
    return ", ".join(sorted({as_text({name: value}, name) or "not known" for value in values}))


def _of_states(reader: Reader) -> Iterator[str]:
    for run in reader.runs:
        for state, count in run.trials.attrs["left_out"].items():
            yield f"left out of {run.name}: {count} {state}"


def _of_both(
    pairs: Matched, provenance: pd.DataFrame, changes: Mapping[str, Change], settings: Settings
) -> Iterator[str]:
    """Warnings about the rows of both sides, and about a canary that software may have slowed."""
    both = [rows.copy() for rows in (pairs.first, pairs.second)]
    for rows in both:
        rows.attrs = {}  # concat would compare them
    yield from cautions(pd.concat(both, ignore_index=True))
    differing = [name for name in provenance["column"] if name in SOFTWARE]
    if differing and "latency_ms_p50" in changes and settings.canary != "ignore":
        yield (
            f"software differs ({', '.join(differing)}): what it does to all work alike it does to the canary too, and"
            " is not seen relative to it; --canary ignore counts it, and drift of the machine with it"
        )
