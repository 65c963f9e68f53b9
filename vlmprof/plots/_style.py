"""The style of all figures: fonts, sizes, colours that all readers can distinguish, and quantities with their units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import matplotlib as mpl
import pandas as pd
import pyarrow as pa
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.comparability import AS_SWEPT, differing, machine, model_names
from vlmprof.analyze.objectives import Objective
from vlmprof.store.schema import setting_words, split_setting

# Okabe and Ito's palette (jfly.uni-koeln.de/color): distinguishable with common colour blindness, and in grey print.
BLUE, GREEN, VERMILION = "#0072B2", "#009E73", "#D55E00"
OF_MODELS = (BLUE, "#E69F00", GREEN, "#CC79A7", "#56B4E9")
"""Colours of the models of one figure, without that of the front; each model also has a shape of its own."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, SOFT, GREY, PALE = "#222222", "#5A5A5A", "#8C8C8C", "#DDDDDD"

MARGIN_INCHES = 0.12
WIDTH_INCHES = 7.0
"""The text width of a paper; figures are drawn at the size at which they are read."""

RC: Any = {  # matplotlib types its keys as one long Literal
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same figure on every machine
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "text.parse_math": False,  # a $ in a name is a $
    "text.usetex": False,
    "svg.hashsalt": "vlmprof",  # so that equal data give equal files
}

BARS: Any = {"elinewidth": 0.8, "capsize": 1.8, "capthick": 0.8}
"""Style of the intervals, for ``Axes.errorbar``."""

_SCALES = {"fraction": ("%", 100.0), "bytes": ("GiB", 1 / 1024**3)}
_WORDS = {
    "latency_ms_p50": "median latency",
    "peak_bytes": "peak memory",
    "samples_per_s": "throughput",
    "tpot_ms_p50": "median time per output token",
    "ttft_ms_p50": "median time to first token",
    "timing_samples_per_s": "throughput of timed requests",
    "timing_tokens_per_s": "throughput of timed requests",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A column as the figure shows it: its words, its unit, and the factor from the table's unit to that one."""

    column: str
    words: str
    unit: str
    factor: float

    @property
    def label(self) -> str:
        """The label of an axis."""
        return f"{self.words} ({self.unit})" if self.unit else self.words


def quantity(objective: Objective) -> Quantity:
    """The quantity of an objective; its unit comes from the schema."""
    unit, factor = _SCALES.get(objective.unit, (objective.unit, 1.0))
    name, setting = split_setting(objective.column)
    words = _WORDS.get(name, name.replace("_", " ")) + (f" at {setting_words(setting)}" if setting else "")
    return Quantity(column=objective.column, words=words, unit=unit, factor=factor)


def interval_columns(column: str, schema: pa.Schema) -> tuple[str, str] | None:
    """The columns that hold the 95 % interval of a column; None if it has no interval."""
    names = (schema.field(column).metadata or {}).get(b"interval", b"").decode()
    if not names:
        return None
    low, high = names.split(",")
    return low, high


def bars(values: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """(value, low, high) of each point -> the error lengths that ``Axes.errorbar`` takes: downwards, then upwards."""
    return [[value - low for value, low, _ in values], [high - value for value, _, high in values]]


def short(label: Any) -> str:
    """A short form of a knob's value: consecutive blocks are written as ranges, ``0-3,5-15``."""
    if pd.isna(label):
        return "none"
    parts = str(label).removeprefix("prefix ").split(",")
    if len(parts) < 3 or not all(part.isdigit() for part in parts):
        return ",".join(parts)
    runs: list[list[int]] = []
    for number in map(int, parts):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def heading(trials: pd.DataFrame) -> tuple[str, str]:
    """Title and subtitle of a figure about one group: model or models, task, samples and machine; then the timing pass.

    The subtitle also names what differs between the trials and may affect their times, and cautions about the results.
    """
    first = trials.iloc[0]
    samples = f", n = {int(first['samples']):,}" if pd.notna(first["samples"]) and first["samples"] else ""
    split = f" ({first['split']})" if first["split"] else ""
    models = sorted(model_names(trials).unique())
    model = models[0] if len(models) == 1 else f"{len(models)} models"
    title = f"{model} on {first['task']}{split}{samples}, {machine(first)}"
    unlike = list(differing(trials))
    alike = f"not all alike: {', '.join(unlike)}" if unlike else ""
    return title, "; ".join(filter(None, [_timing(trials), alike, *cautions(trials)]))


def _timing(trials: pd.DataFrame) -> str:
    first = trials.iloc[0]
    if pd.isna(first["timing_batch_size"]):
        return ""
    swept = "knob_output_tokens" in trials and trials["knob_output_tokens"].notna().any()
    tokens = AS_SWEPT if swept else f"{int(first['timing_output_tokens'])}"
    return f"latency at batch size {int(first['timing_batch_size'])}, output tokens {tokens}"


LINE_INCHES = 0.145
_HEADING_TOP = 0.08


def heading_inches(figure: Figure, title: str, subtitle: str) -> float:
    """The height that ``write_heading`` will take, in inches."""
    return _HEADING_TOP + sum(height for _, _, _, _, height in _heading_lines(figure, title, subtitle))


def write_heading(figure: Figure, title: str, subtitle: str) -> float:
    """Write title and subtitle at the top left, each on as many lines as it needs.

    Returns:
        The height that they take, in inches from the top.
    """
    below = _HEADING_TOP
    for words, size, weight, colour, height in _heading_lines(figure, title, subtitle):
        left, top = MARGIN_INCHES / WIDTH_INCHES, 1 - (below + height / 2) / figure.get_figheight()
        figure.text(left, top, words, fontsize=size, fontweight=weight, color=colour, va="center")
        below += height
    return below


def _heading_lines(figure: Figure, title: str, subtitle: str) -> list[tuple[str, float, str, str, float]]:
    """(words, size, weight, colour, height in inches) of each line."""
    styles = ((title, 10.0, "bold", INK, 0.19), (subtitle, 7.5, "normal", SOFT, LINE_INCHES))
    return [
        (line, size, weight, colour, height)
        for words, size, weight, colour, height in styles
        for line in _lines(figure, words, size, weight)
    ]


def _lines(figure: Figure, words: str, size: float, weight: str) -> list[str]:
    """The words on lines that fit the width of the figure."""
    available = (WIDTH_INCHES - 2 * MARGIN_INCHES) * figure.dpi
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(figure, longer, size, weight) <= available:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _width(figure: Figure, words: str, size: float, weight: str) -> float:
    probe = figure.text(0, 0, words, fontsize=size, fontweight=weight)
    width = float(probe.get_window_extent().width)
    probe.remove()
    return width


def write_legend(figure: Figure, entries: Sequence[Artist], below: float = 0.5) -> float:
    """Write the legend below the heading, where it covers no data: in one row, or in as many as it needs.

    Args:
        figure: The figure.
        entries: What is explained.
        below: Inches from the top that the heading takes.

    Returns:
        The height below which the figure is free, in inches from its top.
    """
    available = (WIDTH_INCHES - MARGIN_INCHES) * figure.dpi
    for columns in range(len(entries), 0, -1):
        legend = figure.legend(
            handles=entries,
            labels=[_in_legend(str(entry.get_label())) for entry in entries],
            loc="upper left",
            bbox_to_anchor=(MARGIN_INCHES / WIDTH_INCHES, 1 - (below + LINE_INCHES * 0.15) / figure.get_figheight()),
            ncols=columns,
            handletextpad=0.4,
            columnspacing=1.2,
            borderaxespad=0,
            borderpad=0,
            handlelength=1.2,
        )
        extent = legend.get_window_extent()
        if columns == 1 or extent.x1 <= available:
            break
        legend.remove()
    return below + LINE_INCHES * 0.4 + max(LINE_INCHES, extent.height / figure.dpi)


def _in_legend(label: str) -> str:
    """The label as matplotlib shows it: it leaves out one that begins with an underscore."""
    return f" {label}" if label.startswith("_") else label


def clean(axes: Axes) -> None:
    """Draw a faint grid and short ticks."""
    axes.grid(visible=True, color=PALE, linewidth=0.5)
    axes.tick_params(length=2.5, width=0.6)


def applied() -> Any:
    """Apply the style inside a ``with`` block; global settings are restored after it."""
    return mpl.rc_context(RC)
