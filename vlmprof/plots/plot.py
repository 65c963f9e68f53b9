"""``AbstractPlot``, one figure in two steps, and ``render``, which draws them to files without a display.

``data`` is pure: it decides everything that a figure says, and a test reads it without matplotlib. ``draw`` only draws
that. A figure is about one group of comparable trials (``analyze.comparability``); a folder with several gets several
files.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vlmprof import registry
from vlmprof.analyze.comparability import comparable, groups
from vlmprof.errors import UserError
from vlmprof.plots import _style
from vlmprof.store import tables
from vlmprof.store.filesystem import Where

Data = TypeVar("Data")
FORMATS = ("png", "svg")


class AbstractPlot(ABC, Generic[Data]):
    """One kind of figure."""

    @abstractmethod
    def data(self, trials: pd.DataFrame) -> Data:
        """What to draw, in the units that the figure shows.

        Args:
            trials: finished trials of one group, as ``analyze.comparability.groups`` gives them.

        Raises:
            UserError: these trials did not measure what this figure shows.
        """

    @abstractmethod
    def draw(self, data: Data, figure: Figure) -> None:
        """Draw it; the figure is empty, and its size may be set."""


def render(
    folder: Where,
    out_folder: Path,
    names: Sequence[str] | None = None,
    note: Callable[[str], None] = lambda remark: None,
) -> list[Path]:
    """Draw the figures of a results folder, each as PNG and as SVG.

    Args:
        folder: results, a path or a URI.
        out_folder: where the files go; made if it is not there.
        names: which plots; None draws every plot that the trials have the data for.
        note: told of each figure that is not drawn and why, and of the trials that no figure of a front has.

    Returns:
        The files written, in order.

    Raises:
        StoreError: the folder holds no sweep.
        UnknownNameError: no plot has such a name.
        UserError: there is nothing to draw, or a plot that was asked for by name lacks its data.
    """
    plots = {name: registry.load("plots", name) for name in names or registry.names("plots")}
    trials = comparable(tables.read(folder, "trials"))
    parts = list(groups(trials))
    if not parts:
        raise UserError(f"{folder} has no finished trial to draw; 'vlmprof status {folder}' says how far it is")
    written: list[Path] = []
    reasons: list[str] = []
    for name, plot in plots.items():
        for suffix, (group, part) in zip(_suffixes([group for group, _ in parts]), parts, strict=True):
            try:
                data = plot.data(part)
            except UserError as error:
                reasons.append(f"{name}: {error}")
                note(f"{name} of {group} is not drawn: {error}")
                continue
            written += _write(plot, data, out_folder / f"{name}{suffix}")
    if reasons and (names or not written):
        raise UserError("; ".join(dict.fromkeys(reasons)))
    for state, count in trials.attrs["left_out"].items():
        note(f"left out: {count} {state}")
    return written


def _write(plot: AbstractPlot[Any], data: Any, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in FORMATS]
    with _style.applied():
        figure = Figure(figsize=(_style.WIDTH_INCHES, 4.4))
        FigureCanvasAgg(figure)
        plot.draw(data, figure)
        for path in paths:
            # A date would make equal figures differ.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, metadata=metadata)
    return paths


def _suffixes(groups: Sequence[str]) -> list[str]:
    """What a file name needs to tell the groups apart: only the parts of their names that are not common to all."""
    parts = [group.split(", ") for group in groups]
    common = set(parts[0]).intersection(*parts)
    return [_slug(" ".join(part for part in named if part not in common)) for named in parts]


def _slug(words: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    return f"-{slug}" if slug else ""
