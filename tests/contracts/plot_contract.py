"""What every plot owes, as a suite to inherit: the fixture ``plot`` is what its leaf exports."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.builders import combined_sweep, trial_row, write_results
from tests.plots.drawing import drawn, one_group
from vlmprof.errors import UserError
from vlmprof.plots.plot import AbstractPlot, render
from vlmprof.store.ledger import Ledger

READABLE_POINTS = 6.0
"""The smallest type of a figure, which is printed at the size it is drawn at."""
UNITS = (1.0, 100.0, 1 / 1024**3)
"""From the table's units to those of an axis: itself, per cent of a fraction, GiB of bytes."""


class PlotContract:
    """Inherit, and give the fixtures ``name`` (its key) and ``plot``."""

    @pytest.fixture(scope="class")
    @classmethod
    def plot(cls) -> AbstractPlot[Any]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def trials(cls, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
        """Sixteen trials that measured everything, three knobs of several values: any plot can draw them."""
        part: pd.DataFrame = one_group(tmp_path_factory.mktemp("trials"), combined_sweep())
        return part

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, plot: AbstractPlot[Any], trials: pd.DataFrame) -> Any:
        return plot.data(trials.copy(deep=True))

    @final
    def test_it_is_a_plot(self, plot: AbstractPlot[Any]) -> None:
        assert isinstance(plot, AbstractPlot)

    @final
    def test_what_a_figure_says_is_decided_without_drawing_and_by_the_trials_alone(
        self, plot: AbstractPlot[Any], trials: pd.DataFrame, data: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, attributes = trials.copy(deep=True), dict(trials.attrs)

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("'data' draws")

        with monkeypatch.context() as patch:
            patch.setattr(Artist, "__init__", refuse)
            with pytest.raises(AssertionError, match="'data' draws"):
                Figure()
            assert plot.data(trials) == data
        assert list(numbers(data)), "a figure without a number"
        pd.testing.assert_frame_equal(trials, before)
        assert trials.attrs == attributes

    @final
    def test_every_number_comes_from_the_table(self, data: Any, trials: pd.DataFrame) -> None:
        """A cell of a numeric column, or the middle of two (the median of an even count), in the unit of an axis."""
        known = cells(trials)
        wrong = [number for number in numbers(data) if not np.isclose(known, number, rtol=1e-9).any()]
        assert wrong == []
        assert not np.isclose(known, 12345.678, rtol=1e-9).any(), "any number would do"

    @final
    def test_other_trials_make_another_figure(self, plot: AbstractPlot[Any], data: Any, tmp_path: Path) -> None:
        longer = {"latency_ms_p50": 1.1, "speedup_prefill": 0.99}
        slower = [{**row, **{name: row[name] * by for name, by in longer.items()}} for row in combined_sweep()]
        assert plot.data(one_group(tmp_path, slower)) != data

    @final
    def test_all_text_is_readable_and_on_the_page(
        self, plot: AbstractPlot[Any], data: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        figure, written = drawn(plot, data), list[Text]()
        draw = Text.draw

        def noted(text: Text, renderer: Any) -> None:
            written.append(text)
            draw(text, renderer)

        monkeypatch.setattr(Text, "draw", noted)  # ticks beyond the ends of an axis are there and not drawn
        figure.canvas.draw()
        words = [text for text in written if text.get_visible() and text.get_text().strip()]
        assert len(words) > 5
        sizes = [(text.get_text(), float(text.get_fontsize())) for text in words]
        assert [text for text, points in sizes if points < READABLE_POINTS] == []
        page = figure.bbox.padded(1.0)
        boxes = [(text.get_text(), text.get_window_extent()) for text in words]
        assert [text for text, box in boxes if box.x0 < page.x0 or box.x1 > page.x1] == []
        assert [text for text, box in boxes if box.y0 < page.y0 or box.y1 > page.y1] == []

    @final
    def test_equal_folders_give_equal_files_and_nothing_global_is_changed(
        self, plot: AbstractPlot[Any], name: str, tmp_path: Path
    ) -> None:
        results, settings = write_results(tmp_path / "results", combined_sweep()), dict(mpl.rcParams)
        first, second = (render(results, tmp_path / out, [name]) for out in ("first", "second"))
        assert [path.suffix for path in first] == [".png", ".svg"]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        assert dict(mpl.rcParams) == settings

    @final
    def test_a_folder_without_a_finished_trial_is_refused(
        self, plot: AbstractPlot[Any], name: str, tmp_path: Path
    ) -> None:
        Ledger(tmp_path / "empty").close()
        with pytest.raises(UserError, match="no finished trial"):
            render(tmp_path / "empty", tmp_path / "plots", [name])
        assert not (tmp_path / "plots").exists()

    @final
    def test_one_trial_is_drawn_or_refused_with_a_reason(
        self, plot: AbstractPlot[Any], name: str, tmp_path: Path
    ) -> None:
        part = one_group(tmp_path / "one", [trial_row({"max_crops": 1})])
        try:
            data = plot.data(part)
        except UserError as refusal:
            assert str(refusal)
            with pytest.raises(UserError, match=f"{name}: "):
                render(tmp_path / "one", tmp_path / "plots", [name])
            return
        assert drawn(plot, data).axes
        assert len(render(tmp_path / "one", tmp_path / "plots", [name])) == 2

    @final
    def test_trials_that_measured_nothing_are_refused(self, plot: AbstractPlot[Any], tmp_path: Path) -> None:
        nothing = {"accuracy": None, "latency_ms_p50": None, "peak_bytes": None}
        rows = [trial_row({"max_crops": crops}, **nothing) for crops in (1, 2)]
        part = one_group(tmp_path, rows)
        with pytest.raises(UserError, match=r"missing|measured none|without accuracy"):
            plot.data(part)


def numbers(value: Any) -> Iterator[float]:
    """Every number of a plot's data, however deep; yes and no are none, nor is what is missing."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from numbers(getattr(value, field.name))
    elif isinstance(value, Mapping):
        yield from itertools.chain.from_iterable(map(numbers, value.values()))
    elif isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        yield from itertools.chain.from_iterable(map(numbers, value))
    elif isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value):
        yield float(value)


def cells(trials: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """All numbers of a table and the middles of any two of a column, in every unit."""
    found = []
    for name in trials.select_dtypes("number"):
        column = trials[name].dropna().unique().astype(float)
        found += [(column[:, None] + column[None, :]).ravel() / 2]
    return np.concatenate([np.concatenate(found) * unit for unit in UNITS])
