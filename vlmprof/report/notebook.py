"""Renders a results folder as HTML for a notebook: trials by state, and each group's front with intervals and units.

All text from the tables, the job and errors is escaped: names of models and tasks are free text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from vlmprof.analyze import wording
from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.comparability import groups
from vlmprof.analyze.objectives import Objective
from vlmprof.analyze.status import WORDS, SweepStatus
from vlmprof.errors import UserError
from vlmprof.escaping import as_html
from vlmprof.report.pareto_table import read_front
from vlmprof.store.schema import knobs_of

MOST_ROWS = 40
"""Most rows of a front that are shown; ``Results.front`` returns all of them."""


def results_html(where: str, status: SweepStatus) -> str:
    """An HTML fragment without style sheets or scripts.

    Args:
        where: Path or URI of the results.
        status: Status of the sweep.
    """
    try:
        front, problem = read_front(where), ""
    except UserError as error:  # for example trials that did not measure an objective; still show the states
        front, problem = None, str(error)
    return "\n".join(["<div>", *_head(where, status), *_fronts(front), *_sentences([problem]), "</div>"])


def _head(where: str, status: SweepStatus) -> Iterator[str]:
    counts = [f"{count} {as_html(WORDS[phase])}" for phase, count in status.counts.items() if count]
    yield f"<p><b>{as_html(status.name)}</b>: {status.finished} of {status.total} trials finished<br>"
    yield f"<small>{as_html(where)}</small></p>"
    yield f"<p>{', '.join(counts)}</p>"
    yield from _sentences(f"failed {trial}: {status.why(trial)}" for trial in status.failed)


def _fronts(front: pd.DataFrame | None) -> Iterator[str]:
    if front is None:
        return
    for name, part in groups(front):
        yield from _table(name, part, front.attrs["objectives_of"][name])
        yield from _sentences(f"beware: {sentence}" for sentence in (*cautions(part), *part.attrs["mixed"]))
    yield from _sentences(f"left out: {count} {state}" for state, count in front.attrs["left_out"].items())


def _table(name: str, part: pd.DataFrame, objectives: Sequence[Objective]) -> Iterator[str]:
    knobs = [knob for knob in knobs_of(part.columns) if part[f"knob_{knob}"].notna().any()]
    shown = part[part["on_front"].astype(bool)]
    yield f"<table><caption>{as_html(name)}: {len(shown)} of {len(part)} on the front</caption>"
    yield _row("th", [*knobs, *(f"{wording.with_unit(one)} [95 %]" for one in objectives)])
    for _, row in shown.head(MOST_ROWS).iterrows():
        settings = [wording.setting(row, knob) + wording.mark(row, knob) for knob in knobs]
        yield _row("td", [*settings, *(wording.measured(row, one) for one in objectives)])
    yield "</table>"
    yield from _sentences(wording.legend(mark for knob in knobs for mark in wording.marks_of(shown, knob)))
    yield from _sentences([f"and {len(shown) - MOST_ROWS} more"] if len(shown) > MOST_ROWS else [])


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{as_html(cell)}</{tag}>' for cell in cells)}</tr>"


def _sentences(sentences: Iterable[str]) -> Iterator[str]:
    yield from (f"<p><small>{as_html(sentence)}</small></p>" for sentence in sentences if sentence)
