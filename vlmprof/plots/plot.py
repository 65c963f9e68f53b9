"""``AbstractPlot``, one figure in two steps, and ``render``, which draws them to files without a display.

``data`` is pure and computes everything that a figure shows, so tests check it without matplotlib. ``draw`` only draws
it. A figure shows one group of comparable trials (``analyze.comparability``); a folder with several groups gets several
files. On request a plot that can tell models apart shows those of a group in one figure.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlmprof import registry
from vlmprof.analyze.comparability import comparable, groups
from vlmprof.analyze.front_doubt import with_doubt
from vlmprof.analyze.objectives import Objective, parse_objectives
from vlmprof.analyze.pareto import fronts_of
from vlmprof.errors import UserError
from vlmprof.escaping import visible
from vlmprof.plots import _style
from vlmprof.store import tables
from vlmprof.store.filesystem import Where

Data = TypeVar("Data")
FORMATS = ("png", "svg")
LONGEST_SLUG = 120


class AbstractPlot(ABC, Generic[Data]):
    """One kind of figure."""

    shows_models: ClassVar[bool] = False
    """Whether it tells the models of a group apart, so that it can draw one that spans models."""

    def of_objectives(self, names: Sequence[str]) -> AbstractPlot[Any] | None:
        """This figure with other objectives than its usual ones; None if it has none to choose.

        Raises:
            UserError: it cannot show so many of them.
        """
        return None

    @abstractmethod
    def data(self, trials: pd.DataFrame) -> Data:
        """Compute what to draw, in the units that the figure shows.

        Args:
            trials: finished trials of one group, as ``analyze.comparability.groups`` yields them; of several models
                only if ``shows_models``.

        Raises:
            UserError: the columns that this figure shows are empty in these trials.
        """

    @abstractmethod
    def draw(self, data: Data, figure: Figure) -> None:
        """Draw ``data`` on an empty figure, whose size may be changed."""


def render(
    folder: Where,
    out_folder: Path,
    names: Sequence[str] | None = None,
    note: Callable[[str], None] = lambda remark: None,
    *,
    across_models: bool = False,
    objectives: Sequence[str] = (),
) -> list[Path]:
    """Draw the figures of a results folder, each as PNG and as SVG.

    Args:
        folder: results, a path or a URI.
        out_folder: where the files are written; created if missing.
        names: names of the plots; None draws every plot that the trials have the data for.
        note: called with a sentence for each figure that is not drawn, and for trials that are in no figure of a front.
        across_models: draw the plots that can tell models apart with all models in one figure, in files of their own;
            the others are drawn as ever.
        objectives: columns to show in place of the usual ones, in files named after them. Plots without a choice are
            then not drawn.

    Returns:
        The files written, in order.

    Raises:
        StoreError: the folder holds no sweep.
        UnknownNameError: no plot has this name.
        UserError: there is nothing to draw, an objective is not a column with a direction, or the trials lack the data
            of a plot in ``names``.
    """
    plots = {name: registry.load("plots", name) for name in names or registry.names("plots")}
    table = _visible(tables.read(folder, "trials"))
    if objectives:
        plots = _of_objectives(plots, parse_objectives(objectives, tables.schema_of(table)), note)
    trials = _with_doubt(comparable(table), folder, objectives)
    parts = {False: list(groups(trials))}
    if not parts[False]:
        raise UserError(f"{folder} has no finished trial to draw; 'vlmprof status {folder}' says how far it is")
    if across_models:
        parts[True] = list(groups(_with_doubt(comparable(table, across_models=True), folder, objectives)))
    written: list[Path] = []
    reasons: list[str] = []
    for name, plot in plots.items():
        across = across_models and plot.shows_models
        for stem, group, part in _named(f"{name}-across-models" if across else name, parts[across]):
            try:
                data = plot.data(part)
            except UserError as error:
                reasons.append(f"{name}: {error}")
                note(f"{name} of {group} is not drawn: {error}")
                continue
            written += _write(plot, data, out_folder / stem)
    if reasons and (names or not written):
        raise UserError("; ".join(dict.fromkeys(reasons)))
    for state, count in trials.attrs["left_out"].items():
        note(f"left out: {count} {state}")
    return written


def _with_doubt(trials: pd.DataFrame, folder: Where, objectives: Sequence[str]) -> pd.DataFrame:
    """These trials with the columns of ``analyze.pareto.DOUBT``; as they are where no front can be drawn."""
    try:
        found = with_doubt(fronts_of(trials, objectives), folder)
    except UserError:  # the plots say it themselves, each for what it draws
        return trials
    known = [front.rows.set_index("trial") for front in found.fronts if "front_membership" in front.rows]
    extra = [_bare(rows[[name for name in rows if name not in trials]]) for rows in known]
    attrs = trials.attrs | {"doubt_of": {front.name: front.doubt for front in found.fronts if front.doubt is not None}}
    trials = trials.copy()
    trials.attrs = {}
    if extra:
        trials = trials.join(pd.concat(extra).drop(columns="on_front", errors="ignore"), on="trial")
    trials.attrs = attrs
    return trials


def _visible(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with names and settings that can be drawn: no font has glyphs for control characters."""
    shown = {
        name: trials[name].map(lambda value: visible(value) if isinstance(value, str) else value)
        for name in trials.columns
        if any(isinstance(value, str) and visible(value) != value for value in trials[name].unique())
    }
    attrs, trials = trials.attrs, trials.assign(**shown)
    trials.attrs = attrs
    return trials


def _bare(rows: pd.DataFrame) -> pd.DataFrame:
    """Without attributes, which ``concat`` would compare."""
    rows = rows.copy()
    rows.attrs = {}
    return rows


def _of_objectives(
    plots: Mapping[str, AbstractPlot[Any]], objectives: Sequence[Objective], note: Callable[[str], None]
) -> dict[str, AbstractPlot[Any]]:
    """The plots that can show these objectives, by names that say so."""
    columns = [objective.column for objective in objectives]
    found: dict[str, AbstractPlot[Any]] = {}
    for name, plot in plots.items():
        try:
            other = plot.of_objectives(columns)
        except UserError as error:
            note(f"{name} is not drawn: {error}")
            continue
        if other is not None:
            found["-".join([name, *columns])] = other
    return found


def _named(name: str, parts: Sequence[tuple[str, pd.DataFrame]]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(name of a file without its ending, group, its trials) for each group."""
    suffixes = _suffixes([group for group, _ in parts])
    return ((f"{name}{suffix}", group, part) for suffix, (group, part) in zip(suffixes, parts, strict=True))


def _write(plot: AbstractPlot[Any], data: Any, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in FORMATS]
    with _style.applied():
        figure = Figure(figsize=(_style.WIDTH_INCHES, 4.4))
        FigureCanvasAgg(figure)
        plot.draw(data, figure)
        for path in paths:
            # Without a date, so that equal figures are equal files.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, metadata=metadata)
    return paths


def _suffixes(groups: Sequence[str]) -> list[str]:
    """File-name suffixes that distinguish the groups: the parts of their names that are not common to all."""
    group_parts = [group.split(", ") for group in groups]
    common = set(group_parts[0]).intersection(*group_parts)
    slugs = [_slug(" ".join(part for part in parts if part not in common)) for parts in group_parts]
    # Names that differ in signs alone, or after many letters, would overwrite each other's figures.
    alike = {slug for slug in slugs if slugs.count(slug) > 1 or len(slug) > LONGEST_SLUG}
    return [
        f"{slug[:LONGEST_SLUG]}-{hashlib.sha256(group.encode()).hexdigest()[:8]}" if slug in alike else slug
        for slug, group in zip(slugs, groups, strict=True)
    ]


def _slug(text: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return f"-{slug}" if slug else ""
