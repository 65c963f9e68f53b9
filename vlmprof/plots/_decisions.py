"""The figure of whatever was decided: of a comparison, a choice, budgets, coupling or rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vlmprof.errors import UserError


def figure_of(found: Any, path: str | Path | None = None) -> Figure:
    """Draw what ``Results.compare``, ``best``, ``budgets``, ``coupling`` or ``oracle`` gave, and write it where asked.

    Raises:
        UserError: something else, another ending than ``.png``, ``.svg`` or ``.pdf``, nothing to draw, or a file that
            cannot be written.
    """
    from vlmprof.analyze.adaptive.oracle import Oracle
    from vlmprof.analyze.choosing.best import Best
    from vlmprof.analyze.choosing.budgets import Budgets
    from vlmprof.analyze.comparing.comparison import RunComparison
    from vlmprof.analyze.coupling.coupling import Coupling
    from vlmprof.plots._budgets import draw_budgets
    from vlmprof.plots._choice import draw_choice
    from vlmprof.plots._comparison import draw_comparison
    from vlmprof.plots._interaction import draw_interactions
    from vlmprof.plots._rules import draw_rules

    drawn: dict[type, Callable[[Any, str | Path | None], Figure]] = {
        Best: draw_choice,
        Budgets: draw_budgets,
        RunComparison: draw_comparison,
        Coupling: draw_interactions,
        Oracle: draw_rules,
    }
    if type(found) not in drawn:
        known = ", ".join(sorted(kind.__name__ for kind in drawn))
        raise UserError(f"there is no figure of a {type(found).__name__}, only of {known}")
    return drawn[type(found)](found, path)
