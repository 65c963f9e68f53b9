"""Tables for papers as LaTeX, Markdown, HTML and CSV: the same numbers, and every text escaped for its format."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from vlmprof.analyze.papers.paper_table import Cell, PaperColumn, PaperTable
from vlmprof.errors import UserError, suggestion
from vlmprof.escaping import as_cell, as_html, as_latex, as_markdown, visible

MOST_DECIMALS = 4
DAGGER = "†"
INTERVALS = ("half", "ends", "none")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    """How one format writes a cell."""

    escape: Callable[[str], str]
    best: str
    """With ``{}`` for the value."""
    second: str
    plus_minus: str
    """With two ``{}``: the value and half its interval."""
    told_apart: str


_FORMATS: Mapping[str, _Format] = {
    "latex": _Format(
        escape=as_latex,
        best=r"\textbf{{{}}}",
        second=r"\underline{{{}}}",
        plus_minus=r"{} $\pm$ {}",
        told_apart=r"$^{\dagger}$",
    ),
    "markdown": _Format(escape=as_markdown, best="**{}**", second="<u>{}</u>", plus_minus="{} ± {}", told_apart=DAGGER),
    "html": _Format(
        escape=as_html, best="<b>{}</b>", second="<u>{}</u>", plus_minus="{} ± {}", told_apart=f"<sup>{DAGGER}</sup>"
    ),
}
FORMATS = (*_FORMATS, "csv")


def paper_text(table: PaperTable, form: str, intervals: str = "half") -> str:
    """A table as text.

    Args:
        table: as ``analyze.papers.paper_table`` gives it.
        form: one of ``FORMATS``. CSV has the numbers in full, with their ends in columns of their own.
        intervals: ``half`` writes a value as ``61.3 +- 1.2``, ``ends`` as ``61.3 [60.1, 62.5]``, ``none`` alone.

    Raises:
        UserError: no such format, or way to write intervals.
    """
    if form not in FORMATS:
        raise UserError(f"no format '{form}'{suggestion(form, FORMATS)}")
    if intervals not in INTERVALS:
        raise UserError(f"intervals: no way '{intervals}' to write them{suggestion(intervals, INTERVALS)}")
    if form == "csv":
        return _csv(table)
    writers = {"latex": _latex, "markdown": _markdown, "html": _html}
    return writers[form](table, _cells(table, _FORMATS[form], intervals))


def _cells(table: PaperTable, form: _Format, intervals: str) -> list[list[str]]:
    """Row by row, the method first; escaped."""
    columns = [[_text(cell, form, intervals, _decimals(column)) for cell in column.cells] for column in table.columns]
    methods = [form.escape(method) for method in table.methods]
    return [list(row) for row in zip(methods, *columns, strict=True)]


def _decimals(column: PaperColumn) -> int:
    """As many as show three digits of the largest value, and one of the narrowest interval; one of percentages."""
    values = [abs(cell.value) for cell in column.cells if cell.value]
    halves = [half for cell in column.cells if (half := _half(cell))]
    if all(value == round(value) for value in values) and not halves:
        return 0
    if column.unit == "%":
        return 1
    of_values = 2 - math.floor(math.log10(max(values))) if values else 0
    of_halves = -math.floor(math.log10(min(halves))) if halves else 0
    return max(0, min(MOST_DECIMALS, max(of_values, min(of_halves, of_values + 1))))


def _half(cell: Cell) -> float | None:
    return (cell.high - cell.low) / 2 if cell.low is not None and cell.high is not None else None


def _text(cell: Cell, form: _Format, intervals: str, decimals: int) -> str:
    if cell.value is None:
        return "-"
    value = f"{cell.value:.{decimals}f}"
    value = (form.best if cell.place == 1 else form.second if cell.place == 2 else "{}").format(value)
    half = _half(cell)
    if half is not None and intervals == "half":
        value = form.plus_minus.format(value, f"{half:.{decimals}f}")
    elif half is not None and intervals == "ends":
        value = f"{value} [{cell.low:.{decimals}f}, {cell.high:.{decimals}f}]"
    return value + (form.told_apart if cell.told_apart else "")


def _header(column: PaperColumn) -> str:
    return f"{column.header} ({column.unit})" if column.unit and column.unit not in column.header else column.header


def _caption(table: PaperTable) -> str:
    marks = "Best in bold, second underlined." if any(c.place for one in table.columns for c in one.cells) else ""
    return " ".join([*table.caption, *([marks] if marks else [])])


def _latex(table: PaperTable, rows: Sequence[Sequence[str]]) -> str:
    headers = ["method", *(as_latex(_header(one)) for one in table.columns)]
    lines = [
        r"% \usepackage[T1]{fontenc} and \usepackage{booktabs} in the preamble",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{as_latex(_caption(table))}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        rf"{' & '.join(headers)} \\",
        r"\midrule",
        *(rf"{' & '.join(row)} \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _markdown(table: PaperTable, rows: Sequence[Sequence[str]]) -> str:
    headers = ["method", *(as_markdown(_header(one)) for one in table.columns)]
    rule = ["---", *("---:" for _ in table.columns)]
    lines = [f"| {' | '.join(row)} |" for row in (headers, rule, *rows)]
    return "\n".join([*lines, "", as_markdown(_caption(table))]) + "\n"


def _html(table: PaperTable, rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(["<table>", *_parts_of_html(table, rows), "</table>"]) + "\n"


def _parts_of_html(table: PaperTable, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"<caption>{as_html(_caption(table))}</caption>"
    headers = "".join(f'<th scope="col">{as_html(_header(one))}</th>' for one in table.columns)
    yield f'<thead><tr><th scope="col">method</th>{headers}</tr></thead>'
    yield "<tbody>"
    for method, *cells in rows:
        yield f'<tr><th scope="row">{method}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    yield "</tbody>"


def _csv(table: PaperTable) -> str:
    frame, units = table.frame, {one.name: one.unit for one in table.columns}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([as_cell(_with_unit(str(name), units)) for name in frame])
    for row in frame.astype(object).where(frame.notna(), None).itertuples(index=False):
        writer.writerow(["" if value is None else as_cell(value) for value in row])
    return out.getvalue()


def _with_unit(name: str, units: Mapping[str, str]) -> str:
    """``total (ms)``: ends of intervals have the unit of their column."""
    of = next((one for one in sorted(units, key=len, reverse=True) if name in (one, f"{one}_low", f"{one}_high")), "")
    return f"{name} ({units[of]})" if of and units[of] else name


def notes(table: PaperTable) -> Iterator[str]:
    """What is to be known and is not in the text of a CSV file, for the terminal."""
    yield from (visible(sentence) for sentence in table.caption)
