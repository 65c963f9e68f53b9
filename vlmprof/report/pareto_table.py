"""The Pareto front on the terminal, and as a file beside the tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vlmprof.analyze import wording
from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.comparability import groups, model_names
from vlmprof.analyze.front_doubt import sentences, with_doubt
from vlmprof.analyze.objectives import LATENCY, QUALITY, Objective, parse_objectives
from vlmprof.analyze.pareto import FrontDoubt, fronts, to_arrow
from vlmprof.errors import StoreError
from vlmprof.plan.point import words_of
from vlmprof.store import tables
from vlmprof.store.filesystem import Where, results_folder
from vlmprof.store.schema import knobs_of
from vlmprof.store.tables import schema_of

FILE = "pareto.parquet"
MANY = 40
"""From this many trials in a group on, the terminal shows the front alone; the file has them all."""
WIDE = 120
LISTED = 6
"""So many groups of settings that were the same work are spelt out."""
SAME_WORK = "* same work as another row: another setting, nothing else"


def read_front(  # noqa: PLR0913 (keyword-only options)
    folder: Where,
    objectives: Sequence[str] = (),
    by: Sequence[str] = (),
    *,
    across_devices: bool = False,
    across_models: bool = False,
    doubt: bool = False,
    epsilon: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The finished trials of a folder with ``group`` and ``on_front``.

    Without objectives, quality and latency are traded off, as far as each trial measured them: trials of several kinds
    have fronts of their own (``analyze.pareto.fronts``). With ``across_devices`` or ``across_models`` trials of unlike
    devices, or of several models, are in one front. With ``doubt`` the rows say how sure their membership is
    (``analyze.front_doubt``), ``epsilon`` being what counts as no difference.

    Returns:
        The rows front by front. ``attrs``: ``schema`` and ``mixed`` as of ``analyze.comparability``, ``left_out`` (why
        -> how many), ``objectives`` (all that a front has), ``objectives_of`` (group -> those of its front) and, with
        ``doubt``, ``doubt_of`` (group -> its ``FrontDoubt``).

    Raises:
        StoreError: no sweep in the folder.
        UserError: an unknown column, or no finished trial measured what a front needs.
    """
    trials = tables.read(folder, "trials")
    found = fronts(trials, objectives, by, across_devices=across_devices, across_models=across_models)
    if not found.fronts:
        return _without_rows(trials, objectives, found.left_out)
    found = with_doubt(found, folder, epsilon) if doubt else found
    frame = pd.concat([_bare(front.rows) for front in found.fronts], ignore_index=True)
    of = {front.name: front.objectives for front in found.fronts}
    frame.attrs = {
        **found.fronts[0].rows.attrs,
        "mixed": tuple(sentence for front in found.fronts for sentence in front.rows.attrs["mixed"]),
        "left_out": dict(found.left_out),
        "objectives": list(dict.fromkeys(one for objectives in of.values() for one in objectives)),
        "objectives_of": of,
        "doubt_of": {front.name: front.doubt for front in found.fronts if front.doubt is not None},
    }
    return frame


def _bare(rows: pd.DataFrame) -> pd.DataFrame:
    """Without attributes, which ``concat`` would compare."""
    rows = rows.copy()
    rows.attrs = {}
    return rows


def _without_rows(trials: pd.DataFrame, names: Sequence[str], left_out: Mapping[str, int]) -> pd.DataFrame:
    """What ``read_front`` returns if no trial has finished."""
    chosen = parse_objectives(names or (QUALITY, LATENCY), schema_of(trials))
    frame = trials.iloc[:0].assign(group=pd.Series(dtype=str), on_front=pd.Series(dtype=bool))
    attrs: dict[str, Any] = {"mixed": (), "left_out": dict(left_out), "objectives": chosen, "objectives_of": {}}
    frame.attrs = trials.attrs | attrs
    return frame


def write_front(frame: pd.DataFrame, folder: Where, name: str = FILE) -> str:
    """Write all rows of a front, units and directions included, whole or not at all; returns its path or URI.

    ``name`` is another one where other objectives were asked for than those of the default front.

    Raises:
        StoreError: it cannot be written; the message says where and why.
    """
    place = results_folder(folder)
    try:
        place.write(name, tables.parquet_bytes(to_arrow(frame)))
    except OSError as error:
        why = "there is a folder of that name; move it away" if isinstance(error, IsADirectoryError) else error.strerror
        raise StoreError(f"the front cannot be written to {place.address(name)}: {why or error}") from None
    return place.address(name)


def front_report(frame: pd.DataFrame, width: int = WIDE) -> Iterator[RenderableType]:
    """What to print: a table for each group, and the warnings about it.

    Args:
        frame: What ``read_front`` gave.
        width: Columns of the terminal.
    """
    for name, part in groups(frame):
        yield _table(name, part, frame.attrs["objectives_of"][name])
        yield from _doubt_notes(part, frame.attrs.get("doubt_of", {}).get(name))
        yield from _footnotes(part)
    if frame.empty:
        yield Text("no trial has finished", style="yellow")
    for why, count in frame.attrs["left_out"].items():
        yield Text(f"left out: {count} {why}", style="yellow")


def _table(name: str, part: pd.DataFrame, objectives: Sequence[Objective]) -> Table:
    knobs = [knob for knob in knobs_of(part.columns) if part[f"requested_{knob}"].notna().any()]
    unnamed = part["model"].iloc[0] not in name.split(", ")  # the group may hold other models
    part = part.assign(model=model_names(part))
    doubtful = _is_doubtful(part)
    shown = part[_worth_a_row(part)] if len(part) >= MANY else part
    front = int(part["on_front"].sum())
    title = f"\n{name}: {front} of {len(part)} on the front (●){_tiers(part)}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False)
    table.add_column("", min_width=1)
    if unnamed:
        table.add_column("model", no_wrap=True, vertical="bottom")
    for header in (*knobs, *(_header(objective) for objective in objectives), "vision\ntokens"):
        table.add_column(header, justify="right", no_wrap=True, vertical="bottom")
    for header in ("on it", "P", "tie") if doubtful else ():
        table.add_column(header, no_wrap=True, vertical="bottom")
    table.add_column("", min_width=1)
    repeated = set(part["work_key"][part["work_key"].duplicated()])
    for _, row in shown.iterrows():
        settings = [wording.setting(row, knob) + wording.mark(row, knob) for knob in knobs]
        named = [str(row["model"])] if unnamed else []
        cells = [*named, *settings, *(wording.measured(row, objective) for objective in objectives)]
        mark = "*" if row["work_key"] in repeated else ""
        style = "bold green" if row["on_front"] else "dim"
        doubt = _doubt_cells(row) if doubtful else []
        table.add_row("●" if row["on_front"] else "", *cells, f"{row['vision_tokens']:.0f}", *doubt, mark, style=style)
    return table


def _is_doubtful(part: pd.DataFrame) -> bool:
    return "front_membership" in part and bool(part["front_membership"].notna().all())


def _worth_a_row(part: pd.DataFrame) -> pd.Series[Any]:
    surely = part["front_membership"] == "surely" if _is_doubtful(part) else False
    return part["on_front"].astype(bool) | surely


def _tiers(part: pd.DataFrame) -> str:
    if not _is_doubtful(part):
        return ""
    surely, possibly = ((part["front_membership"] == name).sum() for name in ("surely", "possibly"))
    return f"; {surely} surely, {possibly} more possibly"


def _doubt_cells(row: pd.Series[Any]) -> list[str]:
    membership = "" if row["front_membership"] == "no" else str(row["front_membership"])
    tie = "" if pd.isna(row["tie_group"]) else wording.letters(int(row["tie_group"]))
    return [membership, f"{row['front_probability']:.2f}", tie]


def _doubt_notes(part: pd.DataFrame, doubt: FrontDoubt | None) -> Iterator[Text]:
    if doubt is None:
        return
    yield from (Text(sentence, style="dim") for sentence in sentences(doubt))
    if _is_doubtful(part) and part["tie_group"].notna().any():
        yield Text("tie: rows with one letter are not told apart in any objective at 95 %", style="dim")
    yield from (Text(f"beware: {sentence}", style="yellow") for sentence in doubt.caveats)


def _footnotes(part: pd.DataFrame) -> Iterator[Text]:
    marks = {mark for knob in knobs_of(part.columns) for mark in wording.marks_of(part, knob)}
    yield from (Text(sentence, style="dim") for sentence in wording.legend(marks))
    if part["work_key"].duplicated().any():
        yield Text(SAME_WORK, style="dim")
        yield from _repeated(part)
    for sentence in (*cautions(part), *part.attrs["mixed"]):
        yield Text(f"beware: {sentence}", style="yellow")


def _repeated(part: pd.DataFrame) -> Iterator[Text]:
    """Which settings were the same work, a line for each group of equal ones; see the column ``work_key``."""
    for _, same in itertools.islice(part[part["work_key"].duplicated(keep=False)].groupby("work_key"), LISTED):
        yield Text(f"  {'  =  '.join(sorted(map(words_of, same['point'])))}", style="dim")


def _header(objective: Objective) -> str:
    return f"{objective.column}\n{' '.join(filter(None, [wording.unit(objective), '[95 %]']))}"
