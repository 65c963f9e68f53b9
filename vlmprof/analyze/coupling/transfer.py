"""Whether a front found in one place holds in another: across tasks, models, devices and folders, from the tables.

A *place* is a group of comparable trials of one folder. Configurations are the same where their settings (``point``)
are. Two places are compared on what both ran; whatever differs besides model, task and device is refused unless it is
named, for a difference of fronts would be blamed on the wrong cause.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmprof.analyze import timing_blocks
from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.comparability import ENVIRONMENT, comparable, groups, machine, require_few
from vlmprof.analyze.drawn_objectives import SweepReader, Told, drawn_objective
from vlmprof.analyze.objectives import LATENCY, finite, parse_objectives, quality_column
from vlmprof.errors import UserError, suggestion
from vlmprof.plan.point import words_of
from vlmprof.stats.agreement import jaccard_interval, kendall, spearman
from vlmprof.stats.front_subsets import kept_front
from vlmprof.stats.fronts import non_dominated
from vlmprof.stats.intervals import MeanInterval
from vlmprof.stats.resampling import macro_average
from vlmprof.stats.uncertain_front import DrawnObjective, UncertainFront, uncertain_front
from vlmprof.store import tables
from vlmprof.store.filesystem import Where
from vlmprof.store.tables import schema_of

EPSILON = (0.01, float(np.log(1.02)))
"""What counts as no difference, of accuracy and of the logarithm of a time; only for ``uncertain_front``."""
OF = {
    "model": ("model", "model_fingerprint", "revision"),
    "task": ("task", "split", "task_revision", "metric", "samples"),
    "device": ("device", "cpu", "cpu_threads"),
}
"""What a comparison is across -> the columns that may differ then."""
ALIKE = ("dtype", "seed", "timing_batch_size", "timing_output_tokens", "timing_requests", "engine", "preprocess")
"""What else has to be equal, unless it was swept or somebody names it."""
_ENDS = (("", "mean"), ("_low", "low"), ("_high", "high"))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transfer:
    """Fronts of several places, and how far they agree."""

    frame: pd.DataFrame
    """A row for each ordered pair of places: ``a``, ``b``, ``differs`` (model, task, device or folder), ``common``
    configurations, ``only_a`` and ``only_b``; each with ``_low`` and ``_high``: ``jaccard`` of the two fronts of the
    common ones, ``spearman_quality``, ``kendall_quality``, ``spearman_time``, ``kendall_time``, ``regret`` (accuracy
    lost on b where only the measured front of a may be used, the mean over limits of latency) and ``front_kept`` (its
    hypervolume over that of all)."""
    membership: pd.DataFrame
    """A row for each configuration, a column for each place: ``surely``, ``possibly``, ``no``, or ``not run``."""
    macro: pd.DataFrame
    """The front of averages over the tasks of one model and device: ``of``, ``tasks``, ``point``, ``quality``, ``time``
    (geometric mean), ``on_front``, ``front_membership``, ``front_probability``."""
    captions: tuple[str, ...]
    caveats: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Place:
    name: str
    folder: str
    about: Mapping[str, frozenset[str]]
    """Column -> its values, those of ``OF``, ``ALIKE`` and ``ENVIRONMENT``."""
    rows: pd.DataFrame
    """By point."""
    quality_column: str
    quality: DrawnObjective
    time: DrawnObjective

    @property
    def points(self) -> list[str]:
        return [str(point) for point in self.rows["point"]]


def transfer(folders: Sequence[Where], *, by: str = "", time: str = LATENCY, despite: Sequence[str] = ()) -> Transfer:
    """How far the fronts of all groups of these folders agree.

    Args:
        folders: Results; one with several groups is enough.
        by: Part of the names of the groups to look at.
        time: The time beside quality, a column of ``analyze.timing_blocks.TIMES``.
        despite: Columns of ``ALIKE``, or of a model or task of equal name, that may differ all the same.

    Raises:
        StoreError: a folder holds no sweep.
        UserError: an unknown name, fewer than two places, the same trials twice, or no two that may be compared.
    """
    _check(time, despite)
    twice = [str(folder) for i, folder in enumerate(folders) if str(folder) in map(str, folders[:i])]
    if twice:
        raise UserError(f"{twice[0]} is named twice; expected folders that differ")
    caveats: list[str] = []
    captions: list[str] = []
    places = [place for folder in folders for place in _places(folder, folders, by, time, captions, caveats)]
    if len(places) < 2:
        names = "; ".join(place.name for place in places) or "none"
        raise UserError(f"expected two groups of trials or more that measured quality and {time}, got: {names}")
    _refuse_the_same(places)
    rows, refused = [], []
    for a, b in itertools.combinations(places, 2):
        try:
            rows += [_pair(a, b, despite, caveats), _pair(b, a, despite, caveats)]
        except UserError as error:
            refused.append(str(error))
    if not rows:
        raise UserError("; ".join(refused))
    macro, of_macro = _macro(places, despite)
    return Transfer(
        frame=pd.DataFrame(rows),
        membership=_membership(places),
        macro=macro,
        captions=tuple(dict.fromkeys(captions)),
        caveats=tuple(dict.fromkeys([*caveats, *(f"not compared: {one}" for one in refused), *of_macro])),
    )


def _check(time: str, despite: Sequence[str]) -> None:
    timing_blocks.require_time(time)
    known = [*ALIKE, *(name for names in OF.values() for name in names)]
    for name in despite:
        if name not in known:
            raise UserError(f"'{name}' is nothing that has to be equal{suggestion(name, known)}")


def _places(
    folder: Where, folders: Sequence[Where], by: str, time: str, captions: list[str], caveats: list[str]
) -> Iterator[_Place]:
    frame = comparable(tables.read(folder, "trials"))
    reader = SweepReader(folder=folder)
    label = _label(folder, folders)
    if frame.attrs["left_out"]:
        counted = ", ".join(f"{count} {state}" for state, count in frame.attrs["left_out"].items())
        caveats.append(f"{label or folder}: left out: {counted}")
    for group, part in groups(frame):
        name = f"{label}: {group}" if label else group
        if by in name:
            try:
                yield _place((name, str(folder)), part, time, reader, (captions, caveats))
            except UserError as error:
                caveats.append(f"{name} is not looked at: {error}")


def _label(folder: Where, folders: Sequence[Where]) -> str:
    """What tells this folder from the others; empty for the only one."""
    if len(folders) < 2:
        return ""
    ends = [PurePath(str(one)).name for one in folders]
    end = PurePath(str(folder)).name
    return end if ends.count(end) == 1 else str(folder)


def _place(
    names: tuple[str, str], part: pd.DataFrame, time: str, reader: SweepReader, told: tuple[list[str], list[str]]
) -> _Place:
    quality = quality_column(part)
    has = finite(part, quality) & finite(part, time)
    rows = part[has].sort_values(["point", "trial"]).drop_duplicates("point").reset_index(drop=True)
    rows.attrs = part.attrs
    if len(rows) < 2:
        raise UserError(f"expected two configurations or more with {quality} and {time}, got {len(rows)}")
    require_few(rows, "transfer")
    if len(rows) < len(part):
        told[1].append(
            f"{names[0]}: {len(part) - len(rows)} of {len(part)} trials lack a measurement or repeat a setting"
        )
    objectives = parse_objectives([quality, time], schema_of(part))
    said = Told()
    drawn = [
        drawn_objective(rows, one, seed, reader, said)
        for one, seed in zip(objectives, _seeds(rows, names), strict=True)
    ]
    told[0].extend(said.captions)
    told[1].extend(f"{names[0]}: {sentence}" for sentence in cautions(part))
    told[1].extend(f"{names[0]}: {sentence}" for sentence in said.caveats)
    about = {name: _values(part, name) for name in (*(n for of in OF.values() for n in of), *ALIKE, *ENVIRONMENT)}
    return _Place(
        name=names[0], folder=names[1], about=about, rows=rows, quality_column=quality, quality=drawn[0], time=drawn[1]
    )


def _seeds(rows: pd.DataFrame, names: tuple[str, str]) -> tuple[int, int]:
    """Of the draws of quality, equal where the samples are the same, and of times, of each place its own."""
    questions = [str(rows[name].iloc[0]) for name in ("task", "split", "task_revision", "seed", "samples")]
    return zlib.crc32(" ".join(questions).encode()), zlib.crc32(" ".join(names).encode()) + 1


def _values(part: pd.DataFrame, name: str) -> frozenset[str]:
    if name not in part:
        return frozenset()
    if name == "device":
        return frozenset(machine(row) for _, row in part[["device", "cpu", "cpu_threads"]].drop_duplicates().iterrows())
    if name == "timing_output_tokens" and "knob_output_tokens" in part and part["knob_output_tokens"].notna().all():
        return frozenset(["as swept"])
    values = part[name].fillna("host") if name == "preprocess" else part[name].dropna()  # null: before it was a choice
    return frozenset(str(value) for value in values.unique())


def _refuse_the_same(places: Sequence[_Place]) -> None:
    for a, b in itertools.combinations(places, 2):
        shared = set(a.rows["trial"]) & set(b.rows["trial"])
        if shared and a.about["device"] == b.about["device"] and a.folder != b.folder and _is_copy(a, b):
            raise UserError(
                f"{a.name} and {b.name} hold the same trials, such as {min(shared)}: one is a copy of the other"
            )


def _is_copy(a: _Place, b: _Place) -> bool:
    """Whether equal trials started at the same time; ids are equal too where a sweep was run again elsewhere."""
    if "started" not in a.rows or "started" not in b.rows:
        return True
    starts = [dict(zip(one.rows["trial"], one.rows["started"].fillna("").astype(str), strict=True)) for one in (a, b)]
    return any(starts[1].get(trial) == start for trial, start in starts[0].items())


def _differs(a: _Place, b: _Place, despite: Sequence[str]) -> list[str]:
    """What the comparison is across.

    Raises:
        UserError: something differs that it is not across, and that nobody named.
    """
    across = [kind for kind, names in OF.items() if a.about[names[0]] != b.about[names[0]]]
    must = [*ALIKE, *(name for kind, names in OF.items() if kind not in (*across, "device") for name in names[1:])]
    unlike = [name for name in must if a.about[name] != b.about[name] and name not in despite]
    if unlike:
        listed = "; ".join(f"{name}: {_words(a.about[name])} and {_words(b.about[name])}" for name in unlike)
        raise UserError(
            f"{a.name} and {b.name} differ in more than model, task and device ({listed});"
            f" --despite {','.join(unlike)} compares them all the same"
        )
    if a.folder != b.folder:
        across.append("folder")
    return across


def _words(values: frozenset[str]) -> str:
    return ", ".join(sorted(values)) or "none"


def _pair(a: _Place, b: _Place, despite: Sequence[str], caveats: list[str]) -> dict[str, Any]:
    across = _differs(a, b, despite)
    common = sorted(set(a.points) & set(b.points))
    if len(common) < 2:
        raise UserError(f"{a.name} and {b.name} have {len(common)} configurations in common, expected two or more")
    first, second = (a, b) if a.name < b.name else (b, a)
    caveats.extend(_cautions(first, second, across))
    parts = [_only(place, common) for place in (a, b)]
    fronts = [non_dominated(np.column_stack([part[0].costs, part[1].costs])) for part in parts]
    doubts = [uncertain_front(part, EPSILON) for part in parts]
    costs = np.column_stack([one.costs for one in parts[1]])
    kept = kept_front(costs, np.stack([one.draws for one in parts[1]], axis=2), fronts[0])
    row: dict[str, Any] = {
        "a": a.name,
        "b": b.name,
        "differs": ", ".join(across) or "nothing",
        "common": len(common),
        "only_a": len(a.points) - len(common),
        "only_b": len(b.points) - len(common),
    }
    found: dict[str, MeanInterval | None] = {
        "jaccard": jaccard_interval((fronts[0], fronts[1]), (doubts[0], doubts[1]))
    }
    for i, name in enumerate(("quality", "time")):
        found[f"spearman_{name}"] = spearman(parts[0][i], parts[1][i])
        found[f"kendall_{name}"] = kendall(parts[0][i], parts[1][i])
    found |= {"regret": kept and kept.loss, "front_kept": kept and kept.share}
    for name, interval in found.items():
        row |= {f"{name}{end}": getattr(interval, field) if interval else None for end, field in _ENDS}
    return row


def _cautions(a: _Place, b: _Place, across: Sequence[str]) -> Iterator[str]:
    kinds = [kind for kind in across if kind != "folder"]
    if len(kinds) > 1:
        yield f"{a.name} and {b.name} differ in {' and '.join(kinds)}: what causes a difference cannot be told"
    unlike = [name for name in ENVIRONMENT if a.about[name] != b.about[name] and name not in OF["device"]]
    if unlike:
        yield f"{a.name} and {b.name} also differ in {', '.join(unlike)}"


def _only(place: _Place, points: Sequence[str]) -> tuple[DrawnObjective, DrawnObjective]:
    at = {point: i for i, point in enumerate(place.points)}
    kept = np.array([at[point] for point in points])
    return _part(place.quality, kept), _part(place.time, kept)


def _part(one: DrawnObjective, kept: NDArray[np.int64]) -> DrawnObjective:
    return DrawnObjective(costs=one.costs[kept], draws=one.draws[:, kept], errors=one.errors[np.ix_(kept, kept)])


def _membership(places: Sequence[_Place]) -> pd.DataFrame:
    columns: dict[str, dict[str, str]] = {}
    for place in places:
        doubt = uncertain_front((place.quality, place.time), EPSILON)
        columns[place.name] = dict(zip(place.points, _tiers(doubt), strict=True))
    points = sorted({point for column in columns.values() for point in column})
    found = {"point": [words_of(point) for point in points]}
    return pd.DataFrame(found | {name: [of.get(point, "not run") for point in points] for name, of in columns.items()})


def _tiers(doubt: UncertainFront) -> list[str]:
    return [str(tier) for tier in np.where(doubt.surely, "surely", np.where(doubt.possibly, "possibly", "no"))]


def _macro(places: Sequence[_Place], despite: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The front of averages for each model and device with two tasks or more."""
    columns = ["of", "tasks", "point", "quality", "time", "on_front", "front_membership", "front_probability"]
    found, said = [], []
    for key, members in itertools.groupby(sorted(places, key=_not_task), key=_not_task):
        several = list(members)
        if len({_words(one.about["task"]) for one in several}) < 2:
            continue
        common = sorted(set.intersection(*(set(one.points) for one in several)))
        try:
            for a, b in itertools.combinations(several, 2):
                _differs(a, b, despite)
        except UserError as error:
            said.append(f"no average over tasks: {error}")
            continue
        if len({one.quality_column for one in several}) > 1:
            said.append(f"no average over tasks of {key}: not all of their metrics are means over samples")
            continue
        if len(common) < 2:
            said.append(f"no average over tasks of {key}: {len(common)} configurations were run on all of them")
            continue
        said += _left_of_macro(key, several, common)
        found.append(_averaged(key, several, common))
    return (pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)), said


def _not_task(place: _Place) -> str:
    return ", ".join(_words(place.about[name]) for name in ("model", "model_fingerprint", "device"))


def _left_of_macro(key: str, several: Sequence[_Place], common: Sequence[str]) -> Iterator[str]:
    every = {point for one in several for point in one.points}
    if len(every) > len(common):
        yield f"average over tasks of {key}: {len(every) - len(common)} configurations were not run on all of them"


def _averaged(key: str, several: Sequence[_Place], common: Sequence[str]) -> pd.DataFrame:
    parts = [_only(place, common) for place in several]
    objectives = []
    for of_objective in zip(*parts, strict=True):
        errors = np.sqrt(sum(one.errors**2 for one in of_objective)) / len(of_objective)
        objectives.append(
            DrawnObjective(
                costs=macro_average([one.costs for one in of_objective]),
                draws=macro_average([one.draws for one in of_objective]),
                errors=np.asarray(errors),
            )
        )
    doubt = uncertain_front(objectives, EPSILON)
    frame = pd.DataFrame(
        {
            "of": key,
            "tasks": ", ".join(_words(place.about["task"]) for place in several),
            "point": [words_of(point) for point in common],
            "quality": -objectives[0].costs,
            "time": np.exp(objectives[1].costs),
            "on_front": non_dominated(np.column_stack([one.costs for one in objectives])),
            "front_membership": _tiers(doubt),
            "front_probability": doubt.probability,
        }
    )
    return frame.sort_values(["quality", "point"], ascending=[False, True], ignore_index=True)
