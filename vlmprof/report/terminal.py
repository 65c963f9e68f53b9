"""``Terminal``: the console of all commands. What it prints is text: no markup, no emoji codes, no escape sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Span, Text

from vlmprof.escaping import visible


@final
class Terminal(Console):
    """A console that obeys its caller's styles alone, whatever the names, answers and errors that it shows contain."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text):
            renderable = _visible(renderable)
        if isinstance(renderable, Table):  # before it measures its cells
            for column in renderable.columns:
                column._cells = [_visible(cell) if isinstance(cell, Text) else cell for cell in column.cells]
        return super().render(renderable, options)


def _visible(text: Text) -> Text:
    """The same text, its styles still on the same words."""
    shown = [visible(sign) for sign in text.plain]
    if len(shown) == sum(map(len, shown)):
        return text
    at = [0]
    for signs in shown:
        at.append(at[-1] + len(signs))
    found = text.copy()
    spans = [Span(at[min(one.start, len(shown))], at[min(one.end, len(shown))], one.style) for one in text.spans]
    found.plain = "".join(shown)
    found.spans = spans
    return found
